/* Pieces in a ring whose threads do nothing but write: two large direct writes in flight keep a disk
 * busy and cost next to no processor time. */
#include "src/checkpoint/write_behind.h"

#include "src/checkpoint/ring.h"
#include "src/core/file.h"
#include "src/state/state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { SLOTS = 4, THREADS = 2, HUGE_PAGE = 2 << 20 };

typedef struct {
    unsigned char *data;
    size_t bytes;
    int64_t offset;
} Piece;

struct WriteBehind {
    int fd;
    Piece pieces[SLOTS];
    int piece_count;
    Ring *ring;
    atomic_int error; /* errno of the first failure */
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

static void write_piece(void *context, int worker, int slot) {
    (void)worker;
    WriteBehind *self = context;
    const Piece *piece = &self->pieces[slot];
    int none = 0;
    if (atomic_load(&self->error) == 0 &&
        write_behind_pages(self->fd, piece->data, piece->bytes, piece->offset) != 0)
        atomic_compare_exchange_strong(&self->error, &none, errno);
}

static Status find_memory(WriteBehind *self, size_t piece, int64_t count) {
    size_t alignment = piece % HUGE_PAGE == 0 ? HUGE_PAGE : STATE_PAGE;
    int wanted = count < 1 ? 1 : count < SLOTS ? (int)count : SLOTS;
    for (; self->piece_count < wanted; self->piece_count++) {
        unsigned char *data = aligned_alloc(alignment, piece);
        if (data == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory to write a file (%d × %zu bytes)",
                        wanted, piece);
        madvise(data, piece, MADV_HUGEPAGE); /* or not: no matter */
        self->pieces[self->piece_count].data = data;
    }
    int threads = wanted - 1 < THREADS ? wanted - 1 : THREADS;
    return ring_open(wanted, threads, write_piece, self, &self->ring);
}

Status write_behind_open(int fd, size_t piece, int64_t count, WriteBehind **out) {
    *out = NULL;
    assert(piece > 0 && piece % STATE_PAGE == 0);
    WriteBehind *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to write a file");
    self->fd = fd;
    Status status = find_memory(self, piece, count);
    if (status != STATUS_OK) {
        write_behind_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

unsigned char *write_behind_piece(WriteBehind *self) {
    int slot;
    while ((slot = ring_next(self->ring)) < 0)
        ring_take(self->ring);
    return self->pieces[slot].data;
}

void write_behind_send(WriteBehind *self, size_t bytes, int64_t offset) {
    Piece *piece = &self->pieces[ring_next(self->ring)];
    piece->bytes = bytes;
    piece->offset = offset;
    ring_send(self->ring);
}

int write_behind_finish(WriteBehind *self) {
    while (ring_take(self->ring) >= 0)
        continue;
    errno = atomic_load(&self->error);
    return errno == 0 ? 0 : -1;
}

void write_behind_close(WriteBehind *self) {
    if (self == NULL) return;
    ring_close(self->ring);
    for (int i = 0; i < self->piece_count; i++)
        free(self->pieces[i].data);
    free(self);
}
