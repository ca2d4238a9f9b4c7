/* The state: one registry of everything that the next step depends on. Saving, restoring,
 * broadcasting, hashing and comparing are each one walk over it; there is no second list.
 *
 * Life:  state_create → state_declare* → state_allocate → (data valid) → state_destroy
 *
 * Entries of a kind lie in one flat arena, in order of declaration, each starting on a multiple of
 * 64 bytes, padding always zero. So the moments of parameter p lie at p's own offset in their
 * arenas, and an optimizer step, a reduction or a norm is one pass over a range of floats.
 *
 * Arenas are zero after state_allocate. A fresh start writes initial values into them; a resume
 * writes the restored ones and nothing else, so an entry that a restore forgot shows. */
#pragma once

#include "src/core/status.h"
#include "src/state/tensor.h"

#include <stdbool.h>

typedef enum {
    ARENA_PARAMETER, /* trained weights, f32 */
    ARENA_BUFFER,    /* batch-norm statistics, f32 */
    ARENA_MOMENT1,   /* momentum, or Adam's first moment, f32 */
    ARENA_MOMENT2,   /* Adam's second moment, f32 */
    ARENA_SCALAR,    /* step, epoch, seed, best metric …, 8 bytes each */
    ARENA_COUNT
} ArenaKind;

enum { STATE_PATH_MAX = 128, STATE_ALIGNMENT = 64, STATE_PAGE = 4096 };

typedef struct {
    char path
        [STATE_PATH_MAX]; /* "model/conv1.weight", "progress/step": also its HDF5 path */
    DType dtype;
    int rank; /* 0: a scalar */
    int64_t shape[TENSOR_RANK_MAX];
    ArenaKind arena;
    size_t offset; /* bytes from the arena's start */
    size_t bytes;
} Entry;

/* What checkpoints, digests and messages between ranks see is `data`. A device whose memory is not the
 * host's computes on a copy of its own (src/train/residence.h); between two snapshots `data` is older. */
typedef struct {
    void *data;   /* host memory, page-aligned */
    void *device; /* where operations read and write: `data` itself, or the device's copy */
    size_t bytes; /* the sum of entries and padding; a multiple of STATE_ALIGNMENT */
} Arena;

typedef struct {
    Entry *entries;
    int count;
    int capacity;
    Arena arenas[ARENA_COUNT];
    int *by_path; /* the entries in order of path; once allocated */
    bool allocated;
} State;

/* 128 bits, printed as 32 hex digits, most significant first. */
typedef struct {
    uint64_t high, low;
} Digest;

enum { DIGEST_TEXT = 33 };

Status state_create(State **out);
void state_destroy(State *state); /* NULL is allowed */

/* Adds an entry and gives its index. Ranks: local, in the same order on each
 * Errors: STATUS_USAGE for a path that is too long, declared twice, or has characters outside
 * [A-Za-z0-9_./-]; STATUS_MEMORY. The state is then as before */
Status state_declare(State *state, ArenaKind arena, const char *path, DType dtype, int rank,
                     const int64_t *shape, int *index);

/* Memory as an arena's, of unknown content: page-aligned, whole pages, a large one in huge pages where the
 * kernel gives them. Memory: the caller's (free); NULL when there is none */
void *state_allocate_arena(size_t bytes);

/* Lets all arenas but the scalars' change places with those of `other`, which are as long. */
void state_exchange(State *state, Arena other[ARENA_COUNT]);

/* Lays out and zeroes the arenas. No state_declare after it. Errors: STATUS_MEMORY */
Status state_allocate(State *state);

/* Index of `path`, or -1. */
int state_find(const State *state, const char *path);

/* Where an entry's bytes are. */
void *state_data(const State *state, int index);

/* Digest of the values alone: XXH3-128 over, in order of path (strcmp), path, dtype, shape and the
 * XXH3-128 of the entry's bytes. Independent of file layout, declaration order, rank count, time.
 * Two runs are bit-equal when their final digests are. Ranks: local */
Digest state_digest(const State *state);

/* The same, when the digest of each entry's bytes is known already: values[i] is entry i's. */
Digest state_digest_of_values(const State *state, const Digest *values);

/* The same digest of values that lie in no State (a file's, say): create, add every entry in order
 * of path (strcmp) with the digest of its bytes, finish. There is no other walk.
 * Memory: the caller's until state_digester_finish; NULL when there is none */
typedef struct StateDigester StateDigester;
StateDigester *state_digester_create(void);
void state_digester_add(StateDigester *digester, const char *path, DType dtype, int rank,
                        const int64_t shape[TENSOR_RANK_MAX], Digest value);
Digest state_digester_finish(StateDigester *digester); /* destroys it */

/* Digest of one entry's bytes. */
Digest state_entry_digest(const State *state, int index);

/* The state's digest, and whether all float entries are finite, in one pass over the memory:
 * *not_finite is the first entry that is not, or -1. */
Digest state_examine(const State *state, int *not_finite);

/* Whether none of the floats in data (bytes long, aligned as the type wants) is infinite or NaN; integers
 * always are. */
bool state_values_are_finite(DType dtype, const void *data, size_t bytes);

void digest_print(Digest digest, char text[DIGEST_TEXT]);
bool digest_parse(const char *text, Digest *out); /* exactly 32 lower-case hex digits */
bool digest_equal(Digest a, Digest b);
Digest digest_of(const void *data, size_t bytes); /* XXH3-128 */

/* digest_of of bytes that come piece by piece: create, then begin, add*, value for each digest.
 * Memory: the caller's (free); NULL when there is none */
typedef struct DigestStream DigestStream;
DigestStream *digest_stream_create(void);
void digest_stream_begin(DigestStream *stream);
void digest_stream_add(DigestStream *stream, const void *data, size_t bytes);
Digest digest_stream_value(const DigestStream *stream);
