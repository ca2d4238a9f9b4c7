/* A launch of a run: from the configuration to the last step, or to a stop with the state saved. */
#pragma once

#include "src/collective.h"
#include "src/core/config.h"
#include "src/state/state.h"
#include "src/train/evaluate.h"

#include <stdbool.h>

/* How a launch ended. */
typedef struct {
    int64_t step, total_steps;
    Evaluation evaluation; /* the newest one */
    double best_accuracy;
    int64_t best_step;
    Digest state_digest;
    char checkpoint[64]; /* newest durable file of this launch; empty when none */
} TrainOutcome;

/* Trains until the run is complete or a stop was agreed on. `take_bits` gives (and clears) the control
 * bits that signals have set in this process; it is polled once a step.
 *
 * Ranks:   collective; every rank gets the same result
 * Errors:  STATUS_STOPPED when stopped with the state saved (outcome filled); else the failure of the
 *          lowest rank that failed. After STATUS_COMM only an abort may follow */
Status train_run(const Config *config, Collective *collective, uint32_t (*take_bits)(void),
                 TrainOutcome *outcome);

/* Evaluates a checkpoint on the configured validation data: config->resume names the file, or is "must"
 * for the newest of run.dir. Nothing is written and nothing owned. Ranks: collective */
Status train_evaluate(const Config *config, Collective *collective,
                      uint32_t (*take_bits)(void), TrainOutcome *outcome);
