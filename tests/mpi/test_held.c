/* What hosts hold in memory is restored from wherever it lies, by the same rules as the run directory's files,
 * and a damaged one is passed over. Every rank here plays a host of its own. */
#include "dist/world.h"
#include "src/checkpoint/local.h"
#include "src/checkpoint/restore.h"
#include "src/checkpoint/saver.h"
#include "tests/support/run_directory.h"
#include "tests/support/test.h"

#include <math.h>

static Collective *world;
static RunDirectory run; /* rank 0's */
static char run_path[64];
static char dir[64]; /* this rank's own memory */
static State *state;
static RestoreResult result;
static LocalPlace place;
static Owner owner = {.directory = -1}; /* rank 0's */
static Digest restored_digest;          /* of the launch before */

static int make_run(void **unused) {
    (void)unused;
    if (world->rank == 0) {
        run = run_directory_create();
        strcpy(run_path, run.path);
    }
    snprintf(dir, sizeof dir, "/tmp/rekindle-held-XXXXXX");
    if (mkdtemp(dir) == NULL) return 1;
    place = (LocalPlace){.fds = {-1, -1, -1, -1}};
    state = stepped_state(0);
    return world->ops->broadcast(world, run_path, sizeof run_path, 0);
}

static int remove_run(void **unused) {
    (void)unused;
    restore_result_free(&result);
    state_destroy(state);
    local_close(&place);
    owner_release(&owner);
    world->ops->barrier(world);
    if (world->rank == 0) run_directory_remove(&run);
    return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static Status restore_as(const char *resume) {
    RestoreRequest request = {.run_dir = run_path, .resume = resume, .local_dir = dir};
    restore_result_free(&result);
    return restore_newest(world, &request, state, &result);
}

/* A launch that goes on from a step (-1: afresh) and has a place on every host. */
static void launch(int64_t generation, int64_t step) {
    LocalRun described;
    if (world->rank == 0) {
        owner_release(&owner);
        OwnerClaim claim = {.restored_step = -1};
        if (step >= 0) claim = claim_of(generation - 1, step, restored_digest);
        claim.saved_anew = true;
        assert_ok(owner_take(run_path, &claim, 0.0, &owner));
        assert_int_equal(owner.generation, generation);
        assert_ok(local_describe_owner(&owner, &described));
    }
    assert_ok(world->ops->broadcast(world, &described, sizeof described, 0));
    local_close(&place);
    assert_ok(local_open(dir, &described, step, &place));
}

/* Held by one rank's host only. */
static void hold_on(int rank, int64_t step) {
    RunDirectory there = {.directory = place.fds[LOCAL_LAUNCH]};
    State *held = stepped_state(step);
    restored_digest = state_digest(held);
    state_destroy(held);
    if (world->rank == rank) write_stepped(&there, place.generation, step);
}

static void damage_on(int rank, int64_t step, long where) {
    RunDirectory there = {.directory = place.fds[LOCAL_LAUNCH]};
    if (world->rank == rank) flip_bit(&there, place.generation, step, where);
}

static void save(int64_t generation, int64_t step) {
    if (world->rank == 0) write_stepped(&run, generation, step);
}

static void assert_restored(int64_t step, bool held, int holder) {
    State *expected = stepped_state(step);
    assert_true(result.restored);
    assert_int_equal(result.block.step, step);
    assert_true(digest_equal(state_digest(state), state_digest(expected)));
    state_destroy(expected);
    assert_int_equal(result.held, held);
    assert_int_equal(result.holder, holder);
    assert_int_equal(result.path[0] != '\0', held);
    assert_string_equal(result.identity, "{}");
    assert_int_equal(restore_claim(&result).saved_anew, held);
}

static int last(void) {
    return world->size - 1;
}

static void the_newest_over_all_hosts_and_the_run_directory_wins(void **unused) {
    (void)unused;
    launch(1, -1);
    save(1, 100);
    assert_ok(restore_as("auto"));
    assert_restored(100, false, 0);
    hold_on(last(), 130);
    hold_on(0, 120);
    assert_ok(restore_as("auto"));
    assert_restored(130, true, last());
    assert_string_equal(result.name, "g0001-step-000000000130.h5");
    assert_string_equal(result.holder_host, world->host);
    if (world->rank == last()) assert_non_null(strstr(result.path, dir));
    save(1, 140);
    assert_ok(restore_as("must"));
    assert_restored(140, false, 0);
}

static void of_equals_the_run_directorys_is_read_and_else_the_lowest_ranks(void **unused) {
    (void)unused;
    launch(1, -1);
    for (int rank = 0; rank < world->size; rank++)
        hold_on(rank, 100);
    assert_ok(restore_as("auto"));
    assert_restored(100, true, 0);
    save(1, 100);
    assert_ok(restore_as("auto"));
    assert_restored(100, false, 0);
}

static void without_a_checkpoint_what_is_held_is_no_fresh_start(void **unused) {
    (void)unused;
    launch(1, -1);
    hold_on(last(), 30);
    assert_ok(restore_as("must"));
    assert_restored(30, true, last());
    assert_fails(restore_as("none"), STATUS_USAGE, "holds g0001-step-000000000030.h5");
}

static void damage_is_passed_over_wherever_it_shows(void **unused) {
    (void)unused;
    static const long where[] = {20, 5000, -100}; /* user block, metadata, tensors */
    for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
        if (i > 0) assert_int_equal(remove_run(NULL) | make_run(NULL), 0);
        launch(1, -1);
        save(1, 100);
        hold_on(0, 110);
        for (int rank = 0; rank<world->size; rank += last()> 0 ? last() : 1)
            hold_on(rank, 120);
        damage_on(0, 120, where[i]);
        assert_ok(restore_as("auto"));
        if (world->size > 1) {
            assert_restored(120, true, last());
            damage_on(last(), 120, where[i]);
            assert_ok(restore_as("auto"));
        }
        assert_restored(110, true, 0);
        damage_on(0, 110, where[i]);
        assert_ok(restore_as("auto"));
        assert_restored(100, false, 0);
        assert_int_equal(result.passed_over_count, 0); /* no marks for what is in memory */
    }
}

static void when_all_that_is_held_is_damaged_auto_begins_afresh(void **unused) {
    (void)unused;
    launch(1, -1);
    hold_on(0, 110);
    damage_on(0, 110, -100);
    assert_ok(restore_as("auto"));
    assert_false(result.restored);
    const float *values = state_data(state, 0);
    assert_true(values[1] == 0.0f); /* nothing of the bad file is left */
    assert_fails(restore_as("must"), STATUS_NO_CHECKPOINT, "holds no checkpoint");
}

static void what_a_zombie_holds_after_its_successor_began_does_not_count(void **unused) {
    (void)unused;
    launch(1, -1);
    for (int rank = 0; rank < world->size; rank++)
        hold_on(rank, 100);
    LocalPlace zombie = place;
    place = (LocalPlace){.fds = {-1, -1, -1, -1}};
    launch(2, 100);
    RunDirectory there = {.directory = zombie.fds[LOCAL_LAUNCH]};
    write_stepped(&there, 1, 900);
    assert_ok(restore_as("auto"));
    assert_restored(100, true, 0);
    hold_on(last(), 110);
    assert_ok(restore_as("auto"));
    assert_restored(110, true, last());
    local_close(&zombie);
}

static void the_next_launch_of_many_finds_the_way_through_memory_alone(void **unused) {
    (void)unused;
    launch(1, -1);
    for (int64_t generation = 1; generation <= 5; generation++) {
        hold_on((int)generation % world->size, 100 * generation);
        assert_ok(restore_as("auto"));
        assert_restored(100 * generation, true, (int)generation % world->size);
        launch(generation + 1, 100 * generation);
    }
    assert_ok(restore_as("auto"));
    assert_restored(500, true, 5 % world->size);
}

static void a_path_or_an_evaluation_asks_no_host(void **unused) {
    (void)unused;
    char path[160];
    launch(1, -1);
    save(1, 100);
    hold_on(0, 120);
    snprintf(path, sizeof path, "%s/checkpoints/g0001-step-000000000100.h5", run_path);
    assert_ok(restore_as(path));
    assert_restored(100, false, 0);
    RestoreRequest request = {
        .run_dir = run_path, .resume = "must", .local_dir = dir, .read_only = true};
    restore_result_free(&result);
    assert_ok(restore_newest(world, &request, state, &result));
    assert_restored(100, false, 0);
}

static void a_host_whose_place_is_not_its_own_holds_nothing(void **unused) {
    (void)unused;
    char user[128];
    launch(1, -1);
    save(1, 100);
    hold_on(0, 110);
    hold_on(last(), 120);
    snprintf(user, sizeof user, "%s/rekindle-%u", dir, geteuid());
    if (world->rank == last()) assert_int_equal(chmod(user, 0777), 0);
    assert_ok(restore_as("auto"));
    assert_restored(world->size > 1 ? 110 : 100, world->size > 1, 0);
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
    launch(1, -1);
    save(1, 100);
    hold_on(last(), 110);
    RestoreRequest request = {.run_dir = run_path,
                              .resume = "auto",
                              .local_dir = dir,
                              .accept = refuse_identity,
                              .context = &calls};
    assert_fails(restore_newest(world, &request, state, &result), STATUS_USAGE,
                 "g0001-step-000000000110.h5 of step 110");
    assert_int_equal(calls, world->rank == last());
}

/* ---- by the saver */

static bool background;
static Saver *saver;

static void open_saver(void) {
    static const CheckpointText text = {"{}", "run: {}\n", "[]"};
    SaverOptions options = {
        .max_failures = 1, .keep.keep_last = 3, .background = background, .place = &place};
    launch(1, -1);
    assert_ok(saver_open(world, world->rank == 0 ? &owner : NULL, state, &text, &options,
                         &saver));
}

static void fill(int64_t step) {
    State *like = stepped_state(step);
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].bytes > 0)
            memcpy(state->arenas[i].data, like->arenas[i].data, like->arenas[i].bytes);
    state_destroy(like);
}

static Status hold(int64_t step, SaverEvent *event) {
    UserBlock what = {.step = step};
    fill(step);
    Status status = saver_hold(saver, state, &what);
    if (status == STATUS_OK) status = saver_finish(saver);
    saver_poll(saver, event);
    return status;
}

static void every_host_holds_what_the_saver_is_given(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver();
    for (int64_t step = 10; step <= 40; step += 10) {
        assert_ok(hold(step, &event));
        assert_true(event.finished && event.held);
        assert_int_equal(event.status, STATUS_OK);
        assert_int_equal(event.hosts, world->size);
        assert_int_equal(event.step, step);
        assert_true(event.bytes > 8192);
    }
    assert_string_equal(event.name, "g0001-step-000000000040.h5");
    if (world->rank == 0) assert_false(has_checkpoint(&run, 1, 40));
    RunDirectory there = {.directory = place.fds[LOCAL_LAUNCH]};
    assert_true(has_checkpoint(&there, 1, 30));
    assert_false(has_checkpoint(&there, 1, 20));
    assert_ok(hold(40, &event)); /* the same step and values: there already */
    assert_int_equal(event.hosts, world->size);
    saver_close(saver);
    assert_ok(restore_as("auto"));
    assert_restored(40, true, 0);
    assert_int_equal(result.block.ranks, world->size);
}

static void a_host_that_cannot_hold_costs_the_others_nothing(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver();
    if (world->rank == last()) local_remove(&place);
    assert_ok(hold(10, &event));
    assert_int_equal(event.hosts, last());
    assert_int_equal(event.status == STATUS_OK, world->size > 1);
    if (world->rank == 0 && world->size > 1) /* full: it was there and goes away */
        assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    for (int64_t step = 20; step <= 40; step += 10) {
        assert_ok(hold(step, &event)); /* max_failures counts saves only */
        assert_int_equal(event.hosts, world->size > 2 ? world->size - 2 : 0);
    }
    UserBlock what = {.step = 40};
    assert_ok(saver_begin(saver, state, &what));
    assert_ok(saver_finish(saver));
    saver_poll(saver, &event);
    assert_false(event.held);
    assert_int_equal(event.status, STATUS_OK);
    saver_close(saver);
    if (world->rank == 0) assert_true(has_checkpoint(&run, 1, 40));
    if (world->rank == 0 && world->size > 1) assert_int_equal(mkdir(dir, 0700), 0);
}

static void hosts_that_share_a_directory_do_not_disturb_each_other(void **unused) {
    (void)unused;
    SaverEvent event;
    char own[sizeof dir];
    memcpy(own, dir, sizeof dir);
    assert_ok(world->ops->broadcast(world, dir, sizeof dir, 0));
    open_saver();
    for (int64_t step = 10; step <= 80; step += 10) {
        assert_ok(hold(step, &event));
        assert_int_equal(event.hosts, world->size);
    }
    saver_close(saver);
    assert_ok(restore_as("auto"));
    assert_restored(80, true, 0);
    local_remove(&place);
    assert_ok(world->ops->barrier(world));
    if (world->rank == 0) assert_int_equal(rmdir(dir), 0); /* nothing was left in it */
    memcpy(dir, own, sizeof dir);
    if (world->rank == 0) assert_int_equal(mkdir(dir, 0700), 0);
}

static void what_ranks_do_not_agree_on_is_not_held(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver();
    assert_ok(hold(10, &event));
    UserBlock what = {.step = 20};
    fill(20);
    float *values = state_data(state, 0);
    values[7] = world->size > 1 ? (float)world->rank : NAN;
    Status status = saver_hold(saver, state, &what);
    if (status == STATUS_OK) status = saver_finish(saver);
    assert_int_equal(status, world->size > 1 ? STATUS_CORRUPT : STATUS_NOT_FINITE);
    saver_close(saver);
    assert_ok(restore_as("auto"));
    assert_restored(10, true, 0);
}

int main(int argc, char **argv) {
    assert_ok(world_start(&argc, &argv, &world));
    world->host_rank = 0;
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(the_newest_over_all_hosts_and_the_run_directory_wins),
        TEST(of_equals_the_run_directorys_is_read_and_else_the_lowest_ranks),
        TEST(without_a_checkpoint_what_is_held_is_no_fresh_start),
        TEST(damage_is_passed_over_wherever_it_shows),
        TEST(when_all_that_is_held_is_damaged_auto_begins_afresh),
        TEST(what_a_zombie_holds_after_its_successor_began_does_not_count),
        TEST(the_next_launch_of_many_finds_the_way_through_memory_alone),
        TEST(a_path_or_an_evaluation_asks_no_host),
        TEST(a_host_whose_place_is_not_its_own_holds_nothing),
        TEST(another_identity_ends_the_restore_everywhere),
    };
    const struct CMUnitTest holding[] = {
        TEST(every_host_holds_what_the_saver_is_given),
        TEST(a_host_that_cannot_hold_costs_the_others_nothing),
        TEST(hosts_that_share_a_directory_do_not_disturb_each_other),
        TEST(what_ranks_do_not_agree_on_is_not_held),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    failed += cmocka_run_group_tests_name("held in the foreground", holding, NULL, NULL);
    background = true;
    failed += cmocka_run_group_tests_name("held in the background", holding, NULL, NULL);
    world_finish(world);
    return failed;
}
