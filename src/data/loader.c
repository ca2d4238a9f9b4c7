/* Batches ahead of time: one thread fills a small ring of slots while the training threads compute.
 *
 * Slot n holds batch n (n mod RING). released ≤ handed ≤ produced ≤ released + RING: the thread writes
 * slots [produced, released + RING), the caller reads slot handed - 1. Everything is allocated at
 * loader_open, so the thread has nothing that could fail. */
#include "src/data/data.h"

#include "src/core/clock.h"
#include "src/core/thread.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 3, ALIGNMENT = 64 };

struct Loader {
    LoaderOptions options;
    int64_t sample_floats;
    Batch ring[RING];
    void *memory; /* images and labels of all slots */
    ShardBatch *shards;

    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t produced_more, released_more;
    int64_t produced, handed, released;
    bool ended, closing;
};

static Status check_options(const LoaderOptions *o) {
    const Dataset *set = o->samples->dataset;
    if (o->samples->count < 1)
        return FAIL(STATUS_USAGE, "name data, or set data.validation_split above 0",
                    "there are no samples to load");
    if (o->batch < 1 || o->shards < 1 || o->first_shard < 0 || o->shard_count < 0 ||
        o->shard_count > o->shards - o->first_shard)
        return FAIL(STATUS_USAGE, "check train.batch and train.shards",
                    "no batches of %lld in shards [%d, %d) of %d", (long long)o->batch,
                    o->first_shard, o->first_shard + o->shard_count, o->shards);
    if (o->epoch < 0 || o->epoch > UINT32_MAX || o->position < 0 ||
        o->position >= o->samples->count)
        return FAIL(STATUS_USAGE, "resume with the data that the run began with",
                    "no batch at epoch %lld, position %lld of %lld samples",
                    (long long)o->epoch, (long long)o->position,
                    (long long)o->samples->count);
    if (o->crop && (o->crop_padding < 0 || o->crop_padding >= set->height ||
                    o->crop_padding >= set->width))
        return FAIL(STATUS_USAGE, "set data.crop_padding below the image's sides",
                    "data.crop_padding %d for images of %d x %d pixels", o->crop_padding,
                    set->height, set->width);
    for (int c = 0; c < set->channels; c++)
        if (!isfinite(o->mean[c]) || !isfinite(o->std[c]) || o->std[c] <= 0)
            return FAIL(STATUS_USAGE,
                        "set data.mean to numbers and data.std to numbers above 0",
                        "data.mean %g and data.std %g of channel %d cannot normalise",
                        (double)o->mean[c], (double)o->std[c], c);
    return STATUS_OK;
}

static bool aligned_size(int64_t rows, int64_t row_bytes, int64_t *out) {
    return !__builtin_mul_overflow(rows, row_bytes, out) &&
           !__builtin_add_overflow(*out, ALIGNMENT - 1, out) &&
           ((*out &= -ALIGNMENT), true);
}

/* A slot holds the images of all shards, then their labels, each with room for the largest shard: full
 * shards follow each other without a gap. Every shard's images have cache lines of their own. */
static Status allocate(Loader *loader) {
    const LoaderOptions *o = &loader->options;
    int64_t largest = o->batch < o->samples->count ? o->batch : o->samples->count;
    int64_t rows = (largest + o->shards - 1) / o->shards;
    int64_t images = 0, all_images = 0, all_labels = 0, slot = 0, total = 0;
    bool fits =
        aligned_size(rows, loader->sample_floats * (int64_t)sizeof(float), &images) &&
        aligned_size(images, o->shard_count, &all_images) &&
        aligned_size(rows * (int64_t)sizeof(int32_t), o->shard_count, &all_labels) &&
        !__builtin_add_overflow(all_images, all_labels, &slot) &&
        !__builtin_mul_overflow(slot, RING, &total);
    if (fits)
        loader->memory = aligned_alloc(ALIGNMENT, (size_t)(total > 0 ? total : ALIGNMENT));
    loader->shards =
        calloc((size_t)RING * (size_t)o->shard_count + 1, sizeof *loader->shards);
    if (loader->memory == NULL || loader->shards == NULL)
        return FAIL(STATUS_MEMORY, "use a smaller train.batch",
                    "no memory for %d batches of %lld samples", RING, (long long)largest);
    for (int i = 0; i < RING; i++) {
        char *at = (char *)loader->memory + i * slot;
        loader->ring[i].shards = loader->shards + (int64_t)i * o->shard_count;
        for (int s = 0; s < o->shard_count; s++) {
            ShardBatch *shard = &loader->ring[i].shards[s];
            shard->images = (float *)(void *)(at + s * images);
            shard->labels = (int32_t *)(void *)(at + all_images) + s * rows;
        }
    }
    return STATUS_OK;
}

/* The caller's rows of the batch at (epoch, position): the same wherever the loader was entered. */
static void fill(const Loader *loader, int64_t epoch, int64_t position, Batch *batch) {
    const LoaderOptions *o = &loader->options;
    const Samples *samples = o->samples;
    int64_t left = samples->count - position;
    batch->epoch = epoch;
    batch->position = position;
    batch->count = o->batch < left ? o->batch : left;
    batch->shard_count = o->shard_count;
    Permutation order =
        permutation_make(o->seed, RNG_SHUFFLE, (uint32_t)epoch, (uint32_t)samples->count);
    for (int s = 0; s < o->shard_count; s++) {
        ShardBatch *shard = &batch->shards[s];
        Rows rows = shard_rows(batch->count, o->shards, o->first_shard + s);
        shard->shard = o->first_shard + s;
        shard->first = rows.first;
        shard->count = rows.count;
        for (int64_t row = 0; row < rows.count; row++) {
            uint32_t at = (uint32_t)(position + rows.first + row);
            if (o->training) at = permutation_at(&order, at);
            if (samples->index != NULL) at = samples->index[at];
            augment_sample(o, (uint32_t)epoch, at,
                           shard->images + row * loader->sample_floats);
            shard->labels[row] = samples->dataset->labels[at];
        }
    }
}

static void *prefetch(void *argument) {
    Loader *loader = argument;
    int64_t epoch = loader->options.epoch, position = loader->options.position;
    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        while (!loader->closing && loader->produced == loader->released + RING)
            pthread_cond_wait(&loader->released_more, &loader->mutex);
        if (loader->closing) break;
        Batch *batch = &loader->ring[loader->produced % RING];
        pthread_mutex_unlock(&loader->mutex);
        fill(loader, epoch, position, batch);
        pthread_mutex_lock(&loader->mutex);
        loader->produced++;
        position += batch->count;
        if (position == loader->options.samples->count) {
            position = 0;
            epoch++;
            loader->ended = !loader->options.training || epoch > UINT32_MAX;
        }
        pthread_cond_signal(&loader->produced_more);
        if (loader->ended) break;
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

Status loader_open(const LoaderOptions *options, Loader **out) {
    *out = NULL;
    TRY(check_options(options));
    Loader *loader = calloc(1, sizeof *loader);
    if (loader == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a loader");
    loader->options = *options;
    const Dataset *set = options->samples->dataset;
    loader->sample_floats = (int64_t)set->channels * set->height * set->width;
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->produced_more, NULL);
    pthread_cond_init(&loader->released_more, NULL);
    Status status = allocate(loader);
    if (status == STATUS_OK) {
        int error = thread_start(&loader->thread, THREAD_FREE, prefetch, loader);
        if (error != 0)
            status = FAIL(STATUS_MEMORY, "raise the limit on processes (ulimit -u)",
                          "cannot start the prefetch thread: %s", strerror(error));
        loader->started = error == 0;
    }
    if (status != STATUS_OK) {
        loader_close(loader);
        return status;
    }
    *out = loader;
    return STATUS_OK;
}

Status loader_next(Loader *loader, const Batch **out, double *stall_s) {
    double stall = 0;
    pthread_mutex_lock(&loader->mutex);
    loader->released = loader->handed;
    pthread_cond_signal(&loader->released_more);
    if (loader->produced == loader->handed && !loader->ended) {
        double start = clock_seconds();
        while (loader->produced == loader->handed && !loader->ended)
            pthread_cond_wait(&loader->produced_more, &loader->mutex);
        stall = clock_seconds() - start;
    }
    *out = NULL;
    if (loader->produced > loader->handed) *out = &loader->ring[loader->handed++ % RING];
    pthread_mutex_unlock(&loader->mutex);
    if (stall_s != NULL) *stall_s = stall;
    return STATUS_OK;
}

void loader_close(Loader *loader) {
    if (loader == NULL) return;
    if (loader->started) {
        pthread_mutex_lock(&loader->mutex);
        loader->closing = true;
        pthread_cond_signal(&loader->released_more);
        pthread_mutex_unlock(&loader->mutex);
        pthread_join(loader->thread, NULL);
    }
    pthread_cond_destroy(&loader->released_more);
    pthread_cond_destroy(&loader->produced_more);
    pthread_mutex_destroy(&loader->mutex);
    free(loader->shards);
    free(loader->memory);
    free(loader);
}
