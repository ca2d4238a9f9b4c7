/* Lays out who holds which node of the tree, and picks the way in which sums travel. */
#include "dist/exchange_parts.h"

#include "dist/buffer.h"
#include "dist/mpi_status.h"
#include "src/core/log.h"

#include <assert.h>
#include <stdlib.h>

enum { FAST_PIECE = 1 << 28 };

Slice exchange_slice(const Exchange *exchange, int rank) {
    int64_t units = exchange->base.length / UNIT, size = exchange->collective->size;
    return (Slice){units * rank / size * UNIT, units * (rank + 1) / size * UNIT};
}

static Status no_memory(int64_t length) {
    return FAIL(STATUS_MEMORY, "use a smaller model, fewer ranks a host, or more memory",
                "no memory for the reduction's buffers (%lld floats each)",
                (long long)length);
}

Status exchange_open_private(Exchange *exchange) {
    Reduction *base = &exchange->base;
    int64_t stride = (base->length + 1023) / 1024 * 1024; /* pages of their own */
    exchange->memory = buffer_create(stride * (base->node_count + 1));
    if (exchange->memory == NULL) return no_memory(base->length);
    for (int i = 0; i < base->node_count; i++)
        base->nodes[i].data = exchange->memory + i * stride;
    exchange->sum = exchange->memory + base->node_count * stride;
    base->sum = exchange->sum;
    return STATUS_OK;
}

/* Lists the maximal nodes of every rank. */
static Status plan_leaves(Exchange *exchange) {
    Reduction *base = &exchange->base;
    int size = exchange->collective->size;
    TreeNode nodes[64];
    for (int rank = 0; rank < size; rank++) {
        ShardRange range = shard_range(base->shards, rank, size);
        exchange->leaf_count +=
            tree_maximal_nodes(base->shards, range.first, range.first + range.count, nodes);
    }
    size_t room = (size_t)exchange->leaf_count;
    exchange->leaves = calloc(room, sizeof *exchange->leaves);
    exchange->owners = calloc(room, sizeof *exchange->owners);
    exchange->plan = tree_sum_create(base->shards, exchange->leaf_count);
    if (exchange->leaves == NULL || exchange->owners == NULL || exchange->plan == NULL)
        return no_memory(base->length);

    int leaf = 0;
    for (int rank = 0; rank < size; rank++) {
        ShardRange range = shard_range(base->shards, rank, size);
        int count =
            tree_maximal_nodes(base->shards, range.first, range.first + range.count, nodes);
        if (rank == exchange->collective->rank) {
            base->mine = range;
            base->node_count = count;
            exchange->own_first = leaf;
        }
        for (int i = 0; i < count; i++, leaf++) {
            exchange->leaves[leaf].node = nodes[i];
            exchange->owners[leaf] = rank;
        }
    }
    for (int i = 0; i < base->node_count; i++) {
        TreeNode node = exchange->leaves[exchange->own_first + i].node;
        base->nodes[i].first = node.first;
        base->nodes[i].end = node.end;
    }
    return STATUS_OK;
}

/* The exact exchange over the wanted transport, or over messages when any will do and the ranks
 * cannot share memory. */
static Status open_exact(Exchange *exchange, Transport wanted) {
    Collective *collective = exchange->collective;
    Status status = STATUS_UNSUPPORTED;
    if (wanted != TRANSPORT_MESSAGES && collective->hosts == 1) {
        exchange->transport = TRANSPORT_SHARED;
        status = exchange_shared_open(exchange);
        if (status == STATUS_OK || status == STATUS_COMM) return status;
        if (wanted == TRANSPORT_BEST && collective->rank == 0)
            LOG_W("%s (%s); gradients go by messages", status_failure()->what,
                  status_failure()->where);
    } else if (wanted == TRANSPORT_SHARED) {
        return FAIL(STATUS_UNSUPPORTED, "let the transport be chosen",
                    "%d hosts have no memory in common", collective->hosts);
    }
    if (wanted == TRANSPORT_SHARED) return status;
    exchange->transport = TRANSPORT_MESSAGES;
    return exchange_messages_open(exchange);
}

Status exchange_open(Collective *self, ReductionMode mode, Transport transport, int shards,
                     int64_t length, Reduction **out) {
    *out = NULL;
    assert(shards >= 1 && length >= 0 && length % UNIT == 0);
    Exchange *exchange = calloc(1, sizeof *exchange);
    Status status = exchange == NULL ? no_memory(length) : STATUS_OK;
    if (exchange != NULL) {
        exchange->base.shards = shards;
        exchange->base.length = length;
        exchange->collective = self;
        exchange->mode = mode;
        exchange->transport = TRANSPORT_MESSAGES;
        exchange->unit = MPI_DATATYPE_NULL;
        status = plan_leaves(exchange);
        if (status == STATUS_OK && mode == REDUCTION_FAST)
            status = exchange_open_private(exchange);
    }
    status = self->ops->agree(self, status);
    if (status == STATUS_OK && mode == REDUCTION_EXACT)
        status = open_exact(exchange, transport);
    if (status != STATUS_OK) {
        if (exchange != NULL) exchange_close(&exchange->base);
        return status;
    }
    *out = &exchange->base;
    return STATUS_OK;
}

/* Every rank adds its own nodes, MPI adds the ranks in whatever order it likes. */
static Status reduce_fast(Exchange *exchange, const uint8_t *present) {
    const Reduction *base = &exchange->base;
    if (!tree_sum_planned_for(exchange->plan, present)) {
        for (int i = 0; i < base->node_count; i++)
            exchange->leaves[exchange->own_first + i].data = base->nodes[i].data;
        tree_sum_plan(exchange->plan, exchange->leaves + exchange->own_first,
                      base->node_count, present);
    }
    const float *only = tree_sum_only_leaf(exchange->plan); /* then MPI does the copying */
    if (only == NULL) tree_sum_run(exchange->plan, exchange->sum, base->length, false);
    MPI_Comm comm = ((CollectiveMpi *)exchange->collective)->comm;
    for (int64_t done = 0; done < base->length; done += FAST_PIECE) {
        int64_t left = base->length - done;
        int count = (int)(left < FAST_PIECE ? left : FAST_PIECE);
        TRY_MPI(MPI_Allreduce(only == NULL ? MPI_IN_PLACE : only + done,
                              exchange->sum + done, count, MPI_FLOAT, MPI_SUM, comm));
    }
    return STATUS_OK;
}

Status exchange_reduce(Collective *self, Reduction *reduction, const uint8_t *present) {
    Exchange *exchange = (Exchange *)reduction;
    assert(exchange->collective == self);
    if (exchange->mode == REDUCTION_FAST) return reduce_fast(exchange, present);
    return exchange->transport == TRANSPORT_SHARED
               ? exchange_shared_reduce(exchange, present)
               : exchange_messages_reduce(exchange, present);
}

void exchange_close(Reduction *reduction) {
    if (reduction == NULL) return;
    Exchange *exchange = (Exchange *)reduction;
    exchange_messages_close(exchange);
    shared_memory_close(&exchange->shared);
    tree_sum_destroy(exchange->plan);
    free(exchange->memory);
    free(exchange->leaves);
    free(exchange->owners);
    free(exchange);
}

Transport exchange_transport(const Reduction *reduction) {
    return ((const Exchange *)reduction)->transport;
}
