/* Puts a planned checkpoint on the disk and publishes it: tensors in large aligned writes, hashed
 * from the same buffer, then the metadata region, then the user block that makes them count. */
#include "src/checkpoint/checkpoint.h"

#include "src/checkpoint/plan.h"
#include "src/checkpoint/userblock.h"
#include "src/core/fault.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* A save in progress. */
typedef struct {
    const CheckpointPlan *plan;
    const State *state;
    int fd;
    bool direct;            /* O_DIRECT is on: past the page cache */
    unsigned char *staging; /* CHECKPOINT_SEGMENT bytes, page-aligned */
    unsigned char *region;  /* this save's copy, page-aligned */
    const char *step;       /* for the failure's text */
} Save;

/* Writes whole pages from aligned memory. File systems that take O_DIRECT when it is set may still
 * refuse the write itself: then the page cache it is. */
static int write_pages(Save *save, const void *data, size_t bytes, int64_t offset) {
    if (file_write_at(save->fd, data, bytes, offset) == 0) return 0;
    if (errno != EINVAL || !save->direct) return -1;
    save->direct = false;
    int flags = fcntl(save->fd, F_GETFL);
    if (flags < 0 || fcntl(save->fd, F_SETFL, flags & ~O_DIRECT) != 0) return -1;
    return file_write_at(save->fd, data, bytes, offset);
}

/* Creates the hidden temporary and asks for its space, so that a full disk shows at once. */
static int create_temporary(Save *save, int directory, const char *temp) {
    save->step = "create";
    save->fd =
        openat(directory, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (save->fd < 0) return -1;
    save->step = "reserve space for";
    while (fallocate(save->fd, 0, 0, save->plan->bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return -1;
        break; /* the file system cannot: the writes will tell */
    }
    int flags = fcntl(save->fd, F_GETFL);
    save->direct = flags >= 0 && fcntl(save->fd, F_SETFL, flags | O_DIRECT) == 0;
    return 0;
}

/* Copies the part of an entry that lies in [start, end) of the file. */
static void copy_overlap(const Save *save, const PlanEntry *entry, int64_t start,
                         int64_t end) {
    int64_t from = entry->offset > start ? entry->offset : start;
    int64_t to = entry->offset + (int64_t)entry->bytes;
    if (to > end) to = end;
    if (from >= to) return;
    const char *data = state_data(save->state, entry->index);
    memcpy(save->staging + (from - start), data + (from - entry->offset),
           (size_t)(to - from));
}

/* Tensors, a segment at a time; the digests go to this save's copy of the table. */
static int write_segments(Save *save) {
    const CheckpointPlan *plan = save->plan;
    int64_t start = CHECKPOINT_USER_BLOCK + (int64_t)plan->region_bytes;
    unsigned char *table =
        plan->segments == 0
            ? NULL
            : save->region + (plan->segments_offset - CHECKPOINT_USER_BLOCK);
    int next = plan->small;
    save->step = "write the tensors of";
    for (int64_t i = 0; i < plan->segments; i++, start += CHECKPOINT_SEGMENT) {
        int64_t left = plan->bytes - start;
        size_t bytes = (size_t)(left < CHECKPOINT_SEGMENT ? left : CHECKPOINT_SEGMENT);
        int64_t end = start + (int64_t)bytes;
        memset(save->staging, 0, bytes);
        for (int e = next; e < plan->count && plan->entries[e].offset < end; e++) {
            copy_overlap(save, &plan->entries[e], start, end);
            if (plan->entries[e].offset + (int64_t)plan->entries[e].bytes <= end)
                next = e + 1;
        }
        Digest digest = digest_of(save->staging, bytes);
        memcpy(table + 16 * i, &digest, sizeof digest); /* high, low */
        if (write_pages(save, save->staging, bytes, start) != 0) return -1;
    }
    return 0;
}

static int write_region(Save *save) {
    const CheckpointPlan *plan = save->plan;
    save->step = "write the metadata of";
    for (int e = 0; e < plan->small; e++)
        memcpy(save->region + (plan->entries[e].offset - CHECKPOINT_USER_BLOCK),
               state_data(save->state, plan->entries[e].index), plan->entries[e].bytes);
    return write_pages(save, save->region, plan->region_bytes, CHECKPOINT_USER_BLOCK);
}

/* The fields that the writer alone knows. */
static void fill_block(const Save *save, UserBlock *block) {
    block->version = CHECKPOINT_FORMAT_VERSION;
    block->bytes = save->plan->bytes;
    block->metadata_bytes = (int64_t)save->plan->region_bytes;
    block->metadata_digest = digest_of(save->region, save->plan->region_bytes);
    block->state_digest = state_digest(save->state);
    memcpy(block->writer, save->plan->writer, sizeof block->writer);
    time_t now = time(NULL);
    struct tm utc = {0};
    gmtime_r(&now, &utc);
    strftime(block->created_at, sizeof block->created_at, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

/* Everything up to the checked close; errno tells why after a failure of the named step. */
static int write_file(Save *save, int directory, const char *temp, UserBlock *block,
                      Status *encoded) {
    if (create_temporary(save, directory, temp) != 0) return -1;
    if (write_segments(save) != 0) return -1;
    if (write_region(save) != 0) return -1;
    fill_block(save, block);
    *encoded = userblock_encode(block, (char *)save->staging);
    if (*encoded != STATUS_OK) return -1;
    save->step = "write the user block of";
    if (write_pages(save, save->staging, CHECKPOINT_USER_BLOCK, 0) != 0) return -1;
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
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return FAIL(STATUS_IO, NULL, "no random number for a temporary name: %s",
                    strerror(errno));
    if (snprintf(temp, sizeof temp, ".%s.%016llx.tmp", name, (unsigned long long)random) >=
        (int)sizeof temp)
        return FAIL(STATUS_USAGE, "use a shorter name", "name too long: %s", name);
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
    save.staging = aligned_alloc(CHECKPOINT_PAGE, CHECKPOINT_SEGMENT);
    save.region = aligned_alloc(CHECKPOINT_PAGE, plan->region_bytes);
    Status status;
    if (save.staging == NULL || save.region == NULL) {
        status = FAIL(STATUS_MEMORY, NULL, "no memory to write %s", name);
    } else {
        memcpy(save.region, plan->region, plan->region_bytes);
        status = publish(&save, directory, name, block);
    }
    free(save.staging);
    free(save.region);
    return status;
}
