/* Threads that pack or unpack chunks, each taking the next that nobody works at.
 *
 * Job i lies in slot i % slot_count. Of the counts below, taken ≤ claimed ≤ sent ≤ taken + slot_count. */
#include "src/checkpoint/chunk_line.h"

#include "src/checkpoint/chunk_codec.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

enum { THREADS_MOST = 8, SLOTS_MOST = 2 * THREADS_MOST + 2 };

typedef struct {
    ChunkJob job;
    bool done;
} Slot;

struct ChunkLine {
    int level;
    Slot slots[SLOTS_MOST];
    int slot_count;
    ChunkCodec *codecs[THREADS_MOST]; /* one a thread; the first is used without any */
    pthread_t threads[THREADS_MOST];
    int codec_count, thread_count;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t sent, claimed, taken;
    bool ending;
};

typedef struct {
    ChunkLine *line;
    ChunkCodec *codec;
} Worker;

static void work(int level, ChunkCodec *codec, ChunkJob *job) {
    job->wrong = NULL;
    job->made_bytes = job->whole;
    if (level > 0)
        job->made_bytes =
            chunk_pack(codec, job->from, job->bytes, job->whole, job->element, job->made);
    else
        job->wrong = chunk_unpack(codec, job->own, job->bytes, job->plain, job->whole,
                                  job->element, job->made);
}

static void *work_on(void *argument) {
    Worker worker = *(Worker *)argument;
    free(argument);
    ChunkLine *self = worker.line;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->ending && self->claimed == self->sent)
            pthread_cond_wait(&self->moved, &self->lock);
        if (self->ending) break;
        Slot *slot = &self->slots[self->claimed++ % self->slot_count];
        pthread_mutex_unlock(&self->lock);
        work(self->level, worker.codec, &slot->job);
        pthread_mutex_lock(&self->lock);
        slot->done = true;
        pthread_cond_broadcast(&self->moved);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static int cores(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return count < 1 ? 1 : count > THREADS_MOST ? THREADS_MOST : count;
}

/* Without a thread each job is done when it is sent. */
static void start_threads(ChunkLine *self) {
    sigset_t every, before; /* signals are the main thread's */
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    while (self->thread_count < self->codec_count) {
        Worker *worker = malloc(sizeof *worker);
        if (worker == NULL) break;
        *worker = (Worker){self, self->codecs[self->thread_count]};
        if (pthread_create(&self->threads[self->thread_count], NULL, work_on, worker) !=
            0) {
            free(worker);
            break;
        }
        self->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static Status find_memory(ChunkLine *self, size_t most, int64_t count) {
    int threads = count < cores() ? (int)(count < 1 ? 1 : count) : cores();
    for (; self->codec_count < threads; self->codec_count++)
        TRY(chunk_codec_create(self->level, most, &self->codecs[self->codec_count]));
    for (; self->slot_count < 2 * threads + 2; self->slot_count++) {
        ChunkJob *job = &self->slots[self->slot_count].job;
        job->made = malloc(most);
        job->own = self->level == 0 ? malloc(most) : NULL;
        if (job->made != NULL && (job->own != NULL || self->level > 0)) continue;
        free(job->made);
        free(job->own);
        return FAIL(STATUS_MEMORY, NULL, "no memory for chunks of %zu bytes", most);
    }
    return STATUS_OK;
}

Status chunk_line_open(int level, size_t most, int64_t count, ChunkLine **out) {
    *out = NULL;
    ChunkLine *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a line of chunks");
    self->level = level;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->moved, NULL);
    Status status = find_memory(self, most, count);
    if (status != STATUS_OK) {
        chunk_line_close(self);
        return status;
    }
    start_threads(self);
    *out = self;
    return STATUS_OK;
}

ChunkJob *chunk_line_next(ChunkLine *self) {
    if (self->sent - self->taken == self->slot_count) return NULL;
    return &self->slots[self->sent % self->slot_count].job;
}

void chunk_line_send(ChunkLine *self) {
    assert(self->sent - self->taken < self->slot_count);
    Slot *slot = &self->slots[self->sent % self->slot_count];
    if (self->thread_count == 0) {
        work(self->level, self->codecs[0], &slot->job);
        slot->done = true;
        self->sent++;
        return;
    }
    pthread_mutex_lock(&self->lock);
    slot->done = false;
    self->sent++;
    pthread_cond_broadcast(&self->moved);
    pthread_mutex_unlock(&self->lock);
}

const ChunkJob *chunk_line_take(ChunkLine *self) {
    if (self->taken == self->sent) return NULL;
    Slot *slot = &self->slots[self->taken++ % self->slot_count];
    pthread_mutex_lock(&self->lock);
    while (!slot->done)
        pthread_cond_wait(&self->moved, &self->lock);
    pthread_mutex_unlock(&self->lock);
    return &slot->job;
}

void chunk_line_close(ChunkLine *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->ending = true;
    pthread_cond_broadcast(&self->moved);
    pthread_mutex_unlock(&self->lock);
    for (int i = 0; i < self->thread_count; i++)
        pthread_join(self->threads[i], NULL);
    for (int i = 0; i < self->codec_count; i++)
        chunk_codec_destroy(self->codecs[i]);
    for (int i = 0; i < self->slot_count; i++) {
        free(self->slots[i].job.made);
        free(self->slots[i].job.own);
    }
    pthread_cond_destroy(&self->moved);
    pthread_mutex_destroy(&self->lock);
    free(self);
}
