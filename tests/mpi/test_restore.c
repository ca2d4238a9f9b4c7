/* A restore brings the same bytes to every rank, walks back past damage, and is never a silent fresh
 * start. */
#include "dist/world.h"
#include "src/checkpoint/restore.h"
#include "tests/support/checkpoint_state.h"
#include "tests/support/run_directory.h"
#include "tests/support/test.h"

static Collective *world;
static RunDirectory run;  /* rank 0's */
static char run_path[64]; /* the others look at a place that is not there: a stale view */
static State *state;      /* stepped_state's registry, zero */
static RestoreResult result;

static void together(void) {
    assert_int_equal(world->ops->barrier(world), STATUS_OK);
}

static int make_run(void **unused) {
    (void)unused;
    strcpy(run_path, "/nonexistent/run");
    if (world->rank == 0) {
        run = run_directory_create();
        strcpy(run_path, run.path);
    }
    State *like = stepped_state(0);
    int made = empty_state(like, &state);
    state_destroy(like);
    return made;
}

static int remove_run(void **unused) {
    (void)unused;
    restore_result_free(&result);
    state_destroy(state);
    if (world->rank == 0) run_directory_remove(&run);
    return 0;
}

static Status restore_as(const char *resume) {
    RestoreRequest request = {.run_dir = run_path, .resume = resume};
    restore_result_free(&result);
    return restore_newest(world, &request, state, &result);
}

static void write_on_first(int64_t generation, int64_t step) {
    if (world->rank == 0) write_stepped(&run, generation, step);
}

static void assert_holds_step(int64_t step) {
    State *expected = stepped_state(step);
    assert_true(digest_equal(state_digest(state), state_digest(expected)));
    assert_true(digest_equal(result.block.state_digest, state_digest(expected)));
    assert_true(result.restored);
    assert_int_equal(result.block.step, step);
    state_destroy(expected);
}

static void without_checkpoints_a_run_starts_afresh(void **unused) {
    (void)unused;
    assert_ok(restore_as("auto"));
    assert_false(result.restored);
    assert_ok(restore_as("none"));
    assert_false(result.restored);
    assert_fails(restore_as("must"), STATUS_NO_CHECKPOINT, "holds no checkpoint");
}

static void every_rank_gets_the_newest_state_and_texts(void **unused) {
    (void)unused;
    write_on_first(1, 100);
    write_on_first(2, 300);
    write_on_first(2, 200);
    assert_ok(restore_as("auto"));
    assert_holds_step(300);
    assert_string_equal(result.name, "g0002-step-000000000300.h5");
    assert_string_equal(result.path, "");
    assert_string_equal(result.identity, "{}");
    assert_string_equal(result.config, "run: {}\n");
    assert_string_equal(result.lineage, "[]");
    assert_int_equal(result.passed_over_count, 0);
    assert_ok(restore_as("must"));
    assert_holds_step(300);
}

static void damage_is_passed_over_until_nothing_is_left(void **unused) {
    (void)unused;
    static const long where[] = {-100, 20, 5000,
                                 -8000}; /* tensors, user block, metadata … */
    enum { FILES = 4 };
    for (int i = 1; i <= FILES; i++)
        write_on_first(1, 100 * i);
    for (int bad = 0; bad < FILES; bad++) {
        assert_ok(restore_as("auto"));
        assert_holds_step(100 * (FILES - bad));
        assert_int_equal(result.passed_over_count, world->rank == 0 ? bad : 0);
        if (world->rank == 0) flip_bit(&run, 1, 100 * (FILES - bad), where[bad]);
    }
    assert_fails(restore_as("auto"), STATUS_NO_CHECKPOINT, "none can be used");
    assert_fails(restore_as("must"), STATUS_NO_CHECKPOINT, "none can be used");
    assert_fails(restore_as("none"), STATUS_USAGE, "another run.dir");
}

static void a_zombies_later_file_is_not_restored(void **unused) {
    (void)unused;
    if (world->rank == 0) {
        Owner first, second;
        OwnerClaim fresh = {.restored_step = -1};
        assert_ok(owner_take(run.path, &fresh, 0.0, &first));
        Digest digest = write_stepped(&run, 1, 100);
        owner_release(&first);
        OwnerClaim claim = claim_of(1, 100, digest);
        assert_ok(owner_take(run.path, &claim, 0.0, &second));
        write_stepped(&run, 1, 900);
        owner_release(&second);
    }
    assert_ok(restore_as("auto"));
    assert_holds_step(100);
    assert_string_equal(result.name, "g0002-step-000000000100.h5");
}

static void what_only_a_zombie_wrote_is_no_reason_to_stop(void **unused) {
    (void)unused;
    if (world->rank == 0) {
        Owner first, second;
        OwnerClaim fresh = {.restored_step = -1};
        assert_ok(owner_take(run.path, &fresh, 0.0, &first));
        owner_release(&first);
        assert_ok(owner_take(run.path, &fresh, 0.0, &second));
        owner_release(&second);
        write_stepped(&run, 1, 900);
    }
    assert_ok(restore_as("auto"));
    assert_false(result.restored);
    assert_fails(restore_as("must"), STATUS_NO_CHECKPOINT, "started afresh");
}

static void none_refuses_to_hide_checkpoints(void **unused) {
    (void)unused;
    write_on_first(1, 100);
    assert_fails(restore_as("none"), STATUS_USAGE, "g0001-step-000000000100.h5");
}

static void a_path_means_that_file_and_no_other(void **unused) {
    (void)unused;
    char path[160] = "/nonexistent/file.h5";
    write_on_first(1, 100);
    write_on_first(1, 200);
    if (world->rank == 0)
        snprintf(path, sizeof path, "%s/checkpoints/g0001-step-000000000100.h5", run.path);
    assert_ok(restore_as(path));
    assert_holds_step(100);
    assert_string_equal(result.path, ""); /* it lies in the run's own directory */
    assert_string_equal(restore_claim(&result).restored_from, "g0001-step-000000000100.h5");
    if (world->rank == 0) flip_bit(&run, 1, 100, -100);
    assert_fails(restore_as(path), STATUS_NO_CHECKPOINT, "segment 0");
    if (world->rank == 0) strcat(path, "x");
    assert_fails(restore_as(path), STATUS_NO_CHECKPOINT, "cannot find");
}

static void a_file_from_elsewhere_carries_its_path(void **unused) {
    (void)unused;
    char path[160] = "/nonexistent/file.h5";
    write_on_first(1, 100);
    if (world->rank == 0) {
        snprintf(path, sizeof path, "%s/checkpoints/g0001-step-000000000100.h5", run.path);
        strcpy(run_path, "/nonexistent/other");
    }
    assert_ok(restore_as(path));
    assert_holds_step(100);
    assert_non_null(strstr(result.path, "/checkpoints/g0001-step-000000000100.h5"));
}

static Status refuse_identity(void *context, const UserBlock *block, const char *identity,
                              const char *name) {
    (void)identity;
    ++*(int *)context;
    return FAIL(STATUS_USAGE, "branch", "%s of step %lld is another run's", name,
                (long long)block->step);
}

static void another_identity_ends_the_restore_everywhere(void **unused) {
    (void)unused;
    int calls = 0;
    write_on_first(1, 100);
    write_on_first(1, 200);
    RestoreRequest request = {.run_dir = run_path,
                              .resume = "auto",
                              .accept = refuse_identity,
                              .context = &calls};
    assert_fails(restore_newest(world, &request, state, &result), STATUS_USAGE,
                 "g0001-step-000000000200.h5 of step 200");
    assert_int_equal(calls, world->rank == 0); /* and no older one was asked about */
}

static void another_model_is_refused_by_name(void **unused) {
    (void)unused;
    write_on_first(1, 100);
    state_destroy(state);
    const int64_t wider[] = {40, 51}, bias[] = {10};
    assert_ok(state_create(&state));
    assert_ok(state_declare(state, ARENA_PARAMETER, "model/fc.weight", DTYPE_F32, 2, wider,
                            NULL));
    assert_ok(
        state_declare(state, ARENA_PARAMETER, "model/fc.bias", DTYPE_F32, 1, bias, NULL));
    assert_ok(state_allocate(state));
    assert_fails(restore_as("auto"), STATUS_USAGE, "model/fc.weight");
}

/* ---- a state of many frames */

static void restore_large_states(int level) {
    State *large;
    assert_ok(known_state(KNOWN_LARGE, &large));
    Digest expected = state_digest(large);
    if (world->rank == 0) {
        for (int step = 1; step <= 2; step++) {
            CheckpointPlan *plan;
            UserBlock block = known_block();
            char name[CATALOG_NAME];
            block.generation = 3;
            block.step = step;
            catalog_name(3, step, name);
            assert_ok(checkpoint_plan(large, &KNOWN_TEXT, level, &plan));
            assert_ok(checkpoint_write(plan, large, run.directory, name, &block));
            checkpoint_plan_destroy(plan);
        }
        flip_bit(&run, 3, 2, -4096); /* all but the last frame has been sent by then */
    }
    state_destroy(state);
    assert_ok(empty_state(large, &state));
    state_destroy(large);
    together();
    assert_ok(restore_as("auto"));
    assert_int_equal(result.block.step, 1);
    assert_true(digest_equal(state_digest(state), expected));
    assert_string_equal(result.identity, KNOWN_TEXT.identity);
    assert_int_equal(result.passed_over_count, world->rank == 0);
    if (world->rank == 0) {
        flip_bit(&run, 3, 1, -4096);
        assert_int_equal(result.passed_over[0].name[0], 'g');
        assert_non_null(strstr(result.passed_over[0].reason, "segment"));
    }
    assert_int_equal(restore_as("auto"), STATUS_NO_CHECKPOINT);
    const float *values = state->arenas[ARENA_MOMENT1].data;
    assert_true(values[0] == 0.0f); /* nothing of the bad files is left */
}

static void large_states_arrive_whole_and_damage_late_in_them_is_undone(void **unused) {
    (void)unused;
    restore_large_states(0);
}

static void so_do_packed_ones(void **unused) {
    (void)unused;
    restore_large_states(1);
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(without_checkpoints_a_run_starts_afresh),
        TEST(every_rank_gets_the_newest_state_and_texts),
        TEST(damage_is_passed_over_until_nothing_is_left),
        TEST(a_zombies_later_file_is_not_restored),
        TEST(what_only_a_zombie_wrote_is_no_reason_to_stop),
        TEST(none_refuses_to_hide_checkpoints),
        TEST(a_path_means_that_file_and_no_other),
        TEST(a_file_from_elsewhere_carries_its_path),
        TEST(another_identity_ends_the_restore_everywhere),
        TEST(another_model_is_refused_by_name),
        TEST(large_states_arrive_whole_and_damage_late_in_them_is_undone),
        TEST(so_do_packed_ones),
    };
    if (world_start(&argc, &argv, &world) != STATUS_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_finish(world);
    return failed;
}
