/* What a run writes for people and tools, beside its checkpoints: metrics.jsonl (one line a logged step
 * or evaluation; never holds a step twice) and ledger.jsonl (one line a launch, restore, save, fault:
 * what it cost). Rank 0 only. */
#pragma once

#include "src/core/status.h"

#include <stdint.h>

typedef struct Journal Journal;

/* Opens both files of a run directory. metrics.jsonl is rewound to `step`, and its evaluations to the
 * `evaluated` one (a stop may have cut that of `step` short, and it is repeated): later lines go, by a new
 * file and a rename. −1: a fresh start keeps no line. Memory: *out is the caller's
 * Errors: STATUS_IO, STATUS_MEMORY */
Status journal_open(const char *run_dir, int64_t step, int64_t evaluated, Journal **out);
void journal_close(Journal *journal); /* NULL is allowed */

/* Appends one line. `json` is an object's text without a line feed; it must hold "step". */
Status journal_metric(Journal *journal, const char *json);
Status journal_event(Journal *journal, const char *json);

/* Makes all metric lines durable: before each commit, so that a restored run never lacks a line. */
Status journal_sync(Journal *journal);
