/* A snapshot is the state of one boundary, whatever training does afterwards, and training keeps its bits, whatever
 * becomes of the snapshot. */
#include "tests/support/lone_run.h"

#include "src/train/snapshot.h"

static void step_through(Run *run, Snapshot *snapshot, int number) {
    StepResult result;
    give_step_to(run, number, false, snapshot_target(snapshot));
    assert_ok(step_collect(run->step, &result));
}

static void assert_snapshot_is(const Snapshot *snapshot, Digest digest) {
    assert_true(digest_equal(state_digest(snapshot_state(snapshot)), digest));
}

/* Of every second state a snapshot is taken, and read two steps later: the sets change places again and again. */
static void a_snapshot_stands_still_and_training_keeps_its_bits(void **state) {
    (void)state;
    static const char *const kinds[] = {"adamw", "adam", "sgd", "sgd"};
    for (int kind = 0; kind < 4; kind++) {
        Digest want[STEPS], end;
        Run *plain = open_run_of(kinds[kind], kind == 3 ? 0.9 : 0);
        Run *run = open_run_of(kinds[kind], kind == 3 ? 0.9 : 0);
        Snapshot *snapshot;
        assert_ok(
            snapshot_open(run->setup.state, run->setup.backend, SNAPSHOT_SPARE, &snapshot));
        assert_true(snapshot_spare_bytes(snapshot) > 0);
        for (int i = 0; i < STEPS; i++) {
            StepResult result;
            give_step(plain, i, false);
            assert_ok(step_collect(plain->step, &result));
            want[i] = state_digest(plain->setup.state);
            step_through(run, snapshot, i);
            assert_null(snapshot_target(snapshot)); /* once is enough */
            if (i > 0) assert_snapshot_is(snapshot, want[(i - 1) / 2 * 2]);
            if (i % 2 != 0) continue;
            snapshot_release(snapshot);
            const void *parameters = run->setup.state->arenas[ARENA_PARAMETER].data;
            assert_ok(snapshot_take(snapshot));
            assert_true(snapshot_is_whole(snapshot));
            assert_non_null(snapshot_target(snapshot));
            assert_ptr_equal(snapshot_state(snapshot)->arenas[ARENA_PARAMETER].data,
                             parameters); /* no copy */
        }
        end = state_digest(run->setup.state);
        assert_true(digest_equal(end, want[STEPS - 1]));
        snapshot_close(snapshot);
        close_run(plain, false);
        close_run(run, false);
    }
}

static void without_a_second_set_the_snapshot_is_in_the_way_until_released(void **state) {
    (void)state;
    Run *run = open_run(false, false, 0);
    Snapshot *snapshot;
    assert_ok(
        snapshot_open(run->setup.state, run->setup.backend, SNAPSHOT_OVERLAP, &snapshot));
    assert_int_equal(snapshot_spare_bytes(snapshot), 0);
    assert_false(snapshot_is_in_the_way(snapshot));
    assert_ok(snapshot_take(snapshot));
    assert_snapshot_is(snapshot, state_digest(run->setup.state));
    assert_null(snapshot_target(snapshot));
    assert_true(snapshot_is_in_the_way(snapshot));
    snapshot_release(snapshot);
    assert_false(snapshot_is_in_the_way(snapshot));
    assert_false(snapshot_is_taken(snapshot));
    snapshot_close(snapshot);
    close_run(run, false);
}

static void a_refused_step_exchanges_nothing(void **state) {
    (void)state;
    Run *run = open_run(false, false, 0);
    Snapshot *snapshot;
    StepResult result;
    assert_ok(
        snapshot_open(run->setup.state, run->setup.backend, SNAPSHOT_SPARE, &snapshot));
    give_step(run, 0, false);
    assert_ok(step_collect(run->step, &result));
    Digest before = state_digest(run->setup.state);
    const void *parameters = run->setup.state->arenas[ARENA_PARAMETER].data;
    assert_ok(snapshot_take(snapshot));
    give_step_to(run, 1, true, snapshot_target(snapshot));
    assert_fails(step_collect(run->step, &result), STATUS_NOT_FINITE, "step 2: loss");
    assert_ptr_equal(run->setup.state->arenas[ARENA_PARAMETER].data, parameters);
    assert_true(digest_equal(state_digest(run->setup.state), before));
    assert_snapshot_is(snapshot, before);
    assert_non_null(snapshot_target(snapshot)); /* the next one still has to go there */
    snapshot_close(snapshot);
    close_run(run, false);
}

/* Scalars change outside of updates, too. */
static void a_snapshots_scalars_are_its_own(void **state) {
    (void)state;
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        Run *run = open_run(is_apart, false, 0);
        Setup *setup = &run->setup;
        Snapshot *snapshot;
        int64_t *step = state_data(setup->state, state_find(setup->state, "progress/step"));
        assert_ok(snapshot_open(setup->state, setup->backend, SNAPSHOT_SPARE, &snapshot));
        *step = 41;
        assert_ok(snapshot_take(snapshot));
        assert_ok(snapshot_wait(snapshot));
        Digest taken = state_digest(snapshot_state(snapshot));
        assert_true(digest_equal(taken, state_digest(setup->state)));
        *step = 42;
        assert_snapshot_is(snapshot, taken);
        assert_false(digest_equal(taken, state_digest(setup->state)));
        snapshot_close(snapshot);
        close_run(run, is_apart);
    }
}

/* On a device apart the snapshot is the host's copy, fetched while the next step computes. */
static void a_snapshot_of_a_device_apart_arrives_behind_the_next_step(void **state) {
    (void)state;
    Trained want = on_the_host();
    Run *run = open_run(true, true, 0);
    Snapshot *snapshot;
    StepResult result;
    assert_ok(
        snapshot_open(run->setup.state, run->setup.backend, SNAPSHOT_SPARE, &snapshot));
    assert_int_equal(snapshot_spare_bytes(snapshot), 0);
    for (int i = 0; i < STEPS; i++) {
        assert_null(snapshot_target(snapshot));
        assert_false(snapshot_is_in_the_way(snapshot));
        give_step(run, i, false);
        assert_ok(step_collect(run->step, &result));
        snapshot_arrived(snapshot);
        if (i == 4) assert_snapshot_is(snapshot, want.after_fourth);
        if (i != 3) continue;
        assert_ok(snapshot_take(snapshot));
        assert_true(snapshot_is_taken(snapshot));
        assert_false(snapshot_is_whole(snapshot));
    }
    assert_true(digest_equal(state_now(run), want.end));
    snapshot_close(snapshot);
    close_run(run, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_stands_still_and_training_keeps_its_bits),
        cmocka_unit_test(without_a_second_set_the_snapshot_is_in_the_way_until_released),
        cmocka_unit_test(a_refused_step_exchanges_nothing),
        cmocka_unit_test(a_snapshots_scalars_are_its_own),
        cmocka_unit_test(a_snapshot_of_a_device_apart_arrives_behind_the_next_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
