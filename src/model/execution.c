/* Forward and backward passes over the list of nodes. */
#include "src/model/execution.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What a node keeps between forward and backward. */
typedef struct {
    Tensor y;            /* output; the network's input: the caller's memory */
    Tensor dy;           /* gradient of the output; training only */
    bool dy_written;     /* this backward pass has a first contribution */
    bool needs_gradient; /* something trainable lies at or before it */
    void *saved;         /* batch norm: mean and 1/std; max pool: choices */
} Slot;

/* A piece of gradient memory that nodes use one after the other. */
typedef struct {
    void *data;
    size_t bytes;
    bool taken;
} Piece;

struct Execution {
    const Graph *graph;
    const State *state;
    Backend *backend;
    int worker;
    bool training;
    int64_t rows, planned_rows; /* room; rows that the tensors are shaped for now */
    Slot slots[GRAPH_NODES];
    Piece pieces[GRAPH_NODES]; /* gradient memory, found again by size */
    int piece_count;
    size_t sizes[GRAPH_NODES]; /* bytes of each node's activation at `rows` */
    void *scratch;             /* a second contribution to a gradient, before it is added */
};

int64_t result_statistics(const State *state) {
    return (int64_t)(state->arenas[ARENA_PARAMETER].bytes / sizeof(float));
}

int64_t result_metrics(const State *state) {
    return result_statistics(state) +
           (int64_t)(state->arenas[ARENA_BUFFER].bytes / sizeof(float));
}

int64_t result_length(const State *state) {
    return result_metrics(state) + METRICS;
}

/* Gives node `index`'s tensor its shape for `rows` samples; returns the bytes that it needs. The
 * network's input and its logits are canonical. */
static size_t shape_tensor(Execution *self, int index, int64_t rows, Tensor *tensor) {
    const Node *node = &self->graph->nodes[index];
    *tensor = node->rank == 4
                  ? tensor_4d(tensor->data, rows, node->channels, node->height, node->width)
                  : tensor_2d(tensor->data, rows, node->channels);
    if (node->kind == NODE_INPUT || index == self->graph->output)
        return (size_t)tensor_elements(tensor) * sizeof(float);
    return self->backend->ops->layout(self->backend, tensor);
}

static Status allocate(Execution *self, size_t bytes, void **out) {
    return self->backend->ops->allocate(self->backend, bytes == 0 ? 64 : bytes, out);
}

Status execution_open(const Graph *graph, const State *state, Backend *backend, int worker,
                      int64_t rows, bool training, Execution **out) {
    *out = NULL;
    Execution *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for an execution");
    self->graph = graph;
    self->state = state;
    self->backend = backend;
    self->worker = worker;
    self->training = training;
    self->rows = rows;
    size_t largest = 0;
    Status status = STATUS_OK;
    for (int i = 0; i < graph->count && status == STATUS_OK; i++) {
        const Node *node = &graph->nodes[i];
        Slot *slot = &self->slots[i];
        size_t bytes = shape_tensor(self, i, rows, &slot->y);
        self->sizes[i] = bytes;
        if (node->kind != NODE_INPUT)
            status = allocate(self, bytes, (void **)&slot->y.data);
        if (bytes > largest) largest = bytes;
        slot->needs_gradient =
            node->weight >= 0 ||
            (node->input >= 0 && self->slots[node->input].needs_gradient) ||
            (node->residual >= 0 && self->slots[node->residual].needs_gradient);
        if (status != STATUS_OK) break;
        if (training && node->kind == NODE_BATCH_NORM)
            status =
                allocate(self, 2 * (size_t)node->channels * sizeof(float), &slot->saved);
        if (node->kind == NODE_MAX_POOL) /* a byte for each of y's, of two bytes at least */
            status = allocate(self, bytes / 2, &slot->saved);
    }
    if (status == STATUS_OK && training) status = allocate(self, largest, &self->scratch);
    if (status != STATUS_OK) {
        execution_close(self);
        return status;
    }
    self->planned_rows = rows;
    *out = self;
    return STATUS_OK;
}

void execution_close(Execution *self) {
    if (self == NULL) return;
    void (*release)(Backend *, void *) = self->backend->ops->release;
    for (int i = 0; i < self->graph->count; i++) {
        if (self->graph->nodes[i].kind != NODE_INPUT)
            release(self->backend, self->slots[i].y.data);
        release(self->backend, self->slots[i].saved);
    }
    for (int i = 0; i < self->piece_count; i++)
        release(self->backend, self->pieces[i].data);
    release(self->backend, self->scratch);
    free(self);
}

/* Shapes all tensors for the rows of this shard: uneven shards and an epoch's last batch. */
static Status shape_for(Execution *self, int64_t rows) {
    if (rows > self->rows)
        return FAIL(STATUS_USAGE, NULL, "a shard of %lld rows in a plan for %lld",
                    (long long)rows, (long long)self->rows);
    if (rows == self->planned_rows) return STATUS_OK;
    for (int i = 0; i < self->graph->count; i++) {
        size_t bytes = shape_tensor(self, i, rows, &self->slots[i].y);
        assert(bytes <= self->sizes[i]); /* a layout grows with its rows */
    }
    self->planned_rows = rows;
    return STATUS_OK;
}

/* A parameter, or the place of its gradient, as a tensor of the entry's shape. */
static Tensor entry_tensor(const Execution *self, int entry, float *arena) {
    const Entry *e = &self->state->entries[entry];
    Tensor tensor = {.data = arena + e->offset / sizeof(float), .rank = e->rank};
    memcpy(tensor.shape, e->shape, sizeof tensor.shape);
    return tensor;
}

static Tensor parameter(const Execution *self, int entry) {
    return entry_tensor(self, entry, self->state->arenas[ARENA_PARAMETER].device);
}

static Tensor buffer(const Execution *self, int entry) {
    return entry_tensor(self, entry, self->state->arenas[ARENA_BUFFER].device);
}

static Status forward_batch_norm(Execution *self, const Node *node, Slot *slot,
                                 float *result) {
    const BackendOps *ops = self->backend->ops;
    Tensor gamma = parameter(self, node->weight), beta = parameter(self, node->bias);
    BatchNorm norm = {.gamma = &gamma,
                      .beta = &beta,
                      .residual =
                          node->residual < 0 ? NULL : &self->slots[node->residual].y,
                      .relu = node->relu,
                      .epsilon = BATCH_NORM_EPSILON};
    const Tensor *x = &self->slots[node->input].y;
    if (!self->training) {
        Tensor mean = buffer(self, node->mean), variance = buffer(self, node->variance);
        return ops->batch_norm_inference(self->backend, self->worker, &norm, &slot->y, x,
                                         &mean, &variance);
    }
    float *statistics = result + result_statistics(self->state);
    Tensor mean = tensor_1d(slot->saved, node->channels);
    Tensor inverse_std = tensor_1d((float *)slot->saved + node->channels, node->channels);
    Tensor batch_mean = entry_tensor(self, node->mean, statistics);
    Tensor batch_variance = entry_tensor(self, node->variance, statistics);
    return ops->batch_norm_forward(self->backend, self->worker, &norm, &slot->y, x, &mean,
                                   &inverse_std, &batch_mean, &batch_variance);
}

static Status forward_node(Execution *self, int index, const ShardBatch *shard,
                           uint64_t seed, const StepValues *values, float *result) {
    const Node *node = &self->graph->nodes[index];
    const BackendOps *ops = self->backend->ops;
    Backend *backend = self->backend;
    int worker = self->worker;
    Slot *slot = &self->slots[index];
    const Tensor *x = node->input < 0 ? NULL : &self->slots[node->input].y;
    switch (node->kind) {
    case NODE_INPUT:
        slot->y.data = shard->images;
        return STATUS_OK;
    case NODE_CONV2D:
    case NODE_LINEAR: {
        Tensor w = parameter(self, node->weight), b;
        if (node->bias >= 0) b = parameter(self, node->bias);
        const Tensor *bias = node->bias >= 0 ? &b : NULL;
        return node->kind == NODE_LINEAR
                   ? ops->linear_forward(backend, worker, &slot->y, x, &w, bias)
                   : ops->conv2d_forward(backend, worker, &node->conv, &slot->y, x, &w,
                                         bias);
    }
    case NODE_BATCH_NORM:
        return forward_batch_norm(self, node, slot, result);
    case NODE_RELU:
        return ops->relu_forward(backend, worker, &slot->y, x);
    case NODE_ADD:
        return ops->add(backend, worker, &slot->y, x, &self->slots[node->residual].y);
    case NODE_DROPOUT:
        if (!self->training) return ops->reorder(backend, worker, &slot->y, x);
        return ops->dropout(backend, worker, rng_at(seed, RNG_DROPOUT, node->dropout, 0),
                            values, (uint32_t)shard->first, node->rate, &slot->y, x);
    case NODE_MAX_POOL:
        return ops->max_pool_forward(backend, worker, &node->pool, &slot->y, slot->saved,
                                     x);
    case NODE_AVG_POOL:
        return ops->avg_pool_forward(backend, worker, &node->pool, &slot->y, x);
    case NODE_GLOBAL_POOL:
        return ops->global_pool_forward(backend, worker, &slot->y, x);
    case NODE_FLATTEN:
        return ops->reorder(backend, worker, &slot->y, x);
    }
    return STATUS_OK;
}

static Status forward(Execution *self, const ShardBatch *shard, uint64_t seed,
                      const StepValues *values, float *result) {
    TRY(shape_for(self, shard->count));
    for (int i = 0; i < self->graph->count; i++)
        TRY(forward_node(self, i, shard, seed, values, result));
    return STATUS_OK;
}

/* Gradient memory for a node: a free piece that is large enough, else a new one. */
static Status take_gradient(Execution *self, int index) {
    Slot *slot = &self->slots[index];
    Piece *best = NULL;
    for (int i = 0; i < self->piece_count; i++) {
        Piece *piece = &self->pieces[i];
        if (!piece->taken && piece->bytes >= self->sizes[index] &&
            (best == NULL || piece->bytes < best->bytes))
            best = piece;
    }
    if (best == NULL) {
        best = &self->pieces[self->piece_count];
        TRY(allocate(self, self->sizes[index], &best->data));
        best->bytes = self->sizes[index];
        self->piece_count++;
    }
    best->taken = true;
    slot->dy = slot->y;
    slot->dy.data = best->data;
    return STATUS_OK;
}

static void give_gradient_back(Execution *self, Slot *slot) {
    for (int i = 0; i < self->piece_count; i++)
        if (self->pieces[i].data == slot->dy.data) self->pieces[i].taken = false;
    slot->dy.data = NULL;
    slot->dy_written = false;
}

/* Where an operation shall write the gradient of node `index`'s output: its own memory for the first
 * contribution, scratch for a later one. NULL in *out: nobody needs it. */
static Status gradient_target(Execution *self, int index, Tensor *target, Tensor **out) {
    Slot *slot = &self->slots[index];
    *out = NULL;
    if (!slot->needs_gradient) return STATUS_OK;
    if (!slot->dy_written) TRY(take_gradient(self, index));
    *target = slot->dy;
    if (slot->dy_written) target->data = self->scratch;
    *out = target;
    return STATUS_OK;
}

/* After the operation: a later contribution is added to the first. */
static Status gradient_arrived(Execution *self, int index) {
    Slot *slot = &self->slots[index];
    if (!slot->needs_gradient) return STATUS_OK;
    if (!slot->dy_written) {
        slot->dy_written = true;
        return STATUS_OK;
    }
    Tensor more = slot->dy;
    more.data = self->scratch;
    return self->backend->ops->add(self->backend, self->worker, &slot->dy, &slot->dy,
                                   &more);
}

static Status backward_batch_norm(Execution *self, const Node *node, Slot *slot, Tensor *dx,
                                  float *result) {
    Tensor gamma = parameter(self, node->weight), beta = parameter(self, node->bias);
    Tensor dgamma = entry_tensor(self, node->weight, result);
    Tensor dbeta = entry_tensor(self, node->bias, result);
    Tensor mean = tensor_1d(slot->saved, node->channels);
    Tensor inverse_std = tensor_1d((float *)slot->saved + node->channels, node->channels);
    BatchNorm norm = {.gamma = &gamma,
                      .beta = &beta,
                      .residual =
                          node->residual < 0 ? NULL : &self->slots[node->residual].y,
                      .relu = node->relu,
                      .epsilon = BATCH_NORM_EPSILON};
    /* The residual's gradient is its first contribution where this node is its last consumer; its
     * memory and scratch are never dx's. */
    Tensor memory, *dresidual = NULL;
    if (node->residual >= 0)
        TRY(gradient_target(self, node->residual, &memory, &dresidual));
    TRY(self->backend->ops->batch_norm_backward(
        self->backend, self->worker, &norm, dx, &dgamma, &dbeta, dresidual, &slot->dy,
        &slot->y, &self->slots[node->input].y, &mean, &inverse_std));
    return node->residual >= 0 ? gradient_arrived(self, node->residual) : STATUS_OK;
}

static Status backward_node(Execution *self, int index, const ShardBatch *shard,
                            uint64_t seed, const StepValues *values, float *result) {
    const Node *node = &self->graph->nodes[index];
    const BackendOps *ops = self->backend->ops;
    Backend *backend = self->backend;
    int worker = self->worker;
    Slot *slot = &self->slots[index];
    if (node->kind == NODE_INPUT || !slot->needs_gradient) return STATUS_OK;
    const Tensor *x = &self->slots[node->input].y;
    Tensor memory, *dx;
    TRY(gradient_target(self, node->input, &memory, &dx));
    switch (node->kind) {
    case NODE_CONV2D:
    case NODE_LINEAR: {
        Tensor w = parameter(self, node->weight);
        Tensor dw = entry_tensor(self, node->weight, result), db;
        if (node->bias >= 0) db = entry_tensor(self, node->bias, result);
        Tensor *dbias = node->bias >= 0 ? &db : NULL;
        TRY(node->kind == NODE_LINEAR
                ? ops->linear_backward(backend, worker, dx, &dw, dbias, &slot->dy, x, &w)
                : ops->conv2d_backward(backend, worker, &node->conv, dx, &dw, dbias,
                                       &slot->dy, x, &w));
        break;
    }
    case NODE_BATCH_NORM:
        TRY(backward_batch_norm(self, node, slot, dx, result));
        break;
    case NODE_RELU:
        TRY(ops->relu_backward(backend, worker, dx, &slot->dy, &slot->y));
        break;
    case NODE_ADD: {
        TRY(ops->reorder(backend, worker, dx, &slot->dy));
        TRY(gradient_arrived(self, node->input));
        TRY(gradient_target(self, node->residual, &memory, &dx));
        TRY(ops->reorder(backend, worker, dx, &slot->dy));
        TRY(gradient_arrived(self, node->residual));
        give_gradient_back(self, slot);
        return STATUS_OK;
    }
    case NODE_DROPOUT:
        TRY(ops->dropout(backend, worker, rng_at(seed, RNG_DROPOUT, node->dropout, 0),
                         values, (uint32_t)shard->first, node->rate, dx, &slot->dy));
        break;
    case NODE_MAX_POOL:
        TRY(ops->max_pool_backward(backend, worker, &node->pool, dx, &slot->dy,
                                   slot->saved));
        break;
    case NODE_AVG_POOL:
        TRY(ops->avg_pool_backward(backend, worker, &node->pool, dx, &slot->dy));
        break;
    case NODE_GLOBAL_POOL:
        TRY(ops->global_pool_backward(backend, worker, dx, &slot->dy));
        break;
    case NODE_FLATTEN:
        TRY(ops->reorder(backend, worker, dx, &slot->dy));
        break;
    case NODE_INPUT:
        break;
    }
    TRY(gradient_arrived(self, node->input));
    give_gradient_back(self, slot);
    return STATUS_OK;
}

int64_t execution_final_from(const Graph *graph, const State *state, int node) {
    size_t end = 0;
    for (int i = 0; i < node; i++) {
        const int entries[] = {graph->nodes[i].weight, graph->nodes[i].bias};
        for (int k = 0; k < 2; k++) {
            if (entries[k] < 0) continue;
            const Entry *entry = &state->entries[entries[k]];
            if (entry->offset + entry->bytes > end) end = entry->offset + entry->bytes;
        }
    }
    return (int64_t)((end + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT * STATE_ALIGNMENT /
                     sizeof(float));
}

Status execution_train(Execution *self, const ShardBatch *shard, uint64_t seed,
                       const StepValues *values, int64_t batch_count, float smoothing,
                       float *result, const ExecutionListener *listener) {
    TRY(forward(self, shard, seed, values, result));
    int output = self->graph->output;
    TRY(take_gradient(self, output));
    self->slots[output].dy_written = true;
    TRY(self->backend->ops->softmax_cross_entropy(
        self->backend, self->worker, smoothing, 1.0f / (float)batch_count,
        result + result_metrics(self->state), &self->slots[output].dy,
        &self->slots[output].y, shard->labels));
    for (int i = self->graph->count - 1; i >= 0; i--) {
        TRY(backward_node(self, i, shard, seed, values, result));
        if (listener != NULL) TRY(listener->passed(listener->context, i));
    }
    return STATUS_OK;
}

Status execution_evaluate(Execution *self, const ShardBatch *shard, float *metrics) {
    TRY(forward(self, shard, 0, NULL, NULL));
    return self->backend->ops->softmax_cross_entropy(
        self->backend, self->worker, 0.0f, 1.0f, metrics, NULL,
        &self->slots[self->graph->output].y, shard->labels);
}
