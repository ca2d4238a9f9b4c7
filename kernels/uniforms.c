/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) over eight counters side by side in vector
 * registers. rng.c's numbers, bit for bit. */
#include "kernels/uniforms.h"

#include <immintrin.h>

enum { SIDE = 8, ROUNDS = 10 };

/* The high and low halves of eight products. */
static inline void multiply(__m256i x, uint32_t factor, __m256i *high, __m256i *low) {
    enum { SWAP = 0xB1, ODD = 0xAA }; /* swap neighbours; take odd lanes of the second */
    __m256i by = _mm256_set1_epi32((int)factor);
    __m256i even = _mm256_mul_epu32(x, by);
    __m256i odd = _mm256_mul_epu32(_mm256_shuffle_epi32(x, SWAP), by);
    *low = _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, SWAP), ODD);
    *high = _mm256_blend_epi32(_mm256_shuffle_epi32(even, SWAP), odd, ODD);
}

/* rng_uniform_from, and into place: the words of two counters. */
static inline void store(float *out, __m256i words) {
    __m256 whole = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8));
    _mm256_storeu_ps(out, _mm256_mul_ps(whole, _mm256_set1_ps(0x1p-24f)));
}

void uniforms_group(Rng rng, uint32_t sample, uint32_t group, float out[UNIFORMS_GROUP]) {
    uint32_t key0 = (uint32_t)rng.seed, key1 = (uint32_t)(rng.seed >> 32);
    __m256i a = _mm256_add_epi32(_mm256_set1_epi32((int)(group * SIDE)),
                                 _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i b = _mm256_set1_epi32((int)sample);
    __m256i c = _mm256_set1_epi32((int)rng.time);
    __m256i d = _mm256_set1_epi32((int)rng.stream);
    for (int round = 0; round < ROUNDS; round++) {
        __m256i high_a, low_a, high_c, low_c;
        multiply(a, 0xD2511F53u, &high_a, &low_a);
        multiply(c, 0xCD9E8D57u, &high_c, &low_c);
        a = _mm256_xor_si256(_mm256_xor_si256(high_c, b), _mm256_set1_epi32((int)key0));
        c = _mm256_xor_si256(_mm256_xor_si256(high_a, d), _mm256_set1_epi32((int)key1));
        b = low_c;
        d = low_a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    /* from eight a, eight b, … to a b c d of each counter: 0 and 4, 1 and 5, 2 and 6, 3 and 7 */
    __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    __m256i ab2 = _mm256_unpackhi_epi32(a, b), cd2 = _mm256_unpackhi_epi32(c, d);
    __m256i of04 = _mm256_unpacklo_epi64(ab, cd), of15 = _mm256_unpackhi_epi64(ab, cd);
    __m256i of26 = _mm256_unpacklo_epi64(ab2, cd2), of37 = _mm256_unpackhi_epi64(ab2, cd2);
    enum { LOW_HALVES = 0x20, HIGH_HALVES = 0x31 };
    store(out, _mm256_permute2x128_si256(of04, of15, LOW_HALVES));
    store(out + 8, _mm256_permute2x128_si256(of26, of37, LOW_HALVES));
    store(out + 16, _mm256_permute2x128_si256(of04, of15, HIGH_HALVES));
    store(out + 24, _mm256_permute2x128_si256(of26, of37, HIGH_HALVES));
}
