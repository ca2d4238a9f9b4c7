/* Copies between host and device. Any host memory goes through pinned pieces, so that the copy of one piece
 * runs while the host fills or empties the next; snapshots go straight into memory that the caller has
 * pinned, on a queue beside the work. */
#include "kernels/cuda/host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A step gives a few small copies: so many pieces let the host be some steps ahead of the device. */
enum { PIECES = 16, PIECE_BYTES = 2 << 20 };

typedef struct {
    char *memory;
    VendorEvent *free; /* the last copy that uses it is done */
    bool used;         /* `free` has been recorded */
} Piece;

struct CudaTransfers {
    void *pinned;
    Piece pieces[PIECES]; /* a ring */
    int next;
};

Status cuda_transfers_open(Cuda *cuda) {
    CudaTransfers *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the device's copies");
    cuda->transfers = self;
    TRY(vendor_allocate_pinned((size_t)PIECES * PIECE_BYTES, &self->pinned));
    for (int i = 0; i < PIECES; i++) {
        self->pieces[i].memory = (char *)self->pinned + (size_t)i * PIECE_BYTES;
        TRY(vendor_event_create(&self->pieces[i].free));
    }
    return STATUS_OK;
}

void cuda_transfers_close(Cuda *cuda) {
    CudaTransfers *self = cuda->transfers;
    if (self == NULL) return;
    for (int i = 0; i < PIECES; i++)
        vendor_event_destroy(self->pieces[i].free);
    vendor_release_pinned(self->pinned);
    free(self);
    cuda->transfers = NULL;
}

static size_t piece_bytes(size_t bytes, size_t offset) {
    return bytes - offset < PIECE_BYTES ? bytes - offset : PIECE_BYTES;
}

/* The next piece of the ring, when its last copy is done. */
static Status take_piece(Cuda *cuda, Piece **out) {
    CudaTransfers *self = cuda->transfers;
    *out = &self->pieces[self->next];
    self->next = (self->next + 1) % PIECES;
    return (*out)->used ? cuda_wait_event(cuda, (*out)->free) : STATUS_OK;
}

static Status piece_given(Cuda *cuda, Piece *piece) {
    TRY(vendor_record(cuda->work, piece->free));
    piece->used = true;
    return STATUS_OK;
}

Status cuda_copy_in(Backend *self, void *device, const void *host, size_t bytes) {
    Cuda *cuda = cuda_of(self);
    TRY(cuda_not_recording(cuda, "a copy from the host"));
    cuda->doing = "a copy from the host";
    for (size_t offset = 0; offset < bytes; offset += PIECE_BYTES) {
        size_t part = piece_bytes(bytes, offset);
        Piece *piece;
        TRY(take_piece(cuda, &piece));
        memcpy(piece->memory, (const char *)host + offset, part);
        TRY(vendor_copy_in(cuda->work, (char *)device + offset, piece->memory, part));
        TRY(piece_given(cuda, piece));
    }
    return STATUS_OK;
}

Status cuda_copy_out(Backend *self, void *host, const void *device, size_t bytes) {
    Cuda *cuda = cuda_of(self);
    TRY(cuda_not_recording(cuda, "a copy to the host"));
    cuda->doing = "a copy to the host";
    Piece *under_way[PIECES];
    size_t given = 0, arrived = 0; /* bytes */
    for (int64_t i = 0, j = 0; arrived < bytes;) {
        while (given < bytes && i - j < PIECES) {
            size_t part = piece_bytes(bytes, given);
            Piece **piece = &under_way[i++ % PIECES];
            TRY(take_piece(cuda, piece));
            TRY(vendor_copy_out(cuda->work, (*piece)->memory, (const char *)device + given,
                                part));
            TRY(piece_given(cuda, *piece));
            given += part;
        }
        size_t part = piece_bytes(bytes, arrived);
        Piece *oldest = under_way[j++ % PIECES];
        TRY(cuda_wait_event(cuda, oldest->free));
        memcpy((char *)host + arrived, oldest->memory, part);
        arrived += part;
    }
    return STATUS_OK;
}

Status cuda_pin(Backend *self, void *host, size_t bytes) {
    (void)self;
    return vendor_pin(host, bytes);
}

void cuda_unpin(Backend *self, void *host) {
    if (host != NULL && cuda_settle(cuda_of(self))) vendor_unpin(host);
}

Status cuda_fetch(Backend *self, void *host, const void *device, size_t bytes) {
    Cuda *cuda = cuda_of(self);
    TRY(cuda_not_recording(cuda, "a fetch"));
    if (bytes == 0) return STATUS_OK;
    TRY(vendor_record(cuda->work, cuda->work_done));
    TRY(vendor_queue_wait(cuda->copies, cuda->work_done));
    TRY(vendor_copy_out(cuda->copies, host, device, bytes));
    cuda->fetching = true; /* also when the rest fails: the copy is under way */
    return vendor_record(cuda->copies, cuda->fetch_done);
}

Status cuda_fetch_fence(Backend *self, int worker) {
    assert(worker == 0);
    (void)worker;
    Cuda *cuda = cuda_of(self);
    TRY(cuda_not_recording(cuda, "waiting for a fetch"));
    return cuda->fetching ? vendor_queue_wait(cuda->work, cuda->fetch_done) : STATUS_OK;
}

Status cuda_fetch_finish(Backend *self) {
    Cuda *cuda = cuda_of(self);
    if (!cuda->fetching) return STATUS_OK;
    TRY(cuda_wait_event(cuda, cuda->fetch_done));
    cuda->fetching = false;
    return STATUS_OK;
}
