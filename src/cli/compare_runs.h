/* Whether two runs are the same, bit for bit: every value of every checkpoint that both hold for the
 * same step, the last one among them, and every line of metrics. */
#pragma once

#include "src/state/state.h"

typedef struct {
    bool identical;
    int64_t step;         /* the last one, of the first run */
    int entries;          /* of the last checkpoint */
    int checkpoints;      /* steps that were compared */
    int64_t lines;        /* of metrics that were compared */
    Digest state_digest;  /* of the first run's last checkpoint */
    char difference[768]; /* the first one found; empty when identical */
} RunComparison;

/* Compares the run directories `a` and `b`. What tells when or how fast something ran does not count.
 * Ranks:  local
 * Errors: STATUS_NO_CHECKPOINT when one of them holds no valid checkpoint; STATUS_CORRUPT, STATUS_IO,
 *         STATUS_MEMORY. A difference is no error */
Status compare_runs(const char *a, const char *b, RunComparison *out);
