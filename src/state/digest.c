/* Digests of values: XXH3-128 by its own library, over the registry in order of path. A digest of a state needs no
 * memory, so it cannot fail: the library's hash lies on the stack. */
#define XXH_INLINE_ALL /* compiled for our own processors: three times as fast as the shared library */
#include "src/state/state.h"

#include <assert.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Hashed and looked through in one go, it stays in the cache between. */
enum { CHUNK = 128 << 10 };

static Digest from_xxh(XXH128_hash_t hash) {
    return (Digest){hash.high64, hash.low64};
}

Digest digest_of(const void *data, size_t bytes) {
    return from_xxh(XXH3_128bits(data, bytes));
}

Digest state_entry_digest(const State *state, int index) {
    return digest_of(state_data(state, index), state->entries[index].bytes);
}

struct DigestStream {
    XXH3_state_t hash;
};

DigestStream *digest_stream_create(void) {
    return aligned_alloc(alignof(DigestStream), sizeof(DigestStream));
}

void digest_stream_begin(DigestStream *stream) {
    XXH3_128bits_reset(&stream->hash);
}

void digest_stream_add(DigestStream *stream, const void *data, size_t bytes) {
    XXH3_128bits_update(&stream->hash, data, bytes);
}

Digest digest_stream_value(const DigestStream *stream) {
    return from_xxh(XXH3_128bits_digest(&stream->hash));
}

struct StateDigester {
    XXH3_state_t hash;
};

StateDigester *state_digester_create(void) {
    StateDigester *digester = aligned_alloc(alignof(StateDigester), sizeof *digester);
    if (digester != NULL) XXH3_128bits_reset(&digester->hash);
    return digester;
}

void state_digester_add(StateDigester *digester, const char *path, DType dtype, int rank,
                        const int64_t shape[TENSOR_RANK_MAX], Digest value) {
    int64_t head[2 + TENSOR_RANK_MAX] = {dtype, rank};
    for (int i = 0; i < TENSOR_RANK_MAX; i++)
        head[2 + i] = i < rank ? shape[i] : 1;
    XXH3_128bits_update(&digester->hash, path, strlen(path) + 1);
    XXH3_128bits_update(&digester->hash, head, sizeof head);
    XXH3_128bits_update(&digester->hash, &value, sizeof value);
}

Digest state_digester_finish(StateDigester *digester) {
    Digest digest = from_xxh(XXH3_128bits_digest(&digester->hash));
    free(digester);
    return digest;
}

static void add_entry(StateDigester *digester, const Entry *entry, Digest value) {
    state_digester_add(digester, entry->path, entry->dtype, entry->rank, entry->shape,
                       value);
}

Digest state_digest_of_values(const State *state, const Digest *values) {
    assert(state->allocated);
    StateDigester digester;
    XXH3_128bits_reset(&digester.hash);
    for (int i = 0; i < state->count; i++)
        add_entry(&digester, &state->entries[state->by_path[i]], values[state->by_path[i]]);
    return from_xxh(XXH3_128bits_digest(&digester.hash));
}

Digest state_digest(const State *state) {
    assert(state->allocated);
    StateDigester digester;
    XXH3_128bits_reset(&digester.hash);
    for (int i = 0; i < state->count; i++)
        add_entry(&digester, &state->entries[state->by_path[i]],
                  state_entry_digest(state, state->by_path[i]));
    return from_xxh(XXH3_128bits_digest(&digester.hash));
}

/* By bits: with an exponent of ones a float is infinite or NaN, and no finite one is larger then. In lanes, so
 * that the largest of each is found without waiting for that of another. */
static bool are_finite_f32(const uint32_t *words, size_t count) {
    enum { LANES = 32 };
    const uint32_t magnitude = 0x7fffffffu, infinite = 0x7f800000u;
    uint32_t largest[LANES] = {0};
    size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) {
            uint32_t word = words[i + lane] & magnitude;
            largest[lane] = word > largest[lane] ? word : largest[lane];
        }
    bool finite = true;
    for (size_t lane = 0; lane < LANES; lane++)
        finite &= largest[lane] < infinite;
    for (size_t i = whole; i < count; i++)
        finite &= (words[i] & magnitude) < infinite;
    return finite;
}

static bool are_finite_f64(const uint64_t *words, size_t count) {
    bool finite = true;
    for (size_t i = 0; i < count; i++)
        finite &= (words[i] >> 52 & 0x7ff) != 0x7ff;
    return finite;
}

bool state_values_are_finite(DType dtype, const void *data, size_t bytes) {
    if (dtype == DTYPE_F32) return are_finite_f32(data, bytes / sizeof(uint32_t));
    if (dtype == DTYPE_F64) return are_finite_f64(data, bytes / sizeof(uint64_t));
    return true;
}

Digest state_examine(const State *state, int *not_finite) {
    assert(state->allocated);
    StateDigester digester;
    XXH3_state_t hash;
    XXH3_128bits_reset(&digester.hash);
    *not_finite = -1;
    for (int i = 0; i < state->count; i++) {
        int index = state->by_path[i];
        const Entry *entry = &state->entries[index];
        const unsigned char *data = state_data(state, index);
        bool finite = true;
        XXH3_128bits_reset(&hash);
        for (size_t at = 0; at < entry->bytes; at += CHUNK) {
            size_t bytes = entry->bytes - at < CHUNK ? entry->bytes - at : CHUNK;
            XXH3_128bits_update(&hash, data + at, bytes);
            if (finite) finite = state_values_are_finite(entry->dtype, data + at, bytes);
        }
        if (!finite && (*not_finite < 0 || index < *not_finite)) *not_finite = index;
        add_entry(&digester, entry, from_xxh(XXH3_128bits_digest(&hash)));
    }
    return from_xxh(XXH3_128bits_digest(&digester.hash));
}

void digest_print(Digest digest, char text[DIGEST_TEXT]) {
    snprintf(text, DIGEST_TEXT, "%016llx%016llx", (unsigned long long)digest.high,
             (unsigned long long)digest.low);
}

bool digest_parse(const char *text, Digest *out) {
    if (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32) return false;
    char half[17] = {0};
    memcpy(half, text, 16);
    out->high = strtoull(half, NULL, 16);
    out->low = strtoull(text + 16, NULL, 16);
    return true;
}

bool digest_equal(Digest a, Digest b) {
    return a.high == b.high && a.low == b.low;
}
