/* Activations as floats, 16 bytes an access: 4 floats or 8 bf16. Arithmetic is always in float; what a
 * kernel stores in bf16 is rounded once, there. Include "launch.h" first. */
#pragma once

#include "kernels/element.h"

/* How many elements 16 bytes hold. */
template <typename T> struct Lanes;
template <> struct Lanes<float> {
    enum { COUNT = 4 };
};
template <> struct Lanes<Bf16> {
    enum { COUNT = 8 };
};

struct __attribute__((aligned(16), may_alias)) Words4 {
    uint32_t at[4];
};
struct __attribute__((aligned(8), may_alias)) Words2 {
    uint32_t at[2];
};

DEVICE float lane_load(const float *from) {
    return *from;
}

DEVICE float lane_load(const Bf16 *from) {
    return bf16_to_float(*from);
}

DEVICE void lane_store(float *to, float x) {
    *to = x;
}

DEVICE void lane_store(Bf16 *to, float x) {
    *to = bf16_from_float(x);
}

/* Two bf16 in a word, the first in its low half. */
DEVICE uint32_t lanes_pack(float low, float high) {
    return (uint32_t)bf16_from_float(low).bits | (uint32_t)bf16_from_float(high).bits << 16;
}

DEVICE void lanes_unpack(float *x, uint32_t word) {
    x[0] = element_from_bits(word << 16);
    x[1] = element_from_bits(word & 0xffff0000u);
}

/* x = WIDTH consecutive elements. A WIDTH of 1 asks nothing of the address; 4 and 8 want it to be a
 * multiple of their bytes, or of 16. */
template <int WIDTH> DEVICE void lanes_load(float (&x)[WIDTH], const float *from) {
    if constexpr (WIDTH == 1) {
        x[0] = *from;
    } else {
#pragma unroll
        for (int quad = 0; quad < WIDTH / 4; quad++) {
            const Words4 words = reinterpret_cast<const Words4 *>(from)[quad];
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[4 * quad + i] = element_from_bits(words.at[i]);
        }
    }
}

template <int WIDTH> DEVICE void lanes_load(float (&x)[WIDTH], const Bf16 *from) {
    if constexpr (WIDTH == 1) {
        x[0] = bf16_to_float(*from);
    } else if constexpr (WIDTH == 4) {
        const Words2 words = *reinterpret_cast<const Words2 *>(from);
        lanes_unpack(&x[0], words.at[0]);
        lanes_unpack(&x[2], words.at[1]);
    } else {
        const Words4 words = *reinterpret_cast<const Words4 *>(from);
#pragma unroll
        for (int i = 0; i < 4; i++)
            lanes_unpack(&x[2 * i], words.at[i]);
    }
}

template <int WIDTH> DEVICE void lanes_store(float *to, const float (&x)[WIDTH]) {
    if constexpr (WIDTH == 1) {
        *to = x[0];
    } else {
#pragma unroll
        for (int quad = 0; quad < WIDTH / 4; quad++) {
            Words4 words;
#pragma unroll
            for (int i = 0; i < 4; i++)
                words.at[i] = element_bits(x[4 * quad + i]);
            reinterpret_cast<Words4 *>(to)[quad] = words;
        }
    }
}

template <int WIDTH> DEVICE void lanes_store(Bf16 *to, const float (&x)[WIDTH]) {
    if constexpr (WIDTH == 1) {
        *to = bf16_from_float(x[0]);
    } else if constexpr (WIDTH == 4) {
        *reinterpret_cast<Words2 *>(to) = {
            {lanes_pack(x[0], x[1]), lanes_pack(x[2], x[3])}};
    } else {
        Words4 words;
#pragma unroll
        for (int i = 0; i < 4; i++)
            words.at[i] = lanes_pack(x[2 * i], x[2 * i + 1]);
        *reinterpret_cast<Words4 *>(to) = words;
    }
}

/* ---- on the host */

/* Whether 16-byte accesses may begin here. */
static inline bool lanes_aligned(const void *memory) {
    return reinterpret_cast<uintptr_t>(memory) % sizeof(Words4) == 0;
}
