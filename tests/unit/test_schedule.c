/* The learning rate of every kind of schedule, against libm and by its own promises. */
#include "tests/support/test.h"

#include "src/train/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const Horizon horizon = {.total_steps = 1000, .steps_per_epoch = 50};

static Config config_of(const char *kind, int64_t warmup) {
    static Config config; /* large: kept off the stack */
    memset(&config, 0, sizeof config);
    config.optimizer.lr = 0.1;
    config.schedule.warmup_steps = warmup;
    config.schedule.step_size = 30;
    config.schedule.milestones = (ConfigList){2, {100, 500}};
    config.schedule.gamma = 0.5;
    config.schedule.power = 0.9;
    config.schedule.min_lr = 0.001;
    snprintf(config.schedule.kind, sizeof config.schedule.kind, "%s", kind);
    return config;
}

static void assert_rate(const Config *config, int64_t step, double want) {
    double got = schedule_rate(config, horizon, step);
    if (!(fabs(got - want) <= 1e-14 * fabs(want)))
        fail_msg("%s at step %lld: %.17g, not %.17g", config->schedule.kind,
                 (long long)step, got, want);
}

static void warm_up_rises_in_equal_steps_to_the_full_rate(void **state) {
    (void)state;
    const char *kinds[] = {"constant",    "step",       "multistep",
                           "exponential", "polynomial", "cosine"};
    for (int i = 0; i < 6; i++) {
        Config config = config_of(kinds[i], 20);
        assert_rate(&config, 0, 0.1 * 1 / 20);
        assert_rate(&config, 9, 0.1 * 10 / 20);
        assert_rate(&config, 19, 0.1);
        assert_rate(&config, 20, 0.1); /* every kind starts at the full rate */
    }
}

static void a_constant_rate_stays(void **state) {
    (void)state;
    Config config = config_of("constant", 0);
    assert_rate(&config, 0, 0.1);
    assert_rate(&config, 999, 0.1);
    assert_rate(&config, 5000, 0.1);
}

static void steps_halve_the_rate_at_their_size(void **state) {
    (void)state;
    Config config = config_of("step", 0);
    assert_rate(&config, 29, 0.1);
    assert_rate(&config, 30, 0.05);
    assert_rate(&config, 59, 0.05);
    assert_rate(&config, 60, 0.025);
    config.schedule.gamma = 0.97;
    assert_rate(&config, 300, 0.1 * pow(0.97, 10));
}

static void milestones_halve_the_rate_from_their_step_on(void **state) {
    (void)state;
    Config config = config_of("multistep", 0);
    assert_rate(&config, 99, 0.1);
    assert_rate(&config, 100, 0.05);
    assert_rate(&config, 499, 0.05);
    assert_rate(&config, 500, 0.025);
    assert_rate(&config, 999, 0.025);
}

static void an_exponential_rate_decays_once_an_epoch(void **state) {
    (void)state;
    Config config = config_of("exponential", 0);
    config.schedule.gamma = 0.9;
    assert_rate(&config, 49, 0.1);
    assert_rate(&config, 50, 0.09);
    assert_rate(&config, 99, 0.09);
    assert_rate(&config, 500, 0.1 * pow(0.9, 10));
}

static void a_polynomial_rate_ends_at_the_least_rate(void **state) {
    (void)state;
    Config config = config_of("polynomial", 100);
    for (int64_t step = 100; step < 1000; step += 37)
        assert_rate(&config, step,
                    0.001 + 0.099 * pow(1 - (double)(step - 100) / 900.0, 0.9));
    assert_rate(&config, 1000, 0.001);
    assert_rate(&config, 4000, 0.001); /* trained past the plan */
}

static void a_cosine_rate_falls_from_full_to_least(void **state) {
    (void)state;
    Config config = config_of("cosine", 100);
    double before = 1;
    for (int64_t step = 100; step <= 1000; step += 25) {
        double rate = schedule_rate(&config, horizon, step);
        double want = 0.001 + 0.099 * (1 + cos(M_PI * (double)(step - 100) / 900.0)) / 2;
        assert_true(fabs(rate - want) < 1e-16);
        assert_true(rate < before);
        before = rate;
    }
    assert_rate(&config, 550, 0.0505);
    assert_rate(&config, 1000, 0.001);
    assert_rate(&config, 1500, 0.001); /* it does not rise again */
}

static void a_warm_up_as_long_as_the_run_divides_by_nothing(void **state) {
    (void)state;
    Config config = config_of("cosine", 1000);
    assert_rate(&config, 999, 0.1);
    assert_rate(&config, 1000, 0.001);
}

static void the_rate_does_not_depend_on_what_was_asked_before(void **state) {
    (void)state;
    Config config = config_of("cosine", 7);
    double forward[200];
    for (int64_t step = 0; step < 200; step++)
        forward[step] = schedule_rate(&config, horizon, step);
    for (int64_t step = 199; step >= 0; step--) {
        double again = schedule_rate(&config, horizon, step);
        assert_memory_equal(&again, &forward[step], sizeof again);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_in_equal_steps_to_the_full_rate),
        cmocka_unit_test(a_constant_rate_stays),
        cmocka_unit_test(steps_halve_the_rate_at_their_size),
        cmocka_unit_test(milestones_halve_the_rate_from_their_step_on),
        cmocka_unit_test(an_exponential_rate_decays_once_an_epoch),
        cmocka_unit_test(a_polynomial_rate_ends_at_the_least_rate),
        cmocka_unit_test(a_cosine_rate_falls_from_full_to_least),
        cmocka_unit_test(a_warm_up_as_long_as_the_run_divides_by_nothing),
        cmocka_unit_test(the_rate_does_not_depend_on_what_was_asked_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
