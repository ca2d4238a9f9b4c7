/* A run without files: what src/train needs to compute steps, with batches that lie in memory instead of a loader. */
#pragma once

#include "src/model/model.h"
#include "src/train/step.h"

enum {
    TRAINING_BATCHES = 4,
    TRAINING_SIDE = 28,
    TRAINING_PIXELS = TRAINING_SIDE * TRAINING_SIDE,
    TRAINING_CLASSES = 10,
    TRAINING_SEED = 7
};

/* Noise around a pattern of the class, so that there is something to learn. */
typedef struct {
    int batch;       /* samples of each of TRAINING_BATCHES */
    float *images;   /* (TRAINING_BATCHES, batch, TRAINING_PIXELS) */
    int32_t *labels; /* (TRAINING_BATCHES, batch) */
} TrainingData;

typedef struct {
    Config config;
    Graph graph;
    Setup setup;
    Step *step;
    Batch batches[TRAINING_BATCHES];
    ShardBatch *shards;
} TrainingRun;

/* Memory: training_free_data. Errors: STATUS_MEMORY */
Status training_make_data(int batch, TrainingData *out);
void training_free_data(TrainingData *data);

/* Opens a run whose config's model, optimizer, shards and reduction are filled in, with one worker a rank and
 * its first values. `collective` sums the device's memory.
 *
 * Ranks:   collective
 * Memory:  training_close; the data and the others stay the caller's and outlive it
 * Errors:  as model_build, step_open and the others */
Status training_open(TrainingRun *run, const TrainingData *data, Collective *world,
                     Collective *collective, Backend *device);
void training_close(TrainingRun *run);

static inline const Batch *training_batch(const TrainingRun *run, int64_t number) {
    return &run->batches[number % TRAINING_BATCHES];
}
