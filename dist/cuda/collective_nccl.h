/* What the files of the collective over GPUs share; nobody else includes it. */
#pragma once

#include "kernels/cuda/cuda.h"
#include "src/collective.h"

#include <pthread.h>

typedef struct {
    Collective base;
    Collective *host; /* what ranks do together outside of their devices, over MPI */
    Cuda *cuda;
    bool staged;                 /* sums go through host memory */
    VendorComm *comm;            /* NULL: staged, or aborted */
    pthread_mutex_t lock;        /* of comm: one thread may wait while another gives work */
    VendorQueue *queue;          /* of the exchanges, beside cuda->work */
    VendorEvent *given, *summed; /* exchanges wait for work, work waits for sums */
    Failure failure; /* the first of an exchange: comm can only be aborted after it */
} CollectiveNccl;

static inline CollectiveNccl *nccl_of(Collective *self) {
    return (CollectiveNccl *)self;
}

/* ---- collective_nccl.c */

/* What a failed exchange means: the others' devices wait for this rank's part, so that nothing but an
 * abort may follow. Remembers the first failure and turns its code into STATUS_COMM, but for
 * STATUS_WATCHDOG. */
Status nccl_fail(CollectiveNccl *self, Status status);

/* Waits until the exchange that was begun is given to its queue. At the first exchange with a rank NCCL
 * connects to it in a thread of its own; it takes nothing else meanwhile.
 * Errors: STATUS_COMM; STATUS_WATCHDOG when the device's patience ends */
Status nccl_wait_given(CollectiveNccl *self);

/* Waits until no exchange is under way, or aborts the communicator when that takes too long: device
 * memory that exchanges use may be released afterwards. */
void nccl_settle(CollectiveNccl *self);

/* ---- the sums: as in CollectiveOps. exchange_nccl.c goes from device to device, exchange_staged.c
 * through host memory and the reduction of `host`. */
Status exchange_nccl_open(CollectiveNccl *self, ReductionMode mode, int shards,
                          int64_t length, Reduction **out);
Status exchange_nccl_part(CollectiveNccl *self, Reduction *reduction,
                          const uint8_t *present, int64_t first, int64_t count);
Status exchange_nccl_reduce(CollectiveNccl *self, Reduction *reduction,
                            const uint8_t *present);
void exchange_nccl_close(CollectiveNccl *self, Reduction *reduction);

Status exchange_staged_open(CollectiveNccl *self, ReductionMode mode, int shards,
                            int64_t length, Reduction **out);
Status exchange_staged_reduce(CollectiveNccl *self, Reduction *reduction,
                              const uint8_t *present);
void exchange_staged_close(CollectiveNccl *self, Reduction *reduction);
