/* Is a state fit to be saved? Each rank reports what it holds, all see all reports, and decide alike. */
#pragma once

#include "src/collective.h"
#include "src/state/state.h"

/* What a rank says of its state before it is named. Zeroed first: its padding travels. */
typedef struct {
    Digest digest;
    int64_t not_finite; /* index of the first entry that is not, or -1 */
    int64_t failed;     /* 1: the rank could not do its part of the save */
} StateReport;

/* Gathers the reports (reports: one for each rank) and judges them. `state` is what they are about.
 *
 * Ranks:   collective
 * Errors:  the same on every rank: STATUS_CORRUPT naming the ranks that differ from most and the first
 *          entry, STATUS_NOT_FINITE naming it, STATUS_COMM. A rank that failed is no error here */
Status examination_judge(Collective *collective, const State *state, int64_t step,
                         const StateReport *own, StateReport *reports);
