/* A fixed set of threads that run one job after another. */
#include "src/train/workers.h"

#include "src/core/thread.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct {
    Workers *workers;
    int index;
    pthread_t thread;
    Failure failure; /* of the newest job; code STATUS_OK when it went well */
} Worker;

struct Workers {
    int count;
    int started;
    Worker *all;
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    unsigned long job_number; /* a new number starts a new job */
    int running;
    bool closing;
    WorkerJob job;
    void *context;
};

static void run_job(Worker *worker) {
    Workers *self = worker->workers;
    worker->failure.code = STATUS_OK;
    if (self->job(self->context, worker->index) != STATUS_OK)
        worker->failure = *status_failure();
}

static void *thread_main(void *argument) {
    Worker *worker = argument;
    Workers *self = worker->workers;
    unsigned long done = 0;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (self->job_number == done && !self->closing)
            pthread_cond_wait(&self->begin, &self->lock);
        if (self->closing) break;
        done = self->job_number;
        pthread_mutex_unlock(&self->lock);
        run_job(worker);
        pthread_mutex_lock(&self->lock);
        if (--self->running == 0) pthread_cond_signal(&self->end);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

Status workers_open(int count, Workers **out) {
    *out = NULL;
    Workers *self = calloc(1, sizeof *self);
    Worker *all = calloc((size_t)count, sizeof *all);
    if (self == NULL || all == NULL) {
        free(self);
        free(all);
        return FAIL(STATUS_MEMORY, NULL, "no memory for %d worker threads", count);
    }
    self->count = count;
    self->all = all;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->begin, NULL);
    pthread_cond_init(&self->end, NULL);
    for (int i = 0; i < count; i++) {
        all[i].workers = self;
        all[i].index = i;
        if (i == 0) continue;
        if (thread_start(&all[i].thread, THREAD_BOUND, thread_main, &all[i]) != 0) break;
        self->started++;
    }
    if (self->started != count - 1) {
        workers_close(self);
        return FAIL(STATUS_MEMORY, "set train.threads to a smaller number",
                    "cannot start %d worker threads", count);
    }
    *out = self;
    return STATUS_OK;
}

int workers_count(const Workers *self) {
    return self->count;
}

Status workers_run(Workers *self, WorkerJob job, void *context) {
    self->job = job;
    self->context = context;
    if (self->count > 1) {
        pthread_mutex_lock(&self->lock);
        self->running = self->count - 1;
        self->job_number++;
        pthread_cond_broadcast(&self->begin);
        pthread_mutex_unlock(&self->lock);
    }
    run_job(&self->all[0]);
    if (self->count > 1) {
        pthread_mutex_lock(&self->lock);
        while (self->running > 0)
            pthread_cond_wait(&self->end, &self->lock);
        pthread_mutex_unlock(&self->lock);
    }
    for (int i = 0; i < self->count; i++)
        if (self->all[i].failure.code != STATUS_OK)
            return status_adopt(&self->all[i].failure);
    return STATUS_OK;
}

void workers_close(Workers *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->closing = true;
    pthread_cond_broadcast(&self->begin);
    pthread_mutex_unlock(&self->lock);
    for (int i = 1; i <= self->started; i++)
        pthread_join(self->all[i].thread, NULL);
    pthread_cond_destroy(&self->begin);
    pthread_cond_destroy(&self->end);
    pthread_mutex_destroy(&self->lock);
    free(self->all);
    free(self);
}
