/* The exact reduction by messages: each rank receives its slice of all other ranks' nodes, finishes
 * the tree for it, and the slices are gathered. */
#include "dist/exchange_parts.h"

#include "dist/buffer.h"
#include "dist/mpi_status.h"

#include <limits.h>
#include <stdlib.h>

static Status make_room(Exchange *exchange) {
    const Reduction *base = &exchange->base;
    if (base->length / UNIT > INT_MAX)
        return FAIL(STATUS_UNSUPPORTED, "split the state over several reductions",
                    "%lld floats are more than MPI can count", (long long)base->length);
    TRY(exchange_open_private(exchange));
    size_t ranks = (size_t)exchange->collective->size;
    size_t foreign = (size_t)(exchange->leaf_count - base->node_count);
    size_t messages = foreign + (size_t)base->node_count * (ranks - 1);
    Slice slice = exchange_slice(exchange, exchange->collective->rank);
    exchange->received = buffer_create((slice.end - slice.first) * (int64_t)foreign);
    exchange->requests = calloc(messages + 1, sizeof *exchange->requests);
    exchange->counts = calloc(ranks, sizeof *exchange->counts);
    exchange->offsets = calloc(ranks, sizeof *exchange->offsets);
    if (exchange->received == NULL || exchange->requests == NULL ||
        exchange->counts == NULL || exchange->offsets == NULL)
        return FAIL(STATUS_MEMORY, "use a smaller model, or more memory a rank",
                    "no memory to receive %zu slices of %lld floats", foreign,
                    (long long)(slice.end - slice.first));
    return STATUS_OK;
}

Status exchange_messages_open(Exchange *exchange) {
    const Reduction *base = &exchange->base;
    Collective *collective = exchange->collective;
    TRY(collective->ops->agree(collective, make_room(exchange)));
    TRY_MPI(MPI_Type_contiguous(UNIT, MPI_FLOAT, &exchange->unit));
    TRY_MPI(MPI_Type_commit(&exchange->unit));
    for (int rank = 0; rank < collective->size; rank++) {
        Slice slice = exchange_slice(exchange, rank);
        exchange->counts[rank] = (int)((slice.end - slice.first) / UNIT);
        exchange->offsets[rank] = (int)(slice.first / UNIT);
    }
    Slice slice = exchange_slice(exchange, collective->rank);
    const float *next = exchange->received;
    for (int i = 0; i < exchange->leaf_count; i++) {
        int own = i - exchange->own_first;
        if (own >= 0 && own < base->node_count) {
            exchange->leaves[i].data = base->nodes[own].data + slice.first;
        } else {
            exchange->leaves[i].data = next;
            next += slice.end - slice.first;
        }
    }
    return STATUS_OK;
}

static bool is_present(TreeNode node, const uint8_t *present) {
    for (int shard = node.first; shard < node.end; shard++)
        if (present[shard]) return true;
    return false;
}

/* Starts all messages of one reduction; the leaf's number is the tag. */
static Status post(Exchange *exchange, const uint8_t *present, int *requests) {
    const Reduction *base = &exchange->base;
    MPI_Comm comm = ((CollectiveMpi *)exchange->collective)->comm;
    int rank = exchange->collective->rank;
    *requests = 0;
    for (int i = 0; i < exchange->leaf_count; i++) {
        if (!is_present(exchange->leaves[i].node, present) || exchange->owners[i] == rank)
            continue;
        TRY_MPI(MPI_Irecv((float *)(uintptr_t)exchange->leaves[i].data,
                          exchange->counts[rank], exchange->unit, exchange->owners[i], i,
                          comm, &exchange->requests[(*requests)++]));
    }
    /* each rank begins with its right neighbour, so that no rank is everyone's first */
    for (int step = 1; step < exchange->collective->size; step++) {
        int to = (rank + step) % exchange->collective->size;
        for (int i = 0; i < base->node_count; i++) {
            int leaf = exchange->own_first + i;
            if (!is_present(exchange->leaves[leaf].node, present)) continue;
            const float *data = base->nodes[i].data + exchange_slice(exchange, to).first;
            TRY_MPI(MPI_Isend(data, exchange->counts[to], exchange->unit, to, leaf, comm,
                              &exchange->requests[(*requests)++]));
        }
    }
    return STATUS_OK;
}

Status exchange_messages_reduce(Exchange *exchange, const uint8_t *present) {
    if (!tree_sum_planned_for(exchange->plan, present))
        tree_sum_plan(exchange->plan, exchange->leaves, exchange->leaf_count, present);
    int requests;
    TRY(post(exchange, present, &requests));
    TRY_MPI(MPI_Waitall(requests, exchange->requests, MPI_STATUSES_IGNORE));
    Slice slice = exchange_slice(exchange, exchange->collective->rank);
    tree_sum_run(exchange->plan, exchange->sum + slice.first, slice.end - slice.first,
                 false);
    TRY_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, exchange->sum,
                           exchange->counts, exchange->offsets, exchange->unit,
                           ((CollectiveMpi *)exchange->collective)->comm));
    return STATUS_OK;
}

void exchange_messages_close(Exchange *exchange) {
    if (exchange->unit != MPI_DATATYPE_NULL) MPI_Type_free(&exchange->unit);
    free(exchange->received);
    free(exchange->requests);
    free(exchange->counts);
    free(exchange->offsets);
}
