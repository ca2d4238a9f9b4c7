/* Each rank keeps the sums of each (batch, shard) that it computed; at the end they meet and are added
 * in double, batch by batch and shard by shard. */
#include "src/train/evaluate.h"

#include "src/core/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float sums[4]; /* loss, correct, top5, count */
} ShardSums;

struct Evaluator {
    Collective *collective;
    Workers *workers;
    LoaderOptions options;
    Execution **executions;
    int64_t batches;
    int slots;       /* shards that the rank with the most has */
    ShardSums *mine; /* batches × slots */
    ShardSums *all;  /* ranks × batches × slots */
    atomic_int next;
    const Batch *batch;
    int64_t batch_index;
};

Status evaluator_open(const Graph *graph, const State *state, Backend *backend,
                      Workers *workers, Collective *collective,
                      const LoaderOptions *options, Evaluator **out) {
    *out = NULL;
    Evaluator *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for evaluation");
    self->collective = collective;
    self->workers = workers;
    self->options = *options;
    self->batches = (options->samples->count + options->batch - 1) / options->batch;
    self->slots = (options->shards + collective->size - 1) / collective->size;
    size_t records = (size_t)self->batches * (size_t)self->slots;
    self->mine = calloc(records, sizeof *self->mine);
    self->all = calloc(records * (size_t)collective->size, sizeof *self->all);
    self->executions = calloc((size_t)workers_count(workers), sizeof(Execution *));
    Status status = self->mine != NULL && self->all != NULL && self->executions != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for evaluation");
    int64_t rows = (options->batch + options->shards - 1) / options->shards;
    for (int i = 0; i < workers_count(workers) && status == STATUS_OK; i++)
        status =
            execution_open(graph, state, backend, i, rows, false, &self->executions[i]);
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
        float metrics[METRICS];
        TRY(execution_evaluate(self->executions[worker], shard, metrics));
        memcpy(self->mine[self->batch_index * self->slots + index].sums, metrics,
               sizeof(ShardSums));
    }
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
    self->batch_index = 0;
    for (; self->batch_index < self->batches; self->batch_index++) {
        if (mine == STATUS_OK) mine = loader_next(loader, &self->batch, NULL);
        if (mine == STATUS_OK) {
            atomic_store(&self->next, 0);
            mine = workers_run(self->workers, evaluate_shards, self);
        }
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
    if (*stopped) return STATUS_OK;
    TRY(collective->ops->gather(collective, self->mine, records * sizeof *self->mine,
                                self->all));
    add_up(self, out);
    return STATUS_OK;
}
