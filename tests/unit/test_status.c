/* One failure keeps its code, its text and its place on the way up, across threads and ranks. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Status find_fault(void) {
    return FAIL(STATUS_IO, "free some space", "disk full on %s", "/scratch");
}

static Status pass_on(void) {
    TRY(find_fault());
    return FAIL(STATUS_DEVICE, NULL, "reached although the first call failed");
}

static Status go_on(void) {
    TRY(STATUS_OK);
    return STATUS_STOPPED;
}

static void a_failure_travels_up_unchanged(void **state) {
    (void)state;
    assert_int_equal(pass_on(), STATUS_IO);
    const Failure *failure = status_failure();
    assert_int_equal(failure->code, STATUS_IO);
    assert_string_equal(failure->what, "disk full on /scratch");
    assert_string_equal(failure->fix, "free some space");
    assert_non_null(strstr(failure->where, "find_fault (tests/unit/test_status.c:"));
    assert_int_equal(go_on(), STATUS_STOPPED);
}

static void failing_keeps_errno(void **state) {
    (void)state;
    errno = ENOSPC;
    find_fault();
    assert_int_equal(errno, ENOSPC);
}

static void a_fix_may_be_missing_and_long_texts_are_cut(void **state) {
    (void)state;
    char longer[4096];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    FAIL(STATUS_COMM, NULL, "%s", longer);
    const Failure *failure = status_failure();
    assert_string_equal(failure->fix, "");
    assert_int_equal(strlen(failure->what), sizeof failure->what - 1);
    FAIL(STATUS_MEMORY, longer, "short");
    assert_int_equal(strlen(failure->fix), sizeof failure->fix - 1);
}

static void *fail_in_thread(void *unused) {
    (void)unused;
    FAIL(STATUS_CORRUPT, "restore an older one", "bad bytes");
    Failure *copy = malloc(sizeof *copy);
    if (copy != NULL) *copy = *status_failure();
    return copy;
}

static void threads_have_failures_of_their_own_and_can_hand_them_on(void **state) {
    (void)state;
    pthread_t thread;
    void *theirs;
    find_fault();
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, &theirs), 0);
    assert_string_equal(status_failure()->what, "disk full on /scratch");
    assert_int_equal(status_adopt(theirs), STATUS_CORRUPT);
    assert_string_equal(status_failure()->what, "bad bytes");
    assert_int_equal(status_adopt(status_failure()), STATUS_CORRUPT);
    assert_string_equal(status_failure()->what, "bad bytes");
    free(theirs);
}

static void printed_to(char *text, size_t size) {
    char name[] = "/tmp/rekindle_status_XXXXXX";
    int fd = mkstemp(name), saved = dup(STDERR_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    status_print(status_failure());
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    ssize_t got = pread(fd, text, size - 1, 0);
    close(fd);
    close(saved);
    unlink(name);
    assert_true(got >= 0);
    text[got] = '\0';
}

static void a_printed_failure_says_who_what_where_and_the_fix(void **state) {
    (void)state;
    char text[1024];
    find_fault();
    printed_to(text, sizeof text);
    assert_ptr_equal(strstr(text, "rekindle: disk full on /scratch\n  where: find_fault ("),
                     text);
    assert_non_null(strstr(text, ")\n  fix:   free some space\n"));
    status_set_who("rank 2 on node7");
    FAIL(STATUS_COMM, NULL, "nobody answers");
    status_set_who("");
    printed_to(text, sizeof text);
    assert_ptr_equal(strstr(text, "rekindle: rank 2 on node7: nobody answers\n"), text);
    assert_null(strstr(text, "fix:"));
}

static void exit_codes_are_those_documented(void **state) {
    (void)state;
    assert_int_equal(status_exit_code(STATUS_OK), 0);
    assert_int_equal(status_exit_code(STATUS_USAGE), 2);
    assert_int_equal(status_exit_code(STATUS_UNSUPPORTED), 2);
    assert_int_equal(status_exit_code(STATUS_NO_CHECKPOINT), 3);
    assert_int_equal(status_exit_code(STATUS_WATCHDOG), 4);
    assert_int_equal(status_exit_code(STATUS_STOPPED), 75);
    for (Status code = STATUS_IO; code <= STATUS_LOST_OWNER; code++)
        assert_int_equal(status_exit_code(code), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_travels_up_unchanged),
        cmocka_unit_test(failing_keeps_errno),
        cmocka_unit_test(a_fix_may_be_missing_and_long_texts_are_cut),
        cmocka_unit_test(threads_have_failures_of_their_own_and_can_hand_them_on),
        cmocka_unit_test(a_printed_failure_says_who_what_where_and_the_fix),
        cmocka_unit_test(exit_codes_are_those_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
