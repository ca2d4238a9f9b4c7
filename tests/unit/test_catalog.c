/* What counts in a run directory, and what retention may delete. */
#include "tests/support/test.h"

#include "tests/support/run_directory.h"

#include "src/checkpoint/owner.h"
#include "src/checkpoint/userblock.h"

#include <errno.h>

static RunDirectory run;

static int make_run(void **state) {
    (void)state;
    run = run_directory_create();
    return run.directory < 0;
}

static int remove_run(void **state) {
    (void)state;
    run_directory_remove(&run);
    return 0;
}

/* Takes the next generation and leaves at once, as a launch that was killed. */
static void launch(const OwnerClaim *claim, Owner *owner) {
    assert_ok(owner_take(run.path, claim, 0.0, owner));
}

static const OwnerClaim FRESH = {.restored_step = -1};

/* "3:1200 valid, 2:900 rejected": the whole catalogue as one text. */
static const char *listed(void) {
    static char text[1024];
    static const char *const verdicts[] = {"valid", "rejected", "superseded"};
    Catalog catalog;
    size_t length = 0;
    assert_ok(catalog_open(run.path, &catalog));
    text[0] = '\0';
    for (int i = 0; i < catalog.count; i++)
        length += (size_t)snprintf(
            text + length, sizeof text - length, "%s%lld:%lld %s", i > 0 ? ", " : "",
            (long long)catalog.items[i].generation, (long long)catalog.items[i].step,
            verdicts[catalog.items[i].verdict]);
    catalog_close(&catalog);
    return text;
}

static void a_missing_directory_is_an_empty_catalogue(void **state) {
    (void)state;
    Catalog catalog;
    assert_ok(catalog_open("/nonexistent/run", &catalog));
    assert_int_equal(catalog.directory, -1);
    assert_false(catalog_has_any(&catalog));
    catalog_close(&catalog);
}

static void a_file_in_place_of_the_directory_is_an_error(void **state) {
    (void)state;
    char inside[96];
    Catalog catalog;
    snprintf(inside, sizeof inside, "%s/x", run.path);
    assert_int_equal(mkdir(inside, 0755), 0);
    snprintf(inside, sizeof inside, "%s/x/checkpoints", run.path);
    close(open(inside, O_CREAT | O_WRONLY, 0600));
    snprintf(inside, sizeof inside, "%s/x", run.path);
    assert_fails(catalog_open(inside, &catalog), STATUS_IO, "checkpoints");
}

static void order_is_generation_then_step(void **state) {
    (void)state;
    write_stepped(&run, 1, 900);
    write_stepped(&run, 2, 10);
    write_stepped(&run, 1, 1000000);
    write_stepped(&run, 10001, 5);
    assert_string_equal(listed(),
                        "10001:5 valid, 2:10 valid, 1:1000000 valid, 1:900 valid");
}

static void only_exact_names_are_checkpoints(void **state) {
    (void)state;
    static const char *const others[] = {
        "g1-step-000000000100.h5",     "g0001-step-100.h5",
        "g0001-step-000000000100.h5x", "latest",
        ".g0001-step-000000000100.h5", "g0000-step-000000000100.h5",
        "g-001-step-000000000100.h5",  "g99999999999999999999-step-000000000100.h5",
        "g0001-step--00000000100.h5",
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        close(openat(run.directory, others[i], O_CREAT | O_WRONLY, 0600));
    assert_string_equal(listed(), "");
}

static void damage_links_and_wrong_names_are_rejected(void **state) {
    (void)state;
    write_stepped(&run, 1, 100);
    write_stepped(&run, 1, 200);
    flip_bit(&run, 1, 200, 100);
    close(openat(run.directory, "g0001-step-000000000300.h5", O_CREAT | O_WRONLY, 0600));
    assert_int_equal(symlinkat("g0001-step-000000000100.h5", run.directory,
                               "g0001-step-000000000400.h5"),
                     0);
    assert_int_equal(linkat(run.directory, "g0001-step-000000000100.h5", run.directory,
                            "g0001-step-000000000500.h5", 0),
                     0);
    assert_int_equal(mkdirat(run.directory, "g0001-step-000000000600.h5", 0755), 0);
    assert_string_equal(listed(), "1:600 rejected, 1:500 rejected, 1:400 rejected, "
                                  "1:300 rejected, 1:200 rejected, 1:100 valid");
}

static void a_kept_file_counts_only_as_its_owner_recorded_it(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    Digest digest = write_stepped(&run, 1, 100);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 100, digest);
    launch(&claim, &owner);
    assert_string_equal(listed(), "2:100 valid, 1:100 valid");
    /* another file of generation 1 under the name of generation 2 */
    write_stepped(&run, 1, 90);
    assert_int_equal(linkat(run.directory, "g0001-step-000000000090.h5", run.directory,
                            "g0002-step-000000000090.h5", 0),
                     0);
    assert_string_equal(listed(), "2:100 valid, 2:90 rejected, 1:100 valid, 1:90 valid");
    owner_release(&owner);
}

static void what_a_zombie_writes_after_its_successor_began_does_not_count(void **state) {
    (void)state;
    Owner zombie, successor;
    launch(&FRESH, &zombie);
    write_stepped(&run, 1, 100);
    Digest digest = write_stepped(&run, 1, 200);
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "1", 1), 0);
    OwnerClaim claim = claim_of(1, 200, digest);
    launch(&claim, &successor);
    unsetenv("REKINDLE_OWNER_DEAD");
    write_stepped(&run, 1, 300);
    write_stepped(&run, 1, 150);
    assert_string_equal(listed(),
                        "2:200 valid, 1:300 superseded, 1:200 valid, 1:150 valid, "
                        "1:100 valid");
    assert_int_equal(owner_check(&zombie), STATUS_LOST_OWNER);
    owner_release(&zombie);
    owner_release(&successor);
}

static void a_rollback_supersedes_every_generation_between(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    Digest early = write_stepped(&run, 1, 100);
    Digest late = write_stepped(&run, 1, 200);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 200, late);
    launch(&claim, &owner);
    write_stepped(&run, 2, 300);
    owner_release(&owner);
    claim = claim_of(1, 100, early);
    launch(&claim, &owner);
    assert_string_equal(listed(), "3:100 valid, 2:300 superseded, 2:200 superseded, "
                                  "1:200 superseded, 1:100 valid");
    owner_release(&owner);
}

static void a_damaged_owner_record_hides_nothing(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    Digest digest = write_stepped(&run, 1, 100);
    write_stepped(&run, 1, 200);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 100, digest);
    launch(&claim, &owner);
    assert_string_equal(listed(), "2:100 valid, 1:200 superseded, 1:100 valid");
    int fd = openat(run.directory, "owner.g0002", O_RDWR);
    char text[2048];
    ssize_t length = read(fd, text, sizeof text - 1);
    assert_true(length > 0);
    text[length] = '\0';
    char *step = strstr(text, "\"step\": 100");
    assert_non_null(step);
    assert_int_equal(pwrite(fd, "0", 1, step + 8 - text),
                     1); /* step 000: a flipped digit */
    close(fd);
    assert_string_equal(listed(), "2:100 valid, 1:200 valid, 1:100 valid");
    owner_release(&owner);
}

/* ---- retention */

static Status prune(const Owner *owner, int keep_last, int commits) {
    return catalog_prune(owner, &(Retention){.keep_last = keep_last}, commits);
}

static void pruning_keeps_the_newest_of_its_own(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    for (int step = 100; step <= 500; step += 100)
        write_stepped(&run, 1, step);
    assert_ok(prune(&owner, 2, 5));
    assert_string_equal(listed(), "1:500 valid, 1:400 valid");
    assert_ok(prune(&owner, 0, 6)); /* zero never means none */
    assert_string_equal(listed(), "1:500 valid");
    owner_release(&owner);
}

static void pruning_never_deletes_the_newest_valid_or_what_was_rejected(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    for (int step = 100; step <= 400; step += 100)
        write_stepped(&run, 1, step);
    flip_bit(&run, 1, 400, 50);
    flip_bit(&run, 1, 300, 50);
    flip_bit(&run, 1, 100, 50);
    write_stepped(&run, 1, 50);
    assert_ok(prune(&owner, 1, 4));
    assert_string_equal(listed(),
                        "1:400 rejected, 1:300 rejected, 1:200 valid, 1:100 rejected");
    flip_bit(&run, 1, 200, 50);
    assert_ok(prune(&owner, 1, 5));
    assert_string_equal(listed(),
                        "1:400 rejected, 1:300 rejected, 1:200 rejected, 1:100 rejected");
    owner_release(&owner);
}

static void older_generations_go_only_after_two_commits(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    write_stepped(&run, 1, 100);
    Digest digest = write_stepped(&run, 1, 200);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 200, digest);
    launch(&claim, &owner);
    assert_ok(prune(&owner, 3, 0));
    write_stepped(&run, 2, 300);
    assert_ok(prune(&owner, 3, 1));
    assert_string_equal(listed(), "2:300 valid, 2:200 valid, 1:100 valid");
    write_stepped(&run, 2, 400);
    assert_ok(prune(&owner, 3, 2));
    assert_string_equal(listed(), "2:400 valid, 2:300 valid, 2:200 valid");
    assert_int_not_equal(faccessat(run.directory, "owner.g0001", F_OK, 0), 0);
    assert_int_equal(faccessat(run.directory, "owner.g0002", F_OK, 0), 0);
    assert_ok(owner_check(&owner));
    owner_release(&owner);
}

/* Three launches, each from the one before's last file; the records of all but the last are pruned. */
static void
a_zombie_of_any_generation_stays_limited_after_its_successors_record_went(void **state) {
    (void)state;
    Owner owner;
    OwnerClaim claim = FRESH;
    Digest digest = {0, 0};
    for (int64_t generation = 1; generation <= 3; generation++) {
        if (generation > 1) claim = claim_of(generation - 1, 100 * generation, digest);
        launch(&claim, &owner);
        write_stepped(&run, generation, 100 * generation + 50);
        digest = write_stepped(&run, generation, 100 * (generation + 1));
        if (generation < 3) owner_release(&owner);
    }
    assert_ok(prune(&owner, 3, 2));
    assert_string_equal(listed(), "3:400 valid, 3:350 valid, 3:300 valid");
    assert_int_not_equal(faccessat(run.directory, "owner.g0001", F_OK, 0), 0);
    assert_int_not_equal(faccessat(run.directory, "owner.g0002", F_OK, 0), 0);
    /* both wake inside a save: the second launch went on from step 200, the third from 300 */
    write_stepped(&run, 1, 200);
    write_stepped(&run, 1, 250);
    write_stepped(&run, 2, 300);
    write_stepped(&run, 2, 350);
    assert_string_equal(listed(), "3:400 valid, 3:350 valid, 3:300 valid, "
                                  "2:350 superseded, 2:300 valid, "
                                  "1:250 superseded, 1:200 valid");
    owner_release(&owner);
    /* and so they do for the launch after */
    claim = claim_of(3, 400, write_stepped(&run, 3, 399));
    claim.restored_digest = digest;
    launch(&claim, &owner);
    assert_int_equal(unlinkat(run.directory, "owner.g0003", 0), 0);
    assert_string_equal(listed(), "4:400 valid, 3:400 valid, 3:399 valid, 3:350 valid, "
                                  "3:300 valid, 2:350 superseded, 2:300 valid, "
                                  "1:250 superseded, 1:200 valid");
    owner_release(&owner);
}

static void a_rollback_makes_the_limits_before_it_needless(void **state) {
    (void)state;
    static OwnerRecord ours, older;
    ours = (OwnerRecord){.generation = 9, .restored_step = 450, .readable = true};
    const OwnerLimit said[] = {{2, 100}, {3, 200}, {4, 300}, {5, 150}, {6, 400}, {7, 500}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        older = (OwnerRecord){.generation = said[i].generation,
                              .restored_step = said[i].step,
                              .readable = true};
        owner_inherit(&ours, &older);
    }
    owner_settle_limits(&ours);
    assert_int_equal(ours.limit_count, 3); /* 2:100, 5:150, 6:400 */
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        older = (OwnerRecord){.generation = said[i].generation,
                              .restored_step = said[i].step,
                              .readable = true};
        assert_true(owner_implies(&ours, &older));
    }
    older = (OwnerRecord){.generation = 8, .restored_step = 420, .readable = true};
    assert_false(owner_implies(&ours, &older));
}

static void a_thousand_launches_leave_one_record_of_bounded_size(void **state) {
    (void)state;
    static OwnerRecord before, ours;
    before = (OwnerRecord){.generation = 1, .restored_step = -1, .readable = true};
    for (int64_t generation = 2; generation <= 1000; generation++) {
        ours = (OwnerRecord){
            .generation = generation, .restored_step = 10 * generation, .readable = true};
        owner_inherit(&ours, &before);
        owner_settle_limits(&ours);
        assert_true(owner_implies(&ours, &before));
        before = ours;
    }
    assert_int_equal(ours.limit_count, OWNER_LIMITS);
    assert_int_equal(ours.limits[OWNER_LIMITS - 1].generation, 999);
    char *text = owner_format(&ours);
    assert_non_null(text);
    assert_true(strlen(text) < 32 << 10);
    assert_ok(file_publish(run.directory, "owner.g1000", text, strlen(text)));
    owner_read(run.directory, 1000, &before);
    assert_true(before.readable);
    assert_memory_equal(before.limits, ours.limits, sizeof ours.limits);
    free(text);
}

static void launches_killed_after_one_commit_each_do_not_fill_the_disk(void **state) {
    (void)state;
    Owner owner;
    OwnerClaim claim = FRESH;
    Digest digest = {0, 0};
    for (int64_t generation = 1; generation <= 6; generation++) {
        if (generation > 1)
            claim = claim_of(generation - 1, 100 * (generation - 1), digest);
        launch(&claim, &owner);
        digest = write_stepped(&run, generation, 100 * generation);
        assert_ok(prune(&owner, 2, 1));
        owner_release(&owner);
    }
    assert_string_equal(listed(), "6:600 valid, 6:500 valid, 5:400 valid, 4:300 valid");
}

static void older_generations_stay_while_nothing_of_ones_own_is_valid(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    write_stepped(&run, 1, 100);
    Digest digest = write_stepped(&run, 1, 200);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 200, digest);
    launch(&claim, &owner);
    write_stepped(&run, 2, 300);
    flip_bit(&run, 2, 300, 50);
    assert_int_equal(unlinkat(run.directory, "g0002-step-000000000200.h5", 0), 0);
    assert_ok(prune(&owner, 3, 9));
    assert_string_equal(listed(), "2:300 rejected, 1:200 valid, 1:100 valid");
    owner_release(&owner);
}

/* Writes a checkpoint that was evaluated at `evaluated`. */
static void write_evaluated(int64_t generation, int64_t step, int64_t evaluated,
                            double accuracy, double loss) {
    char name[CATALOG_NAME], metrics[128];
    snprintf(metrics, sizeof metrics,
             "{\"evaluated_step\":%lld,\"loss\":%.9g,\"accuracy\":%.9g}",
             (long long)evaluated, loss, accuracy);
    write_stepped(&run, generation, step);
    catalog_name(generation, step, name);
    UserBlock block;
    char text[CHECKPOINT_USER_BLOCK];
    assert_ok(checkpoint_read_user_block(run.directory, name, &block));
    strcpy(block.metrics, metrics);
    assert_ok(userblock_encode(&block, text));
    int fd = openat(run.directory, name, O_WRONLY);
    assert_int_equal(file_write_at(fd, text, sizeof text, 0), 0);
    close(fd);
}

static void the_best_checkpoint_stays_of_whatever_generation(void **state) {
    (void)state;
    Owner owner;
    Retention best = {.keep_last = 1, .best_metric = "accuracy"};
    launch(&FRESH, &owner);
    write_evaluated(1, 100, 100, 0.5, 2.0);
    write_evaluated(1, 200, 200, 0.8, 1.5);
    write_evaluated(1, 300, 200, 0.9,
                    0.1); /* of an earlier state: says nothing of this one */
    write_evaluated(1, 400, 400, 0.8, 1.0); /* no better than 200 */
    Digest digest = write_stepped(&run, 1, 500);
    assert_ok(catalog_prune(&owner, &best, 5));
    assert_string_equal(listed(), "1:500 valid, 1:200 valid");
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 500, digest);
    launch(&claim, &owner);
    write_evaluated(2, 600, 600, 0.7, 0.9);
    write_evaluated(2, 700, 700, 0.6, 0.8);
    assert_ok(catalog_prune(&owner, &best, 2));
    assert_string_equal(listed(), "2:700 valid, 1:200 valid");
    strcpy(best.best_metric, "loss");
    best.best_is_least = true;
    write_evaluated(2, 800, 800, 0.6, 0.85);
    assert_ok(catalog_prune(&owner, &best, 3));
    assert_string_equal(listed(), "2:800 valid, 2:700 valid");
    owner_release(&owner);
}

static void a_superseded_best_is_nobodys(void **state) {
    (void)state;
    Owner owner;
    const Retention best = {.keep_last = 1, .best_metric = "accuracy", .keep_every = 300};
    launch(&FRESH, &owner);
    write_evaluated(1, 100, 100, 0.5, 2.0);
    Digest digest = write_stepped(&run, 1, 200);
    write_evaluated(1, 300, 300, 0.99, 0.1);
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 200, digest); /* the run went another way from there */
    launch(&claim, &owner);
    write_evaluated(2, 250, 250, 0.4, 3.0);
    write_evaluated(2, 260, 260, 0.4, 3.0);
    assert_ok(catalog_prune(&owner, &best, 2));
    assert_string_equal(listed(), "2:260 valid, 1:100 valid");
    owner_release(&owner);
}

static void each_so_many_steps_one_stays_for_ever(void **state) {
    (void)state;
    Owner owner;
    const Retention every = {.keep_last = 2, .keep_every = 200};
    launch(&FRESH, &owner);
    Digest digest = {0, 0};
    for (int step = 100; step <= 600; step += 100)
        digest = write_stepped(&run, 1, step);
    assert_ok(catalog_prune(&owner, &every, 6));
    assert_string_equal(listed(), "1:600 valid, 1:500 valid, 1:400 valid, 1:200 valid");
    owner_release(&owner);
    OwnerClaim claim = claim_of(1, 600, digest);
    launch(&claim, &owner);
    write_stepped(&run, 2, 700);
    write_stepped(&run, 2, 800);
    assert_ok(catalog_prune(&owner, &every, 2));
    /* 600 under its newest name only */
    assert_string_equal(listed(), "2:800 valid, 2:700 valid, 2:600 valid, 1:400 valid, "
                                  "1:200 valid");
    owner_release(&owner);
}

static void pinned_files_stay_until_they_are_unpinned(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    for (int step = 100; step <= 400; step += 100)
        write_stepped(&run, 1, step);
    assert_ok(catalog_pin(run.directory, "g0001-step-000000000200.h5"));
    assert_ok(catalog_pin(run.directory, "g0001-step-000000000200.h5"));
    assert_ok(prune(&owner, 1, 4));
    assert_string_equal(listed(), "1:400 valid, 1:200 valid");
    owner_release(&owner);
    launch(&FRESH, &owner); /* which sets all of it aside */
    write_stepped(&run, 2, 10);
    write_stepped(&run, 2, 20);
    assert_ok(prune(&owner, 1, 2));
    assert_string_equal(listed(), "2:20 valid, 1:200 superseded");
    assert_ok(catalog_unpin(run.directory, "g0001-step-000000000200.h5"));
    assert_ok(catalog_unpin(run.directory, "g0001-step-000000000200.h5"));
    assert_ok(prune(&owner, 1, 3));
    assert_string_equal(listed(), "2:20 valid");
    owner_release(&owner);
}

static void only_a_checkpoint_that_is_there_can_be_pinned(void **state) {
    (void)state;
    write_stepped(&run, 1, 100);
    assert_fails(catalog_pin(run.directory, "g0001-step-000000000200.h5"), STATUS_USAGE,
                 "not there");
    assert_fails(catalog_pin(run.directory, "owner.g0001"), STATUS_USAGE, "not the name");
    assert_fails(catalog_unpin(run.directory, "../x.h5"), STATUS_USAGE, "not the name");
    assert_int_not_equal(
        faccessat(run.directory, "g0001-step-000000000200.h5.pinned", F_OK, 0), 0);
}

static void a_zombie_deletes_nothing(void **state) {
    (void)state;
    Owner zombie, successor;
    launch(&FRESH, &zombie);
    for (int step = 100; step <= 300; step += 100)
        write_stepped(&run, 1, step);
    assert_int_equal(setenv("REKINDLE_OWNER_DEAD", "1", 1), 0);
    launch(&FRESH, &successor);
    unsetenv("REKINDLE_OWNER_DEAD");
    assert_fails(prune(&zombie, 1, 9), STATUS_LOST_OWNER, "launch 2");
    assert_true(has_checkpoint(&run, 1, 100) && has_checkpoint(&run, 1, 200));
    owner_release(&zombie);
    owner_release(&successor);
}

static void marked_files_outlive_retention(void **state) {
    (void)state;
    Owner owner;
    launch(&FRESH, &owner);
    for (int step = 100; step <= 300; step += 100)
        write_stepped(&run, 1, step);
    catalog_mark_rejected(&owner, "g0001-step-000000000100.h5", "segment 0 is damaged");
    catalog_mark_rejected(&owner, "g0001-step-000000000300.h5", "segment 0 is damaged");
    assert_ok(prune(&owner, 1, 3));
    /* the marked newest is no reason to give up the newest good one */
    assert_string_equal(listed(), "1:300 valid, 1:200 valid, 1:100 valid");
    owner_release(&owner);
}

static void the_sweep_removes_only_what_dead_launches_left_unfinished(void **state) {
    (void)state;
    Owner owner;
    static const char *const names[] = {
        ".g0001-step-000000000100.h5.00ff.tmp", /* goes */
        ".owner.g0001.00ff.tmp",                /* goes */
        ".owner.g0002.00ff.tmp",                /* goes: of a taker that lost or died */
        ".owner.g0003.00ff.tmp",                /* a successor's, perhaps */
        ".g0001-notes",                         /* not ours */
        "g0001-notes.tmp",
    };
    launch(&FRESH, &owner);
    owner_release(&owner);
    launch(&FRESH, &owner);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        close(openat(run.directory, names[i], O_CREAT | O_WRONLY, 0600));
    catalog_sweep(&owner);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(faccessat(run.directory, names[i], F_OK, 0) == 0, i >= 3);
    owner_release(&owner);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)
    const struct CMUnitTest tests[] = {
        TEST(a_missing_directory_is_an_empty_catalogue),
        TEST(a_file_in_place_of_the_directory_is_an_error),
        TEST(order_is_generation_then_step),
        TEST(only_exact_names_are_checkpoints),
        TEST(damage_links_and_wrong_names_are_rejected),
        TEST(a_kept_file_counts_only_as_its_owner_recorded_it),
        TEST(what_a_zombie_writes_after_its_successor_began_does_not_count),
        TEST(a_rollback_supersedes_every_generation_between),
        TEST(a_damaged_owner_record_hides_nothing),
        TEST(pruning_keeps_the_newest_of_its_own),
        TEST(pruning_never_deletes_the_newest_valid_or_what_was_rejected),
        TEST(older_generations_go_only_after_two_commits),
        TEST(a_zombie_of_any_generation_stays_limited_after_its_successors_record_went),
        TEST(a_rollback_makes_the_limits_before_it_needless),
        TEST(a_thousand_launches_leave_one_record_of_bounded_size),
        TEST(launches_killed_after_one_commit_each_do_not_fill_the_disk),
        TEST(older_generations_stay_while_nothing_of_ones_own_is_valid),
        TEST(the_best_checkpoint_stays_of_whatever_generation),
        TEST(a_superseded_best_is_nobodys),
        TEST(each_so_many_steps_one_stays_for_ever),
        TEST(pinned_files_stay_until_they_are_unpinned),
        TEST(only_a_checkpoint_that_is_there_can_be_pinned),
        TEST(a_zombie_deletes_nothing),
        TEST(marked_files_outlive_retention),
        TEST(the_sweep_removes_only_what_dead_launches_left_unfinished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
