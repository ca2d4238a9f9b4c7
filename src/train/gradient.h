/* The gradient of one step: every shard of this rank computed by one worker each, and added in the
 * one fixed tree as soon as both halves of a node are there. Which worker computes what changes
 * nothing in the bits. */
#pragma once

#include "src/collective.h"
#include "src/model/execution.h"
#include "src/train/workers.h"

typedef struct Gradient Gradient;

/* `reduction`, of `collective`, gives the buffers for the tree nodes that this rank contributes. Where
 * it gains from parts, and one worker computes, these are given to it while the backward pass of the
 * rank's last shard still runs. `shard_rows`: the most rows that a shard can have. Ranks: local.
 * Memory: *out is the caller's; all arguments outlive it. Errors: STATUS_MEMORY, the backend's */
Status gradient_open(const Graph *graph, const State *state, Backend *backend,
                     Workers *workers, Collective *collective, Reduction *reduction,
                     int64_t shard_rows, Gradient **out);
void gradient_close(Gradient *gradient); /* NULL is allowed */

/* Gives the work that fills the reduction's nodes for one batch, whose images and labels are device
 * memory. `present`: V bytes, as for the reduction, which comes next.
 * Ranks: local; collective where the reduction takes parts
 * Errors: the backend's; the nodes are undefined then */
Status gradient_compute(Gradient *gradient, const Batch *batch, const uint8_t *present,
                        uint64_t seed, const StepValues *values, float smoothing);
