/* Runs a network on one worker of a backend: activations and their gradients for up to `rows`
 * samples, forward and backward over the nodes in order.
 *
 * A shard's result is one vector of floats, so that the tree sums everything at once:
 *   [ gradients, laid out as the parameter arena | batch statistics, laid out as the buffer arena
 *     (batch mean where the running mean is, unbiased variance where the running variance is)
 *     | METRICS floats ]                                    see result_length() */
#pragma once

#include "src/backend.h"
#include "src/data/data.h"
#include "src/model/graph.h"

typedef struct Execution Execution;

/* Floats in a shard's result, and where its parts begin. */
int64_t result_length(const State *state);
int64_t result_statistics(const State *state);
int64_t result_metrics(const State *state);

/* Plans and allocates. `training` false: no gradients, running statistics are used. Ranks: local
 * Memory:  *out is the caller's: execution_close. graph, backend and state must outlive it
 * Errors:  STATUS_MEMORY, or what the backend reports */
Status execution_open(const Graph *graph, const State *state, Backend *backend, int worker,
                      int64_t rows, bool training, Execution **out);
void execution_close(Execution *execution); /* NULL is allowed */

/* Told after each node of the backward pass, from the last one to the first. */
typedef struct {
    Status (*passed)(void *context, int node);
    void *context;
} ExecutionListener;

/* Elements of a result from this one on are final once the backward pass has passed `node`. A multiple
 * of 16; the smaller the node, the smaller; the same on every rank. */
int64_t execution_final_from(const Graph *graph, const State *state, int node);

/* Gives the work of one shard of one step, which writes every entry of `result` (padding stays untouched:
 * zero it once). The loss is the mean over all `batch_count` samples of the step; METRIC_LOSS is a sum
 * over rows. `listener` may be NULL.
 * Memory: the shard's images and labels, values and result are device memory, and stay until the worker
 * has finished */
Status execution_train(Execution *execution, const ShardBatch *shard, uint64_t seed,
                       const StepValues *values, int64_t batch_count, float smoothing,
                       float *result, const ExecutionListener *listener);

/* Gives the work of one shard of an evaluation, which writes METRICS floats of device memory. */
Status execution_evaluate(Execution *execution, const ShardBatch *shard, float *metrics);
