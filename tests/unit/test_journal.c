/* The metrics log never holds a step twice. */
#include "tests/support/test.h"

#include "src/train/journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/rekindle-journal-XXXXXX";

static void path_of(const char *name, char path[128]) {
    snprintf(path, 128, "%s/%s", folder, name);
}

static void put(const char *name, const char *text) {
    char path[128];
    path_of(name, path);
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

static void assert_content(const char *name, const char *expected) {
    char path[128], text[1024];
    path_of(name, path);
    FILE *file = fopen(path, "r");
    size_t length = fread(text, 1, sizeof text - 1, file);
    text[length] = '\0';
    fclose(file);
    assert_string_equal(text, expected);
}

static void a_resume_rewinds_to_the_restored_step_and_drops_a_torn_line(void **unused) {
    (void)unused;
    put("metrics.jsonl",
        "{\"step\":10,\"loss\":1}\n{\"step\":20}\n{\"step\":30}\nnonsense\n"
        "{\"loss\":2}\n{\"step\":15}\n{\"step\":2");
    Journal *journal;
    assert_ok(journal_open(folder, 20, 10, &journal));
    assert_ok(journal_metric(journal, "{\"step\":21}"));
    assert_ok(journal_sync(journal));
    journal_close(journal);
    assert_content(
        "metrics.jsonl",
        "{\"step\":10,\"loss\":1}\n{\"step\":20}\n{\"step\":15}\n{\"step\":21}\n");
}

/* Saved by a stop inside of the evaluation, which was then repeated and logged before a kill. */
static void an_evaluation_that_will_be_repeated_goes(void **unused) {
    (void)unused;
    put("metrics.jsonl", "{\"kind\":\"evaluation\",\"step\":10}\n"
                         "{\"kind\":\"train\",\"step\":20}\n"
                         "{\"kind\":\"evaluation\",\"step\":20}\n");
    Journal *journal;
    assert_ok(journal_open(folder, 20, 10, &journal));
    journal_close(journal);
    assert_content("metrics.jsonl", "{\"kind\":\"evaluation\",\"step\":10}\n"
                                    "{\"kind\":\"train\",\"step\":20}\n");
}

static void a_fresh_start_keeps_no_metric_but_every_event(void **unused) {
    (void)unused;
    put("metrics.jsonl", "{\"step\":10}\n");
    put("ledger.jsonl", "{\"event\":\"launch\",\"step\":0}\n");
    Journal *journal;
    assert_ok(journal_open(folder, -1, -1, &journal));
    assert_ok(journal_event(journal, "{\"event\":\"launch\",\"step\":0}"));
    journal_close(journal);
    assert_content("metrics.jsonl", "");
    assert_content("ledger.jsonl", "{\"event\":\"launch\",\"step\":0}\n"
                                   "{\"event\":\"launch\",\"step\":0}\n");
}

static void a_run_directory_that_is_not_there_is_named(void **unused) {
    (void)unused;
    Journal *journal;
    assert_fails(journal_open("/no/such/run", -1, -1, &journal), STATUS_IO, "/no/such/run");
}

static int make_folder(void **unused) {
    (void)unused;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **unused) {
    (void)unused;
    char path[128];
    path_of("metrics.jsonl", path);
    unlink(path);
    path_of("ledger.jsonl", path);
    unlink(path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_resume_rewinds_to_the_restored_step_and_drops_a_torn_line),
        cmocka_unit_test(an_evaluation_that_will_be_repeated_goes),
        cmocka_unit_test(a_fresh_start_keeps_no_metric_but_every_event),
        cmocka_unit_test(a_run_directory_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
