/* Philox4x32-10 by the authors' own library. */
#include "src/core/rng.h"

#include <Random123/philox.h>

void rng_block(Rng rng, uint32_t sample, uint32_t block, uint32_t out[4]) {
    philox4x32_ctr_t counter = {{block, sample, rng.time, rng.stream}};
    philox4x32_key_t key = {{(uint32_t)rng.seed, (uint32_t)(rng.seed >> 32)}};
    philox4x32_ctr_t words = philox4x32(counter, key);
    for (int i = 0; i < 4; i++)
        out[i] = words.v[i];
}

uint32_t rng_word(Rng rng, uint32_t sample, uint32_t lane) {
    uint32_t words[4];
    rng_block(rng, sample, lane / 4, words);
    return words[lane % 4];
}
