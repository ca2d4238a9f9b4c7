/* One owner a run directory: who may take over, who is refused, and what a race ends in. */
#include "tests/support/test.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "tests/support/run_directory.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static RunDirectory run;
static const OwnerClaim FRESH = {.restored_step = -1};

static int make_run(void **state) {
    (void)state;
    run = run_directory_create();
    return run.directory < 0;
}

static int remove_run(void **state) {
    (void)state;
    unsetenv("REKINDLE_OWNER_DEAD");
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
    run_directory_remove(&run);
    return 0;
}

/* A record as another process would have written it. */
static void publish_record(OwnerRecord *record, int64_t generation) {
    char name[CATALOG_NAME];
    record->generation = generation;
    record->fresh = true;
    char *text = owner_format(record);
    assert_non_null(text);
    owner_name(generation, "", name);
    assert_ok(file_publish(run.directory, name, text, strlen(text)));
    free(text);
}

static void publish_foreign_record(int64_t generation) {
    OwnerRecord record;
    owner_describe_self(&record);
    strcpy(record.host, "elsewhere");
    strcpy(record.boot_id, "00000000-0000-0000-0000-000000000000");
    publish_record(&record, generation);
}

static void a_record_reads_back_as_it_was_written(void **state) {
    (void)state;
    Owner owner;
    assert_int_equal(setenv("SLURM_JOB_ID", "77", 1), 0);
    assert_int_equal(setenv("SLURM_RESTART_COUNT", "3", 1), 0);
    Digest digest = write_stepped(&run, 1, 100);
    OwnerClaim claim = claim_of(1, 100, digest);
    assert_ok(owner_take(run.path, &claim, 0.0, &owner));
    assert_int_equal(owner.generation, 2); /* above the file whose record is missing */
    OwnerRecord record;
    owner_read(run.directory, 2, &record);
    assert_true(record.readable);
    assert_int_equal(record.pid, getpid());
    assert_true(record.pid_start > 0);
    assert_true(strlen(record.boot_id) == 36);
    assert_string_equal(record.job, "77");
    assert_int_equal(record.restart_count, 3);
    assert_string_equal(record.restored_from, "g0001-step-000000000100.h5");
    assert_int_equal(record.restored_step, 100);
    assert_true(digest_equal(record.restored_digest, digest));
    owner_release(&owner);
}

static void a_living_owner_of_this_host_is_named_and_left_alone(void **state) {
    (void)state;
    Owner first, second;
    char pid[32];
    snprintf(pid, sizeof pid, "process %d", (int)getpid());
    assert_ok(owner_take(run.path, &FRESH, 0.0, &first));
    assert_fails(owner_take(run.path, &FRESH, 0.0, &second), STATUS_USAGE, pid);
    assert_fails(owner_take(run.path, &FRESH, 0.0, &second), STATUS_USAGE,
                 "REKINDLE_OWNER_DEAD=1");
    assert_ok(owner_check(&first));
    owner_release(&first);
}

static void an_owner_that_left_can_be_followed_at_once(void **state) {
    (void)state;
    Owner first, second;
    assert_ok(owner_take(run.path, &FRESH, 0.0, &first));
    owner_release(&first);
    owner_release(&first); /* idempotent */
    owner_release(NULL);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &second));
    assert_int_equal(second.generation, 2);
    owner_release(&second);
}

static void a_killed_owner_and_a_reused_pid_are_dead_at_once(void **state) {
    (void)state;
    Owner owner;
    pid_t child = fork();
    if (child == 0) {
        Owner mine;
        if (owner_take(run.path, &FRESH, 0.0, &mine) != STATUS_OK) _exit(1);
        kill(getpid(), SIGKILL);
    }
    int how;
    siginfo_t corpse;
    assert_int_equal(waitid(P_PID, (id_t)child, &corpse, WEXITED | WNOWAIT), 0);
    assert_int_equal(corpse.si_code, CLD_KILLED);
    /* still a corpse in the process table: dead nevertheless */
    assert_ok(owner_take(run.path, &FRESH, 1e9, &owner));
    assert_int_equal(owner.generation, 2);
    assert_int_equal(waitpid(child, &how, 0), child);
    owner_release(&owner);

    OwnerRecord reused; /* this very pid, but another process */
    owner_describe_self(&reused);
    reused.pid_start--;
    publish_record(&reused, 3);
    assert_ok(owner_take(run.path, &FRESH, 1e9, &owner));
    assert_int_equal(owner.generation, 4);
    owner_release(&owner);
}

static void an_owner_that_is_about_to_die_is_waited_for(void **state) {
    (void)state;
    Owner owner;
    int begun[2], refused[2];
    char byte;
    assert_int_equal(pipe(begun), 0);
    assert_int_equal(pipe(refused), 0);
    pid_t child = fork();
    if (child == 0) {
        Owner mine;
        if (owner_take(run.path, &FRESH, 0.0, &mine) != STATUS_OK ||
            write(begun[1], "", 1) != 1 || read(refused[0], &byte, 1) != 1)
            _exit(1);
        usleep(100000);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(read(begun[0], &byte, 1), 1);
    assert_fails(owner_take(run.path, &FRESH, 0.0, &owner), STATUS_USAGE, "process");
    assert_int_equal(write(refused[1], "", 1), 1);
    assert_ok(owner_take(run.path, &FRESH, 30.0, &owner));
    assert_int_equal(owner.generation, 2);
    assert_int_equal(waitpid(child, NULL, 0), child);
    owner_release(&owner);
    for (int i = 0; i < 2; i++) {
        close(begun[i]);
        close(refused[i]);
    }
}

static void another_hosts_owner_is_dead_when_its_heartbeat_stands_still(void **state) {
    (void)state;
    Owner owner;
    publish_foreign_record(1);
    assert_ok(owner_take(run.path, &FRESH, 0.12, &owner));
    assert_int_equal(owner.generation, 2);
    owner_release(&owner);
}

static void
another_hosts_owner_is_not_called_dead_when_its_heartbeat_cannot_be_read(void **state) {
    (void)state;
    Owner owner;
    publish_foreign_record(1);
    assert_int_equal(symlinkat("/dev/zero", run.directory, "owner.g0001.beat"), 0);
    assert_fails(owner_take(run.path, &FRESH, 0.12, &owner), STATUS_USAGE,
                 "its heartbeat cannot be read: owner.g0001.beat is a symbolic link");
}

/* A child that takes the directory, says so, and then is busy and calls nothing of ours. */
static pid_t start_busy_owner(void) {
    int told[2];
    char byte = 0;
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        Owner mine;
        byte = owner_take(run.path, &FRESH, 0.0, &mine) == STATUS_OK;
        if (write(told[1], &byte, 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(byte, 1);
    close(told[0]);
    close(told[1]);
    return child;
}

/* Makes a record look as if it had been written on another host: only its heartbeat is left to
 * judge by. */
static void move_owner_elsewhere(int64_t generation) {
    OwnerRecord record;
    char name[CATALOG_NAME];
    owner_name(generation, "", name);
    owner_read(run.directory, generation, &record);
    assert_true(record.readable);
    strcpy(record.host, "elsewhere");
    strcpy(record.boot_id, "00000000-0000-0000-0000-000000000000");
    char *text = owner_format(&record);
    assert_non_null(text);
    assert_ok(file_replace(run.directory, name, text, strlen(text)));
    free(text);
}

static void a_busy_owner_on_another_host_is_never_taken_and_a_killed_one_is(void **state) {
    (void)state;
    enum { TRIES = 3, WATCH_S = 3 * OWNER_BEAT_S };
    Owner mine;
    pid_t child = start_busy_owner();
    move_owner_elsewhere(1);
    int refused = 0;
    for (int i = 0; i < TRIES; i++)
        refused += owner_take(run.path, &FRESH, WATCH_S, &mine) == STATUS_USAGE &&
                   strstr(status_failure()->what, "elsewhere still shows its heartbeat");
    kill(child, SIGKILL); /* the test's own child goes before any assert */
    waitpid(child, NULL, 0);
    assert_int_equal(refused, TRIES);
    assert_ok(owner_take(run.path, &FRESH, 1.5 * OWNER_BEAT_S, &mine));
    assert_int_equal(mine.generation, 2);
    owner_release(&mine);
}

static void a_released_owner_beats_no_more(void **state) {
    (void)state;
    Owner owner;
    struct stat before, after;
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    owner_release(&owner);
    assert_int_equal(fstatat(run.directory, "owner.g0001.beat", &before, 0), 0);
    usleep(1000000 * OWNER_BEAT_S + 200000);
    assert_int_equal(fstatat(run.directory, "owner.g0001.beat", &after, 0), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
}

static void a_forked_child_cannot_give_its_parents_directory_back(void **state) {
    (void)state;
    Owner owner, second;
    int how;
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    pid_t child = fork();
    if (child == 0) {
        owner_release(&owner);
        _exit(owner.directory == -1 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    assert_fails(owner_take(run.path, &FRESH, 0.0, &second), STATUS_USAGE, "has an owner");
    owner_release(&owner);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &second));
    owner_release(&second);
}

static void the_supervisor_or_the_scheduler_can_vouch(void **state) {
    (void)state;
    Owner first, second;
    assert_int_equal(setenv("SLURM_JOB_ID", "77", 1), 0);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &first));
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "2", 1), 0); /* of another generation */
    assert_int_equal(owner_take(run.path, &FRESH, 0.0, &second), STATUS_USAGE);
    assert_int_equal(setenv("SLURM_JOB_ID", "78", 1), 0);
    assert_int_equal(setenv("SLURM_RESTART_COUNT", "1", 1), 0); /* of another job */
    assert_int_equal(owner_take(run.path, &FRESH, 0.0, &second), STATUS_USAGE);
    assert_int_equal(setenv("SLURM_JOB_ID", "77", 1), 0);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &second));
    assert_fails(owner_check(&first), STATUS_LOST_OWNER, "launch 2");
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "2", 1), 0);
    Owner third;
    assert_ok(owner_take(run.path, &FRESH, 0.0, &third));
    assert_int_equal(third.generation, 3);
    owner_release(&first);
    owner_release(&second);
    owner_release(&third);
}

static void a_taker_that_slept_does_not_fill_a_pruned_gap(void **state) {
    (void)state;
    Owner owner;
    publish_foreign_record(1);
    pid_t child = fork();
    if (child == 0) { /* decides on generation 2, then watches launch 1 for a while */
        bool right = owner_take(run.path, &FRESH, 0.5, &owner) == STATUS_USAGE &&
                     strstr(status_failure()->what, "launch 3: process") != NULL;
        _exit(right ? 0 : 1);
    }
    usleep(150000);
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "1", 1), 0);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    owner_release(&owner);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    assert_int_equal(owner.generation, 3);
    assert_int_equal(unlinkat(run.directory, "owner.g0002", 0), 0); /* as retention does */
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    assert_ok(owner_check(&owner));
    assert_int_not_equal(faccessat(run.directory, "owner.g0002", F_OK, 0), 0);
    owner_release(&owner);
}

static void a_damaged_record_counts_as_alive(void **state) {
    (void)state;
    Owner owner;
    assert_ok(file_publish(run.directory, "owner.g0001", "{\"pid\": 1", 9));
    assert_fails(owner_take(run.path, &FRESH, 0.0, &owner), STATUS_USAGE,
                 "cannot be believed");
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "1", 1), 0);
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    owner_release(&owner);
}

static void the_restored_file_is_kept_under_the_own_generation(void **state) {
    (void)state;
    Owner owner;
    struct stat original, kept;
    Digest digest = write_stepped(&run, 1, 100);
    OwnerClaim claim = claim_of(1, 100, digest);
    assert_ok(owner_take(run.path, &claim, 0.0, &owner));
    assert_int_equal(fstatat(run.directory, "g0001-step-000000000100.h5", &original, 0), 0);
    assert_int_equal(fstatat(run.directory, "g0002-step-000000000100.h5", &kept, 0), 0);
    assert_int_equal(original.st_ino, kept.st_ino);
    owner_release(&owner);
}

static void a_file_of_another_file_system_is_copied(void **state) {
    (void)state;
    char elsewhere[] = "/tmp/rekindle-kept-XXXXXX", block[4096] = "", copy[4096];
    int fd = mkstemp(elsewhere);
    memset(block, 'r', sizeof block);
    assert_int_equal(write(fd, block, sizeof block), sizeof block);
    close(fd);
    Owner owner;
    OwnerClaim claim = claim_of(7, 100, (Digest){1, 2});
    strcpy(claim.restored_path, elsewhere);
    assert_ok(owner_take(run.path, &claim, 0.0, &owner));
    fd = openat(run.directory, "g0001-step-000000000100.h5", O_RDONLY);
    assert_int_equal(read(fd, copy, sizeof copy), sizeof copy);
    assert_memory_equal(copy, block, sizeof block);
    close(fd);
    owner_release(&owner);
    unlink(elsewhere);
}

static void a_missing_restored_file_gives_the_directory_back(void **state) {
    (void)state;
    Owner owner;
    OwnerClaim claim = claim_of(1, 100, (Digest){1, 2});
    assert_fails(owner_take(run.path, &claim, 0.0, &owner), STATUS_IO,
                 "g0001-step-000000000100.h5");
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    owner_release(&owner);
}

static void a_taker_that_slept_since_its_restore_sets_nothing_aside(void **state) {
    (void)state;
    Owner owner;
    CatalogSeen empty = {.looked = true};
    OwnerClaim fresh = {.restored_step = -1, .seen = empty};
    Digest first = write_stepped(&run, 1, 100);
    assert_fails(owner_take(run.path, &fresh, 0.0, &owner), STATUS_LOST_OWNER,
                 "g0001-step-000000000100.h5 is new");

    OwnerClaim claim = claim_of(1, 100, first);
    claim.seen = (CatalogSeen){.looked = true, .generation = 1, .step = 100};
    write_stepped(&run, 1, 200);
    assert_fails(owner_take(run.path, &claim, 0.0, &owner), STATUS_LOST_OWNER,
                 "g0001-step-000000000200.h5 is new");

    claim.seen.step = 200;
    assert_int_equal(unlinkat(run.directory, "g0001-step-000000000100.h5", 0), 0);
    assert_fails(owner_take(run.path, &claim, 0.0, &owner), STATUS_LOST_OWNER,
                 "g0001-step-000000000100.h5 is gone");

    publish_foreign_record(2);
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "2", 1), 0);
    write_stepped(&run, 1, 100);
    assert_fails(owner_take(run.path, &claim, 0.0, &owner), STATUS_LOST_OWNER,
                 "owner.g0002 is new");
    Listing listing;
    assert_ok(listing_read(run.directory, &listing));
    assert_int_equal(listing_newest_any(&listing), 2); /* none of them left a record */
    listing_free(&listing);

    claim.seen.owner_generation = 2;
    assert_ok(owner_take(run.path, &claim, 0.0, &owner));
    assert_int_equal(owner.generation, 3);
    owner_release(&owner);
}

static void a_generation_is_above_what_the_mirror_holds(void **state) {
    (void)state;
    Owner owner;
    OwnerClaim claim = FRESH;
    claim.above_generation = 7;
    assert_ok(owner_take(run.path, &claim, 0.0, &owner));
    assert_int_equal(owner.generation, 8);
    assert_ok(owner_check(&owner));
    owner_release(&owner);
    assert_ok(owner_take(run.path, &claim, 0.0, &owner)); /* what stands here counts, too */
    assert_int_equal(owner.generation, 9);
    owner_release(&owner);
}

static void an_owner_whose_record_is_gone_has_lost(void **state) {
    (void)state;
    Owner owner;
    assert_ok(owner_take(run.path, &FRESH, 0.0, &owner));
    assert_int_equal(unlinkat(run.directory, "owner.g0001", 0), 0);
    assert_fails(owner_check(&owner), STATUS_LOST_OWNER, "gone");
    owner_release(&owner);
}

/* ---- races */

enum { RACES = 200, TAKERS = 5 };

/* Waits at the gate, takes, tells how it went, and lives on until told to go: as a launch does. */
static void taker(int gate, int result, int leave) {
    char byte;
    Owner owner;
    struct {
        Status status;
        int64_t generation;
        char what[200];
    } told = {.generation = 0};
    if (read(gate, &byte, 1) < 0) _exit(1);
    told.status = owner_take(run.path, &FRESH, 0.0, &owner);
    told.generation = owner.generation;
    if (told.status != STATUS_OK)
        snprintf(told.what, sizeof told.what, "%.199s", status_failure()->what);
    if (write(result, &told, sizeof told) != (ssize_t)sizeof told) _exit(1);
    if (read(leave, &byte, 1) < 0) _exit(1);
    _exit(0); /* without a release: the next race finds a corpse */
}

/* Returns the winner's generation; counts into `refused` those that named it. */
static int64_t race(int *owners, int *refused) {
    int gate[2], result[2], leave[2];
    pid_t pids[TAKERS];
    assert_true(pipe(gate) == 0 && pipe(result) == 0 && pipe(leave) == 0);
    for (int i = 0; i < TAKERS; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            close(gate[1]); /* closing the other ends is the signal */
            close(leave[1]);
            taker(gate[0], result[1], leave[0]);
        }
    }
    close(gate[1]);
    struct {
        Status status;
        int64_t generation;
        char what[200];
    } told[TAKERS];
    int64_t generation = 0;
    char winner[64];
    *owners = *refused = 0;
    for (int i = 0; i < TAKERS; i++) {
        assert_int_equal(read(result[0], &told[i], sizeof told[i]), sizeof told[i]);
        if (told[i].status != STATUS_OK) continue;
        ++*owners;
        generation = told[i].generation;
    }
    snprintf(winner, sizeof winner, "launch %lld: process", (long long)generation);
    for (int i = 0; i < TAKERS; i++)
        *refused += told[i].status == STATUS_USAGE && strstr(told[i].what, winner) != NULL;
    close(leave[1]);
    for (int i = 0; i < TAKERS; i++)
        waitpid(pids[i], NULL, 0);
    close(gate[0]);
    close(result[0]);
    close(result[1]);
    close(leave[0]);
    return generation;
}

static void two_hundred_races_have_one_owner_each(void **state) {
    (void)state;
    int won = 0;
    for (int i = 1; i <= RACES; i++) {
        int owners, refused;
        int64_t generation = race(&owners, &refused);
        assert_int_equal(owners, 1);
        assert_int_equal(refused, TAKERS - 1);
        assert_int_equal(generation, i);
        won += owners;
    }
    assert_int_equal(won, RACES);
    Listing listing;
    int records = 0;
    assert_ok(listing_read(run.directory, &listing));
    for (int i = 0; i < listing.count; i++) {
        records += listing.names[i].kind == LISTED_OWNER;
        assert_int_not_equal(listing.names[i].kind, LISTED_TEMPORARY);
    }
    assert_int_equal(records, RACES);
    listing_free(&listing);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(a_record_reads_back_as_it_was_written),
        TEST(a_living_owner_of_this_host_is_named_and_left_alone),
        TEST(an_owner_that_left_can_be_followed_at_once),
        TEST(a_killed_owner_and_a_reused_pid_are_dead_at_once),
        TEST(an_owner_that_is_about_to_die_is_waited_for),
        TEST(another_hosts_owner_is_dead_when_its_heartbeat_stands_still),
        TEST(another_hosts_owner_is_not_called_dead_when_its_heartbeat_cannot_be_read),
        TEST(a_busy_owner_on_another_host_is_never_taken_and_a_killed_one_is),
        TEST(a_released_owner_beats_no_more),
        TEST(a_forked_child_cannot_give_its_parents_directory_back),
        TEST(the_supervisor_or_the_scheduler_can_vouch),
        TEST(a_taker_that_slept_does_not_fill_a_pruned_gap),
        TEST(a_damaged_record_counts_as_alive),
        TEST(the_restored_file_is_kept_under_the_own_generation),
        TEST(a_file_of_another_file_system_is_copied),
        TEST(a_missing_restored_file_gives_the_directory_back),
        TEST(a_taker_that_slept_since_its_restore_sets_nothing_aside),
        TEST(a_generation_is_above_what_the_mirror_holds),
        TEST(an_owner_whose_record_is_gone_has_lost),
        TEST(two_hundred_races_have_one_owner_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
