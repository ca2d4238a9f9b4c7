/* One launch of a run under verify-resume: started, watched through metrics.jsonl, and killed where the
 * order says so. */
#pragma once

#include "src/checkpoint/catalog.h"

#include <stdbool.h>
#include <stdint.h>

/* What all launches have in common. Pointers are the caller's. */
typedef struct {
    const char *launcher; /* mpirun; NULL: the program is started alone */
    const char *program;
    const char *run_file;
    const char *const *sets; /* the user's */
    int set_count;
    const char *log;     /* gets the output of every launch */
    int64_t every_steps; /* checkpoint.every_steps; 0: as the user has it */
} LaunchPlan;

typedef struct {
    int ranks;
    bool kill;
    int victim;          /* rank to kill … */
    double delay_s;      /* … so long after the start, or … */
    int64_t latest_step; /* … when this step was logged, whichever is first */
    bool after_a_step;   /* the delay counts from the first step (a fresh run only) */
} LaunchOrder;

typedef struct {
    int code;     /* exit code of the launch */
    bool killed;  /* the signal was sent to a living rank, and the launch failed */
    bool trained; /* it came as far as training, fresh or restored */
    int64_t step; /* newest logged step when the rank was killed, or at the end; 0: none */
    double seconds;                   /* from the start until then */
    double first_step_s;              /* until the first logged step (a fresh run only) */
    char restored_from[CATALOG_NAME]; /* empty: a fresh start, or not come so far */
    int64_t saved_step;               /* newest valid checkpoint afterwards; −1: none */
} LaunchResult;

/* Runs one launch to its end. Returns with nothing left running.
 * Errors: STATUS_STOPPED when *signal interrupted it; STATUS_USAGE when the launch ended so (its own text
 * is in the log); STATUS_IO; STATUS_WATCHDOG when it did not end after a rank was killed. How else it
 * ended is in *result: a failure without a kill is the caller's to judge */
Status verify_launch(const LaunchPlan *plan, const char *run_dir, const LaunchOrder *order,
                     LaunchResult *result, int *signal);
