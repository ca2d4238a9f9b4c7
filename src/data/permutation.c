/* A keyed permutation that can be entered anywhere: the order of an epoch is never stored. Part of the
 * file format: a resume relies on the same order, so tests hold golden values. */
#include "src/data/data.h"

#include <assert.h>

/* With independent random round functions every single image is uniform after two rounds; the others
 * make pairs and larger groups look independent even in the smallest networks. */
enum { ROUNDS = 8, HALF_BITS_MIN = 3 };

Permutation permutation_make(uint64_t seed, RngStream stream, uint32_t epoch,
                             uint32_t count) {
    int half_bits = HALF_BITS_MIN;
    while (half_bits < 16 && 1u << 2 * half_bits < count)
        half_bits++;
    return (Permutation){seed, epoch, count, half_bits, stream};
}

static uint32_t encipher(const Permutation *permutation, Rng rng, uint32_t value) {
    uint32_t mask = (1u << permutation->half_bits) - 1;
    uint32_t left = value >> permutation->half_bits, right = value & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t next = left ^ (rng_word(rng, round, right) & mask);
        left = right;
        right = next;
    }
    return left << permutation->half_bits | right;
}

uint32_t permutation_at(const Permutation *permutation, uint32_t position) {
    assert(position < permutation->count);
    Rng rng = rng_at(permutation->seed, permutation->stream, 0, permutation->epoch);
    /* cycle walking: the network permutes a larger set; its cycle through `position` returns into
     * [0, count) at the latest at `position` itself */
    uint32_t value = position;
    do
        value = encipher(permutation, rng, value);
    while (value >= permutation->count);
    return value;
}
