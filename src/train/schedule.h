/* The learning rate as a pure function of the step: nothing is accumulated, so a resume at any step
 * has the same rate as the run that was never interrupted. */
#pragma once

#include "src/core/config.h"

#include <stdint.h>

typedef struct {
    int64_t total_steps;     /* of the whole run: saved in the state */
    int64_t steps_per_epoch; /* exponential: decays once an epoch */
} Horizon;

/* The rate of step `step` (0-based: the first optimizer pass is step 0).
 * Warm-up: lr · (step + 1) / warmup_steps while step < warmup_steps. After it, with t = step −
 * warmup_steps and T = total_steps − warmup_steps:
 *   constant     lr
 *   step         lr · gamma^floor(step / step_size)
 *   multistep    lr · gamma^(milestones ≤ step)
 *   exponential  lr · gamma^floor(step / steps_per_epoch)
 *   polynomial   min_lr + (lr − min_lr) · (1 − t/T)^power
 *   cosine       min_lr + (lr − min_lr) · (1 + cos(pi · t/T)) / 2 */
double schedule_rate(const Config *config, Horizon horizon, int64_t step);
