/* A run's history out of ledgers that are whole, torn, huge, foreign or no files at all. */
#include "src/train/history.h"

#include "tests/support/run_directory.h"
#include "tests/support/test.h"

#include <math.h>

static RunDirectory run;
static FILE *ledger;

static void path_of_ledger(char path[96]) {
    snprintf(path, 96, "%s/ledger.jsonl", run.path);
}

static void begin(void) {
    char path[96];
    path_of_ledger(path);
    unlink(path);
    ledger = fopen(path, "w");
    assert_non_null(ledger);
}

static void event(int generation, const char *name, double at) {
    fprintf(ledger, "{\"event\":\"%s\",\"generation\":%d,\"at\":%g}\n", name, generation,
            at);
}

static void save(int generation, double at, double stall, double seconds) {
    fprintf(ledger,
            "{\"event\":\"save\",\"generation\":%d,\"at\":%g,\"ok\":true,\"stall\":%g,"
            "\"seconds\":%g}\n",
            generation, at, stall, seconds);
}

static History finish(void) {
    History history;
    fclose(ledger);
    assert_ok(history_read(run.path, &history));
    return history;
}

static void assert_tells_nothing(const History *history) {
    assert_int_equal(history->launches, 0);
    assert_int_equal(history->failures, 0);
    assert_true(history->exposure == 0 && history->stall == -1 &&
                history->longest_save == -1);
}

static void launches_that_did_not_say_goodbye_have_failed(void **unused) {
    (void)unused;
    begin();
    event(1, "launch", 1);
    event(1, "stop", 100);
    event(2, "launch", 2);
    event(2, "restore", 2);
    save(2, 30, 0.1, 3);
    save(2, 50, 0.3, 5);
    event(3, "launch", 1);
    event(3, "fault", 10);
    event(4, "launch", 1);
    event(4, "end", 7);
    History history = finish();
    assert_int_equal(history.launches, 4);
    assert_int_equal(history.failures, 2);
    assert_true(fabs(history.exposure - 167) < 1e-9);
    assert_true(fabs(history.stall - 0.2) < 1e-9);
    assert_true(history.longest_save == 5);
}

static void lines_of_two_launches_may_mix(void **unused) {
    (void)unused;
    begin();
    event(1, "launch", 1);
    event(2, "launch", 1);
    event(1, "save", 40); /* a zombie */
    event(2, "end", 20);
    History history = finish();
    assert_int_equal(history.launches, 2);
    assert_int_equal(history.failures, 1);
    assert_true(history.exposure == 60);
}

static void a_torn_line_and_foreign_ones_count_for_nothing(void **unused) {
    (void)unused;
    begin();
    fputs("nonsense\n\n{}\n[1]\n\"event\"\nnull\n", ledger);
    fputs("{\"event\":\"launch\",\"step\":0}\n", ledger); /* as they were once written */
    fputs("{\"event\":\"launch\",\"generation\":\"1\",\"at\":1}\n", ledger);
    fputs("{\"event\":\"launch\",\"generation\":5,\"at\":-1}\n", ledger);
    fputs("{\"event\":\"launch\",\"generation\":5,\"at\":1e300}\n", ledger);
    fputs("{\"event\":[],\"generation\":5,\"at\":1}\n", ledger);
    event(9, "stop", 5); /* its launch was never told */
    event(1, "launch", 1);
    fputs("{\"event\":\"save\",\"generation\":1,\"at\":2,\"ok\":true,\"stall\":\"x\","
          "\"seconds\":1}\n",
          ledger);
    fputs("{\"event\":\"save\",\"generation\":1,\"at\":2,\"ok\":false,\"stall\":1,"
          "\"seconds\":1}\n",
          ledger);
    const char zero[] = "{\"event\":\"stop\"\0,\"generation\":1,\"at\":3}\n";
    fwrite(zero, 1, sizeof zero - 1, ledger);
    fputs("{\"event\":\"stop\",\"generation\":1,\"at\":3}", ledger);
    History history = finish();
    assert_int_equal(history.launches, 1);
    assert_int_equal(history.failures, 1);
    assert_true(history.exposure == 2);
    assert_true(history.stall == -1 && history.longest_save == -1);
}

static void of_a_huge_one_the_end_is_read(void **unused) {
    (void)unused;
    begin();
    for (int i = 1; i <= 40000; i++) {
        event(i, "launch", 1);
        if (i % 2 == 0) event(i, "end", 3);
    }
    for (int i = 0; i < 100; i++)
        save(40000, 4, 1, i == 50 ? 1000 : 10);
    History history = finish();
    assert_int_equal(history.launches, 256);
    assert_int_equal(history.failures, 128);
    assert_true(history.exposure == 128 * 1 + 127 * 3 + 4);
    assert_true(history.longest_save == 10);
}

static void a_line_without_end_is_no_line(void **unused) {
    (void)unused;
    begin();
    event(1, "launch", 1);
    for (int i = 0; i < 3 << 20; i++)
        fputc('[', ledger);
    fputc('\n', ledger);
    event(2, "launch", 1);
    History history = finish();
    assert_int_equal(history.launches, 1);
}

static void what_is_not_there_or_no_file_tells_nothing(void **unused) {
    (void)unused;
    History history;
    char path[96];
    path_of_ledger(path);
    unlink(path);
    assert_ok(history_read(run.path, &history));
    assert_tells_nothing(&history);
    assert_ok(history_read("/no/such/run", &history));
    assert_tells_nothing(&history);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(history_read(run.path, &history), STATUS_USAGE, "ledger.jsonl");
    assert_tells_nothing(&history);
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_fails(history_read(run.path, &history), STATUS_USAGE, "ledger.jsonl");
    assert_tells_nothing(&history);
    unlink(path);
    begin();
    history = finish();
    assert_tells_nothing(&history);
}

static int make_run(void **unused) {
    (void)unused;
    run = run_directory_create();
    return 0;
}

static int remove_run(void **unused) {
    (void)unused;
    run_directory_remove(&run);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(launches_that_did_not_say_goodbye_have_failed),
        cmocka_unit_test(lines_of_two_launches_may_mix),
        cmocka_unit_test(a_torn_line_and_foreign_ones_count_for_nothing),
        cmocka_unit_test(of_a_huge_one_the_end_is_read),
        cmocka_unit_test(a_line_without_end_is_no_line),
        cmocka_unit_test(what_is_not_there_or_no_file_tells_nothing),
    };
    return cmocka_run_group_tests(tests, make_run, remove_run);
}
