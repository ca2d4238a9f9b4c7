/* Rank 0's clock: when a save falls due by time, and when the launch must stop so that its last save still
 * fits before its time ends. It speaks to the other ranks through the control word alone, so that no two of
 * them can read different clocks. Times are clock_seconds(). */
#pragma once

#include "src/core/config.h"
#include "src/train/interval.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double started; /* when the launch began */
    double ends;    /* when it must be over; INFINITY: never */
    double margin;  /* that must be left then */
    double period;  /* between two saves; 0: none by the clock. Unless `automatic` */
    bool automatic;
    Interval interval;
    double
        longest_save; /* until durable: of this launch, before its first of an earlier one */
    double counted_from; /* when a save was last begun, or asked for by this clock */
    double looked, gap; /* when timetable_look was last called, and how far apart that is */
    double step;        /* what a step takes while no save is in flight; 0: unknown */
    int steps;          /* seen */
    bool stopping;      /* the time limit was told */
    struct {
        bool flies;
        double begun, stall; /* stall: what its boundary cost */
        double slower;       /* what the steps since then took more than usual */
    } save;
} Timetable;

/* When the launch must be over: by fault.stop_after, and by the scheduler's `job_end` (the text of
 * SLURM_JOB_END_TIME, seconds since 1970; NULL: none). One that has passed already was not meant for this
 * launch, and one that is no time is none: both are said. `unix_now` is the calendar's clock at `started`. */
double timetable_end(const Config *config, double started, const char *job_end,
                     double unix_now);

/* `started`: when the launch began; saves are counted from `now`. `interval` also tells what saves took in earlier launches; without any, the first is expected to be slow. */
void timetable_open(Timetable *self, const Config *config, double started, double now,
                    double ends, const Interval *interval);

/* What the clock asks for now: CONTROL_DUE, or CONTROL_STOP with CONTROL_TIME_LIMIT. Once a step, and once
 * a batch of an evaluation; what it says is heard by all. */
uint32_t timetable_look(Timetable *self, double now);

/* How long before its end the launch stops: time for two steps, its last save, the one in flight and the
 * margin. */
double timetable_reserve(const Timetable *self);

/* A step has been trained in so many seconds, without what happens between two steps. */
void timetable_saw_step(Timetable *self, double seconds);

/* A save was begun at `begun`, and its boundary took `stall` seconds. */
void timetable_began_save(Timetable *self, double begun, double stall);

/* It ended, durable or not, and training has waited for it so long, as far as that was seen. Gives what it
 * cost training: that, or the boundary's stall and what the steps meanwhile took more than usual, whichever is
 * more. */
double timetable_ended_save(Timetable *self, double now, double waited, bool durable);

/* The seconds between two saves that hold now; 0: none by the clock. */
double timetable_period(const Timetable *self, double now);

/* What is left of the launch's time, at most `wish` and at least 0. */
double timetable_left(const Timetable *self, double now, double wish);
