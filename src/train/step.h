/* The arithmetic of one training step: the gradient of this rank's shards, the exact reduction, the
 * optimizer and the running statistics. It knows no files, schedules or progress, so that a benchmark
 * times what training runs.
 *
 * Life of a step: step_gradient (local) → step_reduce (collective) → step_update (local). */
#pragma once

#include "src/train/setup.h"

typedef struct Step Step;

/* What the reduced vector says about the step. */
typedef struct {
    double loss, accuracy;    /* means over the step's samples */
    double loss_sum, correct; /* their sums */
    double norm, lr;          /* of the gradient, before clipping; as applied */
    int64_t samples;
} StepResult;

/* Uses the setup's config, collective, graph, state, backend and workers; all outlive it.
 * Ranks: collective. Memory: step_close, also after a failure
 * Errors: STATUS_MEMORY, the backend's; the first failing rank's, on every rank */
Status step_open(const Setup *setup, Step **out);
void step_close(Step *step); /* collective; NULL is allowed */

/* The gradient of the caller's shards of the batch, which stays valid until step_reduce. `number` is
 * the step's, from 0. Ranks: local; tell the others of a failure before step_reduce */
Status step_gradient(Step *step, const Batch *batch, uint64_t seed, int64_t number);

/* Sums it over all ranks. Ranks: collective */
Status step_reduce(Step *step);

/* Applies the sum with learning rate `lr`. Ranks: local; the same numbers on each
 * Errors: STATUS_NOT_FINITE, on every rank, with the state as before; else the backend's */
Status step_update(Step *step, int64_t number, double lr, StepResult *result);
