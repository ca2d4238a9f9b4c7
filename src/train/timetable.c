/* Arithmetic on times that the caller gives. */
#include "src/train/timetable.h"

#include "src/collective.h"
#include "src/core/log.h"
#include "src/train/due.h"

#include <math.h>
#include <string.h>

static const double save_safety = 1.5; /* the next save may be slower than the slowest */
static const double gap_fades = 0.9;   /* of what two looks may lie apart, each look */
static const double step_weighs = 1.0 / 16;
static const double slow_disk = 1e8; /* bytes a second, where no save was measured yet */

static double smaller(double a, double b) {
    return a < b ? a : b;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

double timetable_end(const Config *config, double started, const char *job_end,
                     double unix_now) {
    double ends =
        config->fault.stop_after > 0 ? started + config->fault.stop_after : INFINITY;
    int64_t at;
    if (job_end == NULL || job_end[0] == '\0') return ends;
    if (!parse_int64(job_end, &at) || at <= 0) {
        LOG_W("SLURM_JOB_END_TIME=%.40s is no time in seconds: it is passed over", job_end);
        return ends;
    }
    double left = (double)at - unix_now;
    if (left <= 0) {
        LOG_W("SLURM_JOB_END_TIME=%lld has passed already: it is passed over",
              (long long)at);
        return ends;
    }
    return smaller(ends, started + left);
}

void timetable_open(Timetable *self, const Config *config, double started, double now,
                    double ends, const Interval *interval) {
    double earlier = interval->history.longest_save;
    *self =
        (Timetable){.started = started,
                    .ends = ends,
                    .margin = config->fault.end_margin,
                    .period = 60 * config->checkpoint.every_minutes,
                    .automatic = strcmp(config->checkpoint.interval, "auto") == 0,
                    .interval = *interval,
                    .longest_save = earlier >= 0 ? earlier : interval->bytes / slow_disk,
                    .counted_from = now,
                    .looked = -1};
}

double timetable_period(const Timetable *self, double now) {
    return self->automatic ? interval_seconds(&self->interval, now - self->started)
                           : self->period;
}

double timetable_left(const Timetable *self, double now, double wish) {
    return larger(0, smaller(wish, self->ends - self->margin - now));
}

/* Who does not stop now can stop a look later, acts on it a step after that, finishes the save in flight,
 * and saves then. */
double timetable_reserve(const Timetable *self) {
    double save = save_safety * self->longest_save;
    return 2 * self->gap + (self->save.flies ? 2 * save : save) + self->margin;
}

static void measure_gap(Timetable *self, double now) {
    if (self->looked >= 0) self->gap = larger(now - self->looked, gap_fades * self->gap);
    self->looked = now;
}

uint32_t timetable_look(Timetable *self, double now) {
    measure_gap(self, now);
    if (!self->stopping && now + timetable_reserve(self) >= self->ends) {
        self->stopping = true;
        return CONTROL_STOP | CONTROL_TIME_LIMIT;
    }
    double period = timetable_period(self, now);
    if (period <= 0 || now - self->counted_from < period) return 0;
    self->counted_from = now;
    return CONTROL_DUE;
}

void timetable_saw_step(Timetable *self, double seconds) {
    if (self->steps++ == 0) return; /* a launch's first one warms everything up */
    if (self->save.flies) {
        if (self->step > 0) self->save.slower += seconds - self->step;
    } else if (self->step > 0) { /* one that was held up tells little of the others */
        self->step += step_weighs * (smaller(seconds, 2 * self->step) - self->step);
    } else {
        self->step = seconds;
    }
}

void timetable_began_save(Timetable *self, double begun, double stall) {
    self->save.flies = true;
    self->save.begun = begun;
    self->save.stall = stall;
    self->save.slower = 0;
    self->counted_from = begun;
}

double timetable_ended_save(Timetable *self, double now, double waited, bool durable) {
    if (!self->save.flies) return waited;
    double cost = larger(waited, self->save.stall + larger(0, self->save.slower));
    double took = now - self->save.begun;
    self->save.flies = false;
    if (!durable) return cost;
    bool first = self->interval.saves == 0;
    self->longest_save = first ? took : larger(self->longest_save, took);
    interval_saw_save(&self->interval, cost, took);
    return cost;
}
