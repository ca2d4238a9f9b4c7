/* The mask and the cores that a thread begins with. */
#include "src/core/thread.h"

#include <sched.h>
#include <signal.h>
#include <string.h>

/* The kernel leaves of these cores those that the process may use at all. */
static int create_free(pthread_t *out, void *(*run)(void *), void *context) {
    cpu_set_t all;
    pthread_attr_t attributes;
    memset(&all, 0xff, sizeof all);
    int failed = pthread_attr_init(&attributes);
    if (failed != 0) return failed;
    failed = pthread_attr_setaffinity_np(&attributes, sizeof all, &all);
    if (failed == 0) failed = pthread_create(out, &attributes, run, context);
    pthread_attr_destroy(&attributes);
    return failed;
}

int thread_start(pthread_t *out, ThreadPlace place, void *(*run)(void *), void *context) {
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    int failed = place == THREAD_FREE ? create_free(out, run, context) : -1;
    if (failed != 0) failed = pthread_create(out, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}
