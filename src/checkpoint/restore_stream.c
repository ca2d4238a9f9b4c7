/* The bytes of one checkpoint on their way from one rank's disk, the root's, into every rank's arenas.
 *
 * All entries, in order of file offset, are one line of bytes. The root puts what it has verified into
 * its own arenas and sends that stretch of the line on in frames, while threads of the reader bring in
 * and verify what comes behind. A frame inside one entry travels from arena to arena; several small
 * entries share one through a buffer. A frame of length 0 ends the line, -1 says that the file is bad.
 *
 * Every rank digests a frame where it came to lie, while the next one is on its way: when the line
 * ends, so is the digest of the state. */
#include "src/checkpoint/restore_stream.h"

#include "src/checkpoint/omit.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { FRAME_BYTES = 4 << 20, SHARED_BYTES = 1 << 20, WORTH_OWN_FRAME = 256 << 10 };
enum { LINE_END = 0, LINE_FAILED = -1 };

typedef struct {
    Collective *collective;
    int root;
    State *state;
    int32_t *order; /* state->count entries in order of file offset; -1 - index: left out */
    unsigned char *buffer; /* SHARED_BYTES */
    bool leaves_out;       /* some entry is left out: the file's digest cannot be met */
    int filling;           /* root: the entry of `order` that the reader is at … */
    size_t filled;         /* … and how much of it has come */
    size_t ahead;          /* root: bytes in the arenas that were not sent yet */
    int at;                /* the entry of `order` where the next frame begins … */
    size_t at_offset;      /* … and where in it */
    XXH3_state_t *hash;    /* of that entry, up to there */
    Digest *values;        /* of each entry in the arenas that the line has passed */
} Line;

/* ---- the line */

static int entry_of(int32_t ordered) {
    return ordered < 0 ? -1 - ordered : ordered;
}

/* The reader numbers entries in order of file offset. */
static Status fill_order(Line *line, const CheckpointReader *reader) {
    int count = checkpoint_reader_count(reader);
    int *targets = malloc((size_t)(count + 1) * sizeof *targets);
    if (targets == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to order %d entries", count);
    Status matched = checkpoint_reader_match(reader, line->state, targets);
    for (int i = 0; i < count && matched == STATUS_OK; i++)
        line->order[i] = omit_entry(checkpoint_reader_entry(reader, i)->path)
                             ? -1 - targets[i]
                             : targets[i];
    free(targets);
    return matched;
}

/* Everything about the registry but its values: ranks that differ in it must not exchange bytes. */
static Digest layout_digest(const State *state, unsigned char *buffer) {
    Digest sum = {(uint64_t)state->count, 0};
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        int64_t numbers[] = {entry->dtype, entry->rank, entry->arena,
                             (int64_t)entry->bytes};
        size_t length = 0;
        memcpy(buffer, &sum, sizeof sum);
        length += sizeof sum;
        memcpy(buffer + length, numbers, sizeof numbers);
        length += sizeof numbers;
        memcpy(buffer + length, entry->shape, sizeof entry->shape);
        length += sizeof entry->shape;
        memcpy(buffer + length, entry->path, strlen(entry->path));
        length += strlen(entry->path);
        sum = digest_of(buffer, length);
    }
    return sum;
}

static Status open_line(Line *line, const CheckpointReader *reader) {
    const CollectiveOps *ops = line->collective->ops;
    size_t order_bytes = (size_t)line->state->count * sizeof *line->order;
    line->order = calloc(1, order_bytes + 1);
    line->buffer = malloc(SHARED_BYTES);
    line->values = calloc((size_t)line->state->count + 1, sizeof *line->values);
    line->hash = XXH3_createState();
    Status mine = STATUS_OK;
    if (line->order == NULL || line->buffer == NULL || line->values == NULL ||
        line->hash == NULL)
        mine = FAIL(STATUS_MEMORY, NULL, "no memory for a restore's buffer (%d bytes)",
                    SHARED_BYTES);
    else if (reader != NULL)
        mine = fill_order(line, reader);
    TRY(ops->agree(line->collective, mine));

    Digest layout = layout_digest(line->state, line->buffer), first = layout;
    TRY(ops->broadcast(line->collective, &first, sizeof first, line->root));
    if (!digest_equal(layout, first))
        mine = FAIL(STATUS_USAGE, "give every rank the same program and configuration",
                    "this rank's registry of the state differs from rank %d's", line->root);
    TRY(ops->agree(line->collective, mine));
    TRY(ops->broadcast(line->collective, line->order, order_bytes, line->root));
    for (int i = 0; i < line->state->count; i++)
        if (line->order[i] < 0) line->leaves_out = true;
    return STATUS_OK;
}

/* Moves past entries that are used up or left out, and says what lies there in one piece. */
static size_t piece_here(Line *line, unsigned char **data) {
    const State *state = line->state;
    while (line->at < state->count &&
           (line->order[line->at] < 0 ||
            line->at_offset == state->entries[line->order[line->at]].bytes)) {
        line->at++;
        line->at_offset = 0;
    }
    if (line->at == state->count) return 0;
    int index = line->order[line->at];
    *data = (unsigned char *)state_data(state, index) + line->at_offset;
    return state->entries[index].bytes - line->at_offset;
}

/* Moves on over `bytes` that have come to lie in the entry here. */
static void pass(Line *line, const unsigned char *data, size_t bytes) {
    int index = line->order[line->at];
    if (line->at_offset == 0) XXH3_128bits_reset(line->hash);
    XXH3_128bits_update(line->hash, data, bytes);
    line->at_offset += bytes;
    if (line->at_offset < line->state->entries[index].bytes) return;
    XXH128_hash_t value = XXH3_128bits_digest(line->hash);
    line->values[index] = (Digest){value.high64, value.low64};
}

typedef enum { GATHER_INTO_BUFFER, SCATTER_FROM_BUFFER } Direction;

static void walk_buffer(Line *line, size_t bytes, Direction direction) {
    for (size_t done = 0; done < bytes;) {
        unsigned char *data = NULL;
        size_t count = piece_here(line, &data);
        assert(count > 0); /* the root never sends past the line's end */
        if (count > bytes - done) count = bytes - done;
        if (direction == GATHER_INTO_BUFFER)
            memcpy(line->buffer + done, data, count);
        else
            memcpy(data, line->buffer + done, count);
        pass(line, data, count);
        done += count;
    }
}

/* A frame of `bytes` at the line's position: the same decision on both ends. */
static Status move_frame(Line *line, size_t bytes) {
    Collective *collective = line->collective;
    unsigned char *data = NULL;
    if (piece_here(line, &data) >= bytes) {
        TRY(collective->ops->broadcast(collective, data, bytes, line->root));
        pass(line, data, bytes);
        return STATUS_OK;
    }
    assert(bytes <= SHARED_BYTES);
    if (collective->rank == line->root) walk_buffer(line, bytes, GATHER_INTO_BUFFER);
    TRY(collective->ops->broadcast(collective, line->buffer, bytes, line->root));
    if (collective->rank != line->root) walk_buffer(line, bytes, SCATTER_FROM_BUFFER);
    return STATUS_OK;
}

/* ---- the root's end */

static Status send_ahead(Line *line, size_t at_least) {
    while (line->ahead > 0 && line->ahead >= at_least) {
        unsigned char *data = NULL;
        size_t piece = piece_here(line, &data);
        size_t bytes = line->ahead;
        if (piece >= bytes || piece >= WORTH_OWN_FRAME) {
            if (bytes > piece) bytes = piece;
            if (bytes > FRAME_BYTES) bytes = FRAME_BYTES;
        } else if (bytes > SHARED_BYTES) {
            bytes = SHARED_BYTES;
        }
        int64_t header = (int64_t)bytes;
        TRY(line->collective->ops->broadcast(line->collective, &header, sizeof header,
                                             line->root));
        TRY(move_frame(line, bytes));
        line->ahead -= bytes;
    }
    return STATUS_OK;
}

static Status take_verified(void *context, const CheckpointEntry *entry, size_t offset,
                            const void *bytes, size_t count) {
    Line *line = context;
    const State *state = line->state;
    while (line->filling < state->count &&
           line->filled == state->entries[entry_of(line->order[line->filling])].bytes) {
        line->filling++;
        line->filled = 0;
    }
    int index = line->filling < state->count ? entry_of(line->order[line->filling]) : -1;
    if (index < 0 || strcmp(state->entries[index].path, entry->path) != 0 ||
        offset != line->filled || count > state->entries[index].bytes - offset)
        return FAIL(STATUS_CORRUPT, NULL, "bytes of entry %s overlap another entry's",
                    entry->path);
    line->filled += count;
    if (line->order[line->filling] < 0) return STATUS_OK;
    memcpy((unsigned char *)state_data(state, index) + offset, bytes, count);
    line->ahead += count;
    return send_ahead(line, FRAME_BYTES);
}

static Status send_line(Line *line, CheckpointReader *reader) {
    Status sent = checkpoint_reader_stream(reader, take_verified, line);
    if (sent == STATUS_OK) sent = send_ahead(line, 0);
    if (sent == STATUS_COMM) return sent;
    int64_t header = sent == STATUS_OK ? LINE_END : LINE_FAILED;
    TRY(line->collective->ops->broadcast(line->collective, &header, sizeof header,
                                         line->root));
    return line->collective->ops->agree(line->collective, sent);
}

static Status receive_line(Line *line) {
    int64_t header;
    for (;;) {
        TRY(line->collective->ops->broadcast(line->collective, &header, sizeof header,
                                             line->root));
        if (header <= 0) break;
        TRY(move_frame(line, (size_t)header));
    }
    return line->collective->ops->agree(line->collective, STATUS_OK);
}

/* ---- what came out of it */

static Status compare_ranks(const Line *line, const Digest *all, const UserBlock *block,
                            bool *file_failed) {
    char ranks[200] = "", expected[DIGEST_TEXT], found[DIGEST_TEXT];
    size_t length = 0;
    const Digest root = all[line->root];
    for (int i = 0; i < line->collective->size; i++)
        if (!digest_equal(all[i], root) && length < sizeof ranks)
            length += (size_t)snprintf(ranks + length, sizeof ranks - length, "%s%d",
                                       length > 0 ? ", " : "", i);
    if (length > 0)
        return FAIL(STATUS_CORRUPT,
                    "bytes changed in memory or between the ranks: check those machines, "
                    "then relaunch",
                    "after the restore rank(s) %s hold another state than rank %d", ranks,
                    line->root);
    if (line->leaves_out || digest_equal(root, block->state_digest)) return STATUS_OK;
    *file_failed = true;
    digest_print(block->state_digest, expected);
    digest_print(root, found);
    return FAIL(STATUS_CORRUPT, NULL, "its state has the digest %s and should have %s",
                found, expected);
}

static Status compare(Line *line, const UserBlock *block, bool *file_failed) {
    Collective *collective = line->collective;
    Digest *all = malloc((size_t)collective->size * sizeof *all);
    Status mine = all != NULL ? STATUS_OK
                              : FAIL(STATUS_MEMORY, NULL, "no memory for %d digests",
                                     collective->size);
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome == STATUS_OK) {
        for (int i = 0; i < line->state->count; i++) /* what no frame has brought */
            if (line->order[i] < 0)
                line->values[-1 - line->order[i]] =
                    state_entry_digest(line->state, -1 - line->order[i]);
        Digest own = state_digest_of_values(line->state, line->values);
        outcome = collective->ops->gather(collective, &own, sizeof own, all);
    }
    if (outcome == STATUS_OK) { /* all see the same digests and find the same; one text */
        mine = compare_ranks(line, all, block, file_failed);
        outcome = collective->ops->agree(collective, mine);
    }
    free(all);
    return outcome;
}

static void wipe(State *state) {
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].data != NULL)
            memset(state->arenas[i].data, 0, state->arenas[i].bytes);
}

Status restore_stream(Collective *collective, int root, CheckpointReader *reader,
                      State *state, const UserBlock *block, bool *file_failed) {
    Line line = {.collective = collective, .root = root, .state = state};
    *file_failed = false;
    Status outcome = open_line(&line, reader);
    if (outcome == STATUS_OK) {
        outcome = reader != NULL ? send_line(&line, reader) : receive_line(&line);
        *file_failed = outcome == STATUS_CORRUPT || outcome == STATUS_IO;
        if (outcome == STATUS_OK) outcome = compare(&line, block, file_failed);
    }
    if (*file_failed)
        wipe(state); /* nothing of a bad file may shine through the next one */
    free(line.order);
    free(line.buffer);
    free(line.values);
    XXH3_freeState(line.hash);
    return outcome;
}
