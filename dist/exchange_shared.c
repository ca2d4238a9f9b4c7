/* The exact reduction on one host: all nodes and the sum lie in memory that every rank sees; each
 * rank sums one slice of all nodes. Each node is read once and the sum written once. */
#include "dist/exchange_parts.h"

#include "dist/mpi_status.h"

#include <stdatomic.h>

enum { PAGE = 4096 };

/* The memory holds the sum, then the leaves in order, each on pages of its own. */
Status exchange_shared_open(Exchange *exchange) {
    Reduction *base = &exchange->base;
    size_t stride = ((size_t)base->length * sizeof(float) + PAGE - 1) / PAGE * PAGE;
    size_t first = stride * (size_t)(exchange->own_first + 1);
    size_t end = first + stride * (size_t)base->node_count;
    if (exchange->collective->rank == 0) first = 0; /* the sum, too */
    TRY(shared_memory_open(exchange->collective,
                           stride * (size_t)(exchange->leaf_count + 1), first, end,
                           &exchange->shared));
    char *bytes = exchange->shared.bytes;
    Slice slice = exchange_slice(exchange, exchange->collective->rank);
    for (int i = 0; i < exchange->leaf_count; i++) {
        float *data = (float *)(void *)(bytes + stride * (size_t)(i + 1));
        exchange->leaves[i].data = data + slice.first;
        int own = i - exchange->own_first;
        if (own >= 0 && own < base->node_count) base->nodes[own].data = data;
    }
    exchange->sum = (float *)(void *)bytes;
    base->sum = exchange->sum;
    return STATUS_OK;
}

Status exchange_shared_reduce(Exchange *exchange, const uint8_t *present) {
    if (!tree_sum_planned_for(exchange->plan, present))
        tree_sum_plan(exchange->plan, exchange->leaves, exchange->leaf_count, present);
    MPI_Comm comm = ((CollectiveMpi *)exchange->collective)->comm;
    Slice slice = exchange_slice(exchange, exchange->collective->rank);
    /* the barriers order the ranks, the fences their memory. First: all nodes are written, and
     * nobody reads the old sum any more */
    atomic_thread_fence(memory_order_seq_cst);
    TRY_MPI(MPI_Barrier(comm));
    atomic_thread_fence(memory_order_seq_cst);
    /* past the caches: the line of the sum that is written lies in the cache of a rank that read
     * the last one, and fetching it from there costs more than memory does, at any size */
    tree_sum_run(exchange->plan, exchange->sum + slice.first, slice.end - slice.first,
                 true);
    /* second: all slices are written, and nobody reads the nodes any more */
    atomic_thread_fence(memory_order_seq_cst);
    TRY_MPI(MPI_Barrier(comm));
    atomic_thread_fence(memory_order_seq_cst);
    return STATUS_OK;
}
