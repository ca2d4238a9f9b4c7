/* An abort ends the whole launch at once with its exit code: while peers wait in a collective, and
 * while one is stopped and answers nobody. The first rank starts a launch of its own for each case
 * (this program again, with the case's name), since the launch does not survive it. */
#include "dist/world.h"
#include "tests/support/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CODE = 4, PATIENCE_S = 20 };

static char *program;

static int play_rank(const char *what) {
    Collective *world;
    if (world_start(NULL, NULL, &world) != STATUS_OK) return 1;
    if (world->ops->barrier(world) != STATUS_OK) return 1;
    bool last = world->rank == world->size - 1;
    if (last) printf("last words"); /* no newline: still in stdio's buffer */
    if (strcmp(what, "peer-stopped") == 0 && world->rank == 0 && !last) raise(SIGSTOP);
    if (last) world->ops->abort(world, CODE);
    world->ops->barrier(world); /* never complete */
    return 0;
}

/* Runs the case at as many ranks as this launch has; returns mpirun's exit code and output. */
static int launch(const char *what, char *output, size_t size) {
    static const char *const kept[] = {"PATH", "HOME", "TMPDIR", "ASAN_OPTIONS"};
    char *arguments[] = {
        "mpirun",          "-q",    "-n",         getenv("OMPI_COMM_WORLD_SIZE"),
        "--oversubscribe", program, (char *)what, NULL};
    char *environment[16] = {"OMPI_ALLOW_RUN_AS_ROOT=1",
                             "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
    char texts[4][4096];
    int count = 2;
    for (int i = 0; i < 4; i++) {
        if (getenv(kept[i]) == NULL) continue;
        snprintf(texts[i], sizeof texts[i], "%s=%s", kept[i], getenv(kept[i]));
        environment[count++] = texts[i];
    }
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        alarm(PATIENCE_S); /* kept over exec: ends a launch that hangs */
        execvpe("mpirun", arguments, environment);
        _exit(127);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got = 1; got > 0 && used + 1 < size; used += (size_t)got) {
        got = read(ends[0], output + used, size - 1 - used);
        if (got < 0) break;
    }
    output[used] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void check(const char *what) {
    if (strcmp(getenv("OMPI_COMM_WORLD_RANK"), "0") != 0) return;
    char output[4096];
    assert_int_equal(launch(what, output, sizeof output), CODE);
    assert_non_null(strstr(output, "last words"));
}

static void an_abort_ends_ranks_that_wait_in_a_collective(void **state) {
    (void)state;
    check("peers-wait");
}

static void an_abort_ends_a_stopped_peer_too(void **state) {
    (void)state;
    check("peer-stopped");
}

int main(int argc, char **argv) {
    program = argv[0];
    if (argc == 2) return play_rank(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_abort_ends_ranks_that_wait_in_a_collective),
        cmocka_unit_test(an_abort_ends_a_stopped_peer_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
