/* A job runs beside its giver, is over when the task says so, and what it wrote is then there. */
#include "src/core/task.h"
#include "tests/support/test.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

typedef struct {
    pthread_t thread;
    atomic_bool go;
    bool waits, all_signals_blocked;
    int runs;
} Job;

static void do_job(void *context) {
    Job *job = context;
    sigset_t blocked;
    while (job->waits && !job->go)
        sched_yield();
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    job->all_signals_blocked =
        sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1);
    job->thread = pthread_self();
    job->runs++;
}

static void a_job_runs_beside_its_giver(void **state) {
    (void)state;
    Task *task;
    Job job = {.waits = true};
    assert_ok(task_open(&task));
    assert_true(task_is_over(task));
    task_begin(task, do_job, &job);
    assert_false(task_is_over(task));
    job.go = true;
    task_wait(task);
    assert_true(task_is_over(task));
    assert_int_equal(job.runs, 1);
    assert_false(pthread_equal(job.thread, pthread_self()));
    assert_true(job.all_signals_blocked);
    task_close(task);
}

static void jobs_follow_one_another(void **state) {
    (void)state;
    enum { JOBS = 1000 };
    Task *task;
    Job job = {.waits = false};
    assert_ok(task_open(&task));
    for (int i = 1; i <= JOBS; i++) {
        task_begin(task, do_job, &job);
        task_wait(task);
        assert_int_equal(job.runs, i);
    }
    task_begin(task, do_job, &job);
    task_close(task); /* waits for it */
    assert_int_equal(job.runs, JOBS + 1);
}

static void without_a_thread_the_giver_does_it(void **state) {
    (void)state;
    Job job = {.waits = false};
    task_begin(NULL, do_job, &job);
    assert_true(task_is_over(NULL));
    task_wait(NULL);
    assert_int_equal(job.runs, 1);
    assert_true(pthread_equal(job.thread, pthread_self()));
    task_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_runs_beside_its_giver),
        cmocka_unit_test(jobs_follow_one_another),
        cmocka_unit_test(without_a_thread_the_giver_does_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
