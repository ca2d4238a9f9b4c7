/* Three measured numbers and a square root. */
#include "src/train/interval.h"

#include <math.h>

static const double prior_failures = 1.0 / 48, prior_exposure = 1800;
static const double bytes_a_second = 1e9; /* a guess that the first save replaces */
static const double newest_weighs = 0.25;

static double smaller(double a, double b) {
    return a < b ? a : b;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

double interval_optimum(double stall, double recovery, double between_failures) {
    return stall + sqrt(2 * (between_failures + recovery) * stall + stall * stall);
}

double interval_between_failures(const History *history, double running) {
    double ran = history->exposure + running;
    double mean = (prior_exposure + ran) / (prior_failures + history->failures);
    return smaller(mean, larger(prior_exposure / prior_failures, ran));
}

void interval_open(Interval *self, double least, double most, const History *history,
                   double bytes, double recovery) {
    double guess = bytes / bytes_a_second;
    *self =
        (Interval){.least = least,
                   .most = most,
                   .stall = history->stall >= 0 ? history->stall : guess,
                   .recovery = recovery,
                   .duration = history->longest_save >= 0 ? history->longest_save : guess,
                   .bytes = bytes,
                   .history = *history};
}

void interval_saw_save(Interval *self, double stall, double duration) {
    double weight = self->saves == 0 ? 1 : newest_weighs;
    self->stall += weight * (stall - self->stall);
    self->duration += weight * (duration - self->duration);
    self->saves++;
}

double interval_seconds(const Interval *self, double running) {
    double between = interval_between_failures(&self->history, running);
    double seconds = interval_optimum(self->stall, self->recovery, between);
    seconds = larger(seconds, self->duration);
    return smaller(larger(seconds, self->least), self->most);
}
