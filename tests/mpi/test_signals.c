/* Signals become requests: taken once, never counted when they come together, and insistence
 * hastens the end. Each case runs in a child, since the flags are the process's. No MPI is used. */
#include "dist/signals.h"
#include "tests/support/test.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The child's checks: a failed one ends it with a code of its own. */
#define EXPECT(condition)                              \
    do {                                               \
        if (!(condition)) _exit(100 + __LINE__ % 100); \
    } while (0)

static void wait_until_another_request(void) {
    struct timespec pause = {0, (SIGNALS_APART_MS + 20) * 1000000L};
    nanosleep(&pause, NULL);
}

/* The handlers run on a thread of their own, soon. */
static void until_they_have_come(void) {
    struct timespec soon = {0, 30 * 1000000L};
    nanosleep(&soon, NULL);
}

static void send_self(int number) {
    kill(getpid(), number);
    until_they_have_come();
}

static int exit_code_of(void (*child)(void)) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        child();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void take_each_kind(void) {
    signals_install();
    EXPECT(signals_take() == 0);
    static const int stops[] = {SIGTERM, SIGUSR1, SIGINT};
    for (int i = 0; i < 3; i++) {
        send_self(stops[i]);
        EXPECT(signals_take() == CONTROL_STOP);
        EXPECT(signals_take() == 0);
    }
    send_self(SIGUSR2);
    EXPECT(signals_take() == CONTROL_SAVE);
    send_self(SIGUSR2);
    send_self(SIGTERM);
    EXPECT(signals_take() == (CONTROL_STOP | CONTROL_SAVE));
    EXPECT(signals_take() == 0);
    EXPECT(!signals_hurry()); /* all of it came within a moment */
}

static void send_many_at_once(void) {
    signals_install();
    for (int i = 0; i < 100; i++)
        kill(getpid(), i % 2 == 0 ? SIGTERM : SIGUSR1);
    until_they_have_come();
    EXPECT(!signals_hurry());
    EXPECT(signals_take() == CONTROL_STOP);
}

static void insist_once(void) {
    signals_install();
    send_self(SIGTERM);
    EXPECT(!signals_hurry());
    wait_until_another_request();
    send_self(SIGUSR2); /* a save is not insistence */
    EXPECT(!signals_hurry());
    send_self(SIGUSR1);
    EXPECT(signals_hurry());
}

static void insist_twice(void) {
    signals_install();
    for (int i = 0; i < 3; i++) {
        send_self(SIGTERM);
        wait_until_another_request();
    }
}

static void write_to_a_broken_pipe(void) {
    signals_install();
    int ends[2];
    EXPECT(pipe(ends) == 0);
    close(ends[0]);
    EXPECT(write(ends[1], "x", 1) == -1);
}

static void write_past_the_size_limit(void) {
    signals_install();
    struct rlimit limit = {0, 0};
    int file = memfd_create("limited", 0);
    EXPECT(file >= 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    EXPECT(write(file, "x", 1) == -1);
}

static void inherit_blocked_and_ignored_signals(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGUSR1, SIG_IGN);
    signals_install();
    send_self(SIGUSR1);
    EXPECT(signals_take() == CONTROL_STOP);
}

static void a_signal_is_taken_once_as_what_it_asks(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(take_each_kind), 0);
}

static void signals_that_come_together_are_one_request(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(send_many_at_once), 0);
}

static void a_later_second_request_means_hurry(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(insist_once), 0);
}

static void a_third_request_leaves_at_once(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(insist_twice), SIGNALS_EXIT_CODE);
}

static void a_broken_pipe_does_not_kill(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(write_to_a_broken_pipe), 0);
}

static void a_file_size_limit_does_not_kill(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(write_past_the_size_limit), 0);
}

static void signals_reach_a_rank_whose_launcher_blocked_them(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(inherit_blocked_and_ignored_signals), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_is_taken_once_as_what_it_asks),
        cmocka_unit_test(signals_that_come_together_are_one_request),
        cmocka_unit_test(a_later_second_request_means_hurry),
        cmocka_unit_test(a_third_request_leaves_at_once),
        cmocka_unit_test(a_broken_pipe_does_not_kill),
        cmocka_unit_test(a_file_size_limit_does_not_kill),
        cmocka_unit_test(signals_reach_a_rank_whose_launcher_blocked_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
