/* Communicators are NCCL's, non-blocking: every call returns at once, and vendor_comm_poll tells how it
 * went, so that a rank that lost its peers is never stuck inside the library. */
#include "kernels/cuda/real/real.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct VendorComm {
    ncclComm_t comm;
    int rank, size;
    bool grouped; /* between group_begin and group_end */
};

enum { CLOSE_WAIT_MS = 10000 };

_Static_assert(sizeof(ncclUniqueId) == VENDOR_COMM_ID, "the seam's id has NCCL's size");

/* Work under way is no error: vendor_comm_poll asks for its end. */
static bool accepted(ncclResult_t result) {
    return result == ncclSuccess || result == ncclInProgress;
}

static Status failed(const VendorComm *comm, ncclResult_t result, const char *call) {
    const char *detail = ncclGetLastError(comm == NULL ? NULL : comm->comm);
    return FAIL(
        STATUS_COMM,
        "relaunch; if it comes back, run with NCCL_DEBUG=WARN and look at the other "
        "ranks' texts",
        "%.*s (rank %d of %d): %s%s%s", (int)strcspn(call, "("), call,
        comm == NULL ? 0 : comm->rank, comm == NULL ? 1 : comm->size,
        ncclGetErrorString(result), detail == NULL || detail[0] == '\0' ? "" : ": ",
        detail == NULL ? "" : detail);
}

#define TRY_NCCL(comm, call)                                           \
    do {                                                               \
        ncclResult_t result_ = (call);                                 \
        if (!accepted(result_)) return failed((comm), result_, #call); \
    } while (0)

Status vendor_comm_id(uint8_t id[VENDOR_COMM_ID]) {
    ncclUniqueId made;
    TRY_NCCL(NULL, ncclGetUniqueId(&made));
    memcpy(id, made.internal, VENDOR_COMM_ID);
    return STATUS_OK;
}

Status vendor_comm_open(const uint8_t id[VENDOR_COMM_ID], int rank, int size,
                        VendorComm **out) {
    *out = NULL;
    TRY(real_use_device());
    VendorComm *comm = calloc(1, sizeof *comm);
    if (comm == NULL)
        return FAIL(STATUS_MEMORY, "give the rank more memory",
                    "no memory for a communicator");
    comm->rank = rank;
    comm->size = size;
    ncclUniqueId shared;
    memcpy(shared.internal, id, VENDOR_COMM_ID);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t result = ncclCommInitRankConfig(&comm->comm, size, shared, rank, &config);
    if (!accepted(result)) {
        Status status = failed(comm, result, "ncclCommInitRankConfig");
        vendor_comm_abort(comm);
        return status;
    }
    *out = comm;
    return STATUS_OK;
}

Status vendor_comm_poll(VendorComm *comm, bool *ready) {
    *ready = false;
    ncclResult_t state = ncclSuccess;
    TRY_NCCL(comm, ncclCommGetAsyncError(comm->comm, &state));
    if (!accepted(state)) return failed(comm, state, "ncclCommGetAsyncError");
    *ready = state == ncclSuccess;
    return STATUS_OK;
}

Status vendor_group_begin(VendorComm *comm) {
    TRY_NCCL(comm, ncclGroupStart());
    comm->grouped = true;
    return STATUS_OK;
}

Status vendor_send(VendorQueue *queue, VendorComm *comm, const float *data, int64_t count,
                   int to) {
    TRY(real_use_device());
    TRY_NCCL(comm, ncclSend(data, (size_t)count, ncclFloat, to, comm->comm, queue->stream));
    return STATUS_OK;
}

Status vendor_receive(VendorQueue *queue, VendorComm *comm, float *data, int64_t count,
                      int from) {
    TRY(real_use_device());
    TRY_NCCL(comm,
             ncclRecv(data, (size_t)count, ncclFloat, from, comm->comm, queue->stream));
    return STATUS_OK;
}

Status vendor_group_end(VendorComm *comm) {
    TRY(real_use_device());
    comm->grouped = false;
    TRY_NCCL(comm, ncclGroupEnd());
    return STATUS_OK;
}

Status vendor_all_gather(VendorQueue *queue, VendorComm *comm, float *all,
                         const float *mine, int64_t count) {
    TRY(real_use_device());
    TRY_NCCL(comm,
             ncclAllGather(mine, all, (size_t)count, ncclFloat, comm->comm, queue->stream));
    return STATUS_OK;
}

Status vendor_all_reduce(VendorQueue *queue, VendorComm *comm, float *sum,
                         const float *mine, int64_t count) {
    TRY(real_use_device());
    TRY_NCCL(comm, ncclAllReduce(mine, sum, (size_t)count, ncclFloat, ncclSum, comm->comm,
                                 queue->stream));
    return STATUS_OK;
}

/* ---- the end */

static atomic_int aborting; /* communicators that are not yet gone */

static void *abort_one(void *comm) {
    if (real_use_device() == STATUS_OK) ncclCommAbort(comm);
    atomic_fetch_sub(&aborting, 1);
    return NULL;
}

/* In a thread of its own: also of a non-blocking communicator ncclCommAbort returns only when all is freed
 * (ncclAsyncLaunch in NCCL's src/group.cc), and that waits until the last graph with an exchange of it is
 * destroyed (commDestroySync in src/init.cc), which the caller can do only after this. */
void vendor_comm_abort(VendorComm *comm) {
    if (comm == NULL) return;
    if (comm->grouped) ncclGroupEnd(); /* else the abort would wait for the group, too */
    pthread_t thread;
    if (comm->comm != NULL) {
        atomic_fetch_add(&aborting, 1);
        if (pthread_create(&thread, NULL, abort_one, comm->comm) == 0)
            pthread_detach(thread);
        else
            atomic_fetch_sub(&aborting, 1); /* it goes with the process */
    }
    free(comm);
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void real_finish_aborts(void) {
    for (int ms = 0; atomic_load(&aborting) > 0 && ms < CLOSE_WAIT_MS; ms++)
        nap();
}

/* Waits for the peers to finish, too, but not for ever: one of them may be gone by now. */
void vendor_comm_close(VendorComm *comm) {
    if (comm == NULL) return;
    bool ready = false;
    bool flushed = real_use_device() == STATUS_OK && accepted(ncclCommFinalize(comm->comm));
    for (int ms = 0; flushed && !ready && ms < CLOSE_WAIT_MS; ms++) {
        flushed = vendor_comm_poll(comm, &ready) == STATUS_OK;
        if (flushed && !ready) nap();
    }
    if (!ready) {
        vendor_comm_abort(comm);
        return;
    }
    ncclCommDestroy(comm->comm);
    free(comm);
}
