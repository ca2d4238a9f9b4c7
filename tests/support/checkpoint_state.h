/* A state with known values for the tests of the checkpoint format, and a directory to save it in. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/core/rng.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const CheckpointText KNOWN_TEXT = {"{\"train.batch\": \"256\"}",
                                          "train:\n  batch: 256\n",
                                          "[{\"launch\": 1, \"ranks\": 4}]"};

/* Small: everything but one tensor is below a page. Large: two tensors span several segments. Packable: one
 * tensor is just worth packing, and packs to next to nothing. */
typedef enum { KNOWN_SMALL, KNOWN_LARGE, KNOWN_PACKABLE } KnownSize;

/* All dtypes and ranks 0 to 4, every byte a function of (arena, entry, position). */
static inline Status known_state(KnownSize size, State **out) {
    TRY(state_create(out));
    State *state = *out;
    const int64_t conv[] = {4, 3, 3, 3}, cube[] = {2, 3, 5}, bias[] = {7}, odd[] = {1};
    const int64_t medium[] = {16, 64}, large[] = {1500, 2003}, stairs[] = {130, 128};
    TRY(state_declare(state, ARENA_PARAMETER, "model/conv1.weight", DTYPE_F32, 4, conv,
                      NULL));
    TRY(state_declare(state, ARENA_PARAMETER, "model/fc.weight", DTYPE_F32, 2, medium,
                      NULL));
    TRY(state_declare(state, ARENA_PARAMETER, "model/fc.bias", DTYPE_F32, 1, bias, NULL));
    TRY(state_declare(state, ARENA_BUFFER, "model/bn/mean", DTYPE_F32, 3, cube, NULL));
    if (size == KNOWN_LARGE) {
        TRY(state_declare(state, ARENA_MOMENT1, "optimizer/m/big", DTYPE_F32, 2, large,
                          NULL));
        TRY(state_declare(state, ARENA_MOMENT2, "optimizer/v/big", DTYPE_F32, 2, large,
                          NULL));
    }
    if (size == KNOWN_PACKABLE)
        TRY(state_declare(state, ARENA_MOMENT1, "optimizer/m/stairs", DTYPE_F32, 2, stairs,
                          NULL));
    TRY(state_declare(state, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL, NULL));
    TRY(state_declare(state, ARENA_SCALAR, "progress/best", DTYPE_F64, 0, NULL, NULL));
    TRY(state_declare(state, ARENA_SCALAR, "progress/seed", DTYPE_U64, 1, odd, NULL));
    TRY(state_allocate(state));
    for (int i = 0; i < state->count; i++) {
        unsigned char *bytes = state_data(state, i);
        Rng rng = rng_at(7, RNG_TEST, 0, (uint32_t)i);
        for (size_t j = 0; j < state->entries[i].bytes; j += 4) {
            uint32_t word =
                rng_word(rng, 0, (uint32_t)j / 4) & 0xbfffffffu; /* finite floats */
            memcpy(bytes + j, &word, sizeof word);
        }
    }
    int steep = state_find(state, "optimizer/m/stairs");
    for (size_t i = 0; steep >= 0 && i < state->entries[steep].bytes / sizeof(float); i++)
        ((float *)state_data(state, steep))[i] = (float)(i / 1000);
    return STATUS_OK;
}

/* The same registry, all zero. */
static inline Status empty_state(const State *like, State **out) {
    TRY(state_create(out));
    for (int i = 0; i < like->count; i++) {
        const Entry *entry = &like->entries[i];
        TRY(state_declare(*out, entry->arena, entry->path, entry->dtype, entry->rank,
                          entry->shape, NULL));
    }
    return state_allocate(*out);
}

static inline UserBlock known_block(void) {
    UserBlock block = {.generation = 3, .step = 1200, .epoch = 2, .ranks = 4};
    strcpy(block.run, "fashion");
    strcpy(block.metrics, "{\"loss\": 0.31, \"accuracy\": 0.912}");
    strcpy(block.parent, "g0002-step-000000000800.h5");
    block.parent_digest = (Digest){1, 2};
    strcpy(block.device_kind, "cpu avx2, oneDNN 2.6.3");
    strcpy(block.author, "A. \"Quoted\" Person");
    strcpy(block.note, "first try, with an umlaut: \xc3\xbc");
    return block;
}

/* Plans and writes in one, packed at a level or (0) not. */
static inline Status known_pack(const State *state, int level, int directory,
                                const char *name) {
    CheckpointPlan *plan;
    UserBlock block = known_block();
    TRY(checkpoint_plan(state, &KNOWN_TEXT, level, &plan));
    Status status = checkpoint_write(plan, state, directory, name, &block);
    checkpoint_plan_destroy(plan);
    return status;
}

static inline Status known_write(const State *state, int directory, const char *name) {
    return known_pack(state, 0, directory, name);
}

/* Another process's part of what known_write_by writes. */
static inline Status known_join(const State *state, const void *offer, int directory,
                                int64_t first, int64_t count, Digest *digests) {
    CheckpointWriting *writing;
    Digest digest;
    int not_finite;
    TRY(checkpoint_write_join(offer, state, directory, &writing));
    Status status =
        checkpoint_write_share(writing, state, first, count, digests, &digest, &not_finite);
    if (status == STATUS_OK) return checkpoint_write_leave(writing);
    checkpoint_write_discard(writing);
    return status;
}

static inline Status known_place(const State *state, int64_t writers, int directory,
                                 CheckpointWriting *created, void *offer, Digest *digests) {
    int64_t segments = checkpoint_write_segments(created);
    Digest digest;
    int not_finite;
    TRY(checkpoint_write_offer(created, offer));
    for (int64_t w = writers - 1; w > 0; w--) {
        int64_t first = w * segments / writers;
        int64_t count = (w + 1) * segments / writers - first;
        TRY(known_join(state, offer, directory, first, count, digests));
        checkpoint_write_adopt(created, first, count, digests);
    }
    return checkpoint_write_share(created, state, 0, segments / writers, NULL, &digest,
                                  &not_finite);
}

/* As known_write, by several writers, of which the one that creates the file comes last. */
static inline Status known_write_by(const State *state, int64_t writers, int directory,
                                    const char *name) {
    CheckpointPlan *plan;
    CheckpointWriting *created;
    UserBlock block = known_block();
    TRY(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan));
    TRY(checkpoint_write_create(plan, directory, name, &created));
    int64_t segments = checkpoint_write_segments(created);
    void *offer = malloc(checkpoint_offer_bytes(state));
    Digest *digests = calloc((size_t)segments + 1, sizeof *digests);
    Status status = offer == NULL || digests == NULL
                        ? FAIL(STATUS_MEMORY, NULL, "no memory for a test")
                        : known_place(state, writers, directory, created, offer, digests);
    if (status == STATUS_OK)
        status = checkpoint_write_commit(created, &block);
    else
        checkpoint_write_discard(created);
    free(digests);
    free(offer);
    checkpoint_plan_destroy(plan);
    return status;
}

/* A new directory below `above`, open; its path stays in `path` (64 bytes). */
static inline int temporary_directory(const char *above, char path[64]) {
    snprintf(path, 64, "%s/rekindle-test-XXXXXX", above);
    if (mkdtemp(path) == NULL) return -1;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}
