/* Ties gradient, reduction and optimizer together. What differs between two steps of one batch size (the
 * batch, StepValues, StepVerdict) lies in device memory, so that a device can record a step and repeat
 * it. */
#include "src/train/step.h"

#include "src/train/feed.h"
#include "src/train/gradient.h"
#include "src/train/optimizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t number, samples;
    double lr;
} Given;

struct Step {
    const Setup *setup;
    Reduction *reduction;
    size_t sum_bytes;
    Feed *feed;
    Gradient *gradient;
    Optimizer *optimizer;
    uint8_t *present;   /* V bytes: the running step's shards that are not empty */
    int filled;         /* how many these are */
    StepValues *values; /* of the device, as the verdict */
    StepVerdict *verdict;
    StepVerdict *fetched; /* a pinned page: the oldest uncollected step's, on its way */
    bool pinned;
    /* of the step whose work is being given */
    Given running;
    const Batch *batch;
    uint64_t seed;
    Arena *target; /* where the update writes; NULL: in place */
    /* updates given and not collected, the oldest first */
    Given given[STEPS_GIVEN];
    int given_count;
};

static Status place_values(Step *self) {
    Backend *backend = self->setup->backend;
    const BackendOps *ops = backend->ops;
    self->fetched = aligned_alloc(STATE_PAGE, STATE_PAGE);
    if (self->fetched == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a step");
    TRY(ops->pin(backend, self->fetched, STATE_PAGE));
    self->pinned = true;
    TRY(ops->allocate(backend, sizeof *self->values, (void **)&self->values));
    return ops->allocate(backend, sizeof *self->verdict, (void **)&self->verdict);
}

static Status open_parts(Step *self) {
    const Setup *setup = self->setup;
    const Config *config = setup->config;
    const Node *input = &setup->graph->nodes[0];
    int64_t rows = (config->train.batch + config->train.shards - 1) / config->train.shards;
    self->present = calloc((size_t)config->train.shards, 1);
    if (self->present == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the shards");
    TRY(place_values(self));
    TRY(feed_open(setup->backend, setup->mine.count, rows,
                  (int64_t)input->channels * input->height * input->width, &self->feed));
    TRY(gradient_open(setup->graph, setup->state, setup->backend, setup->workers,
                      setup->collective, self->reduction, rows, &self->gradient));
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
    BackendMemory before, after;
    setup->backend->ops->memory(setup->backend, &before);
    TRY(collective->ops->reduction_open(collective, mode, (int)setup->config->train.shards,
                                        result_length(setup->state), &self->reduction));
    setup->backend->ops->memory(setup->backend, &after);
    self->sum_bytes = after.used - before.used;
    if (setup->backend->ops->host_memory) /* not the backend's, then */
        self->sum_bytes = (size_t)self->reduction->node_count *
                          (size_t)self->reduction->length * sizeof(float);
    return collective->ops->agree(collective, open_parts(self));
}

size_t step_sum_bytes(const Step *self) {
    return self->sum_bytes;
}

bool step_leaves_work(const Step *self) {
    return self->reduction->queued;
}

void step_close(Step *self) {
    if (self == NULL) return;
    Collective *collective = self->setup->collective;
    Backend *backend = self->setup->backend;
    if (self->given_count > 0)
        backend->ops->fetch_finish(backend); /* else it would write into freed memory */
    optimizer_close(self->optimizer);
    gradient_close(self->gradient);
    feed_close(self->feed);
    if (self->reduction != NULL)
        collective->ops->reduction_close(collective, self->reduction);
    backend->ops->release(backend, self->values);
    backend->ops->release(backend, self->verdict);
    if (self->pinned) backend->ops->unpin(backend, self->fetched);
    free(self->fetched);
    free(self->present);
    free(self);
}

/* The number under which a device may keep what `part` of a step with so many samples gives: all shapes
 * follow from that. Several workers' work is in no one order that could be recorded. */
static uint64_t key_of(const Step *self, int part) {
    if (workers_count(self->setup->workers) > 1) return 0;
    return 2 * (uint64_t)self->running.samples + (uint64_t)part;
}
enum { PART_GRADIENT = 1, PART_UPDATE = 2 };

static Status reduce(Step *self) {
    Collective *collective = self->setup->collective;
    return collective->ops->reduce(collective, self->reduction, self->present);
}

static Status give_gradient(void *context) {
    Step *self = context;
    TRY(gradient_compute(self->gradient, self->batch, self->present, self->seed,
                         self->values, (float)self->setup->config->train.label_smoothing));
    return self->reduction->queued ? reduce(self) : STATUS_OK;
}

Status step_gradient(Step *self, const Batch *batch, uint64_t seed, int64_t number,
                     double lr) {
    const Config *config = self->setup->config;
    Backend *backend = self->setup->backend;
    int shards = (int)config->train.shards;
    self->running = (Given){.number = number, .samples = batch->count, .lr = lr};
    self->seed = seed;
    self->filled = 0;
    for (int i = 0; i < shards; i++) {
        self->present[i] = shard_rows(batch->count, shards, i).count > 0;
        self->filled += self->present[i];
    }
    StepValues values = optimizer_values(config, number, lr);
    TRY(backend->ops->copy_in(backend, self->values, &values, sizeof values));
    TRY(feed_batch(self->feed, batch, &self->batch));
    TRY(backend->ops->repeat(backend, key_of(self, PART_GRADIENT), give_gradient, self));
    /* a reduction that is not on the device's queue reads what is done */
    return self->reduction->queued ? STATUS_OK : backend->ops->finish(backend, 0);
}

Status step_reduce(Step *self) {
    return self->reduction->queued ? STATUS_OK : reduce(self);
}

/* Running statistics take the mean of the shards' batch statistics. */
static Status blend_statistics(Step *self) {
    Backend *backend = self->setup->backend;
    const State *state = self->setup->state;
    const Arena *from = &state->arenas[ARENA_BUFFER];
    const Arena *to = self->target != NULL ? &self->target[ARENA_BUFFER] : from;
    if (from->bytes == 0) return STATUS_OK;
    return backend->ops->blend(backend, 0, to->device, from->device,
                               self->reduction->sum + result_statistics(state),
                               (int64_t)(from->bytes / sizeof(float)), BATCH_NORM_RATE,
                               1.0f / (float)self->filled, self->verdict);
}

static Status give_update(void *context) {
    Step *self = context;
    const float *sum = self->reduction->sum;
    TRY(optimizer_judge(self->optimizer, sum, sum + result_metrics(self->setup->state),
                        self->verdict));
    bool moves = self->target != NULL; /* then the verdict is host memory, and there */
    if (moves && self->verdict->refused) return STATUS_OK;
    TRY(optimizer_apply(self->optimizer, sum, self->values, self->verdict, self->target));
    TRY(blend_statistics(self));
    if (moves) state_exchange(self->setup->state, self->target);
    return STATUS_OK;
}

static Status fetch_verdict(Step *self) {
    Backend *backend = self->setup->backend;
    return backend->ops->fetch(backend, self->fetched, self->verdict,
                               sizeof *self->verdict);
}

Status step_update(Step *self, Arena *target) {
    Backend *backend = self->setup->backend;
    assert(self->given_count < STEPS_GIVEN);
    assert(target == NULL || backend->ops->host_memory);
    self->target = target;
    /* a snapshot or a verdict that is on its way to the host is read before it is overwritten */
    TRY(backend->ops->fetch_fence(backend, 0));
    TRY(backend->ops->repeat(backend, key_of(self, PART_UPDATE), give_update, self));
    self->given[self->given_count++] = self->running;
    /* behind an older step's verdict this one waits for its turn: to wait for one is to wait for all
     * that are on their way */
    return self->given_count == 1 ? fetch_verdict(self) : STATUS_OK;
}

Status step_collect(Step *self, StepResult *result) {
    Backend *backend = self->setup->backend;
    assert(self->given_count > 0);
    TRY(backend->ops->fetch_finish(backend));
    const StepVerdict verdict = *self->fetched;
    const Given step = self->given[0];
    self->given_count--;
    memmove(self->given, self->given + 1, (size_t)self->given_count * sizeof *self->given);
    *result = (StepResult){
        .number = step.number,
        .norm = verdict.norm,
        .lr = step.lr,
        .samples = step.samples,
        .loss_sum = (double)verdict.loss,
        .correct = (double)verdict.correct,
        .loss = (double)verdict.loss / (double)step.samples,
        .accuracy = (double)verdict.correct / (double)step.samples,
    };
    if (verdict.refused)
        return FAIL(STATUS_NOT_FINITE,
                    "lower optimizer.lr, set optimizer.clip_norm or lengthen "
                    "schedule.warmup_steps; "
                    "the newest checkpoint is from before",
                    "step %lld: loss %g, gradient norm %g", (long long)step.number + 1,
                    result->loss, result->norm);
    return self->given_count > 0 ? fetch_verdict(self) : STATUS_OK;
}
