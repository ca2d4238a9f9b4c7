/* Digests of values: XXH3-128 by its own library, over the registry in order of path. */
#include "src/state/state.h"

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

static int by_path(const void *a, const void *b) {
    return strcmp((*(const Entry *const *)a)->path, (*(const Entry *const *)b)->path);
}

struct StateDigester {
    XXH3_state_t *hash;
};

StateDigester *state_digester_create(void) {
    StateDigester *digester = malloc(sizeof *digester);
    if (digester == NULL) return NULL;
    digester->hash = XXH3_createState();
    if (digester->hash == NULL) {
        free(digester);
        return NULL;
    }
    XXH3_128bits_reset(digester->hash);
    return digester;
}

void state_digester_add(StateDigester *digester, const char *path, DType dtype, int rank,
                        const int64_t shape[TENSOR_RANK_MAX], Digest value) {
    int64_t head[2 + TENSOR_RANK_MAX] = {dtype, rank};
    for (int i = 0; i < TENSOR_RANK_MAX; i++)
        head[2 + i] = i < rank ? shape[i] : 1;
    XXH3_128bits_update(digester->hash, path, strlen(path) + 1);
    XXH3_128bits_update(digester->hash, head, sizeof head);
    XXH3_128bits_update(digester->hash, &value, sizeof value);
}

Digest state_digester_finish(StateDigester *digester) {
    Digest digest = from_xxh(XXH3_128bits_digest(digester->hash));
    XXH3_freeState(digester->hash);
    free(digester);
    return digest;
}

Digest state_digest_of_values(const State *state, const Digest *values) {
    StateDigester *digester = state_digester_create();
    const Entry **sorted = malloc((size_t)(state->count + 1) * sizeof *sorted);
    if (digester == NULL || sorted == NULL)
        abort(); /* a few kilobytes: nothing can go on */
    for (int i = 0; i < state->count; i++)
        sorted[i] = &state->entries[i];
    qsort(sorted, (size_t)state->count, sizeof *sorted, by_path);
    for (int i = 0; i < state->count; i++)
        state_digester_add(digester, sorted[i]->path, sorted[i]->dtype, sorted[i]->rank,
                           sorted[i]->shape, values[sorted[i] - state->entries]);
    free(sorted);
    return state_digester_finish(digester);
}

Digest state_digest(const State *state) {
    Digest *values = malloc((size_t)(state->count + 1) * sizeof *values);
    if (values == NULL) abort(); /* a few kilobytes: nothing can go on */
    for (int i = 0; i < state->count; i++)
        values[i] = state_entry_digest(state, i);
    Digest digest = state_digest_of_values(state, values);
    free(values);
    return digest;
}

/* By bits: an exponent of ones alone is infinite or NaN. Summed in words, for the vectoriser. */
static bool is_finite(DType dtype, const unsigned char *data, size_t bytes) {
    uint32_t bad = 0;
    uint64_t bad_wide = 0;
    if (dtype == DTYPE_F32) {
        const uint32_t *words = (const uint32_t *)data;
        for (size_t i = 0; i < bytes / sizeof *words; i++)
            bad |= (words[i] & 0x7f800000u) == 0x7f800000u;
    } else if (dtype == DTYPE_F64) {
        const uint64_t *words = (const uint64_t *)data;
        for (size_t i = 0; i < bytes / sizeof *words; i++)
            bad_wide |= (words[i] >> 52 & 0x7ff) == 0x7ff;
    }
    return bad == 0 && bad_wide == 0;
}

Digest state_examine(const State *state, int *not_finite) {
    Digest *values = malloc((size_t)(state->count + 1) * sizeof *values);
    XXH3_state_t *hash = XXH3_createState();
    if (values == NULL || hash == NULL) abort(); /* a few kilobytes: nothing can go on */
    *not_finite = -1;
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        const unsigned char *data = state_data(state, i);
        XXH3_128bits_reset(hash);
        for (size_t at = 0; at < entry->bytes; at += CHUNK) {
            size_t bytes = entry->bytes - at < CHUNK ? entry->bytes - at : CHUNK;
            XXH3_128bits_update(hash, data + at, bytes);
            if (*not_finite < 0 && !is_finite(entry->dtype, data + at, bytes))
                *not_finite = i;
        }
        values[i] = from_xxh(XXH3_128bits_digest(hash));
    }
    Digest digest = state_digest_of_values(state, values);
    XXH3_freeState(hash);
    free(values);
    return digest;
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
