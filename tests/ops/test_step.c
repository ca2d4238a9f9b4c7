/* Whole steps and evaluations on a device that keeps its memory apart and works behind the host: the bits
 * and the failures are those of a device whose memory is the host's. */
#include "tests/support/lone_run.h"

#include "src/train/evaluate.h"

static void a_device_apart_gives_the_bits_of_one_in_host_memory(void **state) {
    (void)state;
    Trained want = on_the_host();
    for (int queued = 0; queued < 2; queued++)
        for (int64_t part = 0; part <= 16; part += 16) {
            Run *run = open_run(true, queued, part);
            Trained got = train_in_step(run);
            assert_int_equal(run->lone.parts > 0, part > 0);
            close_run(run, true);
            assert_same(&got, &want);
        }
}

static void steps_that_are_given_before_the_last_is_known_change_no_bit(void **state) {
    (void)state;
    Trained want = on_the_host();
    for (int queued = 0; queued < 2; queued++) {
        Run *run = open_run(true, queued, 0);
        Trained got = train_behind(run);
        close_run(run, true);
        assert_same(&got, &want);
    }
}

/* Full batches and short ones: two numbers each, neither 0 nor one of the other. */
static void steps_of_one_size_are_repeated_under_their_own_numbers(void **state) {
    (void)state;
    Run *run = open_run(true, true, 0);
    train_in_step(run);
    assert_int_equal(apart.key_count, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(apart.keys[i] != 0);
        assert_int_equal(apart.runs[i], i < 2 ? 5 : 2);
    }
    close_run(run, true);
}

static void a_full_batch_is_two_copies_and_the_values_a_third(void **state) {
    (void)state;
    Run *run = open_run(true, true, 0);
    StepResult result;
    for (int i = 0; i < 2; i++) {
        int before = apart.copies_in;
        give_step(run, i, false);
        assert_int_equal(apart.copies_in - before, 3);
        assert_ok(step_collect(run->step, &result));
    }
    close_run(run, true);
}

static void a_step_that_is_not_finite_is_named_though_the_next_is_given(void **state) {
    (void)state;
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        Run *run = open_run(is_apart, is_apart, 0);
        StepResult result;
        Digest before = {0, 0};
        for (int i = 0; i < BAD; i++) {
            give_step(run, i, false);
            assert_ok(step_collect(run->step, &result));
        }
        before = state_now(run);
        give_step(run, BAD, true);
        Digest after = state_now(run);
        assert_true(digest_equal(before, after)); /* it changed nothing */
        if (is_apart) give_step(run, BAD + 1, false);
        assert_fails(step_collect(run->step, &result), STATUS_NOT_FINITE, "step 4: loss");
        close_run(run, is_apart); /* with a step not collected */
    }
}

/* ---- evaluation */

static uint32_t nothing_asked(void) {
    return 0;
}

static Evaluation evaluated(bool is_apart) {
    enum { SAMPLES = 100 };
    Run *run = open_run(is_apart, false, 0);
    uint8_t *pixels = malloc(SAMPLES * SIDE * SIDE), labels[SAMPLES];
    Rng rng = rng_at(9, RNG_TEST, 0, 0);
    for (uint32_t i = 0; i < SAMPLES * SIDE * SIDE; i++)
        pixels[i] = (uint8_t)rng_word(rng, 0, i);
    for (uint32_t i = 0; i < SAMPLES; i++)
        labels[i] = (uint8_t)rng_below(rng, 1, i, CLASSES);
    const Dataset set = {SAMPLES, 1, SIDE, SIDE, CLASSES, pixels, labels, {0, 0}};
    const Samples samples = {&set, NULL, SAMPLES};
    const LoaderOptions options = {.samples = &samples,
                                   .batch = BATCH,
                                   .shards = SHARDS,
                                   .shard_count = SHARDS,
                                   .std = {1, 1, 1, 1}};
    Evaluator *evaluator;
    Requests requests = {.take = nothing_asked};
    Evaluation twice[2];
    Setup *setup = &run->setup;
    assert_ok(evaluator_open(&run->graph, setup->state, setup->backend, setup->workers,
                             setup->collective, &options, &evaluator));
    for (int i = 0; i < 2; i++) {
        uint32_t bits;
        bool stopped;
        assert_ok(evaluator_run(evaluator, &requests, &bits, &stopped, &twice[i]));
        assert_false(stopped);
    }
    assert_memory_equal(&twice[0], &twice[1], sizeof twice[0]);
    assert_int_equal(twice[0].samples, SAMPLES);
    evaluator_close(evaluator);
    close_run(run, is_apart);
    free(pixels);
    return twice[0];
}

static void an_evaluation_apart_gives_the_same_numbers(void **state) {
    (void)state;
    Evaluation want = evaluated(false), got = evaluated(true);
    assert_true(isfinite(want.loss) && want.loss > 0);
    assert_memory_equal(&got, &want, sizeof got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_apart_gives_the_bits_of_one_in_host_memory),
        cmocka_unit_test(steps_that_are_given_before_the_last_is_known_change_no_bit),
        cmocka_unit_test(steps_of_one_size_are_repeated_under_their_own_numbers),
        cmocka_unit_test(a_full_batch_is_two_copies_and_the_values_a_third),
        cmocka_unit_test(a_step_that_is_not_finite_is_named_though_the_next_is_given),
        cmocka_unit_test(an_evaluation_apart_gives_the_same_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
