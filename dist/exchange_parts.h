/* What the two transports of the exchange share; nobody else includes it. */
#pragma once

#include "dist/collective_mpi.h"
#include "dist/exchange.h"
#include "dist/shared_memory.h"
#include "dist/tree_sum.h"

typedef struct {
    Reduction base;
    Collective *collective;
    ReductionMode mode;
    Transport transport;

    TreeLeaf *leaves; /* the nodes of all ranks, left to right */
    int *owners;      /* and the ranks that hold them */
    int leaf_count;
    int own_first; /* leaves[own_first ..] are base.nodes */
    TreeSum *plan;
    float *sum;    /* base.sum, writable here */
    float *memory; /* nodes and sum, unless they are shared */

    SharedMemory shared;

    float *received; /* messages: the slices of other ranks' nodes */
    MPI_Request *requests;
    int *counts, *offsets; /* of all ranks' slices, in UNITs */
    MPI_Datatype unit;     /* UNIT floats: keeps MPI's int counts small */
} Exchange;

enum { UNIT = 16 };

typedef struct {
    int64_t first, end; /* floats */
} Slice;

/* The part of the sum that `rank` computes; a multiple of UNIT floats. */
Slice exchange_slice(const Exchange *exchange, int rank);

/* Private memory for the rank's nodes and the sum.
 * Errors: STATUS_MEMORY, not agreed on */
Status exchange_open_private(Exchange *exchange);

/* Collective; errors are agreed on. On failure exchange_close still frees everything. */
Status exchange_shared_open(Exchange *exchange);
Status exchange_shared_reduce(Exchange *exchange, const uint8_t *present);

Status exchange_messages_open(Exchange *exchange);
Status exchange_messages_reduce(Exchange *exchange, const uint8_t *present);
void exchange_messages_close(Exchange *exchange);
