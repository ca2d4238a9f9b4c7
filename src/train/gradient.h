/* The gradient of one step: every shard of this rank computed by one worker each, and added in the
 * one fixed tree as soon as both halves of a node are there. Which worker computes what changes
 * nothing in the bits. */
#pragma once

#include "src/collective.h"
#include "src/model/execution.h"
#include "src/train/workers.h"

typedef struct Gradient Gradient;

/* `reduction` gives the buffers for the tree nodes that this rank contributes. `shard_rows`: the most
 * rows that a shard can have. Ranks: local. Memory: *out is the caller's; all arguments outlive it
 * Errors: STATUS_MEMORY, the backend's */
Status gradient_open(const Graph *graph, const State *state, Backend *backend,
                     Workers *workers, Reduction *reduction, int64_t shard_rows,
                     Gradient **out);
void gradient_close(Gradient *gradient); /* NULL is allowed */

/* Fills the reduction's nodes for one batch. Ranks: local; reduce comes next
 * Errors: the backend's; the nodes are undefined then */
Status gradient_compute(Gradient *gradient, const Batch *batch, uint64_t seed, int64_t step,
                        float smoothing);
