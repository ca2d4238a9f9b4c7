/* Ties gradient, reduction and optimizer together. */
#include "src/train/step.h"

#include "src/train/gradient.h"
#include "src/train/optimizer.h"

#include <stdlib.h>
#include <string.h>

struct Step {
    const Setup *setup;
    Reduction *reduction;
    Gradient *gradient;
    Optimizer *optimizer;
    uint8_t *present; /* V bytes: the running step's shards that are not empty */
    int filled;       /* how many these are */
    int64_t samples;  /* of the running step */
};

static Status open_parts(Step *self) {
    const Setup *setup = self->setup;
    const Config *config = setup->config;
    int64_t rows = (config->train.batch + config->train.shards - 1) / config->train.shards;
    self->present = calloc((size_t)config->train.shards, 1);
    if (self->present == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the shards");
    TRY(gradient_open(setup->graph, setup->state, setup->backend, setup->workers,
                      self->reduction, rows, &self->gradient));
    return optimizer_open(config, setup->state, setup->backend, setup->workers,
                          &self->optimizer);
}

Status step_open(const Setup *setup, Step **out) {
    Collective *collective = setup->collective;
    Step *self = *out = calloc(1, sizeof *self);
    Status mine =
        self != NULL ? STATUS_OK : FAIL(STATUS_MEMORY, NULL, "no memory for a step");
    TRY(collective->ops->agree(collective, mine));
    self->setup = setup;
    ReductionMode mode = strcmp(setup->config->train.reduction, "fast") == 0
                             ? REDUCTION_FAST
                             : REDUCTION_EXACT;
    TRY(collective->ops->reduction_open(collective, mode, (int)setup->config->train.shards,
                                        result_length(setup->state), &self->reduction));
    return collective->ops->agree(collective, open_parts(self));
}

void step_close(Step *self) {
    if (self == NULL) return;
    Collective *collective = self->setup->collective;
    optimizer_close(self->optimizer);
    gradient_close(self->gradient);
    if (self->reduction != NULL)
        collective->ops->reduction_close(collective, self->reduction);
    free(self->present);
    free(self);
}

Status step_gradient(Step *self, const Batch *batch, uint64_t seed, int64_t number) {
    int shards = (int)self->setup->config->train.shards;
    self->samples = batch->count;
    self->filled = 0;
    for (int i = 0; i < shards; i++) {
        self->present[i] = shard_rows(batch->count, shards, i).count > 0;
        self->filled += self->present[i];
    }
    return gradient_compute(self->gradient, batch, seed, number,
                            (float)self->setup->config->train.label_smoothing);
}

Status step_reduce(Step *self) {
    Collective *collective = self->setup->collective;
    return collective->ops->reduce(collective, self->reduction, self->present);
}

/* Running statistics take the mean of the shards' batch statistics. */
static Status blend_statistics(Step *self) {
    Backend *backend = self->setup->backend;
    const State *state = self->setup->state;
    const Arena *buffers = &state->arenas[ARENA_BUFFER];
    if (buffers->bytes == 0) return STATUS_OK;
    TRY(backend->ops->blend(backend, 0, buffers->data,
                            self->reduction->sum + result_statistics(state),
                            (int64_t)(buffers->bytes / sizeof(float)), BATCH_NORM_RATE,
                            1.0f / (float)self->filled));
    return backend->ops->finish(backend, 0);
}

Status step_update(Step *self, int64_t number, double lr, StepResult *result) {
    const Setup *setup = self->setup;
    const float *sum = self->reduction->sum;
    float metrics[METRICS];
    TRY(setup->backend->ops->copy_out(setup->backend, metrics,
                                      sum + result_metrics(setup->state), sizeof metrics));
    TRY(optimizer_norm(self->optimizer, sum, &result->norm));
    result->samples = self->samples;
    result->lr = lr;
    result->loss_sum = (double)metrics[METRIC_LOSS];
    result->correct = (double)metrics[METRIC_CORRECT];
    result->loss = result->loss_sum / (double)self->samples;
    result->accuracy = result->correct / (double)self->samples;
    double finite = result->loss - result->loss + (result->norm - result->norm);
    if (finite != 0)
        return FAIL(STATUS_NOT_FINITE,
                    "lower optimizer.lr, set optimizer.clip_norm or lengthen "
                    "schedule.warmup_steps; "
                    "the newest checkpoint is from before",
                    "step %lld: loss %g, gradient norm %g", (long long)number + 1,
                    result->loss, result->norm);
    TRY(optimizer_apply(self->optimizer, sum, result->norm, number, lr));
    return blend_statistics(self);
}
