/* The place of a run's snapshots in a host's memory: whose it may be, what counts there, what stays. */
#include "tests/support/test.h"

#include "src/checkpoint/local.h"
#include "src/checkpoint/owner.h"
#include "tests/support/run_directory.h"

#include <dirent.h>

static RunDirectory run;
static char dir[64]; /* stands for /dev/shm */
static const OwnerClaim FRESH = {.restored_step = -1};

static int make_run(void **state) {
    (void)state;
    run = run_directory_create();
    snprintf(dir, sizeof dir, "/tmp/rekindle-local-XXXXXX");
    return run.directory < 0 || mkdtemp(dir) == NULL;
}

static int remove_run(void **state) {
    (void)state;
    run_directory_remove(&run);
    return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static LocalRun describe(void) {
    LocalRun described;
    Catalog catalog;
    assert_ok(catalog_open(run.path, &catalog));
    assert_ok(local_describe(run.path, &catalog, &described));
    catalog_close(&catalog);
    return described;
}

/* A launch that takes the next generation, and leaves as one that was killed. */
static int64_t launch(const OwnerClaim *claim) {
    Owner owner;
    OwnerClaim anew = *claim;
    anew.saved_anew = true;
    assert_ok(owner_take(run.path, &anew, 0.0, &owner));
    owner_release(&owner);
    return owner.generation;
}

static void open_place(int64_t restored_step, LocalPlace *place) {
    LocalRun described = describe();
    assert_true(described.count > 0);
    assert_ok(local_open(dir, &described, restored_step, place));
}

static Digest hold(const LocalPlace *place, int64_t step) {
    RunDirectory there = {.directory = place->fds[LOCAL_LAUNCH]};
    assert_ok(local_make_room(place, 1 << 16));
    return write_stepped(&there, place->generation, step);
}

/* "2:300, 1:200!" (! : not whole), newest first. */
static const char *listed(void) {
    static char text[256];
    LocalRun described = describe();
    LocalFile files[LOCAL_FILES];
    int count;
    size_t length = 0;
    assert_ok(local_list(dir, &described, files, &count));
    text[0] = '\0';
    for (int i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%lld:%lld%s",
                                   i > 0 ? ", " : "", (long long)files[i].generation,
                                   (long long)files[i].step,
                                   files[i].code == STATUS_OK ? "" : "!");
    return text;
}

static int entries_of(const char *path) {
    struct dirent **names;
    int count = scandir(path, &names, NULL, NULL);
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return count - 2;
}

static void a_run_holds_its_newest_two(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    assert_string_equal(listed(), "");
    open_place(-1, &place);
    for (int64_t step = 100; step <= 400; step += 100)
        hold(&place, step);
    assert_string_equal(listed(), "1:400, 1:300");
    assert_non_null(strstr(place.path, dir));
    local_close(&place);
    assert_string_equal(listed(), "1:400, 1:300");
}

static void where_there_is_too_little_room_nothing_is_tried(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    open_place(-1, &place);
    hold(&place, 100);
    assert_fails(local_make_room(&place, (size_t)1 << 60), STATUS_IO, "needs about");
    assert_string_equal(listed(), "1:100");
    local_close(&place);
}

static void what_is_listed_tells_its_state(void **state) {
    (void)state;
    LocalPlace place;
    LocalFile files[LOCAL_FILES];
    int count, folder;
    char path[1024];
    launch(&FRESH);
    open_place(-1, &place);
    Digest digest = hold(&place, 100);
    LocalRun described = describe();
    assert_ok(local_list(dir, &described, files, &count));
    assert_int_equal(count, 1);
    assert_true(digest_equal(files[0].state_digest, digest));
    assert_string_equal(files[0].name, "g0001-step-000000000100.h5");
    assert_ok(
        local_open_folder(dir, &described, files[0].folder, &folder, path, sizeof path));
    assert_string_equal(path, place.path);
    close(folder);
    local_remove(&place);
    assert_fails(
        local_open_folder(dir, &described, files[0].folder, &folder, path, sizeof path),
        STATUS_IO, "is gone");
}

static void damage_is_told_and_a_wrong_name_too(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    open_place(-1, &place);
    hold(&place, 100);
    hold(&place, 200);
    RunDirectory there = {.directory = place.fds[LOCAL_LAUNCH]};
    flip_bit(&there, 1, 200, 20);
    assert_string_equal(listed(), "1:200!, 1:100");
    assert_int_equal(renameat(there.directory, "g0001-step-000000000100.h5",
                              there.directory, "g0001-step-000000000900.h5"),
                     0);
    assert_string_equal(listed(), "1:900!, 1:200!");
    local_close(&place);
}

static void what_another_history_of_the_path_left_is_not_listed_and_goes(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    open_place(-1, &place);
    hold(&place, 900);
    local_close(&place);
    run_directory_remove(&run);
    assert_int_equal(mkdir(run.path, 0755), 0); /* the user begins anew under that name */
    assert_int_equal(setenv("SLURM_JOB_ID", "another", 1), 0); /* another launch's record */
    assert_int_equal(launch(&FRESH), 1);
    unsetenv("SLURM_JOB_ID");
    assert_string_equal(listed(), "");
    open_place(-1, &place);
    char above[1040];
    snprintf(above, sizeof above, "%s/..", place.path);
    assert_int_equal(entries_of(above), 2); /* this launch's folder and the note */
    hold(&place, 100);
    assert_string_equal(listed(), "1:100");
    local_remove(&place);
    run.directory = open(run.path, O_RDONLY | O_CLOEXEC);
}

static void an_older_launchs_files_stay_up_to_what_was_restored(void **state) {
    (void)state;
    LocalPlace first, second;
    launch(&FRESH);
    open_place(-1, &first);
    hold(&first, 100);
    Digest digest = hold(&first, 200);
    OwnerClaim claim = claim_of(1, 200, digest);
    launch(&claim);
    RunDirectory zombie = {.directory = first.fds[LOCAL_LAUNCH]};
    write_stepped(&zombie, 1, 900);
    assert_string_equal(listed(), "1:900, 1:200, 1:100"); /* judging is the restore's */
    open_place(200, &second);
    assert_string_equal(listed(), "1:200, 1:100");
    hold(&second, 210);
    assert_string_equal(listed(), "2:210, 1:200");
    hold(&second, 220);
    assert_string_equal(listed(), "2:220, 2:210");
    local_close(&first);
    local_close(&second);
}

static void launches_that_are_killed_early_do_not_fill_the_memory(void **state) {
    (void)state;
    OwnerClaim claim = FRESH;
    for (int64_t step = 100; step <= 1000; step += 100) {
        LocalPlace place;
        launch(&claim);
        open_place(claim.restored_step, &place);
        claim = claim_of(place.generation, step, hold(&place, step));
        local_close(&place);
    }
    assert_string_equal(listed(), "10:1000, 9:900");
}

static void a_zombie_deletes_nothing_of_its_successor(void **state) {
    (void)state;
    LocalPlace first, second;
    launch(&FRESH);
    open_place(-1, &first);
    OwnerClaim claim = claim_of(1, 100, hold(&first, 100));
    launch(&claim);
    open_place(100, &second);
    hold(&second, 110);
    hold(&first, 120);
    hold(&first, 130);
    assert_string_equal(listed(), "2:110, 1:130, 1:120");
    local_remove(&first);
    assert_string_equal(listed(), "2:110");
    local_close(&second);
}

static void a_run_that_is_complete_leaves_nothing(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    open_place(-1, &place);
    hold(&place, 100);
    hold(&place, 200);
    close(openat(place.fds[LOCAL_LAUNCH], ".g0001-step-000000000300.h5.1.tmp",
                 O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    /* of a launch that was killed before it held anything */
    assert_int_equal(mkdirat(place.fds[LOCAL_RUN], "g0001-0000000000000007", 0700), 0);
    local_remove(&place);
    assert_int_equal(entries_of(dir), 0);
    local_remove(&place); /* closed: nothing happens */
}

static void other_runs_are_left_alone(void **state) {
    (void)state;
    LocalPlace place;
    char other[160];
    launch(&FRESH);
    open_place(-1, &place);
    snprintf(other, sizeof other, "%s/rekindle-%u/another", dir, geteuid());
    assert_int_equal(mkdir(other, 0700), 0);
    local_remove(&place);
    assert_int_equal(access(other, F_OK), 0);
}

static void a_place_that_others_can_reach_is_refused(void **state) {
    (void)state;
    LocalPlace place;
    LocalFile files[LOCAL_FILES];
    int count;
    char user[128];
    launch(&FRESH);
    LocalRun described = describe();
    snprintf(user, sizeof user, "%s/rekindle-%u", dir, geteuid());
    assert_int_equal(mkdir(user, 0700), 0);
    assert_int_equal(chmod(user, 0755), 0);
    assert_fails(local_open(dir, &described, -1, &place), STATUS_IO, "mode 755");
    assert_int_equal(place.fds[LOCAL_LAUNCH], -1);
    assert_fails(local_list(dir, &described, files, &count), STATUS_IO, "nobody else");
    assert_int_equal(chmod(user, 0700), 0);
    if (geteuid() == 0) { /* only then can we give it away */
        assert_int_equal(chown(user, 12345, 12345), 0);
        assert_fails(local_open(dir, &described, -1, &place), STATUS_IO, "user 12345");
    }
    assert_int_equal(rmdir(user), 0);
    assert_int_equal(symlink("/tmp", user), 0);
    assert_fails(local_open(dir, &described, -1, &place), STATUS_IO, "cannot open");
    assert_int_equal(unlink(user), 0);
    assert_ok(local_open(dir, &described, -1, &place));
    local_remove(&place);
}

static void a_directory_that_is_missing_is_named(void **state) {
    (void)state;
    LocalPlace place;
    launch(&FRESH);
    LocalRun described = describe();
    assert_fails(local_open("/nonexistent/shm", &described, -1, &place), STATUS_IO,
                 "/nonexistent/shm");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(a_run_holds_its_newest_two),
        TEST(where_there_is_too_little_room_nothing_is_tried),
        TEST(what_is_listed_tells_its_state),
        TEST(damage_is_told_and_a_wrong_name_too),
        TEST(what_another_history_of_the_path_left_is_not_listed_and_goes),
        TEST(an_older_launchs_files_stay_up_to_what_was_restored),
        TEST(launches_that_are_killed_early_do_not_fill_the_memory),
        TEST(a_zombie_deletes_nothing_of_its_successor),
        TEST(a_run_that_is_complete_leaves_nothing),
        TEST(other_runs_are_left_alone),
        TEST(a_place_that_others_can_reach_is_refused),
        TEST(a_directory_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
