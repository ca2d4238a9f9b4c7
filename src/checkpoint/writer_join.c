/* A process that places a part of a file which another one has made: how it finds that file, and how it
 * leaves it. It needs no plan of its own: where things lie comes with the offer. */
#include "src/checkpoint/checkpoint.h"

#include "src/checkpoint/writing.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A network file system may show a new name late. */
enum { LOOKS = 40, LOOK_NS = 25 * 1000 * 1000 };

typedef struct {
    char name[NAME_MAX + 1], temp[NAME_MAX + 1];
    int64_t bytes, region_bytes, segments;
    int64_t owner; /* user id, as the file system tells it */
    int64_t count, small;
} OfferHead;

/* … and then one of these for each entry, in order of file offset. */
typedef struct {
    int64_t index, offset;
} OfferEntry;

size_t checkpoint_offer_bytes(const State *registry) {
    return sizeof(OfferHead) + (size_t)registry->count * sizeof(OfferEntry);
}

/* The offered file has its full length: where no space could be reserved it gets it here. */
static int give_length(CheckpointWriting *self, struct stat *about) {
    self->step = "look at";
    if (fstat(self->fd, about) != 0) return -1;
    self->step = "give its length to";
    if (about->st_size != self->plan->bytes) return ftruncate(self->fd, self->plan->bytes);
    return 0;
}

Status checkpoint_write_offer(CheckpointWriting *self, void *offer) {
    const CheckpointPlan *plan = self->plan;
    struct stat about;
    if (give_length(self, &about) != 0) return writing_fail(self);
    OfferHead *head = offer;
    memset(head, 0, sizeof *head); /* padding too: it travels */
    memcpy(head->name, self->name, sizeof head->name);
    memcpy(head->temp, self->temp, sizeof head->temp);
    head->bytes = plan->bytes;
    head->region_bytes = (int64_t)plan->region_bytes;
    head->segments = plan->segments;
    head->owner = (int64_t)about.st_uid;
    head->count = plan->count;
    head->small = plan->small;
    OfferEntry *entries = (OfferEntry *)(head + 1);
    for (int e = 0; e < plan->count; e++)
        entries[e] = (OfferEntry){plan->entries[e].index, plan->entries[e].offset};
    return STATUS_OK;
}

/* As much of a plan as it takes to place values. */
static Status plan_of_offer(const OfferHead *head, const State *registry,
                            CheckpointPlan **out) {
    CheckpointPlan *plan = calloc(1, sizeof *plan);
    *out = plan;
    if (plan != NULL)
        plan->entries = calloc((size_t)head->count + 1, sizeof *plan->entries);
    if (plan == NULL || plan->entries == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to write %s", head->name);
    if (head->count != registry->count)
        return FAIL(STATUS_USAGE, "start the same program on every rank",
                    "%s has %lld entries, this rank's state has %d", head->name,
                    (long long)head->count, registry->count);
    const OfferEntry *entries = (const OfferEntry *)(head + 1);
    for (; plan->count < registry->count; plan->count++) {
        const OfferEntry *from = &entries[plan->count];
        plan->entries[plan->count] =
            (PlanEntry){.index = (int)from->index,
                        .offset = from->offset,
                        .bytes = registry->entries[from->index].bytes};
    }
    plan->small = (int)head->small;
    plan->region_bytes = (size_t)head->region_bytes;
    plan->bytes = head->bytes;
    plan->segments = head->segments;
    return STATUS_OK;
}

static Status await_name(const CheckpointWriting *self) {
    static const struct timespec moment = {0, LOOK_NS};
    struct stat about;
    for (int i = 0; i < LOOKS; i++) {
        if (fstatat(self->directory, self->temp, &about, AT_SYMLINK_NOFOLLOW) == 0 ||
            errno != ENOENT)
            return STATUS_OK; /* what else is wrong shows when it is opened */
        nanosleep(&moment, NULL);
    }
    return FAIL(STATUS_IO,
                "let run.dir lead to one directory on all hosts, or set "
                "checkpoint.writers: 1",
                "%s, which rank 0 has made, is not to be seen here", self->temp);
}

/* In a directory that others may write, too, something else may stand there by now. */
static Status check_found(CheckpointWriting *self, const OfferHead *head) {
    struct stat about;
    self->step = "look at";
    if (fstat(self->fd, &about) != 0) return writing_fail(self);
    if (about.st_size == head->bytes && (int64_t)about.st_uid == head->owner &&
        about.st_nlink == 1)
        return STATUS_OK;
    return FAIL(STATUS_IO, "look who else writes there",
                "%s is not the file that rank 0 has made: %lld bytes, of user %u, with %u "
                "name(s)",
                self->temp, (long long)about.st_size, (unsigned)about.st_uid,
                (unsigned)about.st_nlink);
}

Status checkpoint_write_join(const void *offer, const State *registry, int directory,
                             CheckpointWriting **out) {
    const OfferHead *head = offer;
    *out = NULL;
    CheckpointWriting *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to write %s", head->name);
    self->directory = directory;
    memcpy(self->name, head->name, sizeof self->name);
    memcpy(self->temp, head->temp, sizeof self->temp);
    self->fd = -1;
    self->bytes = head->bytes;
    Status status = plan_of_offer(head, registry, &self->own_plan);
    self->plan = self->own_plan;
    if (status == STATUS_OK) status = await_name(self);
    if (status == STATUS_OK) status = file_open(directory, self->temp, O_WRONLY, &self->fd);
    if (status == STATUS_OK) status = check_found(self, head);
    if (status != STATUS_OK) {
        checkpoint_write_discard(self);
        return status;
    }
    writing_go_direct(self);
    *out = self;
    return STATUS_OK;
}

Status checkpoint_write_leave(CheckpointWriting *self) {
    Status status = writing_sync_and_close(self) == 0 ? STATUS_OK : writing_fail(self);
    checkpoint_write_discard(self); /* the failure stands */
    return status;
}
