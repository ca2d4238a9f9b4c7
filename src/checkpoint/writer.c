/* Puts a planned checkpoint on the disk and publishes it: first the tensors in large aligned writes, hashed
 * from the same buffers while others are being written; then, without the state, the metadata region and
 * the user block that makes them count. The state is read once; what is packed, a second time by the
 * threads that pack it. One writer places all segments, or several a part each (writer_join.c). */
#include "src/checkpoint/checkpoint.h"

#include "src/checkpoint/chunk_index.h"
#include "src/checkpoint/chunk_line.h"
#include "src/checkpoint/format.h"
#include "src/checkpoint/plan.h"
#include "src/checkpoint/segment_stream.h"
#include "src/checkpoint/userblock.h"
#include "src/checkpoint/write_behind.h"
#include "src/checkpoint/writing.h"
#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of what is only looked at, as much at a time as stays in the cache between two looks. */
enum { BITE = 128 << 10 };

/* What the first stroke needs besides. */
typedef struct {
    CheckpointWriting *writing;
    const CheckpointPlan *plan;
    const State *state;
    int64_t first, from,
        until;             /* this writer's segments: their number, and bytes of the file */
    SegmentStream *stream; /* where they go; NULL when there are none */
    DigestStream *value;   /* of the entry that is being copied */
    Digest *values;        /* of each of the state's entries, once it is copied */
    ChunkPlace *places;    /* plan->chunks: where they came to lie */
    int not_finite;        /* the first of the state's entries, or -1 */
} Save;

void writing_go_direct(const CheckpointWriting *self) {
    int flags = fcntl(self->fd, F_GETFL);
    if (flags >= 0) fcntl(self->fd, F_SETFL, flags | O_DIRECT); /* or the page cache */
}

/* Creates the hidden temporary and asks for its space, so that a full disk shows at once. How much a
 * packed one needs shows only while it is written. */
static int create_temporary(CheckpointWriting *self) {
    self->step = "create";
    self->fd = openat(self->directory, self->temp,
                      O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (self->fd < 0) return -1;
    self->created = true;
    self->step = "reserve space for";
    while (self->plan->level == 0 && fallocate(self->fd, 0, 0, self->plan->bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return -1;
        break; /* the file system cannot: the writes will tell */
    }
    writing_go_direct(self);
    return 0;
}

/* What is to be known of an entry's values, of which these are the next. */
static void look_at_values(Save *save, int index, const void *data, size_t bytes) {
    digest_stream_add(save->value, data, bytes);
    if (save->not_finite >= 0 && save->not_finite <= index) return;
    if (!state_values_are_finite(save->state->entries[index].dtype, data, bytes))
        save->not_finite = index;
}

/* Copies values that lie at `at` of the file, as many as fit there. Returns how many. */
static size_t place(Save *save, int64_t at, const void *data, size_t bytes) {
    if (bytes > (size_t)(save->until - at)) bytes = (size_t)(save->until - at);
    segment_stream_fill(save->stream, at);
    unsigned char *room = segment_stream_room(save->stream, bytes, &bytes);
    memcpy(room, data, bytes);
    segment_stream_advance(save->stream, bytes);
    return bytes;
}

/* Of values that lie at `at`, those that another writer places, and a bite of them at most. */
static size_t leave_out(const Save *save, int64_t at, size_t bytes) {
    if (at < save->from && bytes > (size_t)(save->from - at))
        bytes = (size_t)(save->from - at);
    return bytes < BITE ? bytes : BITE;
}

/* Copies what is this writer's of an entry, and digests all of it on the way: the source, so that a copy
 * that went wrong shows, for its segment's digest is the copy's. */
static void put_entry(Save *save, const PlanEntry *entry) {
    const unsigned char *data = state_data(save->state, entry->index);
    digest_stream_begin(save->value);
    for (size_t done = 0, bytes; done < entry->bytes; done += bytes) {
        int64_t at = entry->offset + (int64_t)done;
        bytes = entry->bytes - done;
        bool mine = at >= save->from && at < save->until;
        bytes = mine ? place(save, at, data + done, bytes) : leave_out(save, at, bytes);
        look_at_values(save, entry->index, data + done, bytes);
    }
    save->values[entry->index] = digest_stream_value(save->value);
}

/* ---- packed entries: threads pack chunks that lie ahead, while here the values are hashed and packed
 * chunks go into the stream, in order */

/* Takes the next packed chunk off the line. False when there is none. */
static bool put_chunk(Save *save, ChunkLine *line) {
    const ChunkJob *job = chunk_line_take(line);
    if (job == NULL) return false;
    save->places[job->tag] = (ChunkPlace){
        .address = (uint64_t)(segment_stream_at(save->stream) - CHECKPOINT_USER_BLOCK),
        .bytes = (uint32_t)job->made_bytes,
        .plain = job->made_bytes == job->whole};
    segment_stream_put(save->stream, job->made, job->made_bytes);
    return true;
}

static void pack_entry(Save *save, const PlanEntry *entry, int64_t *tag, ChunkLine *line) {
    const unsigned char *data = state_data(save->state, entry->index);
    digest_stream_begin(save->value);
    for (int64_t i = 0; i < entry->grid.count; i++) {
        ChunkJob *job;
        while ((job = chunk_line_next(line)) == NULL)
            put_chunk(save, line);
        job->from = data + chunk_grid_start(&entry->grid, i);
        job->bytes = chunk_grid_bytes(&entry->grid, i);
        job->whole = entry->grid.whole;
        job->element = entry->grid.element;
        job->tag = (*tag)++;
        const unsigned char *values = job->from;
        size_t bytes = job->bytes;
        chunk_line_send(line);
        look_at_values(save, entry->index, values, bytes);
    }
    save->values[entry->index] = digest_stream_value(save->value);
}

static Status pack_entries(Save *save, int first) {
    const CheckpointPlan *plan = save->plan;
    ChunkLine *line;
    TRY(chunk_line_open(plan->level, plan->whole, plan->chunks, &line));
    int64_t tag = 0;
    segment_stream_fill(save->stream, plan->chunks_offset);
    for (int e = first; e < plan->count; e++)
        pack_entry(save, &plan->entries[e], &tag, line);
    while (put_chunk(save, line))
        continue;
    chunk_line_close(line);
    tag = 0;
    const char *wrong = NULL;
    for (int e = first; e < plan->count && wrong == NULL; e++) {
        const PlanEntry *entry = &plan->entries[e];
        wrong = chunk_index_write(save->writing->region, plan->region_bytes,
                                  entry->chunk_index, &entry->grid, save->places + tag);
        tag += entry->grid.count;
    }
    assert(wrong == NULL); /* the plan has read the same index */
    return STATUS_OK;
}

/* Ends this writer's part of the file. How long a packed file is shows only here. */
static int end_stream(Save *save, Digest *digests) {
    int64_t at = segment_stream_at(save->stream), end = save->until;
    if (save->plan->chunks > 0) {
        end = (at + CHECKPOINT_PAGE - 1) / CHECKPOINT_PAGE * CHECKPOINT_PAGE;
        save->writing->bytes = end;
    }
    segment_stream_fill(save->stream, end);
    const Digest *made;
    int64_t count;
    if (segment_stream_finish(save->stream, &made, &count) != 0) return -1;
    if (digests != NULL) memcpy(digests, made, (size_t)count * sizeof *made);
    if (save->writing->region != NULL)
        checkpoint_write_adopt(save->writing, save->first, count, made);
    return 0;
}

/* Everything behind the region. */
static int write_segments(Save *save, Digest *digests, Status *status) {
    const CheckpointPlan *plan = save->plan;
    int e = plan->small;
    for (; e < plan->count && plan->entries[e].grid.count == 0; e++)
        put_entry(save, &plan->entries[e]);
    if (e < plan->count) *status = pack_entries(save, e);
    if (*status != STATUS_OK) return -1;
    return save->stream == NULL ? 0 : end_stream(save, digests);
}

static int write_tensors(Save *save, int64_t count, Digest *digests, Status *status) {
    save->writing->step = "write the tensors of";
    if (count > 0)
        *status = segment_stream_open(save->writing->fd, save->from, count, &save->stream);
    if (*status != STATUS_OK) return -1;
    int written = write_segments(save, digests, status);
    int error = errno;
    segment_stream_close(save->stream);
    errno = error;
    return written;
}

/* Small entries lie in the region, which is its creator's. */
static void keep_small_entries(Save *save) {
    unsigned char *region = save->writing->region;
    for (int e = 0; e < save->plan->small; e++) {
        const PlanEntry *entry = &save->plan->entries[e];
        const void *data = state_data(save->state, entry->index);
        if (region != NULL)
            memcpy(region + (entry->offset - CHECKPOINT_USER_BLOCK), data, entry->bytes);
        digest_stream_begin(save->value);
        look_at_values(save, entry->index, data, entry->bytes);
        save->values[entry->index] = digest_stream_value(save->value);
    }
}

/* The state must be the one that was planned for. */
static Status check_plan(const CheckpointPlan *plan, const State *state) {
    bool same = plan->count == state->count;
    for (int i = 0; same && i < plan->count; i++)
        same = plan->entries[i].bytes == state->entries[plan->entries[i].index].bytes;
    return same ? STATUS_OK
                : FAIL(STATUS_USAGE, "plan again after a change of the registry",
                       "this checkpoint was planned for another state");
}

Status writing_fail(const CheckpointWriting *self) {
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot %s %s (%lld bytes): %s", self->step,
                self->name, (long long)self->bytes, strerror(errno));
}

Status checkpoint_write_create(const CheckpointPlan *plan, int directory, const char *name,
                               CheckpointWriting **out) {
    *out = NULL;
    CheckpointWriting *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to write %s", name);
    self->plan = plan;
    self->directory = directory;
    snprintf(self->name, sizeof self->name, "%s", name);
    self->fd = -1;
    self->bytes = plan->bytes;
    self->staging = aligned_alloc(CHECKPOINT_PAGE, CHECKPOINT_USER_BLOCK);
    self->region = aligned_alloc(CHECKPOINT_PAGE, plan->region_bytes);
    Status status = STATUS_OK;
    if (self->staging == NULL || self->region == NULL)
        status = FAIL(STATUS_MEMORY, NULL, "no memory to write %s", name);
    if (status == STATUS_OK) {
        memcpy(self->region, plan->region, plan->region_bytes);
        status = file_temporary_name(name, self->temp);
    }
    if (status == STATUS_OK && create_temporary(self) != 0) status = writing_fail(self);
    if (status != STATUS_OK) {
        checkpoint_write_discard(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

int64_t checkpoint_write_segments(const CheckpointWriting *self) {
    return self->plan->segments;
}

static Status write_values(Save *save, int64_t count, Digest *digests) {
    CheckpointWriting *self = save->writing;
    if (save->values == NULL || save->places == NULL || save->value == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to write %s", self->name);
    Status status = STATUS_OK;
    if (write_tensors(save, count, digests, &status) != 0)
        return status != STATUS_OK ? status : writing_fail(self);
    keep_small_entries(save);
    if (save->plan->level > 0) header_set_end(self->region, (uint64_t)self->bytes);
    self->state_digest = state_digest_of_values(save->state, save->values);
    return STATUS_OK;
}

Status checkpoint_write_share(CheckpointWriting *self, const State *state, int64_t first,
                              int64_t count, Digest *digests, Digest *state_digest,
                              int *not_finite) {
    const CheckpointPlan *plan = self->plan;
    TRY(check_plan(plan, state));
    assert(first >= 0 && first + count <= plan->segments);
    assert(plan->level == 0 || count == plan->segments);
    int64_t region_end = CHECKPOINT_USER_BLOCK + (int64_t)plan->region_bytes;
    Save save = {.writing = self, .plan = plan, .state = state, .not_finite = -1};
    save.first = first;
    save.from = region_end + first * CHECKPOINT_SEGMENT;
    save.until = save.from + count * CHECKPOINT_SEGMENT;
    if (save.until > plan->bytes) save.until = plan->bytes;
    save.values = calloc((size_t)state->count + 1, sizeof *save.values);
    save.places = calloc((size_t)plan->chunks + 1, sizeof *save.places);
    save.value = digest_stream_create();
    Status status = write_values(&save, count, digests);
    free(save.values);
    free(save.places);
    free(save.value);
    *state_digest = self->state_digest;
    *not_finite = save.not_finite;
    return status;
}

void checkpoint_write_adopt(CheckpointWriting *self, int64_t first, int64_t count,
                            const Digest *digests) {
    size_t table = (size_t)self->plan->segments_offset - CHECKPOINT_USER_BLOCK;
    memcpy(self->region + table + (size_t)first * sizeof *digests, digests,
           (size_t)count * sizeof *digests); /* high, low: as in the file */
}

Status checkpoint_write_begin(const CheckpointPlan *plan, const State *state, int directory,
                              const char *name, CheckpointWriting **out,
                              Digest *state_digest, int *not_finite) {
    *out = NULL;
    CheckpointWriting *self;
    TRY(checkpoint_write_create(plan, directory, name, &self));
    Status status = checkpoint_write_share(self, state, 0, plan->segments, NULL,
                                           state_digest, not_finite);
    if (status != STATUS_OK) {
        checkpoint_write_discard(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

/* ---- the second stroke */

/* The fields that the writer alone knows. */
static void fill_block(const CheckpointWriting *self, UserBlock *block) {
    const CheckpointPlan *plan = self->plan;
    block->version = format_for_level(plan->level);
    strcpy(block->compression, "none");
    if (plan->level > 0)
        snprintf(block->compression, sizeof block->compression, "zlib:%d", plan->level);
    block->value_bytes = plan->value_bytes;
    block->bytes = self->bytes;
    block->metadata_bytes = (int64_t)plan->region_bytes;
    block->metadata_digest = digest_of(self->region, plan->region_bytes);
    block->state_digest = self->state_digest;
    memcpy(block->writer, plan->writer, sizeof block->writer);
    clock_utc(block->created_at);
}

int writing_sync_and_close(CheckpointWriting *self) {
    self->step = "sync";
    if (fsync(self->fd) != 0)
        return -1; /* never retried: the kernel may have dropped pages */
    self->step = "close";
    int closed = close(self->fd);
    self->fd = -1;
    return closed; /* NFS and quotas report late */
}

/* Everything up to the checked close; errno tells why after a failure of the named step. */
static int finish_file(CheckpointWriting *self, UserBlock *block, Status *status) {
    self->step = "write the metadata of";
    if (write_behind_pages(self->fd, self->region, self->plan->region_bytes,
                           CHECKPOINT_USER_BLOCK) != 0)
        return -1;
    fill_block(self, block);
    *status = userblock_encode(block, (char *)self->staging);
    if (*status != STATUS_OK) return -1;
    self->step = "write the user block of";
    if (write_behind_pages(self->fd, self->staging, CHECKPOINT_USER_BLOCK, 0) != 0)
        return -1;
    return writing_sync_and_close(self);
}

Status checkpoint_write_commit(CheckpointWriting *self, UserBlock *block) {
    Status status = STATUS_OK;
    if (finish_file(self, block, &status) != 0 && status == STATUS_OK)
        status = writing_fail(self);
    fault_point("before_commit");
    if (status == STATUS_OK) {
        status = file_name_and_sync(self->directory, self->temp, self->name);
        self->created = status != STATUS_OK;
    }
    checkpoint_write_discard(self); /* the failure stands */
    return status;
}

void checkpoint_write_discard(CheckpointWriting *self) {
    if (self == NULL) return;
    if (self->fd >= 0) close(self->fd);
    if (self->created) unlinkat(self->directory, self->temp, 0);
    checkpoint_plan_destroy(self->own_plan);
    free(self->staging);
    free(self->region);
    free(self);
}

Status checkpoint_write(const CheckpointPlan *plan, const State *state, int directory,
                        const char *name, UserBlock *block) {
    CheckpointWriting *writing;
    Digest state_digest;
    int not_finite;
    TRY(checkpoint_write_begin(plan, state, directory, name, &writing, &state_digest,
                               &not_finite));
    return checkpoint_write_commit(writing, block);
}
