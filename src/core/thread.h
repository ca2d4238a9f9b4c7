/* How all threads are started. */
#pragma once

#include <pthread.h>

typedef enum {
    THREAD_BOUND, /* to the cores of the thread that starts it: it computes */
    /* On any core that the machine lets this process have: it waits for disks and other machines, or works ahead. Launchers bind
     * a rank to the core where it computes, and there it would be in the way. */
    THREAD_FREE,
} ThreadPlace;

/* Starts a thread in which all signals are blocked: they are the main thread's. 0, or an error's number. */
int thread_start(pthread_t *out, ThreadPlace place, void *(*run)(void *), void *context);
