/* Threads that read the pieces of a file in order, each into one of a few buffers, while the pieces
 * before are being used.
 *
 * Piece i lies in slot i % SLOTS. Of the counts below, held ≤ claimed ≤ held + SLOTS: a slot is filled
 * anew only once the piece that was in it is no longer in use. */
#include "src/checkpoint/read_ahead.h"

#include "src/core/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 4, THREADS = 2, HUGE_PAGE = 2 << 20 };

typedef struct {
    unsigned char *bytes;
    int64_t ready; /* the piece that is in it; -1: none */
    int error;     /* errno of reading it */
    Digest digest;
} Slot;

struct ReadAhead {
    int fd, flags; /* the descriptor's flags before */
    int64_t start, end, pieces;
    size_t piece;
    Slot slots[SLOTS];
    int slot_count;
    pthread_t threads[THREADS];
    int thread_count;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t claimed; /* pieces before it are read, or being read */
    int64_t held;    /* pieces before it are no longer in use */
    int64_t next;    /* to be given out */
    bool ending;
};

static size_t piece_bytes(const ReadAhead *self, int64_t i) {
    int64_t left = self->end - self->start - i * (int64_t)self->piece;
    return left < (int64_t)self->piece ? (size_t)left : self->piece;
}

/* File systems that take O_DIRECT when it is set may still refuse the read itself: then the page cache
 * it is, for all later pieces too. */
static int read_pages(const ReadAhead *self, void *bytes, size_t count, int64_t offset) {
    if (file_read_at(self->fd, bytes, count, offset) == 0) return 0;
    if (errno != EINVAL || fcntl(self->fd, F_SETFL, self->flags) != 0) return -1;
    return file_read_at(self->fd, bytes, count, offset);
}

static void fill(const ReadAhead *self, int64_t i, Slot *slot) {
    size_t count = piece_bytes(self, i);
    int64_t offset = self->start + i * (int64_t)self->piece;
    slot->error = read_pages(self, slot->bytes, count, offset) == 0 ? 0 : errno;
    if (slot->error == 0) slot->digest = digest_of(slot->bytes, count);
}

static void *read_on(void *argument) {
    ReadAhead *self = argument;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->ending && self->claimed < self->pieces &&
               self->claimed == self->held + self->slot_count)
            pthread_cond_wait(&self->moved, &self->lock);
        if (self->ending || self->claimed == self->pieces) break;
        int64_t i = self->claimed++;
        Slot *slot = &self->slots[i % self->slot_count];
        pthread_mutex_unlock(&self->lock);
        fill(self, i, slot);
        pthread_mutex_lock(&self->lock);
        slot->ready = i;
        pthread_cond_broadcast(&self->moved);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* Without a thread the user reads by itself. */
static void start_threads(ReadAhead *self) {
    sigset_t every, before; /* signals are the main thread's */
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    while (self->thread_count < THREADS && self->thread_count + 1 < self->pieces &&
           pthread_create(&self->threads[self->thread_count], NULL, read_on, self) == 0)
        self->thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool find_slots(ReadAhead *self) {
    size_t alignment = self->piece % HUGE_PAGE == 0 ? HUGE_PAGE : STATE_PAGE;
    int wanted = self->pieces < SLOTS ? (int)self->pieces : SLOTS;
    for (; self->slot_count < wanted; self->slot_count++) {
        Slot *slot = &self->slots[self->slot_count];
        slot->ready = -1;
        slot->bytes = aligned_alloc(alignment, self->piece);
        if (slot->bytes == NULL) return false;
        madvise(slot->bytes, self->piece, MADV_HUGEPAGE); /* or not: no matter */
    }
    return true;
}

Status read_ahead_open(int fd, int64_t start, int64_t end, size_t piece, ReadAhead **out) {
    *out = NULL;
    assert(piece > 0 && piece % STATE_PAGE == 0 && start <= end);
    ReadAhead *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to read a file");
    self->fd = fd;
    self->flags = fcntl(fd, F_GETFL);
    self->start = start;
    self->end = end;
    self->piece = piece;
    self->pieces = (end - start + (int64_t)piece - 1) / (int64_t)piece;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->moved, NULL);
    if (!find_slots(self)) {
        read_ahead_close(self);
        return FAIL(STATUS_MEMORY, NULL, "no memory to read a file (%d × %zu bytes)", SLOTS,
                    piece);
    }
    if (fcntl(fd, F_SETFL, self->flags | O_DIRECT) != 0)
        posix_fadvise(fd, start, end - start, POSIX_FADV_SEQUENTIAL); /* advice only */
    start_threads(self);
    *out = self;
    return STATUS_OK;
}

int read_ahead_next(ReadAhead *self, const unsigned char **bytes, Digest *digest) {
    assert(self->next < self->pieces);
    int64_t i = self->next++;
    Slot *slot = &self->slots[i % self->slot_count];
    if (self->thread_count == 0) {
        fill(self, i, slot);
    } else {
        pthread_mutex_lock(&self->lock);
        self->held = i;
        pthread_cond_broadcast(&self->moved);
        while (slot->ready != i)
            pthread_cond_wait(&self->moved, &self->lock);
        pthread_mutex_unlock(&self->lock);
    }
    *bytes = slot->bytes;
    *digest = slot->digest;
    errno = slot->error;
    return slot->error == 0 ? 0 : -1;
}

void read_ahead_close(ReadAhead *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->ending = true;
    pthread_cond_broadcast(&self->moved);
    pthread_mutex_unlock(&self->lock);
    for (int i = 0; i < self->thread_count; i++)
        pthread_join(self->threads[i], NULL);
    for (int i = 0; i < self->slot_count; i++)
        free(self->slots[i].bytes);
    pthread_cond_destroy(&self->moved);
    pthread_mutex_destroy(&self->lock);
    fcntl(self->fd, F_SETFL, self->flags); /* as it came */
    free(self);
}
