/* Randomness as a function: every random number is Philox4x32-10 (Salmon et al., SC'11; Random123)
 * of (seed, stream, time, sample, lane). Nothing is stored but the seed, so any position can be
 * entered at once, on any rank, by any thread, on any device. */
#pragma once

#include <stdint.h>

/* Streams are part of the file format: never renumber. */
typedef enum {
    RNG_INITIALISE = 1, /* time 0, sample = hash of the parameter's name, lane = element */
    RNG_SHUFFLE = 2,    /* time = epoch, sample = round, lane = half block */
    RNG_AUGMENT = 3,    /* time = epoch, sample = index in the data set, lane = draw */
    RNG_DROPOUT =
        4,         /* time = step, sample = position in the global batch, lane = element */
    RNG_SPLIT = 5, /* the validation split's permutation */
    RNG_TEST = 6,
} RngStream;

/* A stream at one time: what a layer or an augmentation holds on to. */
typedef struct {
    uint64_t seed;
    uint32_t stream; /* RngStream | sub-stream (the layer's number) << 8 */
    uint32_t time;   /* step or epoch */
} Rng;

static inline Rng rng_at(uint64_t seed, RngStream stream, uint32_t sub, uint32_t time) {
    Rng rng = {seed, (uint32_t)stream | sub << 8, time};
    return rng;
}

/* Four 32-bit words: lanes 4·block .. 4·block + 3 of `sample`.
 * Counter = {block, sample, time, stream}, key = {seed low, seed high}. */
void rng_block(Rng rng, uint32_t sample, uint32_t block, uint32_t out[4]);

/* One word: lane `lane` of `sample`. */
uint32_t rng_word(Rng rng, uint32_t sample, uint32_t lane);

/* Uniform in [0, 1) with 24 bits; exact in float. */
static inline float rng_uniform_from(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}
static inline float rng_uniform(Rng rng, uint32_t sample, uint32_t lane) {
    return rng_uniform_from(rng_word(rng, sample, lane));
}

/* Uniform integer in [0, bound), bound ≥ 1: the high half of word × bound (bias below 2^-32·bound). */
static inline uint32_t rng_below(Rng rng, uint32_t sample, uint32_t lane, uint32_t bound) {
    return (uint32_t)(((uint64_t)rng_word(rng, sample, lane) * bound) >> 32);
}
