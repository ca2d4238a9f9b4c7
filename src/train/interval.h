/* How often to save: from what a save costs training, what a recovery takes, and how often this run fails.
 * Seconds all. */
#pragma once

#include "src/train/history.h"

typedef struct {
    double least, most; /* bounds of the answer */
    double stall;       /* Ts: what a save costs training */
    double recovery;    /* Tr: from a relaunch to its first step */
    double duration; /* from a save's begin until it is durable: there is one at a time */
    int saves; /* of this launch, in stall and duration; before the first they are guesses */
    double bytes; /* of the state */
    History history;
} Interval;

/* The interval that wastes least, to first order (Young 1974, Daly 2006), when a launch works T seconds
 * between two saves and loses half of that at each failure:
 *     T = Ts + sqrt(2 (Tf + Tr) Ts + Ts²) */
double interval_optimum(double stall, double recovery, double between_failures);

/* Tf. Failures are taken as a Poisson process whose rate has a Gamma prior, and the rate's posterior mean is
 * (a + failures) / (b + exposure): with a = 1/48 and b half an hour, a run is expected to fail once a day
 * until something is known, and an hour of failures outweighs that. Without failures that mean would grow
 * 48 times as fast as the time that was run: no more is believed than a day, or all that was run.
 * `running`: how long this launch has lasted. */
double interval_between_failures(const History *history, double running);

/* Before this launch has saved: what earlier launches measured, else what `bytes` of state take at a
 * gigabyte a second. `recovery`: what this launch's start took. */
void interval_open(Interval *self, double least, double most, const History *history,
                   double bytes, double recovery);

/* A save of this launch is durable: it cost training `stall`, and took `duration`. Newer ones count more. */
void interval_saw_save(Interval *self, double stall, double duration);

/* The answer, once this launch has run for `running` seconds. */
double interval_seconds(const Interval *self, double running);
