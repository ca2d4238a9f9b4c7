/* The threads, the lock and the counts behind a ring of slots.
 *
 * What is sent as number i lies in slot i % slots. taken ≤ claimed ≤ sent ≤ taken + slots. */
#include "src/checkpoint/ring.h"

#include "src/core/thread.h"
#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    Ring *ring;
    int number;
    pthread_t thread;
} Worker;

struct Ring {
    RingWork work;
    void *context;
    int slots;
    bool *done; /* one a slot */
    Worker *workers;
    int worker_count;
    pthread_mutex_t lock;
    pthread_cond_t to_do, moved; /* for the workers, for the owner */
    int64_t sent, claimed, taken;
    bool ending;
};

static void *work_on(void *argument) {
    const Worker *worker = argument;
    Ring *self = worker->ring;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->ending && self->claimed == self->sent)
            pthread_cond_wait(&self->to_do, &self->lock);
        if (self->ending) break;
        int slot = (int)(self->claimed++ % self->slots);
        pthread_mutex_unlock(&self->lock);
        self->work(self->context, worker->number, slot);
        pthread_mutex_lock(&self->lock);
        self->done[slot] = true;
        pthread_cond_signal(&self->moved);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static void start_workers(Ring *self, int count) {
    for (int i = 0; i < count; i++) {
        Worker *worker = &self->workers[i];
        worker->ring = self;
        worker->number = i;
        if (thread_start(&worker->thread, THREAD_FREE, work_on, worker) != 0) break;
        self->worker_count++;
    }
}

Status ring_open(int slots, int workers, RingWork work, void *context, Ring **out) {
    assert(slots > 0);
    *out = NULL;
    Ring *self = calloc(1, sizeof *self);
    bool *done = calloc((size_t)slots, sizeof *done);
    Worker *room = calloc((size_t)workers + 1, sizeof *room);
    if (self == NULL || done == NULL || room == NULL) {
        free(self);
        free(done);
        free(room);
        return FAIL(STATUS_MEMORY, NULL, "no memory for a ring of %d slots", slots);
    }
    self->work = work;
    self->context = context;
    self->slots = slots;
    self->done = done;
    self->workers = room;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->to_do, NULL);
    pthread_cond_init(&self->moved, NULL);
    start_workers(self, workers);
    *out = self;
    return STATUS_OK;
}

/* `sent` and `taken` are the owner's alone to change: it reads them without the lock. */
int ring_next(const Ring *self) {
    return self->sent - self->taken == self->slots ? -1 : (int)(self->sent % self->slots);
}

void ring_send(Ring *self) {
    int slot = ring_next(self);
    assert(slot >= 0);
    if (self->worker_count == 0) {
        self->work(self->context, 0, slot);
        self->done[slot] = true;
        self->sent++;
        return;
    }
    pthread_mutex_lock(&self->lock);
    self->done[slot] = false;
    self->sent++;
    pthread_cond_signal(&self->to_do);
    pthread_mutex_unlock(&self->lock);
}

int ring_take(Ring *self) {
    if (self->taken == self->sent) return -1;
    int slot = (int)(self->taken++ % self->slots);
    pthread_mutex_lock(&self->lock);
    while (!self->done[slot])
        pthread_cond_wait(&self->moved, &self->lock);
    pthread_mutex_unlock(&self->lock);
    return slot;
}

void ring_close(Ring *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->ending = true;
    pthread_cond_broadcast(&self->to_do);
    pthread_mutex_unlock(&self->lock);
    for (int i = 0; i < self->worker_count; i++)
        pthread_join(self->workers[i].thread, NULL);
    pthread_cond_destroy(&self->to_do);
    pthread_cond_destroy(&self->moved);
    pthread_mutex_destroy(&self->lock);
    free(self->workers);
    free(self->done);
    free(self);
}
