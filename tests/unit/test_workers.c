/* Worker threads: every worker runs each job once, and a worker's failure reaches the caller. */
#include "tests/support/test.h"

#include "src/train/workers.h"

#include <stdatomic.h>
#include <string.h>

static Status count_runs(void *context, int worker) {
    atomic_int *runs = context;
    atomic_fetch_add(&runs[worker], 1);
    return STATUS_OK;
}

static Status fail_on_two(void *context, int worker) {
    (void)context;
    if (worker == 2) return FAIL(STATUS_DEVICE, "try another", "worker %d broke", worker);
    return STATUS_OK;
}

static void every_worker_runs_each_job_once(void **unused) {
    (void)unused;
    Workers *workers;
    atomic_int runs[4] = {0};
    assert_ok(workers_open(4, &workers));
    for (int i = 0; i < 500; i++)
        assert_ok(workers_run(workers, count_runs, runs));
    for (int i = 0; i < 4; i++)
        assert_int_equal(runs[i], 500);
    workers_close(workers);
}

static void a_workers_failure_reaches_the_caller_and_the_next_job_runs(void **unused) {
    (void)unused;
    Workers *workers;
    atomic_int runs[4] = {0};
    assert_ok(workers_open(4, &workers));
    assert_fails(workers_run(workers, fail_on_two, NULL), STATUS_DEVICE, "worker 2 broke");
    assert_ok(workers_run(workers, count_runs, runs));
    workers_close(workers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_worker_runs_each_job_once),
        cmocka_unit_test(a_workers_failure_reaches_the_caller_and_the_next_job_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
