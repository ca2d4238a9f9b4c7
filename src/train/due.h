/* Is a save due at this boundary, why, and may it wait for the one in flight? A pure decision: every rank
 * makes it from the same numbers and comes to the same answer. */
#pragma once

#include "src/core/config.h"

#include <stdbool.h>
#include <stdint.h>

/* What a boundary knows; the same on every rank. */
typedef struct {
    int64_t step, position, total_steps; /* position 0: between two epochs */
    int64_t taken_step; /* newest state restored from, or handed to a save; -1: none */
    uint32_t bits; /* ControlBits of the step before, and of the evaluation right here */
    bool first;    /* no step was trained in this launch yet … */
    bool
        held; /* … and the state was restored from a host's memory: nothing saved holds it */
    bool evaluated; /* right here: what was taken of this step is from before it … */
    bool better;    /* … and it found the best metric so far */
    bool busy;      /* a save is in flight */
    const char
        *deferred; /* why a save was put off at an earlier boundary; NULL: none was */
} DueState;

typedef struct {
    const char *why; /* for people; NULL: nothing is due */
    bool
        later; /* not now: the one in flight goes on, and this one comes due when it has ended */
} Due;

/* What a user named a state for (a stop, the end, an epoch, a better metric) is saved exactly, after waiting
 * for a save in flight. What is due because time has passed (steps, minutes, a request) is served as well by
 * a state a few steps later, so it never holds training up. */
Due due_decide(const Config *config, const DueState *at);
