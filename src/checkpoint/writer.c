/* Puts a planned checkpoint on the disk and publishes it: tensors in large aligned writes, hashed
 * from the same buffers while others are being written, then the metadata region, then the user block
 * that makes them count. The state is read once. */
#include "src/checkpoint/checkpoint.h"

#include "src/checkpoint/plan.h"
#include "src/checkpoint/userblock.h"
#include "src/checkpoint/write_behind.h"
#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* Copied and hashed in one go, it stays in the cache between. */
enum { CHUNK = 128 << 10 };

/* A save in progress. */
typedef struct {
    const CheckpointPlan *plan;
    const State *state;
    int fd;
    unsigned char *staging; /* CHECKPOINT_USER_BLOCK bytes, page-aligned */
    unsigned char *region;  /* this save's copy, page-aligned */
    XXH3_state_t *hash;     /* of the entry that is being copied */
    Digest *values;         /* of each of the state's entries, once it is copied */
    const char *step;       /* for the failure's text */
} Save;

/* Creates the hidden temporary and asks for its space, so that a full disk shows at once. */
static int create_temporary(Save *save, int directory, const char *temp) {
    save->step = "create";
    save->fd =
        openat(directory, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (save->fd < 0) return -1;
    save->step = "reserve space for";
    while (fallocate(save->fd, 0, 0, save->plan->bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return -1;
        break; /* the file system cannot: the writes will tell */
    }
    int flags = fcntl(save->fd, F_GETFL);
    if (flags >= 0) fcntl(save->fd, F_SETFL, flags | O_DIRECT); /* or the page cache */
    return 0;
}

/* Copies the part of an entry that lies in [start, end) of the file, and hashes it: the parts of an
 * entry come one after the other. Gives the end of what it copied. */
static int64_t copy_overlap(Save *save, const PlanEntry *entry, int64_t start, int64_t end,
                            unsigned char *piece) {
    int64_t from = entry->offset > start ? entry->offset : start;
    int64_t to = entry->offset + (int64_t)entry->bytes;
    if (from == entry->offset) XXH3_128bits_reset(save->hash);
    bool whole = to <= end;
    if (!whole) to = end;
    const char *data = state_data(save->state, entry->index);
    for (int64_t at = from; at < to; at += CHUNK) {
        size_t bytes = to - at < CHUNK ? (size_t)(to - at) : CHUNK;
        memcpy(piece + (at - start), data + (at - entry->offset), bytes);
        XXH3_128bits_update(save->hash, piece + (at - start), bytes);
    }
    if (whole) {
        XXH128_hash_t value = XXH3_128bits_digest(save->hash);
        save->values[entry->index] = (Digest){value.high64, value.low64};
    }
    return to;
}

/* Tensors, a segment at a time; the digests go to `table`. */
static int write_segments(Save *save, WriteBehind *behind, Digest *table) {
    const CheckpointPlan *plan = save->plan;
    int64_t start = CHECKPOINT_USER_BLOCK + (int64_t)plan->region_bytes;
    int next = plan->small;
    for (int64_t i = 0; i < plan->segments; i++, start += CHECKPOINT_SEGMENT) {
        int64_t left = plan->bytes - start;
        size_t bytes = (size_t)(left < CHECKPOINT_SEGMENT ? left : CHECKPOINT_SEGMENT);
        int64_t end = start + (int64_t)bytes, filled = start;
        unsigned char *piece = write_behind_piece(behind);
        for (int e = next; e < plan->count && plan->entries[e].offset < end; e++) {
            const PlanEntry *entry = &plan->entries[e];
            if (entry->offset > filled) /* gaps are zero */
                memset(piece + (filled - start), 0, (size_t)(entry->offset - filled));
            filled = copy_overlap(save, entry, start, end, piece);
            if (entry->offset + (int64_t)entry->bytes <= end) next = e + 1;
        }
        memset(piece + (filled - start), 0, (size_t)(end - filled));
        write_behind_send(behind, bytes, start, &table[i]);
    }
    return write_behind_finish(behind);
}

static int write_tensors(Save *save, Status *status) {
    const CheckpointPlan *plan = save->plan;
    save->step = "write the tensors of";
    if (plan->segments == 0) return 0;
    Digest *table = calloc((size_t)plan->segments, sizeof *table);
    WriteBehind *behind = NULL;
    *status = table != NULL
                  ? write_behind_open(save->fd, CHECKPOINT_SEGMENT, plan->segments, &behind)
                  : FAIL(STATUS_MEMORY, NULL, "no memory for %lld digests",
                         (long long)plan->segments);
    int written = *status == STATUS_OK ? write_segments(save, behind, table) : -1;
    int error = errno;
    write_behind_close(behind);
    if (written == 0) /* high, low: as in the file */
        memcpy(save->region + (plan->segments_offset - CHECKPOINT_USER_BLOCK), table,
               (size_t)plan->segments * sizeof *table);
    free(table);
    errno = error;
    return written;
}

static int write_region(Save *save) {
    const CheckpointPlan *plan = save->plan;
    save->step = "write the metadata of";
    for (int e = 0; e < plan->small; e++) {
        const PlanEntry *entry = &plan->entries[e];
        unsigned char *place = save->region + (entry->offset - CHECKPOINT_USER_BLOCK);
        memcpy(place, state_data(save->state, entry->index), entry->bytes);
        save->values[entry->index] = digest_of(place, entry->bytes);
    }
    return write_behind_pages(save->fd, save->region, plan->region_bytes,
                              CHECKPOINT_USER_BLOCK);
}

/* The fields that the writer alone knows. */
static void fill_block(const Save *save, UserBlock *block) {
    block->version = CHECKPOINT_FORMAT_VERSION;
    block->bytes = save->plan->bytes;
    block->metadata_bytes = (int64_t)save->plan->region_bytes;
    block->metadata_digest = digest_of(save->region, save->plan->region_bytes);
    block->state_digest = state_digest_of_values(save->state, save->values);
    memcpy(block->writer, save->plan->writer, sizeof block->writer);
    clock_utc(block->created_at);
}

/* Everything up to the checked close; errno tells why after a failure of the named step. */
static int write_file(Save *save, int directory, const char *temp, UserBlock *block,
                      Status *status) {
    if (create_temporary(save, directory, temp) != 0) return -1;
    if (write_tensors(save, status) != 0) return -1;
    if (write_region(save) != 0) return -1;
    fill_block(save, block);
    *status = userblock_encode(block, (char *)save->staging);
    if (*status != STATUS_OK) return -1;
    save->step = "write the user block of";
    if (write_behind_pages(save->fd, save->staging, CHECKPOINT_USER_BLOCK, 0) != 0)
        return -1;
    save->step = "sync";
    if (fsync(save->fd) != 0)
        return -1; /* never retried: the kernel may have dropped pages */
    save->step = "close";
    int closed = close(save->fd);
    save->fd = -1;
    return closed; /* NFS and quotas report late */
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

static Status publish(Save *save, int directory, const char *name, UserBlock *block) {
    char temp[NAME_MAX + 1];
    TRY(file_temporary_name(name, temp));
    Status status = STATUS_OK;
    if (write_file(save, directory, temp, block, &status) != 0 && status == STATUS_OK)
        status = FAIL(STATUS_IO, file_fix_for(errno), "cannot %s %s (%lld bytes): %s",
                      save->step, name, (long long)save->plan->bytes, strerror(errno));
    bool created = save->fd >= 0 || strcmp(save->step, "create") != 0;
    if (save->fd >= 0) close(save->fd);
    fault_point("before_commit");
    if (status == STATUS_OK) status = file_name_and_sync(directory, temp, name);
    if (status != STATUS_OK && created)
        unlinkat(directory, temp, 0); /* the failure stands */
    return status;
}

Status checkpoint_write(const CheckpointPlan *plan, const State *state, int directory,
                        const char *name, UserBlock *block) {
    TRY(check_plan(plan, state));
    Save save = {.plan = plan, .state = state, .fd = -1};
    save.staging = aligned_alloc(CHECKPOINT_PAGE, CHECKPOINT_USER_BLOCK);
    save.region = aligned_alloc(CHECKPOINT_PAGE, plan->region_bytes);
    save.values = calloc((size_t)state->count + 1, sizeof *save.values);
    save.hash = XXH3_createState();
    Status status;
    if (save.staging == NULL || save.region == NULL || save.values == NULL ||
        save.hash == NULL) {
        status = FAIL(STATUS_MEMORY, NULL, "no memory to write %s", name);
    } else {
        memcpy(save.region, plan->region, plan->region_bytes);
        status = publish(&save, directory, name, block);
    }
    free(save.staging);
    free(save.region);
    free(save.values);
    XXH3_freeState(save.hash);
    return status;
}
