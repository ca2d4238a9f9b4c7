/* Jobs in a ring whose threads pack or unpack them. */
#include "src/checkpoint/chunk_line.h"

#include "src/checkpoint/chunk_codec.h"
#include "src/checkpoint/ring.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS_MOST = 8, SLOTS_MOST = 2 * THREADS_MOST + 2 };

struct ChunkLine {
    int level;
    ChunkJob jobs[SLOTS_MOST];
    int job_count;
    ChunkCodec *codecs[THREADS_MOST]; /* one a worker */
    int codec_count;
    Ring *ring;
};

static void work(void *context, int worker, int slot) {
    ChunkLine *self = context;
    ChunkCodec *codec = self->codecs[worker];
    ChunkJob *job = &self->jobs[slot];
    job->wrong = NULL;
    job->made_bytes = job->whole;
    if (self->level > 0)
        job->made_bytes =
            chunk_pack(codec, job->from, job->bytes, job->whole, job->element, job->made);
    else
        job->wrong = chunk_unpack(codec, job->own, job->bytes, job->plain, job->whole,
                                  job->element, job->made);
}

/* Those that the rank is bound to: the thread that asks may be free to use others, too. */
static int cores(void) {
    cpu_set_t set;
    int count = sched_getaffinity(getpid(), sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return count < 1 ? 1 : count > THREADS_MOST ? THREADS_MOST : count;
}

static Status find_memory(ChunkLine *self, size_t most, int64_t count) {
    int threads = count < cores() ? (int)(count < 1 ? 1 : count) : cores();
    for (; self->codec_count < threads; self->codec_count++)
        TRY(chunk_codec_create(self->level, most, &self->codecs[self->codec_count]));
    for (; self->job_count < 2 * threads + 2; self->job_count++) {
        ChunkJob *job = &self->jobs[self->job_count];
        job->made = malloc(most);
        job->own = self->level == 0 ? malloc(most) : NULL;
        if (job->made != NULL && (job->own != NULL || self->level > 0)) continue;
        free(job->made);
        free(job->own);
        return FAIL(STATUS_MEMORY, NULL, "no memory for chunks of %zu bytes", most);
    }
    return ring_open(self->job_count, threads, work, self, &self->ring);
}

Status chunk_line_open(int level, size_t most, int64_t count, ChunkLine **out) {
    *out = NULL;
    ChunkLine *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a line of chunks");
    self->level = level;
    Status status = find_memory(self, most, count);
    if (status != STATUS_OK) {
        chunk_line_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

ChunkJob *chunk_line_next(ChunkLine *self) {
    int slot = ring_next(self->ring);
    return slot < 0 ? NULL : &self->jobs[slot];
}

void chunk_line_send(ChunkLine *self) {
    ring_send(self->ring);
}

const ChunkJob *chunk_line_take(ChunkLine *self) {
    int slot = ring_take(self->ring);
    return slot < 0 ? NULL : &self->jobs[slot];
}

void chunk_line_close(ChunkLine *self) {
    if (self == NULL) return;
    ring_close(self->ring);
    for (int i = 0; i < self->codec_count; i++)
        chunk_codec_destroy(self->codecs[i]);
    for (int i = 0; i < self->job_count; i++) {
        free(self->jobs[i].made);
        free(self->jobs[i].own);
    }
    free(self);
}
