/* src/core/rng.h's numbers on the device: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011). Include
 * "launch.h" first. */
#pragma once

#include "src/core/rng.h"

/* rng_block. */
DEVICE void philox_block(Rng rng, uint32_t sample, uint32_t block, uint32_t (&out)[4]) {
    uint32_t key0 = (uint32_t)rng.seed, key1 = (uint32_t)(rng.seed >> 32);
    uint32_t a = block, b = sample, c = rng.time, d = rng.stream;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t by_a = (uint64_t)0xD2511F53u * a, by_c = (uint64_t)0xCD9E8D57u * c;
        a = (uint32_t)(by_c >> 32) ^ b ^ key0;
        c = (uint32_t)(by_a >> 32) ^ d ^ key1;
        b = (uint32_t)by_c;
        d = (uint32_t)by_a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

/* rng_uniform_from. */
DEVICE float philox_uniform(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}
