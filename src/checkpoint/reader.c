/* Reads a checkpoint: proves the user block and the region, learns the entries, and puts what reader_stream.c
 * brings into a state, or hashes it. */
#include "src/checkpoint/reader.h"

#include "src/checkpoint/omit.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FIX[] = "an older checkpoint is used instead, if there is one";

static int compare_paths(const void *a, const void *b) {
    return strcmp((*(const CheckpointEntry *const *)a)->path,
                  (*(const CheckpointEntry *const *)b)->path);
}

static Status read_region(CheckpointReader *reader) {
    size_t bytes = (size_t)reader->block.metadata_bytes; /* at most the file's length */
    reader->region = malloc(bytes);
    if (reader->region == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the metadata of %s", reader->name);
    if (file_read_at(reader->fd, reader->region, bytes, CHECKPOINT_USER_BLOCK) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot read %s (offset %d): %s",
                    reader->name, CHECKPOINT_USER_BLOCK, strerror(errno));
    if (!digest_equal(digest_of(reader->region, bytes), reader->block.metadata_digest))
        return FAIL(
            STATUS_CORRUPT, FIX,
            "%s: the metadata region (offset %d, %zu bytes) does not match its digest",
            reader->name, CHECKPOINT_USER_BLOCK, bytes);
    return STATUS_OK;
}

static Status sort_paths(CheckpointReader *reader) {
    size_t count = (size_t)reader->image.count;
    reader->by_path = calloc(count + 1, sizeof *reader->by_path);
    if (reader->by_path == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list %s", reader->name);
    for (size_t i = 0; i < count; i++)
        reader->by_path[i] = &reader->image.entries[i];
    qsort(reader->by_path, count, sizeof *reader->by_path, compare_paths);
    for (size_t i = 1; i < count; i++)
        if (strcmp(reader->by_path[i - 1]->path, reader->by_path[i]->path) == 0)
            return FAIL(STATUS_CORRUPT, FIX, "%s: %s is there twice", reader->name,
                        reader->by_path[i]->path);
    return STATUS_OK;
}

static Status open_reader(CheckpointReader *reader, int directory, const char *name) {
    TRY(userblock_open(directory, name, &reader->fd, &reader->block));
    TRY(read_region(reader));
    TRY(image_list(reader->region, &reader->block, reader->name, &reader->image));
    return sort_paths(reader);
}

Status checkpoint_reader_open(int directory, const char *name, CheckpointReader **out) {
    *out = NULL;
    CheckpointReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to read %s", name);
    reader->fd = -1;
    snprintf(reader->name, sizeof reader->name, "%s", name);
    Status status = open_reader(reader, directory, name);
    if (status == STATUS_OK)
        *out = reader;
    else
        checkpoint_reader_close(reader);
    return status;
}

void checkpoint_reader_close(CheckpointReader *reader) {
    if (reader == NULL) return;
    read_ahead_close(reader->ahead);
    if (reader->fd >= 0) close(reader->fd);
    image_destroy(&reader->image);
    free(reader->by_path);
    free(reader->region);
    free(reader);
}

const UserBlock *checkpoint_reader_block(const CheckpointReader *reader) {
    return &reader->block;
}

int checkpoint_reader_count(const CheckpointReader *reader) {
    return reader->image.count;
}

const CheckpointEntry *checkpoint_reader_entry(const CheckpointReader *reader, int index) {
    return &reader->image.entries[index];
}

const char *checkpoint_reader_text(const CheckpointReader *reader, const char *which) {
    for (int i = 0; i < IMAGE_TEXTS; i++)
        if (strcmp(which, IMAGE_TEXT_NAMES[i]) == 0) return reader->image.texts[i];
    return NULL;
}

/* ---- into a state */
enum { DIFFERENCES_TOLD = 3 };

typedef struct {
    char text[600];
    int found;
} Differences;

static void describe(const char *kind, const char *path, DType dtype, int rank,
                     const int64_t *shape, char *text, size_t size) {
    int used = snprintf(text, size, "%s %s %s (", kind, path, dtype_name(dtype));
    for (int i = 0; i < rank && used > 0 && (size_t)used < size; i++)
        used += snprintf(text + used, size - (size_t)used, "%s%lld", i > 0 ? ", " : "",
                         (long long)shape[i]);
    if (used > 0 && (size_t)used < size) snprintf(text + used, size - (size_t)used, ")");
}

static void add_difference(Differences *differences, const CheckpointEntry *stored,
                           const Entry *wanted) {
    if (differences->found++ >= DIFFERENCES_TOLD) return;
    char in_file[320] = "", in_state[320] = "", both[660];
    if (stored != NULL)
        describe(wanted == NULL ? "unexpected" : "mismatched: stored", stored->path,
                 stored->dtype, stored->rank, stored->shape, in_file, sizeof in_file);
    if (wanted != NULL)
        describe(stored == NULL ? "missing" : ", needed",
                 stored == NULL ? wanted->path : "as", wanted->dtype, wanted->rank,
                 wanted->shape, in_state, sizeof in_state);
    snprintf(both, sizeof both, "%s%s%s", differences->text[0] != '\0' ? "; " : "", in_file,
             in_state);
    strncat(differences->text, both,
            sizeof differences->text - strlen(differences->text) - 1);
}

static int compare_entries(const void *a, const void *b) {
    return strcmp((*(const Entry *const *)a)->path, (*(const Entry *const *)b)->path);
}

static bool same_kind(const CheckpointEntry *stored, const Entry *wanted) {
    if (stored->dtype != wanted->dtype || stored->rank != wanted->rank) return false;
    for (int i = 0; i < stored->rank; i++)
        if (stored->shape[i] != wanted->shape[i]) return false;
    return true;
}

/* One walk over both lists in order of path. */
static Status match(const CheckpointReader *reader, const State *state,
                    const Entry **wanted, int *targets) {
    Differences differences = {.found = 0};
    int stored = 0, needed = 0;
    while (stored < reader->image.count || needed < state->count) {
        const CheckpointEntry *have =
            stored < reader->image.count ? reader->by_path[stored] : NULL;
        const Entry *want = needed < state->count ? wanted[needed] : NULL;
        int order = have == NULL ? 1 : want == NULL ? -1 : strcmp(have->path, want->path);
        if (order != 0 || !same_kind(have, want))
            add_difference(&differences, order <= 0 ? have : NULL,
                           order >= 0 ? want : NULL);
        else if (targets != NULL)
            targets[have - reader->image.entries] = (int)(want - state->entries);
        stored += order <= 0;
        needed += order >= 0;
    }
    if (differences.found == 0) return STATUS_OK;
    return FAIL(STATUS_USAGE,
                "use the model and optimizer that this checkpoint was written with",
                "%s does not fit (%d entries differ): %s", reader->name, differences.found,
                differences.text);
}

Status checkpoint_reader_match(const CheckpointReader *reader, const State *state,
                               int *targets) {
    const Entry **wanted = calloc((size_t)state->count + 1, sizeof *wanted);
    if (wanted == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to restore %s", reader->name);
    for (int i = 0; i < state->count; i++)
        wanted[i] = &state->entries[i];
    qsort(wanted, (size_t)state->count, sizeof *wanted, compare_entries);
    Status status = match(reader, state, wanted, targets);
    free(wanted);
    return status;
}

/* Where each stored entry goes. */
typedef struct {
    const CheckpointReader *reader;
    State *state;
    int *targets; /* per stored entry: index in the state */
} Load;

static Status put_into_state(void *context, const CheckpointEntry *entry, size_t offset,
                             const void *bytes, size_t count) {
    const Load *load = context;
    if (omit_entry(entry->path)) return STATUS_OK;
    int target = load->targets[entry - load->reader->image.entries];
    memcpy((char *)state_data(load->state, target) + offset, bytes, count);
    return STATUS_OK;
}

static Status compare_state(const CheckpointReader *reader, const State *state) {
    for (int i = 0; i < state->count; i++)
        if (omit_entry(state->entries[i].path)) return STATUS_OK; /* it cannot be equal */
    Digest digest = state_digest(state);
    if (digest_equal(digest, reader->block.state_digest)) return STATUS_OK;
    char found[DIGEST_TEXT], expected[DIGEST_TEXT];
    digest_print(digest, found);
    digest_print(reader->block.state_digest, expected);
    return FAIL(STATUS_CORRUPT, FIX, "%s: the restored state's digest is %s, not %s",
                reader->name, found, expected);
}

Status checkpoint_reader_load(CheckpointReader *reader, State *state) {
    Load load = {.reader = reader, .state = state};
    load.targets = calloc((size_t)reader->image.count + 1, sizeof *load.targets);
    if (load.targets == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to restore %s", reader->name);
    Status status = checkpoint_reader_match(reader, state, load.targets);
    if (status == STATUS_OK)
        status = checkpoint_reader_stream(reader, put_into_state, &load);
    if (status == STATUS_OK) status = compare_state(reader, state);
    free(load.targets);
    return status;
}

/* All entries lie in one arena: only their values matter here. */
static Status declare_like(const CheckpointReader *reader, State *state) {
    for (int i = 0; i < reader->image.count; i++) {
        const CheckpointEntry *entry = &reader->image.entries[i];
        TRY(state_declare(state, ARENA_PARAMETER, entry->path, entry->dtype, entry->rank,
                          entry->shape, NULL));
    }
    return state_allocate(state);
}

Status checkpoint_read_state(int directory, const char *name, State **out) {
    CheckpointReader *reader;
    *out = NULL;
    TRY(checkpoint_reader_open(directory, name, &reader));
    Status status = state_create(out);
    if (status == STATUS_OK) status = declare_like(reader, *out);
    if (status == STATUS_OK) status = checkpoint_reader_load(reader, *out);
    checkpoint_reader_close(reader);
    if (status == STATUS_OK) return STATUS_OK;
    state_destroy(*out);
    *out = NULL;
    return status;
}

/* ---- without a state */
typedef struct {
    const CheckpointReader *reader;
    DigestStream
        *hash;      /* of the entry that is passing by: entries come one after the other */
    Digest *values; /* per stored entry */
} Proof;

static Status hash_entry(void *context, const CheckpointEntry *entry, size_t offset,
                         const void *bytes, size_t count) {
    Proof *proof = context;
    if (offset == 0) digest_stream_begin(proof->hash);
    digest_stream_add(proof->hash, bytes, count);
    if (offset + count == entry->bytes)
        proof->values[entry - proof->reader->image.entries] =
            digest_stream_value(proof->hash);
    return STATUS_OK;
}

static Status prove(CheckpointReader *reader, Proof *proof, StateDigester *digester,
                    Digest *digest) {
    Status status = checkpoint_reader_stream(reader, hash_entry, proof);
    for (int i = 0; i < reader->image.count && status == STATUS_OK; i++) {
        const CheckpointEntry *entry = reader->by_path[i];
        state_digester_add(digester, entry->path, entry->dtype, entry->rank, entry->shape,
                           proof->values[entry - reader->image.entries]);
    }
    *digest = state_digester_finish(digester);
    return status;
}

static Status verify_reader(CheckpointReader *reader) {
    Proof proof = {.reader = reader, .hash = digest_stream_create()};
    proof.values = calloc((size_t)reader->image.count + 1, sizeof *proof.values);
    StateDigester *digester = state_digester_create();
    Digest digest = {0, 0};
    Status status;
    if (proof.hash == NULL || proof.values == NULL || digester == NULL) {
        status = FAIL(STATUS_MEMORY, NULL, "no memory to verify %s", reader->name);
        if (digester != NULL) state_digester_finish(digester);
    } else {
        status = prove(reader, &proof, digester, &digest);
        if (status == STATUS_OK && !digest_equal(digest, reader->block.state_digest))
            status = FAIL(STATUS_CORRUPT, FIX,
                          "%s: its state_digest is not that of its values", reader->name);
    }
    free(proof.hash);
    free(proof.values);
    return status;
}

Status checkpoint_verify(int directory, const char *name, UserBlock *out) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(directory, name, &reader));
    *out = reader->block;
    Status status = verify_reader(reader);
    checkpoint_reader_close(reader);
    return status;
}
