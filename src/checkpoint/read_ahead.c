/* Pieces in a ring whose threads read them in order, while the pieces before are being used. */
#include "src/checkpoint/read_ahead.h"

#include "src/checkpoint/ring.h"
#include "src/core/file.h"
#include "src/state/state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Two requests keep a disk busy; the third is there when, on a machine with other work, a thread has to wait
 * for its turn. The fourth slot is the one that is being used. */
enum { SLOTS = 4, THREADS = 3, HUGE_PAGE = 2 << 20 };

typedef struct {
    unsigned char *bytes;
    int64_t number; /* of the piece that is, or will be, in it */
    int error;      /* errno of reading it */
} Slot;

struct ReadAhead {
    int fd, flags; /* the descriptor's flags before */
    int64_t start, end, pieces;
    size_t piece;
    Slot slots[SLOTS];
    int slot_count;
    Ring *ring;
    int64_t sent; /* pieces before it are read, or will be */
};

/* File systems that take O_DIRECT when it is set may still refuse the read itself: then the page cache
 * it is, for all later pieces too. */
static int read_pages(const ReadAhead *self, void *bytes, size_t count, int64_t offset) {
    if (file_read_at(self->fd, bytes, count, offset) == 0) return 0;
    if (errno != EINVAL || fcntl(self->fd, F_SETFL, self->flags) != 0) return -1;
    return file_read_at(self->fd, bytes, count, offset);
}

static void read_piece(void *context, int worker, int slot_number) {
    (void)worker;
    ReadAhead *self = context;
    Slot *slot = &self->slots[slot_number];
    int64_t offset = self->start + slot->number * (int64_t)self->piece;
    int64_t left = self->end - offset;
    size_t count = left < (int64_t)self->piece ? (size_t)left : self->piece;
    slot->error = read_pages(self, slot->bytes, count, offset) == 0 ? 0 : errno;
}

/* Lets threads read into every slot that is not in use. */
static void send_slots(ReadAhead *self) {
    for (int slot; self->sent < self->pieces && (slot = ring_next(self->ring)) >= 0;) {
        self->slots[slot].number = self->sent++;
        ring_send(self->ring);
    }
}

static Status find_memory(ReadAhead *self) {
    size_t alignment = self->piece % HUGE_PAGE == 0 ? HUGE_PAGE : STATE_PAGE;
    int wanted = self->pieces < SLOTS ? (int)self->pieces : SLOTS;
    for (; self->slot_count < wanted; self->slot_count++) {
        unsigned char *bytes = aligned_alloc(alignment, self->piece);
        if (bytes == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory to read a file (%d × %zu bytes)",
                        wanted, self->piece);
        madvise(bytes, self->piece, MADV_HUGEPAGE); /* or not: no matter */
        self->slots[self->slot_count].bytes = bytes;
    }
    int threads = wanted - 1 < THREADS ? wanted - 1 : THREADS;
    return ring_open(wanted > 0 ? wanted : 1, threads > 0 ? threads : 0, read_piece, self,
                     &self->ring);
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
    Status status = find_memory(self);
    if (status != STATUS_OK) {
        read_ahead_close(self);
        return status;
    }
    if (fcntl(fd, F_SETFL, self->flags | O_DIRECT) != 0)
        posix_fadvise(fd, start, end - start, POSIX_FADV_SEQUENTIAL); /* advice only */
    send_slots(self);
    *out = self;
    return STATUS_OK;
}

int read_ahead_next(ReadAhead *self, const unsigned char **bytes) {
    send_slots(self); /* what was given out last is free again */
    int slot = ring_take(self->ring);
    assert(slot >= 0);
    *bytes = self->slots[slot].bytes;
    errno = self->slots[slot].error;
    return errno == 0 ? 0 : -1;
}

void read_ahead_close(ReadAhead *self) {
    if (self == NULL) return;
    ring_close(self->ring);
    for (int i = 0; i < self->slot_count; i++)
        free(self->slots[i].bytes);
    fcntl(self->fd, F_SETFL, self->flags); /* as it came */
    free(self);
}
