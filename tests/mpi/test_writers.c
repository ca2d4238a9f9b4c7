/* Several ranks write one checkpoint: it is byte for byte the one that a single rank writes, and whichever of
 * them fails, that save alone fails and leaves nothing. Every test runs in both, foreground and background. */
#include "dist/world.h"
#include "src/checkpoint/listing.h"
#include "src/checkpoint/restore.h"
#include "src/checkpoint/saver.h"
#include "src/core/file.h"
#include "tests/support/checkpoint_state.h"
#include "tests/support/run_directory.h"
#include "tests/support/test.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static const CheckpointText text = {"{}", "run: {}\n", "[]"};
static Collective *world;
static RunDirectory run; /* rank 0's */
static char run_dir[64]; /* this rank's way to it */
static State *state;     /* of 6 segments, the same on every rank */
static State *pristine;
static Owner owner; /* rank 0's */
static Saver *saver;
static bool background;

static Status broadcast(void *data, size_t bytes) {
    return world->ops->broadcast(world, data, bytes, 0);
}

static int make_run(void **unused) {
    (void)unused;
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].bytes > 0)
            memcpy(state->arenas[i].data, pristine->arenas[i].data, state->arenas[i].bytes);
    const OwnerClaim fresh = {.restored_step = -1};
    if (world->rank == 0) {
        run = run_directory_create();
        strcpy(run_dir, run.path);
        if (owner_take(run.path, &fresh, 0.0, &owner) != STATUS_OK) return -1;
    }
    return broadcast(run_dir, sizeof run_dir) != STATUS_OK;
}

static int remove_run(void **unused) {
    (void)unused;
    saver_close(saver);
    saver = NULL;
    if (world->rank == 0) {
        owner_release(&owner);
        run_directory_remove(&run);
    }
    return 0;
}

static void open_saver(int writers) {
    saver_close(saver);
    SaverOptions options = {.max_failures = 9,
                            .writers = writers,
                            .run_dir = run_dir,
                            .keep.keep_last = 9,
                            .background = background};
    assert_ok(saver_open(world, world->rank == 0 ? &owner : NULL, state, &text, &options,
                         &saver));
}

static Status save(int64_t step, SaverEvent *event) {
    UserBlock what = {.step = step};
    Status saved = saver_begin(saver, state, &what);
    if (saved == STATUS_OK) saved = saver_finish(saver);
    assert_false(saver_is_busy(saver));
    saver_poll(saver, event);
    return saved;
}

/* Without the two lines of the user block that know the time. */
static char *read_all(const char *name, size_t *size) {
    static const char *const fields[] = {"\"created_at\"", "\"checksum\""};
    char *bytes;
    assert_ok(file_read(run.directory, name, 1 << 28, &bytes, size));
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char *at = memmem(bytes, CHECKPOINT_USER_BLOCK, fields[i], strlen(fields[i]));
        assert_non_null(at);
        for (; *at != '\n'; at++)
            *at = '-';
    }
    return bytes;
}

static void assert_same_files(const char *name, const char *other) {
    size_t size, other_size;
    char *bytes = read_all(name, &size), *others = read_all(other, &other_size);
    assert_int_equal(size, other_size);
    assert_int_equal(memcmp(bytes, others, size), 0);
    free(bytes);
    free(others);
}

static int count_temporaries(void) {
    Listing listing;
    assert_ok(listing_read(run.directory, &listing));
    int count = 0;
    for (int i = 0; i < listing.count; i++)
        count += listing.names[i].kind == LISTED_TEMPORARY;
    listing_free(&listing);
    return count;
}

static void assert_restores_to(Digest expected) {
    RestoreRequest request = {.run_dir = run_dir, .resume = "must"};
    RestoreResult result;
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].bytes > 0)
            memset(state->arenas[i].data, 0, state->arenas[i].bytes);
    assert_ok(restore_newest(world, &request, state, &result));
    assert_true(digest_equal(state_digest(state), expected));
    restore_result_free(&result);
}

static void any_number_of_writers_makes_the_same_file(void **unused) {
    (void)unused;
    SaverEvent event;
    Digest saved = state_digest(state);
    const int numbers[] = {1, 2, world->size, world->size + 1};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        open_saver(numbers[i]);
        assert_ok(save(8, &event));
        assert_int_equal(event.status, STATUS_OK);
        assert_true(digest_equal(event.state_digest, saved));
        if (world->rank != 0) continue;
        if (i == 0) {
            assert_int_equal(renameat(run.directory, event.name, run.directory, "alone"),
                             0);
            continue;
        }
        assert_same_files(event.name, "alone");
        assert_ok(checkpoint_verify(run.directory, event.name, &(UserBlock){.version = 0}));
        if (i < 3) unlinkat(run.directory, event.name, 0);
    }
    assert_ok(save(8, &event)); /* the same step and values: there already */
    assert_int_equal(event.status, STATUS_OK);
    assert_restores_to(saved);
    if (world->rank == 0) assert_int_equal(count_temporaries(), 0);
}

/* As a trainer does that has no second set of the state. */
static void what_changes_once_it_is_read_is_not_in_the_file(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(4);
    Digest saved = state_digest(state);
    for (int64_t step = 1; step <= 3; step++) {
        UserBlock what = {.step = step};
        assert_ok(saver_begin(saver, state, &what));
        assert_ok(saver_await_file(saver));
        saver_await_reading(saver);
        /* every rank has its own copy: where one is still read, another one may change */
        ((float *)state_data(state, 1))[5] += 1;
        assert_ok(saver_finish(saver));
        saver_poll(saver, &event);
        assert_int_equal(event.status, STATUS_OK);
        assert_true(digest_equal(event.state_digest, saved));
        assert_restores_to(saved);
        ((float *)state_data(state, 1))[5] += 1;
        saved = state_digest(state);
    }
}

static void
a_writer_that_holds_something_else_is_named_and_nothing_is_saved(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(3);
    int odd = world->size - 1;
    int big = state_find(state, "optimizer/v/big");
    if (world->rank == odd && odd > 0) ((uint32_t *)state_data(state, big))[3] ^= 1u << 20;
    Status saved = save(9, &event);
    if (odd == 0) {
        assert_int_equal(saved, STATUS_OK);
        return;
    }
    assert_int_equal(saved, STATUS_CORRUPT);
    assert_non_null(strstr(status_failure()->what, "optimizer/v/big"));
    if (world->rank != 0) return;
    assert_false(has_checkpoint(&run, 1, 9));
    assert_int_equal(count_temporaries(), 0);
}

static void a_state_that_is_not_finite_is_not_saved(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(2);
    ((float *)state_data(state, state_find(state, "optimizer/v/big")))[17] = (float)NAN;
    assert_fails(save(9, &event), STATUS_NOT_FINITE, "optimizer/v/big");
    if (world->rank == 0) assert_false(has_checkpoint(&run, 1, 9));
}

/* The save failed for this reason, nothing is left of it, and the next one succeeds. */
static void assert_failed_alone(const SaverEvent *event, const char *said,
                                void (*mend)(void)) {
    SaverEvent next;
    assert_true(event->finished);
    assert_int_equal(event->status, STATUS_IO);
    if (strstr(event->failure.what, said) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", event->failure.what, said);
    if (world->rank == 0) {
        assert_false(has_checkpoint(&run, 1, event->step));
        assert_int_equal(count_temporaries(), 0);
    }
    mend();
    Digest saved = state_digest(state);
    assert_ok(save(event->step + 1, &next));
    assert_int_equal(next.status, STATUS_OK);
    assert_restores_to(saved);
}

static bool is_last(void) {
    return world->rank == world->size - 1;
}

static void find_way(void) {
    char way[sizeof run_dir];
    strcpy(way, run.path);
    assert_ok(broadcast(way, sizeof way));
    strcpy(run_dir, way);
}

static void a_writer_that_does_not_see_the_directory_fails_the_save_alone(void **unused) {
    (void)unused;
    SaverEvent event;
    if (world->size == 1) return;
    open_saver(world->size);
    if (is_last()) strcpy(run_dir, "/nonexistent/run");
    assert_ok(save(5, &event));
    assert_failed_alone(&event, "/nonexistent/run/checkpoints", find_way);
}

/* … but sees another one, as on a host where the run directory is not shared. */
static void a_writer_that_does_not_see_the_file_fails_the_save_alone(void **unused) {
    (void)unused;
    SaverEvent event;
    RunDirectory elsewhere;
    if (world->size == 1) return;
    open_saver(world->size);
    if (is_last()) {
        elsewhere = run_directory_create();
        strcpy(run_dir, elsewhere.path);
    }
    assert_ok(save(5, &event));
    if (is_last()) run_directory_remove(&elsewhere);
    assert_failed_alone(&event, "not to be seen", find_way);
}

/* Files of at most so many bytes: what is beyond is refused, as by a full disk. */
static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void lift_limit(void) {
    limit_files(RLIM_INFINITY);
}

static void a_writer_that_cannot_write_fails_the_save_alone(void **unused) {
    (void)unused;
    SaverEvent event;
    if (world->size == 1) return;
    open_saver(world->size);
    if (is_last()) limit_files(1 << 20);
    assert_ok(save(5, &event));
    assert_failed_alone(&event, "write the tensors of g0001-step-000000000005.h5",
                        lift_limit);
}

static void a_file_that_cannot_be_made_fails_the_save_alone(void **unused) {
    (void)unused;
    SaverEvent event;
    open_saver(world->size);
    if (world->rank == 0) limit_files(1 << 20);
    assert_ok(save(5, &event));
    assert_failed_alone(&event, "reserve space for g0001-step-000000000005.h5", lift_limit);
}

static void a_save_that_is_given_up_leaves_nothing(void **unused) {
    (void)unused;
    UserBlock what = {.step = 4};
    for (int read = 0; background && read <= 1; read++) {
        open_saver(3);
        assert_ok(saver_begin(saver, state, &what));
        if (read) assert_ok(saver_await_file(saver));
        if (read) saver_await_reading(saver);
        saver_close(saver);
        saver = NULL;
        if (world->rank == 0) assert_int_equal(count_temporaries(), 0);
    }
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(any_number_of_writers_makes_the_same_file),
        TEST(what_changes_once_it_is_read_is_not_in_the_file),
        TEST(a_writer_that_holds_something_else_is_named_and_nothing_is_saved),
        TEST(a_state_that_is_not_finite_is_not_saved),
        TEST(a_writer_that_does_not_see_the_directory_fails_the_save_alone),
        TEST(a_writer_that_does_not_see_the_file_fails_the_save_alone),
        TEST(a_writer_that_cannot_write_fails_the_save_alone),
        TEST(a_file_that_cannot_be_made_fails_the_save_alone),
        TEST(a_save_that_is_given_up_leaves_nothing),
    };
    signal(SIGXFSZ, SIG_IGN);
    if (world_start(&argc, &argv, &world) != STATUS_OK ||
        known_state(KNOWN_LARGE, &pristine) != STATUS_OK ||
        empty_state(pristine, &state) != STATUS_OK)
        return 1;
    int failed = cmocka_run_group_tests_name("in the foreground", tests, NULL, NULL);
    background = true;
    failed += cmocka_run_group_tests_name("in the background", tests, NULL, NULL);
    state_destroy(pristine);
    state_destroy(state);
    world_finish(world);
    return failed;
}
