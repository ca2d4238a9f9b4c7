/* Shards lie in the device's memory at the stride that the loader gives full ones, so that a full batch
 * is one copy of images and one of labels. */
#include "src/train/feed.h"

#include <stdlib.h>

enum { ALIGNMENT = 16 }; /* floats: a shard's images start on a cache line */

struct Feed {
    Backend *backend;
    int64_t rows, sample_floats;
    int64_t stride; /* floats between the images of two shards */
    float *images;  /* of the device; NULL where its memory is the host's */
    int32_t *labels;
    ShardBatch *shards;
    int shard_count;
    Batch batch;
};

static Status allocate(Feed *self) {
    const BackendOps *ops = self->backend->ops;
    size_t shards = (size_t)self->shard_count;
    self->shards = calloc(shards + 1, sizeof *self->shards);
    if (self->shards == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for batches");
    TRY(ops->allocate(self->backend, shards * (size_t)self->stride * sizeof(float),
                      (void **)&self->images));
    return ops->allocate(self->backend, shards * (size_t)self->rows * sizeof(int32_t),
                         (void **)&self->labels);
}

Status feed_open(Backend *backend, int shards, int64_t rows, int64_t sample_floats,
                 Feed **out) {
    *out = NULL;
    Feed *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for batches");
    self->backend = backend;
    self->rows = rows;
    self->sample_floats = sample_floats;
    self->stride = (rows * sample_floats + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    self->shard_count = shards;
    Status status = backend->ops->host_memory ? STATUS_OK : allocate(self);
    if (status != STATUS_OK) {
        feed_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void feed_close(Feed *self) {
    if (self == NULL) return;
    self->backend->ops->release(self->backend, self->images);
    self->backend->ops->release(self->backend, self->labels);
    free(self->shards);
    free(self);
}

/* Copies the shards [first, end), whose memory here and there is one piece. */
static Status copy_images(Feed *self, const Batch *batch, int first, int end) {
    int64_t rows = 0;
    for (int i = first; i < end; i++)
        rows += batch->shards[i].count;
    return self->backend->ops->copy_in(
        self->backend, self->shards[first].images, batch->shards[first].images,
        (size_t)(rows * self->sample_floats) * sizeof(float));
}

static Status copy_labels(Feed *self, const Batch *batch, int first, int end) {
    int64_t rows = 0;
    for (int i = first; i < end; i++)
        rows += batch->shards[i].count;
    return self->backend->ops->copy_in(self->backend, self->shards[first].labels,
                                       batch->shards[first].labels,
                                       (size_t)rows * sizeof(int32_t));
}

/* Whether the next shard's images follow this one's, here and there. */
static bool images_follow(const Feed *self, const ShardBatch *shard) {
    int64_t floats = shard->count * self->sample_floats;
    return floats == self->stride && shard[1].images == shard[0].images + floats;
}

static bool labels_follow(const Feed *self, const ShardBatch *shard) {
    return shard->count == self->rows && shard[1].labels == shard[0].labels + shard->count;
}

Status feed_batch(Feed *self, const Batch *batch, const Batch **out) {
    *out = batch;
    if (self->backend->ops->host_memory) return STATUS_OK;
    int count = batch->shard_count, images = 0, labels = 0;
    for (int i = 0; i < count; i++) {
        if (batch->shards[i].count > self->rows || i >= self->shard_count)
            return FAIL(STATUS_USAGE, NULL, "a shard of %lld rows where %lld fit",
                        (long long)batch->shards[i].count, (long long)self->rows);
        self->shards[i] = batch->shards[i];
        self->shards[i].images = self->images + i * self->stride;
        self->shards[i].labels = self->labels + i * self->rows;
    }
    for (int i = 0; i < count; i++) {
        const ShardBatch *shard = &batch->shards[i];
        bool last = i == count - 1;
        if (last || !images_follow(self, shard)) {
            TRY(copy_images(self, batch, images, i + 1));
            images = i + 1;
        }
        if (last || !labels_follow(self, shard)) {
            TRY(copy_labels(self, batch, labels, i + 1));
            labels = i + 1;
        }
    }
    self->batch = *batch;
    self->batch.shards = self->shards;
    *out = &self->batch;
    return STATUS_OK;
}
