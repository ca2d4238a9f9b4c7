/* The arithmetic of one training step: the gradient of this rank's shards, the exact reduction, the
 * optimizer and the running statistics. It knows no files, schedules or progress, so that a benchmark
 * times what training runs.
 *
 * Life of a step: step_gradient (local) → step_reduce (collective) → step_update (local), which only give
 * work to the device, → step_collect (local), which waits for what came of it. Steps are collected in
 * order; the next one's work may be given before, so that the device never waits for the host. */
#pragma once

#include "src/train/setup.h"

typedef struct Step Step;

/* At most so many steps are given and not collected. */
enum { STEPS_GIVEN = 2 };

/* What the reduced vector says about the step. */
typedef struct {
    int64_t number;           /* from 0 */
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

/* Gives the work of the gradient of the caller's shards of the batch. `number` is the step's, from 0, `lr`
 * its learning rate. The batch's memory may be used again afterwards, unless it is the device's, too:
 * then after step_reduce. Ranks: local; tell the others of a failure before step_reduce */
Status step_gradient(Step *step, const Batch *batch, uint64_t seed, int64_t number,
                     double lr);

/* Sums it over all ranks. Ranks: collective */
Status step_reduce(Step *step);

/* Gives the work of applying the sum. `target` NULL: to the state in place. Else (on a device whose memory is
 * the host's) the new values go to these arenas, which change places with the state's own (state_exchange),
 * and the old ones stay as they are; a refused step changes nothing and exchanges nothing. Ranks: local */
Status step_update(Step *step, Arena *target);

/* Waits for the oldest step that is not collected. Ranks: local; the same numbers on each
 * Errors: STATUS_NOT_FINITE, on every rank: the step changed nothing; else the backend's */
Status step_collect(Step *step, StepResult *result);

/* Bytes of this rank's gradient sums. */
size_t step_sum_bytes(const Step *step);

/* Whether work that is given waits on the device for the other ranks' part of it: then a launch in which a
 * rank has failed cannot close in order. */
bool step_leaves_work(const Step *step);
