/* The table that a communicator implements: everything that happens between ranks.
 * src/ calls it and knows no MPI or NCCL; dist/ fills it.
 *
 * "Collective": every rank calls it, in the same order. After STATUS_COMM only abort may be called. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Collective Collective;
typedef struct Reduction Reduction;
typedef struct Relay Relay;

typedef enum { REDUCTION_EXACT, REDUCTION_FAST } ReductionMode;

/* Bits that ranks tell each other once a step (or-ed over ranks): the control word. */
typedef enum {
    CONTROL_STOP = 1 << 0,   /* a rank got SIGTERM or SIGUSR1 */
    CONTROL_SAVE = 1 << 1,   /* a rank got SIGUSR2 */
    CONTROL_FAILED = 1 << 2, /* a rank failed locally: agree next, to learn its text */
    CONTROL_SAVING = 1 << 3, /* the thread of a rank is at work at the save in flight */
    CONTROL_DUE = 1 << 4,    /* rank 0's clock: a save is due */
    CONTROL_TIME_LIMIT =
        1 << 5, /* … or the launch's time ends soon; CONTROL_STOP is set, too */
} ControlBits;

/* A rank's share of the shards: [first, first + count). Contiguous, in rank order, sizes differ by
 * at most one: first = rank·V / size, rounded down. */
typedef struct {
    int first, count;
} ShardRange;

static inline ShardRange shard_range(int shards, int rank, int size) {
    int first = (int)((int64_t)rank * shards / size);
    int end = (int)((int64_t)(rank + 1) * shards / size);
    return (ShardRange){first, end - first};
}

typedef struct {
    const char *name;

    /* Turns one rank's local result into one that all share: the code and text of the lowest rank
     * that failed. Call it after any local work that may fail and before the next collective.
     * Collective. */
    Status (*agree)(Collective *self, Status mine);

    /* *bits becomes the or over ranks. Collective, once a step. */
    Status (*control)(Collective *self, uint32_t *bits);

    Status (*barrier)(Collective *self);

    /* Root's bytes arrive everywhere. Collective; any size. */
    Status (*broadcast)(Collective *self, void *data, size_t bytes, int root);

    /* all (size × bytes) gets each rank's `mine`, in rank order. Collective. */
    Status (*gather)(Collective *self, const void *mine, size_t bytes, void *all);

    /* Makes a line on which frames of up to `frame_bytes` (a multiple of 4,096, below 2 GiB) go from `root` to
     * all other ranks: each crosses a network once for every host, and on a host lies in memory that its
     * ranks share where they can. Collective, on two ranks and more. Memory: the relay's, until it is closed
     * Errors: agreed on, STATUS_MEMORY */
    Status (*relay_open)(Collective *self, int root, size_t frame_bytes, Relay **out);

    /* Makes the buffers of a repeated reduction of `length` floats (a multiple of 16) over V shards.
     * The calling rank contributes the maximal tree nodes inside its shard range (see src/core/tree.h):
     * one buffer each. Collective. Memory: the reduction's, until reduction_close. */
    Status (*reduction_open)(Collective *self, ReductionMode mode, int shards,
                             int64_t length, Reduction **out);

    /* Only where reduction->part > 0: begins to sum elements [first, first + count) of all nodes, which
     * the caller has given the work for (multiples of 16). Parts are given from the end to the front, each
     * right below the one before; `reduce` then sums what is left. Parts change no bit. Collective. */
    Status (*reduce_part)(Collective *self, Reduction *reduction, const uint8_t *present,
                          int64_t first, int64_t count);

    /* Sums all nodes over all ranks, in the one canonical order (exact), into reduction->sum.
     * `present`: V bytes, 1 for shards that are not empty in this step, the same on each rank; an
     * empty shard contributes no node. Before: the caller wrote every node of its own that has a
     * present shard. After: sum is valid until the next call, or until a node is written (a single
     * rank's node may be the sum itself). Collective. */
    Status (*reduce)(Collective *self, Reduction *reduction, const uint8_t *present);
    void (*reduction_close)(Collective *self, Reduction *reduction);

    /* Ends the launch at once, everywhere, without waiting for anyone. Does not return. */
    void (*abort)(Collective *self, int exit_code);
    void (*close)(Collective *self);
} CollectiveOps;

struct Collective {
    const CollectiveOps *ops;
    int rank, size;
    int hosts;     /* distinct hosts in the launch */
    int host_rank; /* this rank's place among those of its host */
    char host[64]; /* this rank's */
};

/* Several frames may be on their way at once: the root makes the next ones while slower ranks use the
 * last. Ranks that have to wait sleep. */
struct Relay {
    /* Root: room for the next frame, once there is any; the caller fills it. */
    unsigned char *(*find_room)(Relay *self);
    /* Root: sends the frame that find_room gave room for. A length of 0 or less only is a mark. */
    Status (*send)(Relay *self, int64_t bytes);
    /* Elsewhere: the next frame, valid until the next call. Every frame is received. */
    Status (*receive)(Relay *self, const unsigned char **frame, int64_t *bytes);
    /* Collective, after the last frame. */
    void (*close)(Relay *self);
};

struct Reduction {
    /* reduce and reduce_part only give work to the device's queue, behind the work of its worker 0: they
     * may be called inside Backend.repeat, and a peer's failure cannot block the host in them */
    bool queued;
    int64_t
        part; /* floats that are worth a part of their own; 0: parts gain nothing, give none */
    ShardRange mine;
    int shards;
    int64_t length;
    int node_count; /* maximal nodes inside `mine`, left to right; 0 only if it is empty */
    struct {
        int first, end; /* shards [first, end) */
        float *data;    /* length floats of device memory, 64-byte aligned */
    } nodes[64];
    const float
        *sum; /* length floats of device memory, 64-byte aligned; the same on each rank */
};
