/* A ring of frames in memory that the ranks of a host share. Its first rank, the leader, fills them: the root's
 * host has the root for it, elsewhere the leader gets each frame by message. All others read them there.
 *
 * Frame i lies in slot i % SLOTS, and is overwritten only once nobody needs what was there. Who has to wait
 * sleeps: a rank that asked again and again would take the processor from those it waits for. */
#include "dist/relay.h"

#include "dist/collective_mpi.h"
#include "dist/mpi_status.h"
#include "dist/shared_memory.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Few, so that small frames stay in the processor's caches between the ranks. */
enum { SLOTS = 16, PAGE = 4096 };

/* In shared memory, on a page of its own before the slots. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t arrived, left;
    int64_t sent; /* frames before it are there, or were */
    int64_t lengths[SLOTS];
    int readers[SLOTS]; /* neighbours that still need what is in the slot */
} Ring;

typedef struct {
    Relay base;
    size_t frame_bytes;
    bool leads;
    int followers; /* neighbours of the leader */
    MPI_Comm
        leaders; /* the root is rank 0 there; MPI_COMM_NULL: there is one leader, or we are none */
    bool broken; /* MPI failed */
    SharedMemory shared;
    unsigned char *own; /* the ring's memory when nobody shares it */
    Ring *ring;
    unsigned char *slots;
    int64_t next; /* frame to be sent or received */
} RelayMpi;

_Static_assert(sizeof(Ring) <= PAGE, "the slots begin on the second page");

static unsigned char *slot_of(const RelayMpi *relay, int64_t frame) {
    return relay->slots + (size_t)(frame % SLOTS) * relay->frame_bytes;
}

/* ---- the ring */

static void wait_for_room(RelayMpi *relay) {
    Ring *ring = relay->ring;
    pthread_mutex_lock(&ring->lock);
    while (ring->readers[relay->next % SLOTS] > 0)
        pthread_cond_wait(&ring->left, &ring->lock);
    pthread_mutex_unlock(&ring->lock);
}

static void publish(RelayMpi *relay, int64_t bytes) {
    Ring *ring = relay->ring;
    pthread_mutex_lock(&ring->lock);
    ring->lengths[relay->next % SLOTS] = bytes;
    ring->readers[relay->next % SLOTS] = relay->followers;
    ring->sent = ++relay->next;
    pthread_cond_broadcast(&ring->arrived);
    pthread_mutex_unlock(&ring->lock);
}

/* Gives back the frame that was read, and waits for the next. */
static int64_t follow(RelayMpi *relay) {
    Ring *ring = relay->ring;
    pthread_mutex_lock(&ring->lock);
    if (relay->next > 0 && --ring->readers[(relay->next - 1) % SLOTS] == 0)
        pthread_cond_signal(&ring->left); /* the leader waits there, and nobody else */
    while (ring->sent == relay->next)
        pthread_cond_wait(&ring->arrived, &ring->lock);
    int64_t bytes = ring->lengths[relay->next++ % SLOTS];
    pthread_mutex_unlock(&ring->lock);
    return bytes;
}

static void start_ring(Ring *ring) {
    pthread_mutexattr_t lock;
    pthread_condattr_t moved;
    memset(ring, 0, sizeof *ring);
    pthread_mutexattr_init(&lock);
    pthread_mutexattr_setpshared(&lock, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&ring->lock, &lock);
    pthread_mutexattr_destroy(&lock);
    pthread_condattr_init(&moved);
    pthread_condattr_setpshared(&moved, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&ring->arrived, &moved);
    pthread_cond_init(&ring->left, &moved);
    pthread_condattr_destroy(&moved);
}

/* ---- frames */

static Status tell_leaders(RelayMpi *relay, unsigned char *frame, int64_t *bytes) {
    if (relay->leaders == MPI_COMM_NULL) return STATUS_OK;
    relay->broken = true; /* until it went well */
    TRY_MPI(MPI_Bcast(bytes, 1, MPI_INT64_T, 0, relay->leaders));
    if (*bytes > 0) TRY_MPI(MPI_Bcast(frame, (int)*bytes, MPI_BYTE, 0, relay->leaders));
    relay->broken = false;
    return STATUS_OK;
}

static unsigned char *find_room(Relay *self) {
    RelayMpi *relay = (RelayMpi *)self;
    wait_for_room(relay);
    return slot_of(relay, relay->next);
}

static Status send_frame(Relay *self, int64_t bytes) {
    RelayMpi *relay = (RelayMpi *)self;
    assert(bytes <= (int64_t)relay->frame_bytes);
    unsigned char *frame = slot_of(relay, relay->next);
    publish(relay, bytes); /* neighbours read it while it travels */
    return tell_leaders(relay, frame, &bytes);
}

static Status receive_frame(Relay *self, const unsigned char **frame, int64_t *bytes) {
    RelayMpi *relay = (RelayMpi *)self;
    unsigned char *slot = slot_of(relay, relay->next);
    *frame = slot;
    if (!relay->leads) {
        *bytes = follow(relay);
        return STATUS_OK;
    }
    wait_for_room(relay);
    TRY(tell_leaders(relay, slot, bytes));
    publish(relay, *bytes);
    return STATUS_OK;
}

static void close_relay(Relay *self) {
    RelayMpi *relay = (RelayMpi *)self;
    if (relay->leaders != MPI_COMM_NULL && !relay->broken) MPI_Comm_free(&relay->leaders);
    shared_memory_close(&relay->shared);
    free(relay->own);
    free(relay);
}

/* ---- who shares what */

static void use_memory(RelayMpi *relay, void *memory) {
    relay->ring = memory;
    relay->slots = (unsigned char *)memory + PAGE;
    if (relay->leads) start_ring(relay->ring);
}

/* *shared: the neighbours have the ring in common; never without STATUS_OK. */
static Status share_ring(RelayMpi *relay, Collective *neighbours, bool leads,
                         bool *shared) {
    size_t bytes = PAGE + SLOTS * relay->frame_bytes;
    Status status =
        shared_memory_open(neighbours, bytes, 0, leads ? bytes : 0, &relay->shared);
    if (status == STATUS_COMM) return status;
    *shared = status == STATUS_OK;
    if (!*shared) return STATUS_OK;
    relay->leads = leads;
    relay->followers = neighbours->size - 1;
    use_memory(relay, relay->shared.bytes);
    return neighbours->ops->barrier(
        neighbours); /* nobody uses the ring before it is made */
}

/* The host's ranks as a collective of their own, the root first where it is among them. */
static Status share_on_each_host(RelayMpi *relay, Collective *all, int root, int host,
                                 bool *shared) {
    MPI_Comm comm, whole = ((CollectiveMpi *)all)->comm;
    Collective *neighbours;
    TRY_MPI(MPI_Comm_split(whole, host, all->rank != root, &comm));
    Status status = collective_mpi_open(comm, &neighbours);
    MPI_Comm_free(&comm);
    TRY(status);
    if (neighbours->size > 1)
        status = share_ring(relay, neighbours, neighbours->rank == 0, shared);
    if (status != STATUS_COMM) neighbours->ops->close(neighbours);
    collective_mpi_destroy(neighbours);
    return status;
}

static Status use_own_memory(RelayMpi *relay) {
    relay->leads = true;
    relay->followers = 0;
    relay->own = aligned_alloc(PAGE, PAGE + SLOTS * relay->frame_bytes);
    if (relay->own == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for a relay (%d × %zu bytes)", SLOTS,
                    relay->frame_bytes);
    use_memory(relay, relay->own);
    return STATUS_OK;
}

static Status find_ring(RelayMpi *relay, Collective *all, int root, int host, int hosts) {
    bool shared = false;
    if (hosts == 1)
        TRY(share_ring(relay, all, all->rank == root, &shared));
    else
        TRY(share_on_each_host(relay, all, root, host, &shared));
    if (hosts == 1 && shared) return STATUS_OK; /* everyone is there */
    Status mine = shared ? STATUS_OK : use_own_memory(relay);
    TRY(all->ops->agree(all, mine));
    TRY_MPI(MPI_Comm_split(((CollectiveMpi *)all)->comm, relay->leads ? 0 : MPI_UNDEFINED,
                           all->rank != root, &relay->leaders));
    return STATUS_OK;
}

Status relay_open(Collective *collective, int root, size_t frame_bytes, int host, int hosts,
                  Relay **out) {
    *out = NULL;
    assert(frame_bytes > 0 && frame_bytes % PAGE == 0);
    RelayMpi *relay = calloc(1, sizeof *relay);
    Status mine =
        relay != NULL ? STATUS_OK : FAIL(STATUS_MEMORY, NULL, "no memory for a relay");
    Status status = collective->ops->agree(collective, mine);
    if (status == STATUS_OK) {
        relay->base = (Relay){find_room, send_frame, receive_frame, close_relay};
        relay->frame_bytes = frame_bytes;
        relay->leaders = MPI_COMM_NULL;
        status = find_ring(relay, collective, root, host, hosts);
    }
    if (status == STATUS_OK) {
        *out = &relay->base;
        return STATUS_OK;
    }
    if (relay == NULL) return status;
    relay->broken = status == STATUS_COMM;
    close_relay(&relay->base);
    return status;
}
