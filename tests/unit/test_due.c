/* Each reason to save, which of two counts, and what a save in flight changes. */
#include "src/train/due.h"

#include "src/collective.h"
#include "tests/support/test.h"

#include <string.h>

static Config config_of(int64_t every_steps, bool every_epoch) {
    Config config;
    memset(&config, 0, sizeof config);
    config.checkpoint.every_steps = every_steps;
    config.checkpoint.every_epoch = every_epoch;
    strcpy(config.checkpoint.interval, "none");
    strcpy(config.checkpoint.keep_best.metric, "none");
    return config;
}

static DueState state_at(int64_t step, int64_t position) {
    return (DueState){
        .step = step, .position = position, .total_steps = 100, .taken_step = -1};
}

static void assert_now(const Config *config, const DueState *at, const char *why) {
    Due due = due_decide(config, at);
    assert_non_null(due.why);
    assert_string_equal(due.why, why);
    assert_false(due.later);
}

static void assert_later(const Config *config, const DueState *at, const char *why) {
    Due due = due_decide(config, at);
    assert_non_null(due.why);
    assert_string_equal(due.why, why);
    assert_true(due.later);
}

static void assert_nothing(const Config *config, const DueState *at) {
    assert_null(due_decide(config, at).why);
}

static void steps_and_epochs_are_counted_in_the_run(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    DueState at = state_at(20, 40);
    assert_now(&config, &at, "interval");
    at = state_at(21, 60);
    assert_nothing(&config, &at);
    at = state_at(25, 0);
    assert_now(&config, &at, "epoch");
    at = state_at(0, 0);
    assert_nothing(&config, &at);
    config = config_of(0, false);
    at = state_at(20, 0);
    assert_nothing(&config, &at);
}

static void the_end_is_saved_whatever_is_configured(void **unused) {
    (void)unused;
    Config config = config_of(0, false);
    DueState at = state_at(100, 0);
    assert_now(&config, &at, "end");
}

static void what_was_asked_for_is_named_and_a_stop_is_named_first(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    DueState at = state_at(7, 40);
    at.bits = CONTROL_SAVE;
    assert_now(&config, &at, "asked for");
    at.bits |= CONTROL_STOP;
    assert_now(&config, &at, "stop");
    at.bits |= CONTROL_TIME_LIMIT;
    assert_now(&config, &at, "time limit");
    at = state_at(20, 0); /* an epoch's end names the state better than its number does */
    assert_now(&config, &at, "epoch");
}

static void a_better_metric_is_saved_where_that_is_wanted(void **unused) {
    (void)unused;
    Config config = config_of(0, false);
    DueState at = state_at(7, 40);
    at.evaluated = at.better = true;
    assert_nothing(&config, &at);
    config.checkpoint.on_better = true;
    assert_now(&config, &at, "better");
    at.busy = true;
    assert_now(&config, &at, "better");
    at.better = false;
    assert_nothing(&config, &at);
}

static void the_clock_is_heard_through_the_control_word(void **unused) {
    (void)unused;
    Config config = config_of(0, false);
    config.checkpoint.every_minutes = 5;
    DueState at = state_at(7, 40);
    assert_nothing(&config, &at);
    at.bits = CONTROL_DUE;
    assert_now(&config, &at, "minutes");
    config.checkpoint.every_minutes = 0;
    strcpy(config.checkpoint.interval, "auto");
    assert_now(&config, &at, "auto");
}

static void nothing_is_saved_twice(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    DueState at = state_at(20, 0);
    at.taken_step = 20;
    assert_nothing(&config, &at);
    at.bits = CONTROL_STOP;
    assert_nothing(&config, &at);
    at.evaluated = true; /* another state than the one that was taken */
    assert_now(&config, &at, "stop");
}

static void what_was_held_only_is_saved_first_of_all(void **unused) {
    (void)unused;
    Config config = config_of(0, false);
    DueState at = state_at(33, 40);
    at.held = true;
    assert_nothing(&config, &at);
    at.first = true;
    assert_now(&config, &at, "held");
    at.taken_step = 33;
    assert_nothing(&config, &at);
}

static void a_repeated_evaluation_is_saved(void **unused) {
    (void)unused;
    Config config = config_of(0, false);
    DueState at = state_at(20, 40);
    at.taken_step = 20;
    at.evaluated = true;
    assert_nothing(&config, &at);
    at.first = true;
    assert_now(&config, &at, "evaluation");
}

static void what_time_asks_for_waits_for_the_save_in_flight(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    config.checkpoint.every_minutes = 5;
    DueState at = state_at(20, 40);
    at.busy = true;
    assert_later(&config, &at, "interval");
    at = state_at(21, 60);
    at.busy = true;
    at.bits = CONTROL_DUE;
    assert_later(&config, &at, "minutes");
    at.bits = CONTROL_SAVE;
    assert_later(&config, &at, "asked for");
}

static void what_names_a_state_does_not(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    DueState at = state_at(20, 0);
    at.busy = true;
    assert_now(&config, &at, "epoch");
    at = state_at(20, 40);
    at.busy = at.evaluated = true;
    assert_later(&config, &at, "interval");
    strcpy(config.checkpoint.keep_best.metric, "loss"); /* which that file would carry */
    assert_now(&config, &at, "interval");
    at = state_at(7, 40);
    at.busy = true;
    at.bits = CONTROL_STOP;
    assert_now(&config, &at, "stop");
    at = state_at(100, 0);
    at.busy = true;
    assert_now(&config, &at, "end");
}

static void what_was_put_off_comes_due_when_the_save_in_flight_has_ended(void **unused) {
    (void)unused;
    Config config = config_of(10, true);
    DueState at = state_at(21, 60);
    at.busy = true;
    at.deferred = "interval";
    assert_nothing(&config, &at);
    at.busy = false;
    assert_now(&config, &at, "interval");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_and_epochs_are_counted_in_the_run),
        cmocka_unit_test(the_end_is_saved_whatever_is_configured),
        cmocka_unit_test(what_was_asked_for_is_named_and_a_stop_is_named_first),
        cmocka_unit_test(a_better_metric_is_saved_where_that_is_wanted),
        cmocka_unit_test(the_clock_is_heard_through_the_control_word),
        cmocka_unit_test(nothing_is_saved_twice),
        cmocka_unit_test(what_was_held_only_is_saved_first_of_all),
        cmocka_unit_test(a_repeated_evaluation_is_saved),
        cmocka_unit_test(what_time_asks_for_waits_for_the_save_in_flight),
        cmocka_unit_test(what_names_a_state_does_not),
        cmocka_unit_test(what_was_put_off_comes_due_when_the_save_in_flight_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
