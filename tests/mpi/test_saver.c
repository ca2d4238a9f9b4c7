/* A save is of one finite state that all ranks hold, is named only when it is durable, and in the background it
 * is the same save: every test runs in both. */
#include "dist/world.h"
#include "src/checkpoint/listing.h"
#include "src/checkpoint/restore.h"
#include "src/checkpoint/saver.h"
#include "tests/support/checkpoint_state.h"
#include "tests/support/run_directory.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdatomic.h>
#include <time.h>

static Collective *world;
static RunDirectory run; /* rank 0's */
static char run_path[64];
static State *state; /* stepped_state's registry, zero */
static RestoreResult result;

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

static bool background;
static Owner owner;
static Saver *saver;

static CheckpointText saved_text;

static void open_saver(int keep_last, int max_failures) {
    saved_text = (CheckpointText){"{}", "run: {}\n", "[]"};
    const OwnerClaim fresh = {.restored_step = -1};
    if (world->rank == 0) assert_ok(owner_take(run.path, &fresh, 0.0, &owner));
    State *filled = stepped_state(0);
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].bytes > 0)
            memcpy(state->arenas[i].data, filled->arenas[i].data, state->arenas[i].bytes);
    state_destroy(filled);
    SaverOptions options = {.max_failures = max_failures,
                            .keep.keep_last = keep_last,
                            .background = background};
    assert_ok(saver_open(world, world->rank == 0 ? &owner : NULL, state, &saved_text,
                         &options, &saver));
}

static void close_saver(void) {
    saver_close(saver);
    if (world->rank == 0) owner_release(&owner);
}

static Status save(int64_t step, SaverEvent *event) {
    UserBlock what = {.step = step};
    Status saved = saver_begin(saver, state, &what);
    if (saved == STATUS_OK) saved = saver_finish(saver);
    assert_false(saver_is_busy(saver));
    assert_int_equal(saver_bits(saver), 0);
    saver_poll(saver, event);
    return saved;
}

static void a_save_is_restored_bit_for_bit(void **unused) {
    (void)unused;
    SaverEvent event, none;
    open_saver(3, 3);
    *(int64_t *)state_data(state, 2) = 77;
    Digest saved = state_digest(state);
    assert_ok(save(77, &event));
    assert_true(event.finished);
    assert_int_equal(event.status, STATUS_OK);
    assert_string_equal(event.name, "g0001-step-000000000077.h5");
    assert_int_equal(event.step, 77);
    assert_true(event.bytes > 8192);
    assert_true(digest_equal(event.state_digest, saved));
    saver_poll(saver, &none);
    assert_false(none.finished);
    assert_ok(save(77, &event)); /* the same step and values: there already */
    assert_int_equal(event.status, STATUS_OK);
    memset(state->arenas[ARENA_PARAMETER].data, 0, state->arenas[ARENA_PARAMETER].bytes);
    assert_ok(restore_as("auto"));
    assert_true(digest_equal(state_digest(state), saved));
    assert_int_equal(result.block.ranks, world->size);
    close_saver();
}

static void assert_file_holds(int64_t step, const char *lineage) {
    char name[CATALOG_NAME];
    CheckpointReader *reader;
    catalog_name(1, step, name);
    assert_ok(checkpoint_verify(run.directory, name, &(UserBlock){.version = 0}));
    assert_ok(checkpoint_reader_open(run.directory, name, &reader));
    assert_string_equal(checkpoint_reader_text(reader, "lineage"), lineage);
    checkpoint_reader_close(reader);
}

static void each_file_holds_the_lineage_as_it_was_when_it_was_saved(void **unused) {
    (void)unused;
    SaverEvent event;
    static char longest[100001];
    memset(longest, 'x', sizeof longest - 1);
    memcpy(longest, "[\"", 2);
    memcpy(longest + sizeof longest - 3, "\"]", 2);
    const char *const lineages[] = {"[]", "[{\"launch\": 1}]", longest, "[2]"};
    enum { SAVES = sizeof lineages / sizeof *lineages };
    open_saver(SAVES, 3);
    for (int i = 0; i < SAVES; i++) {
        if (world->rank == 0) saved_text.lineage = lineages[i];
        assert_ok(save(i + 1, &event));
        assert_int_equal(event.status, STATUS_OK);
    }
    if (world->rank == 0)
        for (int i = 0; i < SAVES; i++)
            assert_file_holds(i + 1, lineages[i]);
    Digest saved = state_digest(state);
    memset(state->arenas[ARENA_PARAMETER].data, 0, state->arenas[ARENA_PARAMETER].bytes);
    assert_ok(restore_as("auto"));
    assert_true(digest_equal(state_digest(state), saved));
    assert_string_equal(result.lineage, "[2]");
    close_saver();
}

static void failed_saves_are_events_until_there_are_too_many(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3, 2);
    assert_ok(save(5, &event));
    *(int64_t *)state_data(state, 2) = 5; /* other values under a name that is taken */
    assert_ok(save(5, &event));
    assert_true(event.finished);
    assert_int_equal(event.status, STATUS_EXISTS);
    assert_non_null(strstr(event.failure.what, "g0001-step-000000000005.h5"));
    assert_ok(save(6, &event)); /* a success begins the count anew */
    assert_int_equal(event.status, STATUS_OK);
    assert_ok(save(5, &event));
    assert_fails(save(5, &event), STATUS_EXISTS, "g0001-step-000000000005.h5");
    close_saver();
}

static void a_rank_that_differs_is_named_and_nothing_is_saved(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3, 3);
    int odd = world->size - 1;
    if (world->rank == odd) ((uint32_t *)state_data(state, 1))[3] ^= 1u << 22;
    Status saved = save(9, &event);
    if (world->size == 1) {
        assert_int_equal(saved, STATUS_OK);
    } else {
        char text[64];
        snprintf(text, sizeof text, "rank(s) %d differ", odd);
        assert_int_equal(saved, STATUS_CORRUPT);
        assert_non_null(strstr(status_failure()->what, text));
        assert_non_null(strstr(status_failure()->what, "model/fc.bias"));
        assert_false(event.finished);
        if (world->rank == 0) assert_false(has_checkpoint(&run, 1, 9));
    }
    close_saver();
}

static void a_state_that_is_not_finite_is_not_saved(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3, 3);
    ((float *)state_data(state, 0))[17] = (float)NAN;
    assert_fails(save(9, &event), STATUS_NOT_FINITE, "model/fc.weight");
    if (world->rank == 0) assert_false(has_checkpoint(&run, 1, 9));
    close_saver();
}

static void a_launch_that_lost_the_directory_saves_no_more(void **unused) {
    (void)unused;
    SaverEvent event;
    Owner successor;
    const OwnerClaim fresh = {.restored_step = -1};
    open_saver(3, 3);
    if (world->rank == 0) {
        setenv("REKINDLE_OWNER_DEAD", "1", 1);
        assert_ok(owner_take(run.path, &fresh, 0.0, &successor));
        unsetenv("REKINDLE_OWNER_DEAD");
    }
    assert_fails(save(9, &event), STATUS_LOST_OWNER, "launch 2");
    if (world->rank == 0) {
        assert_false(has_checkpoint(&run, 1, 9));
        owner_release(&successor);
    }
    close_saver();
}

/* As a trainer does: once a step, with the word that all ranks agreed on. Returns how many steps it took. */
static int steps_until(bool (*is_over)(const Saver *)) {
    static const struct timespec moment = {0, 1000000};
    for (int steps = 1;; steps++) {
        uint32_t bits = saver_bits(saver);
        assert_ok(world->ops->control(world, &bits));
        assert_ok(saver_advance(saver, bits));
        if (is_over(saver)) return steps;
        assert_in_range(steps, 1, 20000);
        nanosleep(&moment, NULL);
    }
}

static bool is_read(const Saver *one) {
    return !saver_is_reading(one);
}

static bool is_idle(const Saver *one) {
    return !saver_is_busy(one);
}

static void what_changes_once_it_is_read_is_not_in_the_file(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3, 3);
    Digest saved = state_digest(state);
    UserBlock what = {.step = 4};
    assert_ok(saver_begin(saver, state, &what));
    if (background) {
        assert_true(saver_is_busy(saver));
        saver_poll(saver, &event);
        assert_false(event.finished); /* not before the ranks have met */
        steps_until(is_read);
        assert_true(saver_is_busy(saver)); /* a step is one meeting, not two */
    }
    ((float *)state_data(state, 0))[5] += 1;
    steps_until(is_idle);
    saver_poll(saver, &event);
    assert_true(event.finished);
    assert_int_equal(event.status, STATUS_OK);
    assert_true(event.seconds > 0 && event.persist > 0 && event.commit > 0);
    assert_true(digest_equal(event.state_digest, saved));
    assert_ok(restore_as("auto"));
    assert_true(digest_equal(state_digest(state), saved));
    close_saver();
}

static void a_save_that_is_given_up_leaves_nothing(void **unused) {
    (void)unused;
    open_saver(3, 3);
    UserBlock what = {.step = 4};
    if (background) {
        assert_ok(saver_begin(saver, state, &what));
        saver_await_reading(saver);
    }
    close_saver();
    if (world->rank == 0) {
        Listing listing;
        assert_ok(listing_read(run.directory, &listing));
        for (int i = 0; i < listing.count; i++) {
            assert_int_not_equal(listing.names[i].kind, LISTED_TEMPORARY);
            assert_int_not_equal(listing.names[i].kind, LISTED_CHECKPOINT);
        }
        listing_free(&listing);
    }
}

static atomic_int precautions;

static Status take_precautions(void *context) {
    atomic_fetch_add(&precautions, 1);
    assert_ptr_equal(context, &precautions);
    return FAIL(STATUS_IO, "none", "the journal cannot be synced");
}

/* ... and its failure is none of the save. */
static void what_lies_beside_a_checkpoint_is_made_durable_before(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3, 1);
    saver_close(saver);
    SaverOptions options = {.max_failures = 1,
                            .keep.keep_last = 3,
                            .background = background,
                            .before_commit = world->rank == 0 ? take_precautions : NULL,
                            .context = &precautions};
    assert_ok(saver_open(world, world->rank == 0 ? &owner : NULL, state, &saved_text,
                         &options, &saver));
    precautions = 0;
    assert_ok(save(3, &event));
    assert_int_equal(event.status, STATUS_OK);
    assert_int_equal(precautions, world->rank == 0);
    close_saver();
}

static void saving_keeps_only_the_newest(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(2, 3);
    for (int64_t step = 1; step <= 5; step++) {
        *(int64_t *)state_data(state, 2) = step;
        assert_ok(save(step, &event));
        assert_int_equal(event.status, STATUS_OK);
    }
    if (world->rank == 0)
        for (int64_t step = 1; step <= 5; step++)
            assert_int_equal(has_checkpoint(&run, 1, step), step >= 4);
    close_saver();
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(a_save_is_restored_bit_for_bit),
        TEST(each_file_holds_the_lineage_as_it_was_when_it_was_saved),
        TEST(failed_saves_are_events_until_there_are_too_many),
        TEST(a_rank_that_differs_is_named_and_nothing_is_saved),
        TEST(a_state_that_is_not_finite_is_not_saved),
        TEST(a_launch_that_lost_the_directory_saves_no_more),
        TEST(what_changes_once_it_is_read_is_not_in_the_file),
        TEST(a_save_that_is_given_up_leaves_nothing),
        TEST(what_lies_beside_a_checkpoint_is_made_durable_before),
        TEST(saving_keeps_only_the_newest),
    };
    if (world_start(&argc, &argv, &world) != STATUS_OK) return 1;
    int failed = cmocka_run_group_tests_name("in the foreground", tests, NULL, NULL);
    background = true;
    failed += cmocka_run_group_tests_name("in the background", tests, NULL, NULL);
    world_finish(world);
    return failed;
}
