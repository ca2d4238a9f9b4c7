/* One job, one flag: the giver looks at it without a lock, and sleeps on a condition when it has to wait. */
#include "src/core/task.h"

#include "src/core/thread.h"
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct Task {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t given, ended;
    atomic_bool running; /* a job is given and not over; changes under the lock */
    bool closing;
    void (*job)(void *context);
    void *context;
};

static void *thread_main(void *argument) {
    Task *self = argument;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->running && !self->closing)
            pthread_cond_wait(&self->given, &self->lock);
        if (!self->running) break;
        pthread_mutex_unlock(&self->lock);
        self->job(self->context);
        pthread_mutex_lock(&self->lock);
        self->running = false;
        pthread_cond_signal(&self->ended);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

Status task_open(Task **out) {
    *out = NULL;
    Task *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a thread");
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->given, NULL);
    pthread_cond_init(&self->ended, NULL);
    int failed = thread_start(&self->thread, THREAD_FREE, thread_main, self);
    if (failed == 0) {
        *out = self;
        return STATUS_OK;
    }
    free(self);
    return FAIL(STATUS_MEMORY, "raise the limit on processes: ulimit -u",
                "cannot start a thread: %s", strerror(failed));
}

void task_close(Task *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->closing = true;
    pthread_cond_signal(&self->given);
    pthread_mutex_unlock(&self->lock);
    pthread_join(self->thread, NULL);
    pthread_cond_destroy(&self->given);
    pthread_cond_destroy(&self->ended);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

void task_begin(Task *self, void (*job)(void *context), void *context) {
    if (self == NULL) {
        job(context);
        return;
    }
    pthread_mutex_lock(&self->lock);
    assert(!self->running);
    self->job = job;
    self->context = context;
    self->running = true;
    pthread_cond_signal(&self->given);
    pthread_mutex_unlock(&self->lock);
}

bool task_is_over(const Task *self) {
    return self == NULL || !self->running;
}

void task_wait(Task *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    while (self->running)
        pthread_cond_wait(&self->ended, &self->lock);
    pthread_mutex_unlock(&self->lock);
}
