/* Each rank keeps the sums of each (batch, shard) that it computed; at the end they meet and are added
 * in double, batch by batch and shard by shard. A device works on the next batches while the sums of the
 * ones before are on their way to the host. */
#include "src/train/evaluate.h"

#include "src/core/fault.h"
#include "src/train/feed.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float sums[4]; /* loss, correct, top5, count */
} ShardSums;

struct Evaluator {
    Collective *collective;
    Backend *backend;
    Workers *workers;
    LoaderOptions options;
    Feed *feed;
    Execution **executions;
    int64_t batches;
    int slots;       /* shards that the rank with the most has */
    ShardSums *mine; /* batches × slots */
    ShardSums *all;  /* ranks × batches × slots */
    float *metrics;  /* of the device: slots × METRICS, of the newest batch */
    float *fetched;  /* pinned: batches × slots × METRICS */
    bool pinned;
    atomic_int next;
    const Batch *batch; /* of the device */
};

static Status open_parts(Evaluator *self, const Graph *graph, const State *state) {
    const LoaderOptions *options = &self->options;
    const BackendOps *ops = self->backend->ops;
    const Node *input = &graph->nodes[0];
    size_t records = (size_t)self->batches * (size_t)self->slots;
    size_t whole =
        (records * METRICS * sizeof(float) + STATE_PAGE - 1) / STATE_PAGE * STATE_PAGE;
    self->mine = calloc(records, sizeof *self->mine);
    self->all = calloc(records * (size_t)self->collective->size, sizeof *self->all);
    self->executions = calloc((size_t)workers_count(self->workers), sizeof(Execution *));
    self->fetched = aligned_alloc(STATE_PAGE, whole);
    if (self->mine == NULL || self->all == NULL || self->executions == NULL ||
        self->fetched == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for evaluation");
    TRY(ops->pin(self->backend, self->fetched, whole));
    self->pinned = true;
    TRY(ops->allocate(self->backend, (size_t)self->slots * METRICS * sizeof(float),
                      (void **)&self->metrics));
    int64_t rows = (options->batch + options->shards - 1) / options->shards;
    TRY(feed_open(self->backend, options->shard_count, rows,
                  (int64_t)input->channels * input->height * input->width, &self->feed));
    for (int i = 0; i < workers_count(self->workers); i++)
        TRY(execution_open(graph, state, self->backend, i, rows, false,
                           &self->executions[i]));
    return STATUS_OK;
}

Status evaluator_open(const Graph *graph, const State *state, Backend *backend,
                      Workers *workers, Collective *collective,
                      const LoaderOptions *options, Evaluator **out) {
    *out = NULL;
    Evaluator *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for evaluation");
    self->collective = collective;
    self->backend = backend;
    self->workers = workers;
    self->options = *options;
    self->batches = (options->samples->count + options->batch - 1) / options->batch;
    self->slots = (options->shards + collective->size - 1) / collective->size;
    Status status = open_parts(self, graph, state);
    if (status != STATUS_OK) {
        evaluator_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void evaluator_close(Evaluator *self) {
    if (self == NULL) return;
    for (int i = 0; self->executions != NULL && i < workers_count(self->workers); i++)
        execution_close(self->executions[i]);
    feed_close(self->feed);
    self->backend->ops->release(self->backend, self->metrics);
    if (self->pinned) {
        self->backend->ops->fetch_finish(self->backend); /* after a failure, say */
        self->backend->ops->unpin(self->backend, self->fetched);
    }
    free(self->fetched);
    free(self->executions);
    free(self->mine);
    free(self->all);
    free(self);
}

static Status evaluate_shards(void *context, int worker) {
    Evaluator *self = context;
    for (;;) {
        int index = atomic_fetch_add(&self->next, 1);
        if (index >= self->batch->shard_count) return STATUS_OK;
        const ShardBatch *shard = &self->batch->shards[index];
        if (shard->count == 0) continue;
        TRY(execution_evaluate(self->executions[worker], shard,
                               self->metrics + (int64_t)index * METRICS));
    }
}

static Status give_batch(void *context) {
    Evaluator *self = context;
    atomic_store(&self->next, 0);
    return workers_run(self->workers, evaluate_shards, self);
}

/* The number under which a device may keep a batch's work: none of a training step's. */
static uint64_t key_of(const Evaluator *self, const Batch *batch) {
    if (workers_count(self->workers) > 1) return 0;
    return (UINT64_C(1) << 32) + (uint64_t)batch->count;
}

/* Gives the work of batch number `index`, and lets its sums come. */
static Status evaluate_batch(Evaluator *self, const Batch *batch, int64_t index) {
    const BackendOps *ops = self->backend->ops;
    size_t row = (size_t)self->slots * METRICS;
    TRY(feed_batch(self->feed, batch, &self->batch));
    TRY(ops->fetch_fence(self->backend, 0));
    TRY(ops->repeat(self->backend, key_of(self, batch), give_batch, self));
    return ops->fetch(self->backend, self->fetched + (size_t)index * row, self->metrics,
                      row * sizeof(float));
}

/* Waits for all sums, and keeps those of shards that are not empty. */
static Status take_sums(Evaluator *self) {
    TRY(self->backend->ops->fetch_finish(self->backend));
    const LoaderOptions *options = &self->options;
    for (int64_t batch = 0; batch < self->batches; batch++) {
        int64_t left = options->samples->count - batch * options->batch;
        int64_t count = left < options->batch ? left : options->batch;
        for (int i = 0; i < options->shard_count; i++) {
            int64_t at = batch * self->slots + i;
            if (shard_rows(count, options->shards, options->first_shard + i).count > 0)
                memcpy(self->mine[at].sums, self->fetched + at * METRICS,
                       sizeof(ShardSums));
        }
    }
    return STATUS_OK;
}

static void add_up(const Evaluator *self, Evaluation *out) {
    double sums[4] = {0};
    for (int64_t batch = 0; batch < self->batches; batch++)
        for (int rank = 0; rank < self->collective->size; rank++) {
            int count =
                shard_range(self->options.shards, rank, self->collective->size).count;
            const ShardSums *row =
                self->all + ((int64_t)rank * self->batches + batch) * self->slots;
            for (int shard = 0; shard < count; shard++)
                for (int i = 0; i < 4; i++)
                    sums[i] += (double)row[shard].sums[i];
        }
    out->samples = (int64_t)sums[METRIC_COUNT];
    out->loss = sums[METRIC_LOSS] / sums[METRIC_COUNT];
    out->accuracy = sums[METRIC_CORRECT] / sums[METRIC_COUNT];
    out->top5 = sums[METRIC_TOP5] / sums[METRIC_COUNT];
}

Status evaluator_run(Evaluator *self, Requests *requests, uint32_t *bits, bool *stopped,
                     Evaluation *out) {
    Collective *collective = self->collective;
    size_t records = (size_t)self->batches * (size_t)self->slots;
    memset(self->mine, 0, records * sizeof *self->mine);
    *bits = 0;
    *stopped = false;
    Loader *loader;
    Status mine = loader_open(&self->options, &loader);
    for (int64_t index = 0; index < self->batches; index++) {
        const Batch *batch = NULL;
        if (mine == STATUS_OK) mine = loader_next(loader, &batch, NULL);
        if (mine == STATUS_OK) mine = evaluate_batch(self, batch, index);
        if (mine == STATUS_OK && index == self->batches - 1) mine = take_sums(self);
        fault_point("evaluate");
        uint32_t word = requests_take(requests) | (mine != STATUS_OK ? CONTROL_FAILED : 0u);
        Status status = collective->ops->control(collective, &word);
        if (status == STATUS_OK && (word & CONTROL_FAILED) != 0)
            status = collective->ops->agree(collective, mine);
        if (status != STATUS_OK) {
            loader_close(loader);
            return status;
        }
        requests_heard(requests, word);
        *bits |= word;
        if ((word & CONTROL_STOP) != 0) {
            *stopped = true;
            break;
        }
    }
    loader_close(loader);
    if (*stopped) return self->backend->ops->fetch_finish(self->backend);
    TRY(collective->ops->gather(collective, self->mine, records * sizeof *self->mine,
                                self->all));
    add_up(self, out);
    return STATUS_OK;
}
