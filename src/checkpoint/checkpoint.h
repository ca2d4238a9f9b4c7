/* A checkpoint: one self-proving HDF5 file holding the whole state (format: src/checkpoint/FORMAT.md).
 *
 * Invariants
 *  1. A file exists for readers only once its user block is right: format, version, checksum,
 *     length, and the digest of the metadata region.
 *  2. Nothing is used before its digest has been checked, and nothing that was read is ever given to
 *     the HDF5 library: it lays files out, our own bounded parser reads them.
 *  3. A tensor's bytes count only after their segment's digest was checked; a restored state counts
 *     only after its state_digest was compared with the user block's.
 *  4. A name appears by a rename that never replaces, after fsync and a checked close; the directory
 *     is synced before "saved" is said.
 *  5. Nothing valid is deleted before something newer is durable. */
#pragma once

#include "src/core/status.h"
#include "src/state/state.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CHECKPOINT_FORMAT_VERSION = 2, /* the newest that is written and read */
    CHECKPOINT_USER_BLOCK = 4096,
    CHECKPOINT_SEGMENT = 4 << 20,
};

/* What the user block says: the commit record, the registry metadata, what a person sees. */
typedef struct {
    int version;
    char run[64];
    int64_t generation, step, epoch;
    int64_t bytes;          /* length of the whole file */
    int64_t metadata_bytes; /* the region [CHECKPOINT_USER_BLOCK, + metadata_bytes) */
    Digest metadata_digest; /* of that region, which holds the table of segment digests */
    Digest state_digest;    /* of the values alone */
    char metrics[256];      /* a JSON object, e.g. {"loss":0.31,"accuracy":0.912} */
    char parent[128];       /* file name that the launch restored from; empty for none */
    Digest parent_digest;   /* its state_digest */
    int ranks;
    char device_kind[160];
    char created_at[40]; /* UTC, ISO 8601; for people, never trusted */
    char writer[128];    /* "rekindle 0.1.0, hdf5 1.10.8" */
    char author[128], note[256];
    /* since version 2; of older files "none" and 0 */
    char compression[16]; /* "none", "zlib:1" … "zlib:9" */
    int64_t value_bytes;  /* of all entries, unpacked */
} UserBlock;

/* Text that travels inside the file besides the state. Pointers are the caller's. */
typedef struct {
    const char *identity; /* config_identity's JSON → dataset /rekindle/identity */
    const char *config;   /* YAML as run → /rekindle/config */
    const char *lineage;  /* JSON array, one object per launch → /rekindle/lineage */
} CheckpointText;

/* The level that a checkpoint.compression means: "none" is 0, "zlib:1" 1, and so on. */
int checkpoint_level(const char *compression);

/* Layout planned by HDF5 for one registry; cached between saves. */
typedef struct CheckpointPlan CheckpointPlan;

/* level: 0 stores values as they are (format version 1), 1 to 9 packs the larger entries (version 2). */
Status checkpoint_plan(const State *state, const CheckpointText *text, int level,
                       CheckpointPlan **out);
void checkpoint_plan_destroy(CheckpointPlan *plan); /* NULL is allowed */

/* ---- writing, in two strokes: what needs the state, then what makes the file count */
typedef struct CheckpointWriting CheckpointWriting;

/* Puts the state's values into a hidden temporary of `directory` (O_EXCL): all but the metadata region
 * and the user block. When it returns the state is needed no more. In the same pass over the memory it
 * finds what state_examine gives: *state_digest, and in *not_finite the first entry that is not finite,
 * or -1 (no file is refused for that here: the caller decides).
 *
 * Ranks:   local; one rank calls it, on any thread. It only reads `state`
 * Memory:  *out is the caller's, for exactly one of commit and discard, and NULL after a failure. Until
 *          then `plan` and `directory` must stay. It holds a copy of the metadata region, and meanwhile
 *          four segments; when it packs, what chunk_line_open says
 * Errors:  STATUS_IO naming the failed step, STATUS_MEMORY, STATUS_USAGE for a state that was not planned
 *          for; the directory is as before */
Status checkpoint_write_begin(const CheckpointPlan *plan, const State *state, int directory,
                              const char *name, CheckpointWriting **out,
                              Digest *state_digest, int *not_finite);

/* Makes it count: metadata region, user block, fsync, checked close, rename without replacing, fsync of
 * the directory. `block` gives the fields that the caller knows; lengths, digests, created_at, writer and
 * version are filled here. Frees `writing` in every case.
 *
 * Ranks:   local; on any thread
 * Errors:  STATUS_IO naming the failed step, STATUS_EXISTS; the directory is as before, unless the failed
 *          step is the last one (its sync): then `name` stands, of unknown durability */
Status checkpoint_write_commit(CheckpointWriting *writing, UserBlock *block);

/* Removes the temporary, for who has made it; NULL is allowed. */
void checkpoint_write_discard(CheckpointWriting *writing);

/* ---- the first stroke by several processes: one creates the file, offers it to the others, and commits it
 * once all have placed their segments. The file is byte for byte that of a single writer (but for the user
 * block's time). checkpoint_write_begin is create, and a share of all segments. */

/* Makes the hidden temporary and reserves its space. Ranks, memory, errors: as checkpoint_write_begin; only a
 * plan of level 0 is to be offered */
Status checkpoint_write_create(const CheckpointPlan *plan, int directory, const char *name,
                               CheckpointWriting **out);
int64_t checkpoint_write_segments(const CheckpointWriting *writing);

/* What a process that joins has to know: flat, so that it may travel between equal programs.
 * Memory: offer is the caller's, of checkpoint_offer_bytes. Errors: STATUS_IO */
size_t checkpoint_offer_bytes(const State *registry);
Status checkpoint_write_offer(CheckpointWriting *writing, void *offer);

/* Opens a file that was offered: one that is not yet to be seen is looked for again for a second.
 *
 * Ranks:   local; on any thread. `registry` is that of the plan
 * Memory:  *out is the caller's, for exactly one of leave and discard, and NULL after a failure
 * Errors:  STATUS_IO, also for a file that is not the offered one; STATUS_USAGE for none that a program of ours
 *          makes; STATUS_MEMORY. No name is touched */
Status checkpoint_write_join(const void *offer, const State *registry, int directory,
                             CheckpointWriting **out);

/* Places the values of segments [first, first + count), and looks at all others on the way: *state_digest and
 * *not_finite as of checkpoint_write_begin. digests (count of them) are of its segments; NULL where they are
 * not asked for. Who has created the file has them in its table besides.
 * Errors: as checkpoint_write_begin; `writing` is to be discarded then */
Status checkpoint_write_share(CheckpointWriting *writing, const State *state, int64_t first,
                              int64_t count, Digest *digests, Digest *state_digest,
                              int *not_finite);

/* Who has joined: fsync and checked close; only then its share may be committed. Frees `writing` in every
 * case. Errors: STATUS_IO */
Status checkpoint_write_leave(CheckpointWriting *writing);

/* Who has created: takes the digests of segments that others have placed. */
void checkpoint_write_adopt(CheckpointWriting *writing, int64_t first, int64_t count,
                            const Digest *digests);

/* Both strokes. Errors: as theirs */
Status checkpoint_write(const CheckpointPlan *plan, const State *state, int directory,
                        const char *name, UserBlock *block);

/* Reads and checks a file's user block only (invariant 1 without the region's digest).
 * Errors: STATUS_CORRUPT or STATUS_IO naming file, offset and reason */
Status checkpoint_read_user_block(int directory, const char *name, UserBlock *out);

/* ---- reading: verify the region, learn names, shapes and offsets from it, then stream */
typedef struct CheckpointReader CheckpointReader;

typedef struct {
    char path[STATE_PATH_MAX];
    DType dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    int64_t offset; /* in the file */
    size_t bytes;
    size_t stored; /* bytes that it takes there */
    int packed;    /* the reader's own number of a packed one, from 1; 0: stored as it is */
} CheckpointEntry;

/* Opens and proves a file as far as the end of its metadata region, and lists its entries.
 * Memory:  *out is the caller's: checkpoint_reader_close
 * Errors:  STATUS_CORRUPT (with file, offset, reason), STATUS_IO, STATUS_USAGE for a newer format */
Status checkpoint_reader_open(int directory, const char *name, CheckpointReader **out);
void checkpoint_reader_close(CheckpointReader *reader); /* NULL is allowed */
const UserBlock *checkpoint_reader_block(const CheckpointReader *reader);
int checkpoint_reader_count(const CheckpointReader *reader);
/* Entries are numbered in order of file offset. */
const CheckpointEntry *checkpoint_reader_entry(const CheckpointReader *reader, int index);
/* One of the texts ("identity", "config", "lineage"), zero-terminated; valid until close. */
const char *checkpoint_reader_text(const CheckpointReader *reader, const char *which);

/* Begins to read what checkpoint_reader_stream will stream, so that the disk works while the caller still makes
 * ready. Not needed. Errors: STATUS_MEMORY */
Status checkpoint_reader_begin(CheckpointReader *reader);

/* Reads every byte of the file, checks each segment's digest, and hands every entry's bytes on, in
 * order of file offset: `sink` may be NULL (verify only).
 * Errors: STATUS_CORRUPT naming file, segment and offset; what sink returns */
typedef Status (*CheckpointSink)(void *context, const CheckpointEntry *entry, size_t offset,
                                 const void *bytes, size_t count);
Status checkpoint_reader_stream(CheckpointReader *reader, CheckpointSink sink,
                                void *context);

/* Finds every entry's place in the state: targets[i] is the state's index of the file's entry i (room
 * for checkpoint_reader_count; NULL: only compare). Ranks: local
 * Errors: STATUS_USAGE naming the first entries that are missing, unexpected or mismatched with both
 * shapes; STATUS_MEMORY */
Status checkpoint_reader_match(const CheckpointReader *reader, const State *state,
                               int *targets);

/* Reads everything into the state: entries must match one to one in path, dtype and shape. At the end
 * state_digest(state) equals the user block's. Ranks: local
 * Errors: STATUS_CORRUPT; as checkpoint_reader_match. The state is undefined then */
Status checkpoint_reader_load(CheckpointReader *reader, State *state);

/* Reads a file into a registry that is made like the file's own, whatever that holds: to compare two.
 * Ranks: local. Memory: *out is the caller's (state_destroy); NULL after a failure
 * Errors: as checkpoint_reader_open and checkpoint_reader_load */
Status checkpoint_read_state(int directory, const char *name, State **out);

/* Proves a file without a state: user block, region, every segment, and the state_digest anew.
 * Ranks: local. Errors: as checkpoint_reader_open and checkpoint_reader_stream */
Status checkpoint_verify(int directory, const char *name, UserBlock *out);
