/* The bytes of one checkpoint on their way from one rank's disk, the root's, into every rank's arenas.
 *
 * All entries, in order of file offset, are one line of bytes. The root puts what it has verified into
 * its own arenas and into frames for the others, while threads of the reader bring in what comes behind.
 * Frames know nothing of entries: every rank walks its own list along the line. A frame of length 0 ends the
 * line, -1 says that the file is bad.
 *
 * Every rank digests a piece right after it came to lie in its arena, while the processor's cache still has
 * it: when the line ends, so is the digest of the state. */
#include "src/checkpoint/restore_stream.h"

#include "src/checkpoint/omit.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAME_BYTES = 256 << 10, PIECE_BYTES = 64 << 10 };
enum { LINE_END = 0, LINE_FAILED = -1 };

typedef struct {
    Collective *collective;
    int root;
    State *state;
    int32_t *order; /* state->count entries in order of file offset; -1 - index: left out */
    bool leaves_out;      /* some entry is left out: the file's digest cannot be met */
    int at;               /* the entry of `order` where what comes next begins … */
    size_t at_offset;     /* … and where in it */
    DigestStream *hash;   /* of that entry, up to there */
    Digest *values;       /* of each entry in the arenas that the line has passed */
    Relay *relay;         /* NULL: there is nobody else */
    unsigned char *frame; /* root: what will be sent next … */
    size_t framed;        /* … and how much is in it; 0: it has no room yet */
} Line;

/* ---- the line */

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
static Digest layout_digest(const State *state, DigestStream *stream) {
    digest_stream_begin(stream);
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        int64_t numbers[] = {entry->dtype, entry->rank, entry->arena,
                             (int64_t)entry->bytes};
        digest_stream_add(stream, numbers, sizeof numbers);
        digest_stream_add(stream, entry->shape, sizeof entry->shape);
        digest_stream_add(stream, entry->path, strlen(entry->path) + 1);
    }
    return digest_stream_value(stream);
}

static Status open_line(Line *line, CheckpointReader *reader) {
    const CollectiveOps *ops = line->collective->ops;
    size_t order_bytes = (size_t)line->state->count * sizeof *line->order;
    line->order = calloc(1, order_bytes + 1);
    line->values = calloc((size_t)line->state->count + 1, sizeof *line->values);
    line->hash = digest_stream_create();
    Status mine = STATUS_OK;
    if (line->order == NULL || line->values == NULL || line->hash == NULL)
        mine = FAIL(STATUS_MEMORY, NULL, "no memory to restore %d entries",
                    line->state->count);
    if (mine == STATUS_OK && reader != NULL) mine = checkpoint_reader_begin(reader);
    if (mine == STATUS_OK && reader != NULL) mine = fill_order(line, reader);
    TRY(ops->agree(line->collective, mine));

    Digest layout = layout_digest(line->state, line->hash), first = layout;
    TRY(ops->broadcast(line->collective, &first, sizeof first, line->root));
    if (!digest_equal(layout, first))
        mine = FAIL(STATUS_USAGE, "give every rank the same program and configuration",
                    "this rank's registry of the state differs from rank %d's", line->root);
    TRY(ops->agree(line->collective, mine));
    TRY(ops->broadcast(line->collective, line->order, order_bytes, line->root));
    for (int i = 0; i < line->state->count; i++)
        if (line->order[i] < 0) line->leaves_out = true;
    if (line->collective->size == 1) return STATUS_OK;
    return ops->relay_open(line->collective, line->root, FRAME_BYTES, &line->relay);
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

/* The next bytes of the line come to lie where they belong. */
static void lay(Line *line, const unsigned char *bytes, size_t count) {
    while (count > 0) {
        unsigned char *place = NULL;
        size_t piece = piece_here(line, &place);
        assert(piece > 0); /* the root never sends past the line's end */
        if (piece > count) piece = count;
        if (piece > PIECE_BYTES) piece = PIECE_BYTES;
        memcpy(place, bytes, piece);
        int index = line->order[line->at];
        if (line->at_offset == 0) digest_stream_begin(line->hash);
        digest_stream_add(line->hash, place, piece);
        line->at_offset += piece;
        if (line->at_offset == line->state->entries[index].bytes)
            line->values[index] = digest_stream_value(line->hash);
        bytes += piece;
        count -= piece;
    }
}

/* ---- the root's end */

/* Sends what is in the frame, if anything is. */
static Status send_frame(Line *line) {
    size_t bytes = line->framed;
    line->framed = 0;
    return bytes > 0 ? line->relay->send(line->relay, (int64_t)bytes) : STATUS_OK;
}

static Status put_into_frames(Line *line, const unsigned char *bytes, size_t count) {
    while (count > 0) {
        size_t room = FRAME_BYTES - line->framed;
        size_t piece = count < room ? count : room;
        if (line->framed == 0) line->frame = line->relay->find_room(line->relay);
        memcpy(line->frame + line->framed, bytes, piece);
        line->framed += piece;
        bytes += piece;
        count -= piece;
        if (line->framed == FRAME_BYTES) TRY(send_frame(line));
    }
    return STATUS_OK;
}

static Status take_verified(void *context, const CheckpointEntry *entry, size_t offset,
                            const void *bytes, size_t count) {
    Line *line = context;
    unsigned char *place = NULL;
    if (omit_entry(entry->path)) return STATUS_OK;
    if (piece_here(line, &place) < count || offset != line->at_offset ||
        strcmp(line->state->entries[line->order[line->at]].path, entry->path) != 0)
        return FAIL(STATUS_CORRUPT, NULL, "bytes of entry %s overlap another entry's",
                    entry->path);
    const unsigned char *from = bytes;
    while (count > 0) {
        size_t piece = count < PIECE_BYTES ? count : PIECE_BYTES;
        lay(line, from, piece);
        if (line->relay != NULL) TRY(put_into_frames(line, from, piece));
        from += piece;
        count -= piece;
    }
    return STATUS_OK;
}

static Status send_line(Line *line, CheckpointReader *reader) {
    Status sent = checkpoint_reader_stream(reader, take_verified, line);
    if (sent == STATUS_COMM) return sent;
    if (line->relay != NULL) {
        TRY(send_frame(line));
        line->relay->find_room(line->relay);
        TRY(line->relay->send(line->relay, sent == STATUS_OK ? LINE_END : LINE_FAILED));
    }
    return line->collective->ops->agree(line->collective, sent);
}

static Status receive_line(Line *line) {
    const unsigned char *frame;
    for (int64_t bytes;;) {
        TRY(line->relay->receive(line->relay, &frame, &bytes));
        if (bytes <= 0) break;
        lay(line, frame, (size_t)bytes);
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
    if (line.relay != NULL) line.relay->close(line.relay);
    free(line.order);
    free(line.values);
    free(line.hash);
    return outcome;
}
