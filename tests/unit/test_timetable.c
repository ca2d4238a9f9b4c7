/* Rank 0's clock by times that the test gives: when it asks for saves, and that it stops early enough. */
#include "src/train/timetable.h"

#include "src/collective.h"
#include "tests/support/test.h"

#include <math.h>
#include <string.h>

static Config config;
static const History nothing = {.stall = -1, .longest_save = -1};

static void configure(double minutes, const char *interval, double margin) {
    memset(&config, 0, sizeof config);
    config.checkpoint.every_minutes = minutes;
    strcpy(config.checkpoint.interval, interval);
    config.fault.end_margin = margin;
}

static Timetable open_at(double started, double ends) {
    Timetable timetable;
    Interval interval;
    interval_open(&interval, 10, 600, &nothing, 1e8, 2);
    timetable_open(&timetable, &config, started, started, ends, &interval);
    return timetable;
}

static void without_keys_the_clock_is_silent(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    Timetable timetable = open_at(1000, INFINITY);
    for (double now = 1000; now < 1e6; now += 1000)
        assert_int_equal(timetable_look(&timetable, now), 0);
    assert_true(timetable_period(&timetable, 1e6) == 0);
    assert_true(timetable_left(&timetable, 1e6, 60) == 60);
}

static void minutes_are_counted_from_the_last_save_of_any_kind(void **unused) {
    (void)unused;
    configure(1, "none", 10);
    Timetable timetable = open_at(1000, INFINITY);
    assert_int_equal(timetable_look(&timetable, 1059), 0);
    assert_int_equal(timetable_look(&timetable, 1060), CONTROL_DUE);
    assert_int_equal(timetable_look(&timetable, 1061), 0); /* asked for once */
    timetable_began_save(&timetable, 1090, 1);             /* put off until here */
    timetable_ended_save(&timetable, 1092, 0, true);
    assert_int_equal(timetable_look(&timetable, 1149), 0);
    assert_int_equal(timetable_look(&timetable, 1150), CONTROL_DUE);
    assert_int_equal(timetable_look(&timetable, 1209), 0);
    assert_int_equal(timetable_look(&timetable, 1210),
                     CONTROL_DUE); /* not heard of since */
}

static void auto_follows_what_saves_cost(void **unused) {
    (void)unused;
    configure(0, "auto", 10);
    Timetable timetable = open_at(0, INFINITY);
    timetable_began_save(&timetable, 1, 0.5);
    assert_true(timetable_ended_save(&timetable, 4, 0, true) == 0.5);
    double period = timetable_period(&timetable, 4);
    double known = interval_optimum(0.5, 2, interval_between_failures(&nothing, 4));
    assert_true(fabs(period - known) < 1e-9 && period > 10 && period < 600);
    assert_int_equal(timetable_look(&timetable, 1 + period - 0.1), 0);
    assert_int_equal(timetable_look(&timetable, 1 + period + 0.1), CONTROL_DUE);
}

static void a_save_costs_what_its_steps_took_longer(void **unused) {
    (void)unused;
    configure(0, "auto", 10);
    Timetable timetable = open_at(0, INFINITY);
    for (int i = 0; i < 100; i++)
        timetable_saw_step(&timetable, i == 0 ? 50 : 1);
    timetable_began_save(&timetable, 100, 0.25);
    for (int i = 0; i < 4; i++)
        timetable_saw_step(&timetable, 1.25);
    assert_true(timetable_ended_save(&timetable, 106, 0, true) == 1.25);
    timetable_began_save(&timetable, 200, 0.25);
    timetable_saw_step(&timetable, 0.5); /* faster: that is no merit of the save's */
    assert_true(timetable_ended_save(&timetable, 201, 0, true) == 0.25);
    assert_true(timetable_ended_save(&timetable, 202, 0, true) ==
                0); /* none is in flight */
    timetable_began_save(&timetable, 300, 0.25);
    assert_true(timetable_ended_save(&timetable, 301, 0.75, true) == 0.75);
}

static void a_failed_save_teaches_nothing(void **unused) {
    (void)unused;
    configure(0, "auto", 10);
    Timetable timetable = open_at(0, INFINITY);
    timetable_began_save(&timetable, 1, 1);
    timetable_ended_save(&timetable, 500, 0, false);
    assert_int_equal(timetable.interval.saves, 0);
}

/* Stops at the first look at or after `moment`, and not at the one before. */
static void assert_stops_at(Timetable *timetable, double from, double step, double moment) {
    double now = from;
    for (; now < moment; now += step)
        assert_int_equal(timetable_look(timetable, now), 0);
    assert_int_equal(timetable_look(timetable, now), CONTROL_STOP | CONTROL_TIME_LIMIT);
    assert_int_equal(timetable_look(timetable, now + step), 0); /* once is heard */
}

static void the_last_save_fits_before_the_end(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    Timetable timetable = open_at(0, 200);
    timetable_began_save(&timetable, 0, 0.5);
    timetable_ended_save(&timetable, 8, 0, true);
    timetable_began_save(&timetable, 10, 0.5);
    timetable_ended_save(&timetable, 14, 0, true);
    /* 10 s of margin, 1.5 times the longest save, and two steps of one second */
    assert_stops_at(&timetable, 100, 1, 200 - 10 - 12 - 2);
    assert_true(timetable_left(&timetable, 185, 60) == 5);
    assert_true(timetable_left(&timetable, 195, 60) == 0);
}

static void one_in_flight_must_end_before(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    Timetable timetable = open_at(0, 200);
    timetable_began_save(&timetable, 0, 0.5);
    timetable_ended_save(&timetable, 8, 0, true);
    timetable_began_save(&timetable, 99, 0.5);
    assert_stops_at(&timetable, 100, 1, 200 - 10 - 24 - 2);
}

static void before_any_save_a_slow_disk_is_assumed(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    Timetable timetable = open_at(0, 200); /* 1e8 bytes: a second, and half of it again */
    assert_stops_at(&timetable, 100, 0.25, 200 - 10 - 1.5 - 0.5);
    History slow = nothing;
    slow.longest_save = 40;
    Interval interval;
    interval_open(&interval, 10, 600, &slow, 1e8, 2);
    timetable_open(&timetable, &config, 0, 0, 200, &interval);
    assert_stops_at(&timetable, 100, 0.25, 200 - 10 - 60 - 0.5);
}

static void a_long_step_is_reckoned_with_for_a_while(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    const uint32_t stop = CONTROL_STOP | CONTROL_TIME_LIMIT;
    Timetable timetable = open_at(0, 200);
    assert_int_equal(timetable_look(&timetable, 100), 0);
    assert_int_equal(timetable_look(&timetable, 120), 0);
    assert_int_equal(timetable_look(&timetable, 155), stop); /* two more are too much */
    timetable = open_at(0, 200);
    assert_int_equal(timetable_look(&timetable, 0), 0);
    assert_int_equal(timetable_look(&timetable, 35), 0);
    assert_stops_at(&timetable, 35.25, 0.25, 200 - 10 - 1.5 - 0.5);
}

static void the_end_is_the_earlier_of_two(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    assert_true(isinf(timetable_end(&config, 50, NULL, 1e9)));
    assert_true(isinf(timetable_end(&config, 50, "", 1e9)));
    assert_true(timetable_end(&config, 50, "1000000100", 1e9) == 150);
    assert_true(timetable_end(&config, 50, "1000000100", 1e9 + 0.5) == 149.5);
    config.fault.stop_after = 30;
    assert_true(timetable_end(&config, 50, NULL, 1e9) == 80);
    assert_true(timetable_end(&config, 50, "1000000100", 1e9) == 80);
    assert_true(timetable_end(&config, 50, "1000000010", 1e9) == 60);
}

static void an_end_that_is_none_is_passed_over(void **unused) {
    (void)unused;
    configure(0, "none", 10);
    const char *const texts[] = {
        "soon", "1000000000", "999999999", "-1",
        "0",    "1e9",        " 1",        "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_true(isinf(timetable_end(&config, 50, texts[i], 1e9)));
    /* as schedulers write "unlimited" */
    assert_true(timetable_end(&config, 50, "4294967294", 1e9) > 3e9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_keys_the_clock_is_silent),
        cmocka_unit_test(minutes_are_counted_from_the_last_save_of_any_kind),
        cmocka_unit_test(auto_follows_what_saves_cost),
        cmocka_unit_test(a_save_costs_what_its_steps_took_longer),
        cmocka_unit_test(a_failed_save_teaches_nothing),
        cmocka_unit_test(the_last_save_fits_before_the_end),
        cmocka_unit_test(one_in_flight_must_end_before),
        cmocka_unit_test(before_any_save_a_slow_disk_is_assumed),
        cmocka_unit_test(a_long_step_is_reckoned_with_for_a_while),
        cmocka_unit_test(the_end_is_the_earlier_of_two),
        cmocka_unit_test(an_end_that_is_none_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
