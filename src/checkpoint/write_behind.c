/* Threads that write the pieces of a file, each from one of a few buffers, while the next one is being
 * made. Piece i lies in slot i % SLOTS. */
#include "src/checkpoint/write_behind.h"

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
    unsigned char *data;
    size_t bytes;
    int64_t offset;
    Digest *digest;
    bool busy; /* sent and not yet written */
} Slot;

struct WriteBehind {
    int fd;
    Slot slots[SLOTS];
    int slot_count;
    pthread_t threads[THREADS];
    int thread_count;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t sent;
    int64_t claimed; /* pieces before it are written, or being written */
    int error;       /* errno of the first failure */
    bool ending;
};

int write_behind_pages(int fd, const void *data, size_t bytes, int64_t offset) {
    if (file_write_at(fd, data, bytes, offset) == 0) return 0;
    int error = errno, flags = fcntl(fd, F_GETFL);
    if (error != EINVAL || flags < 0 || fcntl(fd, F_SETFL, flags & ~O_DIRECT) != 0) {
        errno = error;
        return -1;
    }
    return file_write_at(fd, data, bytes, offset);
}

static int drain(const WriteBehind *self, const Slot *slot) {
    *slot->digest = digest_of(slot->data, slot->bytes);
    return write_behind_pages(self->fd, slot->data, slot->bytes, slot->offset) == 0 ? 0
                                                                                    : errno;
}

static void *write_on(void *argument) {
    WriteBehind *self = argument;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->ending && self->claimed == self->sent)
            pthread_cond_wait(&self->moved, &self->lock);
        if (self->claimed == self->sent) break;
        Slot *slot = &self->slots[self->claimed++ % self->slot_count];
        int error = self->error;
        pthread_mutex_unlock(&self->lock);
        if (error == 0) error = drain(self, slot);
        pthread_mutex_lock(&self->lock);
        if (self->error == 0) self->error = error;
        slot->busy = false;
        pthread_cond_broadcast(&self->moved);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* Without a thread each piece is written when it is sent. */
static void start_threads(WriteBehind *self) {
    sigset_t every, before; /* signals are the main thread's */
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    while (self->thread_count < THREADS && self->thread_count + 1 < self->slot_count &&
           pthread_create(&self->threads[self->thread_count], NULL, write_on, self) == 0)
        self->thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

Status write_behind_open(int fd, size_t piece, int64_t count, WriteBehind **out) {
    *out = NULL;
    assert(piece > 0 && piece % STATE_PAGE == 0);
    WriteBehind *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to write a file");
    self->fd = fd;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->moved, NULL);
    size_t alignment = piece % HUGE_PAGE == 0 ? HUGE_PAGE : STATE_PAGE;
    int wanted = count < 1 ? 1 : count < SLOTS ? (int)count : SLOTS;
    for (; self->slot_count < wanted; self->slot_count++) {
        unsigned char *data = aligned_alloc(alignment, piece);
        if (data == NULL) {
            write_behind_close(self);
            return FAIL(STATUS_MEMORY, NULL, "no memory to write a file (%d × %zu bytes)",
                        wanted, piece);
        }
        madvise(data, piece, MADV_HUGEPAGE); /* or not: no matter */
        self->slots[self->slot_count].data = data;
    }
    start_threads(self);
    *out = self;
    return STATUS_OK;
}

unsigned char *write_behind_piece(WriteBehind *self) {
    Slot *slot = &self->slots[self->sent % self->slot_count];
    pthread_mutex_lock(&self->lock);
    while (slot->busy)
        pthread_cond_wait(&self->moved, &self->lock);
    pthread_mutex_unlock(&self->lock);
    return slot->data;
}

void write_behind_send(WriteBehind *self, size_t bytes, int64_t offset, Digest *digest) {
    Slot *slot = &self->slots[self->sent % self->slot_count];
    assert(!slot->busy);
    slot->bytes = bytes;
    slot->offset = offset;
    slot->digest = digest;
    if (self->thread_count == 0) {
        self->sent++;
        if (self->error == 0) self->error = drain(self, slot);
        return;
    }
    pthread_mutex_lock(&self->lock);
    slot->busy = true;
    self->sent++;
    pthread_cond_broadcast(&self->moved);
    pthread_mutex_unlock(&self->lock);
}

int write_behind_finish(WriteBehind *self) {
    pthread_mutex_lock(&self->lock);
    for (int i = 0; i < self->slot_count; i++)
        while (self->slots[i].busy)
            pthread_cond_wait(&self->moved, &self->lock);
    int error = self->error;
    pthread_mutex_unlock(&self->lock);
    errno = error;
    return error == 0 ? 0 : -1;
}

void write_behind_close(WriteBehind *self) {
    if (self == NULL) return;
    pthread_mutex_lock(&self->lock);
    self->ending = true;
    pthread_cond_broadcast(&self->moved);
    pthread_mutex_unlock(&self->lock);
    for (int i = 0; i < self->thread_count; i++)
        pthread_join(self->threads[i], NULL);
    for (int i = 0; i < self->slot_count; i++)
        free(self->slots[i].data);
    pthread_cond_destroy(&self->moved);
    pthread_mutex_destroy(&self->lock);
    free(self);
}
