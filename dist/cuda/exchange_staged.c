/* The reduction of ranks that cannot exchange from device to device: their nodes go to host memory, the
 * host's own reduction sums them in the one order, and the sum goes back. */
#include "dist/cuda/collective_nccl.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Reduction base;
    Reduction *host; /* nodes and sum in host memory */
    float *memory;   /* the sum, then the nodes */
} ExchangeStaged;

static Status make_room(CollectiveNccl *self, ExchangeStaged *exchange) {
    Reduction *base = &exchange->base;
    const Reduction *host = exchange->host;
    base->mine = host->mine;
    base->shards = host->shards;
    base->length = host->length;
    base->node_count = host->node_count;
    int64_t stride = (base->length + 63) / 64 * 64;
    size_t bytes = (size_t)(stride * (base->node_count + 1)) * sizeof(float);
    TRY(cuda_allocate(self->cuda, bytes > 0 ? bytes : 1, (void **)&exchange->memory));
    base->sum = exchange->memory;
    for (int i = 0; i < base->node_count; i++) {
        base->nodes[i].first = host->nodes[i].first;
        base->nodes[i].end = host->nodes[i].end;
        base->nodes[i].data = exchange->memory + (i + 1) * stride;
    }
    return STATUS_OK;
}

Status exchange_staged_open(CollectiveNccl *self, ReductionMode mode, int shards,
                            int64_t length, Reduction **out) {
    *out = NULL;
    Collective *host = self->host;
    ExchangeStaged *exchange = calloc(1, sizeof *exchange);
    Status mine = exchange != NULL ? STATUS_OK
                                   : FAIL(STATUS_MEMORY, "free some memory",
                                          "no memory for the reduction");
    Status status = host->ops->agree(host, mine);
    if (status == STATUS_OK)
        status = host->ops->reduction_open(host, mode, shards, length, &exchange->host);
    if (status == STATUS_OK) status = host->ops->agree(host, make_room(self, exchange));
    if (status != STATUS_OK) {
        if (exchange != NULL) exchange_staged_close(self, &exchange->base);
        return status;
    }
    *out = &exchange->base;
    return STATUS_OK;
}

/* Brings the nodes that contribute to the host, once the device has made them. */
static Status fetch_nodes(CollectiveNccl *self, const ExchangeStaged *exchange,
                          const uint8_t *present) {
    const Reduction *base = &exchange->base;
    Backend *backend = &self->cuda->base;
    for (int i = 0; i < base->node_count; i++) {
        int first = base->nodes[i].first, end = base->nodes[i].end;
        if (memchr(present + first, 1, (size_t)(end - first)) == NULL) continue;
        TRY(backend->ops->copy_out(backend, exchange->host->nodes[i].data,
                                   base->nodes[i].data,
                                   (size_t)base->length * sizeof(float)));
    }
    return STATUS_OK;
}

Status exchange_staged_reduce(CollectiveNccl *self, Reduction *reduction,
                              const uint8_t *present) {
    ExchangeStaged *exchange = (ExchangeStaged *)reduction;
    Collective *host = self->host;
    Backend *backend = &self->cuda->base;
    TRY(host->ops->agree(host, fetch_nodes(self, exchange, present)));
    TRY(host->ops->reduce(host, exchange->host, present));
    Status arrived = backend->ops->copy_in(backend, exchange->memory, exchange->host->sum,
                                           (size_t)reduction->length * sizeof(float));
    return host->ops->agree(host, arrived);
}

void exchange_staged_close(CollectiveNccl *self, Reduction *reduction) {
    if (reduction == NULL) return;
    ExchangeStaged *exchange = (ExchangeStaged *)reduction;
    if (!self->cuda->hung) cuda_release(self->cuda, exchange->memory);
    if (exchange->host != NULL)
        self->host->ops->reduction_close(self->host, exchange->host);
    free(exchange);
}
