/* Agreement and the small exchanges over MPI; reductions are in exchange.c. */
#include "dist/collective_mpi.h"

#include "dist/collective_alone.h"
#include "dist/exchange.h"
#include "dist/mpi_status.h"
#include "dist/relay.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 30, ABORT_PATIENCE_S = 3 };

static MPI_Comm comm_of(const Collective *self) {
    return ((const CollectiveMpi *)self)->comm;
}

static Status agree(Collective *self, Status mine) {
    if (mine == STATUS_COMM) return mine; /* the others cannot be reached */
    int failed = mine == STATUS_OK ? self->size : self->rank;
    TRY_MPI(MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MIN, comm_of(self)));
    if (failed == self->size) return STATUS_OK;
    Failure failure = *status_failure();
    failure.code =
        mine; /* counts even if the failure was another thread's, without its text */
    TRY_MPI(MPI_Bcast(&failure, sizeof failure, MPI_BYTE, failed, comm_of(self)));
    return status_adopt(&failure);
}

static Status control(Collective *self, uint32_t *bits) {
    TRY_MPI(MPI_Allreduce(MPI_IN_PLACE, bits, 1, MPI_UINT32_T, MPI_BOR, comm_of(self)));
    return STATUS_OK;
}

static Status barrier(Collective *self) {
    TRY_MPI(MPI_Barrier(comm_of(self)));
    return STATUS_OK;
}

Status collective_mpi_broadcast(Collective *self, void *data, size_t bytes, int root,
                                size_t piece) {
    for (size_t done = 0; done < bytes;) {
        size_t size = bytes - done < piece ? bytes - done : piece;
        TRY_MPI(MPI_Bcast((char *)data + done, (int)size, MPI_BYTE, root, comm_of(self)));
        done += size;
    }
    return STATUS_OK;
}

static Status broadcast(Collective *self, void *data, size_t bytes, int root) {
    return collective_mpi_broadcast(self, data, bytes, root, PIECE);
}

Status collective_mpi_gather(Collective *self, const void *mine, size_t bytes, void *all,
                             size_t piece) {
    MPI_Comm comm = comm_of(self);
    if (bytes <= piece) {
        TRY_MPI(MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm));
        return STATUS_OK;
    }
    memcpy((char *)all + (size_t)self->rank * bytes, mine, bytes);
    for (int rank = 0; rank < self->size; rank++)
        TRY(collective_mpi_broadcast(self, (char *)all + (size_t)rank * bytes, bytes, rank,
                                     piece));
    return STATUS_OK;
}

static Status gather(Collective *self, const void *mine, size_t bytes, void *all) {
    return collective_mpi_gather(self, mine, bytes, all, PIECE);
}

static Status open_relay(Collective *self, int root, size_t frame_bytes, Relay **out) {
    const CollectiveMpi *mpi = (const CollectiveMpi *)self;
    return relay_open(self, root, frame_bytes, mpi->host_first, self->hosts, out);
}

static Status reduction_open(Collective *self, ReductionMode mode, int shards,
                             int64_t length, Reduction **out) {
    if (self->size > 1)
        return exchange_open(self, mode, TRANSPORT_BEST, shards, length, out);
    return collective_alone_reduction_open(self, mode, shards, length, out);
}

static Status reduce(Collective *self, Reduction *reduction, const uint8_t *present) {
    if (self->size > 1) return exchange_reduce(self, reduction, present);
    return collective_alone_reduce(self, reduction, present);
}

static void reduction_close(Collective *self, Reduction *reduction) {
    if (self->size > 1)
        exchange_close(reduction);
    else
        collective_alone_reduction_close(self, reduction);
}

static void *leave_late(void *exit_code) {
    sleep(ABORT_PATIENCE_S);
    _exit(*(const int *)exit_code);
}

/* MPI_Abort asks the launcher to end everyone; should that, or a pipe that nobody reads, hang, the
 * rank leaves alone after a while, which ends the launch as well. */
static void abort_launch(Collective *self, int exit_code) {
    static int late_code;
    late_code = exit_code;
    pthread_t thread;
    if (pthread_create(&thread, NULL, leave_late, &late_code) != 0) alarm(ABORT_PATIENCE_S);
    fflush(NULL);
    MPI_Comm comm = comm_of(self);
    MPI_Abort(comm == MPI_COMM_NULL ? MPI_COMM_WORLD : comm, exit_code);
    _exit(exit_code);
}

static void close_comm(Collective *self) {
    CollectiveMpi *mpi = (CollectiveMpi *)self;
    if (mpi->comm != MPI_COMM_NULL) MPI_Comm_free(&mpi->comm);
}

static const CollectiveOps ops = {
    .name = "mpi",
    .agree = agree,
    .control = control,
    .barrier = barrier,
    .broadcast = broadcast,
    .gather = gather,
    .relay_open = open_relay,
    .reduction_open = reduction_open,
    .reduce_part = collective_alone_reduce_part,
    .reduce = reduce,
    .reduction_close = reduction_close,
    .abort = abort_launch,
    .close = close_comm,
};

/* One rank of each host counts it: ranks share a host when they can share memory. */
static Status count_hosts(CollectiveMpi *mpi) {
    MPI_Comm comm = mpi->comm, neighbours;
    TRY_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours));
    TRY_MPI(MPI_Comm_rank(neighbours, &mpi->base.host_rank));
    mpi->host_first = mpi->base.rank;
    TRY_MPI(MPI_Bcast(&mpi->host_first, 1, MPI_INT, 0, neighbours));
    TRY_MPI(MPI_Comm_free(&neighbours));
    int first = mpi->base.host_rank == 0;
    TRY_MPI(MPI_Allreduce(&first, &mpi->base.hosts, 1, MPI_INT, MPI_SUM, comm));
    return STATUS_OK;
}

static Status open_on(MPI_Comm parent, CollectiveMpi *mpi) {
    TRY_MPI(MPI_Comm_dup(parent, &mpi->comm));
    TRY_MPI(MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN));
    TRY_MPI(MPI_Comm_rank(mpi->comm, &mpi->base.rank));
    TRY_MPI(MPI_Comm_size(mpi->comm, &mpi->base.size));
    gethostname(mpi->base.host, sizeof mpi->base.host - 1); /* the rest is zero */
    return count_hosts(mpi);
}

Status collective_mpi_open(MPI_Comm parent, Collective **out) {
    *out = NULL;
    CollectiveMpi *mpi = calloc(1, sizeof *mpi);
    if (mpi == NULL)
        return FAIL(STATUS_COMM, "free some memory", "no memory for the collective");
    mpi->base.ops = &ops;
    mpi->comm = MPI_COMM_NULL;
    Status status = open_on(parent, mpi);
    if (status != STATUS_OK) {
        free(mpi);
        return status;
    }
    *out = &mpi->base;
    return STATUS_OK;
}

void collective_mpi_destroy(Collective *collective) {
    free(collective);
}
