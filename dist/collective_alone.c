/* One rank: agreement is the rank's own opinion, a reduction is its own sum. */
#include "dist/collective_alone.h"

#include "dist/buffer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Status agree(Collective *self, Status mine) {
    (void)self;
    return mine;
}

static Status control(Collective *self, uint32_t *bits) {
    (void)self;
    (void)bits;
    return STATUS_OK;
}

static Status barrier(Collective *self) {
    (void)self;
    return STATUS_OK;
}

static Status broadcast(Collective *self, void *data, size_t bytes, int root) {
    (void)self;
    (void)data;
    (void)bytes;
    assert(root == 0);
    return STATUS_OK;
}

static Status gather(Collective *self, const void *mine, size_t bytes, void *all) {
    (void)self;
    if (bytes > 0) memmove(all, mine, bytes);
    return STATUS_OK;
}

static Status relay_open(Collective *self, int root, size_t frame_bytes, Relay **out) {
    (void)self;
    *out = NULL;
    return FAIL(STATUS_UNSUPPORTED, "use what the root has where it is",
                "a single rank (root %d) has nobody to send frames of %zu bytes to", root,
                frame_bytes);
}

Status collective_alone_reduction_open(Collective *self, ReductionMode mode, int shards,
                                       int64_t length, Reduction **out) {
    (void)mode; /* the same sum either way */
    *out = NULL;
    assert(self->size == 1 && shards >= 1 && length % 16 == 0);
    Reduction *reduction = calloc(1, sizeof *reduction);
    float *data = buffer_create(length);
    if (reduction == NULL || data == NULL) {
        free(reduction);
        free(data);
        return FAIL(STATUS_MEMORY, "use a smaller model, or a machine with more memory",
                    "no memory for the gradients (%lld floats)", (long long)length);
    }
    reduction->mine = (ShardRange){0, shards};
    reduction->shards = shards;
    reduction->length = length;
    reduction->node_count = 1;
    reduction->nodes[0].end = shards;
    reduction->nodes[0].data = data;
    reduction->sum = data;
    *out = reduction;
    return STATUS_OK;
}

Status collective_alone_reduce_part(Collective *self, Reduction *reduction,
                                    const uint8_t *present, int64_t first, int64_t count) {
    (void)self, (void)reduction, (void)present;
    return FAIL(STATUS_UNSUPPORTED, "give this reduction the whole vector",
                "sums in host memory are not made in parts ([%lld, %lld) was given)",
                (long long)first, (long long)(first + count));
}

Status collective_alone_reduce(Collective *self, Reduction *reduction,
                               const uint8_t *present) {
    (void)self;
    if (memchr(present, 1, (size_t)reduction->shards) == NULL)
        memset(reduction->nodes[0].data, 0, (size_t)reduction->length * sizeof(float));
    return STATUS_OK;
}

void collective_alone_reduction_close(Collective *self, Reduction *reduction) {
    (void)self;
    if (reduction == NULL) return;
    free(reduction->nodes[0].data);
    free(reduction);
}

static void leave(Collective *self, int exit_code) {
    (void)self;
    fflush(NULL);
    _exit(exit_code);
}

static void close_nothing(Collective *self) {
    (void)self;
}

static const CollectiveOps ops = {
    .name = "alone",
    .agree = agree,
    .control = control,
    .barrier = barrier,
    .broadcast = broadcast,
    .gather = gather,
    .relay_open = relay_open,
    .reduction_open = collective_alone_reduction_open,
    .reduce_part = collective_alone_reduce_part,
    .reduce = collective_alone_reduce,
    .reduction_close = collective_alone_reduction_close,
    .abort = leave,
    .close = close_nothing,
};

Status collective_alone_open(Collective **out) {
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return FAIL(STATUS_MEMORY, "free some memory", "no memory for the collective");
    (*out)->ops = &ops;
    (*out)->size = 1;
    (*out)->hosts = 1;
    gethostname((*out)->host,
                sizeof(*out)->host - 1); /* the rest is zero; "" if it fails */
    return STATUS_OK;
}

void collective_alone_destroy(Collective *collective) {
    free(collective);
}
