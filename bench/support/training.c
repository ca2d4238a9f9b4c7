/* A run without files, for what is timed. */
#include "bench/support/training.h"
#include "src/core/rng.h"
#include "src/train/optimizer.h"
#include "src/train/residence.h"

#include <stdlib.h>

enum { ALIGNMENT = 64 };

static void *memory_of(size_t bytes) {
    return aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT);
}

Status training_make_data(int batch, TrainingData *out) {
    int samples = TRAINING_BATCHES * batch;
    out->batch = batch;
    out->images = memory_of((size_t)samples * TRAINING_PIXELS * sizeof *out->images);
    out->labels = memory_of((size_t)samples * sizeof *out->labels);
    if (out->images == NULL || out->labels == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for %d samples", samples);
    Rng rng = rng_at(TRAINING_SEED, RNG_TEST, 0, 0);
    for (int n = 0; n < samples; n++) {
        int32_t label =
            (int32_t)rng_below(rng, (uint32_t)n, TRAINING_PIXELS, TRAINING_CLASSES);
        out->labels[n] = label;
        for (int i = 0; i < TRAINING_PIXELS; i++) {
            float noise = rng_uniform(rng, (uint32_t)n, (uint32_t)i) - 0.5f;
            float pattern =
                rng_uniform(rng, (uint32_t)(samples + label), (uint32_t)i) - 0.5f;
            out->images[n * TRAINING_PIXELS + i] = 3.0f * noise + pattern;
        }
    }
    return STATUS_OK;
}

void training_free_data(TrainingData *data) {
    free(data->images);
    free(data->labels);
}

static Status make_batches(TrainingRun *run, const TrainingData *data) {
    int count = run->setup.mine.count, batch = data->batch;
    run->shards = calloc((size_t)(TRAINING_BATCHES * count), sizeof *run->shards);
    if (run->shards == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory");
    for (int b = 0; b < TRAINING_BATCHES; b++) {
        run->batches[b] = (Batch){.position = b * batch,
                                  .count = batch,
                                  .shard_count = count,
                                  .shards = run->shards + b * count};
        for (int s = 0; s < count; s++) {
            int shard = run->setup.mine.first + s;
            Rows rows = shard_rows(batch, (int)run->config.train.shards, shard);
            int64_t at = b * batch + rows.first;
            run->batches[b].shards[s] =
                (ShardBatch){.shard = shard,
                             .first = rows.first,
                             .count = rows.count,
                             .images = data->images + at * TRAINING_PIXELS,
                             .labels = data->labels + at};
        }
    }
    return STATUS_OK;
}

Status training_open(TrainingRun *run, const TrainingData *data, Collective *world,
                     Collective *collective, Backend *device) {
    Setup *setup = &run->setup;
    run->config.train.batch = data->batch;
    setup->config = &run->config;
    setup->world = world;
    setup->collective = collective;
    setup->backend = device;
    setup->graph = &run->graph;
    setup->mine = shard_range((int)run->config.train.shards, world->rank, world->size);
    TRY(state_create(&setup->state));
    TRY(model_build(&run->config, 1, TRAINING_SIDE, TRAINING_SIDE, setup->state,
                    &run->graph));
    TRY(optimizer_declare(&run->config, setup->state));
    TRY(scalars_declare(setup->state));
    TRY(state_allocate(setup->state));
    setup->scalars = scalars_find(setup->state);
    graph_initialise(&run->graph, TRAINING_SEED);
    TRY(residence_open(setup->state, setup->backend));
    TRY(workers_open(1, &setup->workers));
    TRY(make_batches(run, data));
    return step_open(setup, &run->step);
}

void training_close(TrainingRun *run) {
    step_close(run->step);
    workers_close(run->setup.workers);
    residence_close(run->setup.state, run->setup.backend);
    state_destroy(run->setup.state);
    free(run->shards);
}
