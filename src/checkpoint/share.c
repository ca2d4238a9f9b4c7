/* The messages between the writers of one checkpoint. */
#include "src/checkpoint/share.h"

#include "src/checkpoint/directory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What rank 0 announces: this, then its offer. */
typedef struct {
    int64_t segments; /* -1: there is no file */
} News;

typedef struct {
    int64_t first, count;
} Part;

struct Share {
    Collective *collective;
    const State *registry;
    const char *run_dir;
    int writers;
    int *ranks; /* of each writer */
    int mine;   /* this rank's place among them, or -1 */
    News *news;
    size_t news_bytes;
    Digest *own, *others; /* of the segments of one part; in one piece of memory */
    int64_t room;         /* for so many each */
};

/* ---- who writes */

typedef struct {
    int64_t host_rank, rank;
} Candidate;

/* Ranks of one host share its connection: each host gives its first one before any gives its second. */
static int by_place(const void *a, const void *b) {
    const Candidate *first = a, *second = b;
    if (first->host_rank != second->host_rank)
        return first->host_rank < second->host_rank ? -1 : 1;
    return (first->rank > second->rank) - (first->rank < second->rank);
}

static Status choose_writers(Share *self, Candidate *candidates) {
    Collective *collective = self->collective;
    /* rank 0 makes the file and is always among them */
    Candidate me = {collective->rank == 0 ? -1 : collective->host_rank, collective->rank};
    TRY(collective->ops->gather(collective, &me, sizeof me, candidates));
    qsort(candidates, (size_t)collective->size, sizeof *candidates, by_place);
    self->mine = -1;
    for (int w = 0; w < self->writers; w++) {
        self->ranks[w] = (int)candidates[w].rank;
        if (self->ranks[w] == collective->rank) self->mine = w;
    }
    return STATUS_OK;
}

Status share_open(Collective *collective, const State *registry, const char *run_dir,
                  int writers, Share **out) {
    *out = NULL;
    Share *self = calloc(1, sizeof *self);
    size_t news_bytes = sizeof(News) + checkpoint_offer_bytes(registry);
    int *ranks = calloc((size_t)writers, sizeof *ranks);
    News *news = calloc(1, news_bytes);
    Candidate *candidates = calloc((size_t)collective->size, sizeof *candidates);
    Status status = STATUS_OK;
    if (self == NULL || ranks == NULL || news == NULL || candidates == NULL)
        status = FAIL(STATUS_MEMORY, NULL, "no memory for %d writers", writers);
    else
        *self = (Share){.collective = collective,
                        .registry = registry,
                        .run_dir = run_dir,
                        .writers = writers,
                        .ranks = ranks,
                        .news = news,
                        .news_bytes = news_bytes};
    status = collective->ops->agree(collective, status);
    if (status == STATUS_OK) status = choose_writers(self, candidates);
    free(candidates);
    if (status == STATUS_OK) {
        *out = self;
        return STATUS_OK;
    }
    free(ranks);
    free(news);
    free(self);
    return status;
}

void share_close(Share *self) {
    if (self == NULL) return;
    free(self->own);
    free(self->ranks);
    free(self->news);
    free(self);
}

/* ---- what rank 0 tells */

Status share_offer(Share *self, CheckpointWriting *writing) {
    self->news->segments = -1;
    if (writing == NULL) return STATUS_OK;
    TRY(checkpoint_write_offer(writing, self->news + 1));
    self->news->segments = checkpoint_write_segments(writing);
    return STATUS_OK;
}

Status share_announce(Share *self) {
    Collective *collective = self->collective;
    return collective->ops->broadcast(collective, self->news, self->news_bytes, 0);
}

/* ---- what each writer does */

/* Of equal lengths, but that the last ones may be a segment longer: rank 0 has the region besides. */
static Part part_of(const Share *self, int writer) {
    int64_t segments = self->news->segments;
    int64_t first = writer * segments / self->writers;
    return (Part){first, (writer + 1) * segments / self->writers - first};
}

static Status find_room(Share *self) {
    int64_t longest = part_of(self, self->writers - 1).count;
    if (longest <= self->room) return STATUS_OK;
    Digest *both = calloc(2 * (size_t)longest, sizeof *both);
    if (both == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for %lld digests",
                    2 * (long long)longest);
    free(self->own);
    self->own = both;
    self->others = both + longest;
    self->room = longest;
    return STATUS_OK;
}

static Status join_and_place(Share *self, int directory, const State *state, Part part,
                             Digest *state_digest, int *not_finite) {
    CheckpointWriting *writing;
    TRY(checkpoint_write_join(self->news + 1, self->registry, directory, &writing));
    Status placed = checkpoint_write_share(writing, state, part.first, part.count,
                                           self->own, state_digest, not_finite);
    if (placed == STATUS_OK) return checkpoint_write_leave(writing);
    checkpoint_write_discard(writing);
    return placed;
}

static Status find_directory(const Share *self, int *directory) {
    TRY(directory_open(self->run_dir, directory));
    if (*directory >= 0) return STATUS_OK;
    return FAIL(STATUS_IO,
                "let run.dir lead to one directory on all hosts, or set "
                "checkpoint.writers: 1",
                "there is no %s/checkpoints here", self->run_dir);
}

Status share_write(Share *self, const State *state, CheckpointWriting *writing,
                   Digest *state_digest, int *not_finite) {
    Part part = {0, 0};
    int directory;
    if (self->news->segments >= 0) {
        TRY(find_room(self));
        if (self->mine >= 0) part = part_of(self, self->mine);
    }
    if (writing != NULL)
        return checkpoint_write_share(writing, state, part.first, part.count, self->own,
                                      state_digest, not_finite);
    if (part.count == 0) {
        *state_digest = state_examine(state, not_finite);
        return STATUS_OK;
    }
    TRY(find_directory(self, &directory));
    Status placed = join_and_place(self, directory, state, part, state_digest, not_finite);
    close(directory);
    return placed;
}

Status share_collect(Share *self, CheckpointWriting *writing) {
    Collective *collective = self->collective;
    for (int w = 1; w < self->writers; w++) { /* the first is rank 0 itself */
        Part part = part_of(self, w);
        Digest *digests = w == self->mine ? self->own : self->others;
        if (part.count == 0) continue;
        TRY(collective->ops->broadcast(
            collective, digests, (size_t)part.count * sizeof *digests, self->ranks[w]));
        if (writing != NULL)
            checkpoint_write_adopt(writing, part.first, part.count, digests);
    }
    return STATUS_OK;
}
