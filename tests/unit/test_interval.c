/* The interval's formula by known numbers, and what it makes of a run's history. */
#include "src/train/interval.h"

#include "tests/support/test.h"

#include <math.h>

static const History nothing = {.stall = -1, .longest_save = -1};

static void assert_near(double value, double expected) {
    if (fabs(value - expected) > 1e-6 * fabs(expected) + 1e-12)
        fail_msg("%.9g, not %.9g", value, expected);
}

static void the_formula_gives_known_numbers(void **unused) {
    (void)unused;
    assert_near(interval_optimum(1, 0, 4), 1 + 3);     /* 1 + sqrt(8 + 1) */
    assert_near(interval_optimum(2, 10, 110), 2 + 22); /* 2 + sqrt(480 + 4) */
    assert_near(interval_optimum(0, 10, 1e6), 0); /* what costs nothing is done always */
    assert_near(interval_optimum(5, 60, 86400), 5 + sqrt(864625.0));
}

/* Of the time, when failures come like a Poisson process, also during saves and recoveries: work ÷ the
 * expectation of all that is spent until a stretch of T has once gone through (Daly 2006). */
static double worked(double interval, double stall, double recovery, double between) {
    return (interval - stall) /
           (between * exp(recovery / between) * (exp(interval / between) - 1));
}

static void no_other_interval_wastes_noticeably_less(void **unused) {
    (void)unused;
    const double cases[][3] = {{0.05, 5, 120}, {1, 30, 3600}, {20, 60, 7200}, {0.5, 2, 30}};
    for (int i = 0; i < 4; i++) {
        double stall = cases[i][0], recovery = cases[i][1], between = cases[i][2];
        double best = 0, chosen = interval_optimum(stall, recovery, between);
        for (double other = stall; other < 2 * between; other += between / 10000)
            best = fmax(best, worked(other, stall, recovery, between));
        double ours = worked(chosen, stall, recovery, between);
        if (ours < 0.998 * best)
            fail_msg("%g s: %g of the time, not %g", chosen, ours, best);
        /* and it matters: a third and three times of it are worse */
        assert_true(worked(chosen / 3, stall, recovery, between) < ours);
        assert_true(worked(chosen * 3, stall, recovery, between) < ours);
    }
}

static void a_run_that_never_failed_is_expected_to_fail_once_a_day(void **unused) {
    (void)unused;
    assert_near(interval_between_failures(&nothing, 0), 86400);
    assert_near(interval_between_failures(&nothing, 3600), 86400);
    /* and later not sooner than after what it has lasted already */
    assert_near(interval_between_failures(&nothing, 10 * 86400.0), 10 * 86400.0);
}

static void what_was_seen_outweighs_what_was_expected(void **unused) {
    (void)unused;
    History often = nothing;
    often.launches = often.failures = 30;
    often.exposure = 3600; /* each 120 s */
    double seconds = interval_between_failures(&often, 0);
    assert_true(seconds > 120 && seconds < 200);
    History once = nothing;
    once.launches = 2;
    once.failures = 1;
    once.exposure = 36000;
    seconds = interval_between_failures(&once, 0);
    assert_true(seconds > 0.9 * 36000 && seconds < 1.1 * 36000);
}

static void before_the_first_save_others_or_the_size_are_asked(void **unused) {
    (void)unused;
    Interval interval;
    interval_open(&interval, 0, 1e6, &nothing, 2e9, 7);
    assert_near(interval.stall, 2);
    assert_near(interval.duration, 2);
    History known = nothing;
    known.stall = 0.5;
    known.longest_save = 9;
    interval_open(&interval, 0, 1e6, &known, 2e9, 7);
    assert_near(interval.stall, 0.5);
    assert_near(interval.duration, 9);
    assert_near(interval_seconds(&interval, 0), interval_optimum(0.5, 7, 86400));
}

static void measured_saves_take_the_guesss_place_and_newer_ones_count_more(void **unused) {
    (void)unused;
    Interval interval;
    interval_open(&interval, 0, 1e6, &nothing, 2e9, 7);
    interval_saw_save(&interval, 0.1, 3);
    assert_near(interval.stall, 0.1);
    assert_near(interval.duration, 3);
    interval_saw_save(&interval, 0.5, 7);
    assert_near(interval.stall, 0.2);
    assert_near(interval.duration, 4);
}

static void the_bounds_have_the_last_word(void **unused) {
    (void)unused;
    Interval interval;
    interval_open(&interval, 30, 600, &nothing, 1e9, 0);
    interval_saw_save(&interval, 1e-6, 0.001);
    assert_near(interval_seconds(&interval, 0), 30);
    interval_saw_save(&interval, 1e6, 0.001);
    assert_near(interval_seconds(&interval, 0), 600);
}

static void saves_are_never_closer_than_one_takes(void **unused) {
    (void)unused;
    Interval interval;
    interval_open(&interval, 1, 600, &nothing, 1e9, 0);
    interval_saw_save(&interval, 1e-9, 45);
    assert_near(interval_seconds(&interval, 0), 45);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_formula_gives_known_numbers),
        cmocka_unit_test(no_other_interval_wastes_noticeably_less),
        cmocka_unit_test(a_run_that_never_failed_is_expected_to_fail_once_a_day),
        cmocka_unit_test(what_was_seen_outweighs_what_was_expected),
        cmocka_unit_test(before_the_first_save_others_or_the_size_are_asked),
        cmocka_unit_test(measured_saves_take_the_guesss_place_and_newer_ones_count_more),
        cmocka_unit_test(the_bounds_have_the_last_word),
        cmocka_unit_test(saves_are_never_closer_than_one_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
