/* The collective of ranks with a GPU each: what they do together on the host goes on to the launch's own
 * collective, sums of device memory go over NCCL, or through host memory where NCCL cannot. */
#include "dist/cuda/collective_nccl.h"

#include "src/core/clock.h"
#include "src/core/log.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SPINS = 100, /* while waiting: how often a rank asks before it naps */
    NAP_NS = 50 * 1000,
    ROUND_MS = 10, /* while connecting: how long a rank looks before it asks the others */
    /* A reduction is closed after its last sum was read, or after a failure: what is not done soon then
     * never will be. */
    SETTLE_S = 5
};

/* Control bits while connecting. */
enum { CONNECT_WAITS = 1, CONNECT_FAILED = 2 };

/* ---- what goes on to the host's collective */

static Status agree(Collective *self, Status mine) {
    Collective *host = nccl_of(self)->host;
    return host->ops->agree(host, mine);
}

static Status control(Collective *self, uint32_t *bits) {
    Collective *host = nccl_of(self)->host;
    return host->ops->control(host, bits);
}

static Status barrier(Collective *self) {
    Collective *host = nccl_of(self)->host;
    return host->ops->barrier(host);
}

static Status broadcast(Collective *self, void *data, size_t bytes, int root) {
    Collective *host = nccl_of(self)->host;
    return host->ops->broadcast(host, data, bytes, root);
}

static Status gather(Collective *self, const void *mine, size_t bytes, void *all) {
    Collective *host = nccl_of(self)->host;
    return host->ops->gather(host, mine, bytes, all);
}

static Status relay_open(Collective *self, int root, size_t frame_bytes, Relay **out) {
    Collective *host = nccl_of(self)->host;
    return host->ops->relay_open(host, root, frame_bytes, out);
}

/* The communicator is left as it is: aborting it could wait, and the processes' end frees it. */
static void abort_launch(Collective *self, int exit_code) {
    Collective *host = nccl_of(self)->host;
    host->ops->abort(host, exit_code);
}

/* ---- sums */

static Status reduction_open(Collective *collective, ReductionMode mode, int shards,
                             int64_t length, Reduction **out) {
    CollectiveNccl *self = nccl_of(collective);
    return self->staged ? exchange_staged_open(self, mode, shards, length, out)
                        : exchange_nccl_open(self, mode, shards, length, out);
}

Status nccl_fail(CollectiveNccl *self, Status status) {
    if (status == STATUS_OK) return STATUS_OK;
    if (self->failure.code == STATUS_OK) {
        self->failure = *status_failure();
        self->failure.code = status == STATUS_WATCHDOG ? STATUS_WATCHDOG : STATUS_COMM;
    }
    return status_adopt(&self->failure);
}

static bool is_broken(const CollectiveNccl *self) {
    return self->failure.code != STATUS_OK;
}

Status nccl_wait_given(CollectiveNccl *self) {
    double begun = 0, patience_s = self->cuda->patience_s;
    for (int turn = 0;; turn++) {
        bool ready = false;
        TRY(vendor_comm_poll(self->comm, &ready));
        if (ready) return STATUS_OK;
        double now = clock_seconds();
        if (turn == 0) begun = now;
        if (patience_s > 0 && now - begun > patience_s)
            return FAIL(STATUS_WATCHDOG, "look at the other ranks and at NCCL_DEBUG=INFO",
                        "the GPUs did not begin an exchange within %g s", patience_s);
        if (turn < SPINS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

static Status reduce_part(Collective *collective, Reduction *reduction,
                          const uint8_t *present, int64_t first, int64_t count) {
    CollectiveNccl *self = nccl_of(collective);
    assert(reduction->queued);
    pthread_mutex_lock(&self->lock);
    Status status =
        nccl_fail(self, exchange_nccl_part(self, reduction, present, first, count));
    pthread_mutex_unlock(&self->lock);
    return status;
}

static Status reduce(Collective *collective, Reduction *reduction, const uint8_t *present) {
    CollectiveNccl *self = nccl_of(collective);
    if (self->staged) return exchange_staged_reduce(self, reduction, present);
    pthread_mutex_lock(&self->lock);
    Status status = nccl_fail(self, exchange_nccl_reduce(self, reduction, present));
    pthread_mutex_unlock(&self->lock);
    return status;
}

static void reduction_close(Collective *collective, Reduction *reduction) {
    CollectiveNccl *self = nccl_of(collective);
    if (self->staged)
        exchange_staged_close(self, reduction);
    else
        exchange_nccl_close(self, reduction);
}

/* Asked while the host waits for the device. A thread that gives work meanwhile finds out by itself. */
static Status ask_peers(void *context) {
    CollectiveNccl *self = context;
    if (pthread_mutex_trylock(&self->lock) != 0) return STATUS_OK;
    bool ready;
    Status status = STATUS_OK;
    if (self->comm != NULL) status = nccl_fail(self, vendor_comm_poll(self->comm, &ready));
    pthread_mutex_unlock(&self->lock);
    return status;
}

/* Both queues, for a while, and what the communicator says then. */
static Status wait_for_exchanges(CollectiveNccl *self) {
    Cuda *cuda = self->cuda;
    double patience_s = cuda->patience_s;
    if (patience_s <= 0 || patience_s > SETTLE_S) cuda->patience_s = SETTLE_S;
    Status status = cuda_wait(cuda, self->queue);
    if (status == STATUS_OK) status = cuda_wait(cuda, cuda->work);
    if (status == STATUS_OK && self->comm != NULL) status = nccl_wait_given(self);
    cuda->patience_s = patience_s;
    return status;
}

void nccl_settle(CollectiveNccl *self) {
    if (self->comm == NULL) return;
    Failure first = *status_failure(); /* what led here counts, not what is found here */
    if (is_broken(self) || wait_for_exchanges(self) != STATUS_OK) {
        vendor_comm_abort(self->comm);
        self->comm = NULL;
        self->cuda->hung = false; /* if it waited for the others only, it is free now */
        wait_for_exchanges(self);
    }
    if (first.code != STATUS_OK) status_adopt(&first);
}

/* ---- opening and closing */

static void close_nccl(Collective *collective) {
    if (collective == NULL) return;
    CollectiveNccl *self = nccl_of(collective);
    nccl_settle(self);
    if (self->cuda->peers_context == self) {
        self->cuda->peers = NULL;
        self->cuda->peers_context = NULL;
    }
    if (!self->cuda->hung) { /* else these would wait, too: they go with the process */
        vendor_comm_close(self->comm);
        vendor_event_destroy(self->given);
        vendor_event_destroy(self->summed);
        vendor_queue_destroy(self->queue);
    }
    pthread_mutex_destroy(&self->lock);
    free(self);
}

/* What a rank tells the others of its device. */
typedef struct {
    char host[64], name[64], identity[40];
} Place;

static bool is_same_place(const Place *a, const Place *b) {
    return strcmp(a->host, b->host) == 0 && strcmp(a->identity, b->identity) == 0;
}

/* The first rank whose device another one has, too; -1 if each rank has its own. */
static int find_shared_device(const Place *places, int size) {
    for (int rank = 0; rank < size; rank++)
        for (int other = rank + 1; other < size; other++)
            if (is_same_place(&places[rank], &places[other])) return rank;
    return -1;
}

static void tell_of_shared_device(const Place *places, int size, int first) {
    const Place *place = &places[first];
    char ranks[200] = "";
    size_t end = 0;
    for (int rank = first; rank < size && end < sizeof ranks - 16; rank++)
        if (is_same_place(&places[rank], place))
            end += (size_t)snprintf(ranks + end, sizeof ranks - end, "%s%d",
                                    end > 0 ? ", " : "", rank);
    LOG_W("ranks %s share %s (%s) on %s, which NCCL refuses: gradients are summed through "
          "host memory over MPI, with the same bits, but slowly",
          ranks, place->name, place->identity, place->host);
}

/* Agreement while connecting: the device lost its peers, but the ranks still have each other. */
static Status agree_to_open(Collective *host, Status mine) {
    if (mine == STATUS_COMM) {
        Failure failure = *status_failure();
        failure.code = STATUS_DEVICE;
        mine = status_adopt(&failure);
    }
    return host->ops->agree(host, mine);
}

/* All ranks look at their connections until each has its own or one has failed; none leaves alone. */
static Status wait_for_connections(CollectiveNccl *self, Status mine) {
    Collective *host = self->host;
    double begun = clock_seconds(), patience_s = self->cuda->patience_s;
    bool ready = false;
    for (;;) {
        double round = clock_seconds();
        while (mine == STATUS_OK && !ready && clock_seconds() - round < ROUND_MS * 1e-3) {
            mine = vendor_comm_poll(self->comm, &ready);
            if (mine == STATUS_OK && !ready)
                nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        }
        if (mine == STATUS_OK && !ready && patience_s > 0 &&
            clock_seconds() - begun > patience_s)
            mine = FAIL(STATUS_WATCHDOG,
                        "look at the network between the hosts and at NCCL_DEBUG=INFO, or "
                        "raise fault.hang_timeout",
                        "the GPUs' communicator did not connect within %.0f s", patience_s);
        uint32_t bits = (mine != STATUS_OK ? CONNECT_FAILED : 0u) |
                        (mine == STATUS_OK && !ready ? CONNECT_WAITS : 0u);
        TRY(host->ops->control(host, &bits));
        if ((bits & CONNECT_FAILED) != 0) break;
        if (bits == 0) return STATUS_OK;
    }
    return agree_to_open(host, mine);
}

static Status connect_ranks(CollectiveNccl *self) {
    Collective *host = self->host;
    uint8_t id[VENDOR_COMM_ID] = {0};
    Status mine = host->rank == 0 ? vendor_comm_id(id) : STATUS_OK;
    if (mine == STATUS_OK) mine = vendor_queue_create(true, &self->queue);
    if (mine == STATUS_OK) mine = vendor_event_create(&self->given);
    if (mine == STATUS_OK) mine = vendor_event_create(&self->summed);
    TRY(agree_to_open(host, mine));
    TRY(host->ops->broadcast(host, id, sizeof id, 0));
    TRY(host->ops->barrier(host)); /* NCCL's own patience begins when all are here */
    return wait_for_connections(self,
                                vendor_comm_open(id, host->rank, host->size, &self->comm));
}

/* NCCL where it can, else through host memory. Places: room for one a rank. */
static Status choose_way(CollectiveNccl *self, Place *places) {
    Collective *host = self->host;
    const VendorDevice *device = &self->cuda->device;
    Place mine = {{0}, {0}, {0}};
    snprintf(mine.host, sizeof mine.host, "%s", host->host);
    snprintf(mine.name, sizeof mine.name, "%s", device->name);
    snprintf(mine.identity, sizeof mine.identity, "%s", device->identity);
    TRY(host->ops->gather(host, &mine, sizeof mine, places));
    int shared = find_shared_device(places, host->size);
    if (shared >= 0) {
        if (host->rank == 0) tell_of_shared_device(places, host->size, shared);
        self->staged = true;
        return STATUS_OK;
    }
    Status status = connect_ranks(self);
    if (status != STATUS_OK && self->comm != NULL) {
        vendor_comm_abort(self->comm);
        self->comm = NULL;
    }
    return status;
}

static const CollectiveOps ops = {
    .name = "nccl",
    .agree = agree,
    .control = control,
    .barrier = barrier,
    .broadcast = broadcast,
    .gather = gather,
    .relay_open = relay_open,
    .reduction_open = reduction_open,
    .reduce_part = reduce_part,
    .reduce = reduce,
    .reduction_close = reduction_close,
    .abort = abort_launch,
    .close = close_nccl,
};

Status cuda_open_collective(Backend *backend, Collective *host, Collective **out) {
    *out = NULL;
    CollectiveNccl *self = calloc(1, sizeof *self);
    Place *places = calloc((size_t)host->size, sizeof *places);
    Status status = self != NULL && places != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, "free some memory",
                               "no memory for the collective of %d ranks", host->size);
    if (self != NULL) {
        self->base = *host; /* rank, size and hosts */
        self->base.ops = &ops;
        self->host = host;
        self->cuda = cuda_of(backend);
        pthread_mutex_init(&self->lock, NULL);
    }
    status = host->ops->agree(host, status);
    if (status == STATUS_OK) status = choose_way(self, places);
    free(places);
    if (status != STATUS_OK) {
        if (self != NULL) close_nccl(&self->base);
        return status;
    }
    if (!self->staged) {
        self->cuda->peers = ask_peers;
        self->cuda->peers_context = self;
    }
    *out = &self->base;
    return STATUS_OK;
}
