/* Shards to workers, and the part of the summation tree that lies inside a rank. */
#include "src/train/gradient.h"

#include "src/core/tree.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    VECTORS = 80, /* spare result vectors: log2(shards) + workers are in use at most */
    CHAIN = 34    /* the tree over int shards is at most 32 deep */
};

/* A node whose sum is complete, waiting for its sibling. */
typedef struct {
    int first, end;
    float *data;
} Waiting;

/* Elements [first, end) of the vector: final once the last shard's backward pass has passed a node. */
typedef struct {
    int64_t first, end;
    int node;
} Part;

struct Gradient {
    const Graph *graph;
    const State *state;
    Backend *backend;
    Workers *workers;
    Collective *collective;
    Reduction *reduction;
    Execution **executions; /* one a worker */
    int64_t length;
    Part *parts; /* from the end to the front; what is left at the front is no part */
    int part_count;
    pthread_mutex_t lock; /* guards all below */
    int next_shard;
    Waiting *waiting; /* by first shard; data NULL: nobody waits there */
    float *spare[VECTORS];
    int spare_count;
    /* of the running step */
    const Batch *batch;
    const uint8_t *present;
    uint64_t seed;
    const StepValues *values;
    float smoothing;
    /* of its last shard, where there are parts: from the shard's result up to the contributed node, each
     * to be added to the next */
    float *chain[CHAIN];
    int chain_length;
    int next_part;
};

/* Parts of at least reduction->part floats, cut where a node's gradients begin. */
static Status plan_parts(Gradient *self) {
    if (self->reduction->part == 0 || workers_count(self->workers) > 1) return STATUS_OK;
    self->parts = calloc((size_t)self->graph->count, sizeof *self->parts);
    if (self->parts == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the gradient's parts");
    int64_t end = self->length;
    for (int node = self->graph->count - 1; node >= 0; node--) {
        int64_t first = execution_final_from(self->graph, self->state, node);
        if (first == 0 || end - first < self->reduction->part) continue;
        self->parts[self->part_count++] = (Part){first, end, node};
        end = first;
    }
    return STATUS_OK;
}

Status gradient_open(const Graph *graph, const State *state, Backend *backend,
                     Workers *workers, Collective *collective, Reduction *reduction,
                     int64_t shard_rows, Gradient **out) {
    *out = NULL;
    Gradient *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the gradient");
    self->graph = graph;
    self->state = state;
    self->backend = backend;
    self->workers = workers;
    self->collective = collective;
    self->reduction = reduction;
    self->length = result_length(state);
    pthread_mutex_init(&self->lock, NULL);
    self->executions = calloc((size_t)workers_count(workers), sizeof(Execution *));
    self->waiting = calloc((size_t)reduction->mine.count, sizeof(Waiting));
    Status status = self->executions != NULL && self->waiting != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for the gradient");
    for (int i = 0; i < workers_count(workers) && status == STATUS_OK; i++)
        status = execution_open(graph, state, backend, i, shard_rows, true,
                                &self->executions[i]);
    if (status == STATUS_OK) status = plan_parts(self);
    /* padding between entries is never written: zero it once */
    for (int i = 0; i < reduction->node_count && status == STATUS_OK; i++)
        status = backend->ops->zero(backend, 0, reduction->nodes[i].data,
                                    (size_t)self->length * sizeof(float));
    if (status == STATUS_OK) status = backend->ops->finish(backend, 0);
    if (status != STATUS_OK) {
        gradient_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void gradient_close(Gradient *self) {
    if (self == NULL) return;
    for (int i = 0; self->executions != NULL && i < workers_count(self->workers); i++)
        execution_close(self->executions[i]);
    for (int i = 0; i < self->spare_count; i++)
        self->backend->ops->release(self->backend, self->spare[i]);
    pthread_mutex_destroy(&self->lock);
    free(self->executions);
    free(self->waiting);
    free(self->parts);
    free(self);
}

static bool is_empty(const Gradient *self, int first, int end) {
    for (int shard = first; shard < end; shard++)
        if (self->batch->shards[shard - self->reduction->mine.first].count > 0)
            return false;
    return true;
}

/* The contributed node that holds this shard. */
static int root_of(const Gradient *self, int shard) {
    int root = 0;
    while (self->reduction->nodes[root].end <= shard)
        root++;
    return root;
}

/* Memory for a shard's result: the leftmost shard that is not empty writes straight into its
 * contributed node, since sums always go into the left half's memory. */
static Status take_vector(Gradient *self, int worker, int shard, float **out) {
    int root = root_of(self, shard);
    if (is_empty(self, self->reduction->nodes[root].first, shard)) {
        *out = self->reduction->nodes[root].data;
        return STATUS_OK;
    }
    pthread_mutex_lock(&self->lock);
    *out = self->spare_count > 0 ? self->spare[--self->spare_count] : NULL;
    pthread_mutex_unlock(&self->lock);
    if (*out != NULL) return STATUS_OK;
    TRY(self->backend->ops->allocate(self->backend, (size_t)self->length * sizeof(float),
                                     (void **)out));
    return self->backend->ops->zero(self->backend, worker, *out,
                                    (size_t)self->length * sizeof(float));
}

static void give_vector_back(Gradient *self, float *vector) {
    pthread_mutex_lock(&self->lock);
    if (self->spare_count < VECTORS)
        self->spare[self->spare_count++] = vector;
    else
        self->backend->ops->release(self->backend, vector);
    pthread_mutex_unlock(&self->lock);
}

/* The parent of [first, end) inside [root_first, root_end), and its other half. */
static void find_parent(int root_first, int root_end, int first, int end, TreeNode *parent,
                        TreeNode *sibling) {
    for (;;) {
        int split = tree_split(root_first, root_end);
        TreeNode left = {root_first, split}, right = {split, root_end};
        *parent = (TreeNode){root_first, root_end};
        if (left.first == first && left.end == end) {
            *sibling = right;
            return;
        }
        if (right.first == first && right.end == end) {
            *sibling = left;
            return;
        }
        if (first < split)
            root_end = split;
        else
            root_first = split;
    }
}

/* Other workers go on with what this one has computed; a single one has its own order. */
static Status hand_over(Gradient *self, int worker) {
    if (workers_count(self->workers) == 1) return STATUS_OK;
    return self->backend->ops->finish(self->backend, worker);
}

/* Climbs from a finished leaf: adds the right half into the left one wherever both are there; else
 * leaves the sum for the worker that finishes the sibling. */
static Status climb(Gradient *self, int worker, int shard, float *data) {
    int root = root_of(self, shard);
    int root_first = self->reduction->nodes[root].first,
        root_end = self->reduction->nodes[root].end;
    int first = shard, end = shard + 1;
    while (first != root_first || end != root_end) {
        TreeNode parent, sibling;
        find_parent(root_first, root_end, first, end, &parent, &sibling);
        if (!is_empty(self, sibling.first, sibling.end)) {
            int base = self->reduction->mine.first;
            pthread_mutex_lock(&self->lock);
            Waiting *other = &self->waiting[sibling.first - base];
            float *theirs =
                other->data != NULL && other->end == sibling.end ? other->data : NULL;
            if (theirs != NULL)
                other->data = NULL;
            else
                self->waiting[first - base] = (Waiting){first, end, data};
            pthread_mutex_unlock(&self->lock);
            if (theirs == NULL) return STATUS_OK;
            float *left = first < sibling.first ? data : theirs;
            float *right = first < sibling.first ? theirs : data;
            TRY(self->backend->ops->accumulate(self->backend, worker, left, right,
                                               self->length));
            TRY(hand_over(self, worker));
            give_vector_back(self, right);
            data = left;
        }
        first = parent.first;
        end = parent.end;
    }
    return STATUS_OK;
}

/* ---- parts, by a single worker: the last shard finds all its siblings waiting, so its climb is known
 * before its backward pass begins, and is made part by part behind it */

/* The vectors on the way up from the last shard. Those waiting are taken. */
static void find_chain(Gradient *self, int shard, float *data) {
    int root = root_of(self, shard);
    int root_first = self->reduction->nodes[root].first,
        root_end = self->reduction->nodes[root].end;
    self->chain[0] = data;
    self->chain_length = 1;
    int first = shard, end = shard + 1;
    while (first != root_first || end != root_end) {
        TreeNode parent, sibling;
        find_parent(root_first, root_end, first, end, &parent, &sibling);
        if (!is_empty(self, sibling.first, sibling.end)) {
            Waiting *left = &self->waiting[sibling.first - self->reduction->mine.first];
            assert(sibling.first < first && left->data != NULL && left->end == sibling.end);
            self->chain[self->chain_length++] = left->data;
            left->data = NULL;
        }
        first = parent.first;
        end = parent.end;
    }
}

static Status add_chain(Gradient *self, int64_t first, int64_t end) {
    for (int i = 1; i < self->chain_length; i++)
        TRY(self->backend->ops->accumulate(self->backend, 0, self->chain[i] + first,
                                           self->chain[i - 1] + first, end - first));
    return STATUS_OK;
}

static Status give_part(Gradient *self) {
    const Part *part = &self->parts[self->next_part++];
    TRY(add_chain(self, part->first, part->end));
    return self->collective->ops->reduce_part(self->collective, self->reduction,
                                              self->present, part->first,
                                              part->end - part->first);
}

static Status passed_node(void *context, int node) {
    Gradient *self = context;
    bool due =
        self->next_part < self->part_count && self->parts[self->next_part].node == node;
    return due ? give_part(self) : STATUS_OK;
}

static Status compute_last(Gradient *self, const ShardBatch *shard, float *result) {
    ExecutionListener listener = {passed_node, self};
    find_chain(self, shard->shard, result);
    TRY(execution_train(self->executions[0], shard, self->seed, self->values,
                        self->batch->count, self->smoothing, result, &listener));
    TRY(add_chain(self, 0, self->parts[self->part_count - 1].first));
    for (int i = 0; i < self->chain_length - 1; i++)
        give_vector_back(self, self->chain[i]);
    return STATUS_OK;
}

/* ---- all shards */

/* The rank's last shard that is not empty, as an index of the batch; −1: none. */
static int last_filled(const Batch *batch) {
    int index = batch->shard_count - 1;
    while (index >= 0 && batch->shards[index].count == 0)
        index--;
    return index;
}

static Status compute_shards(void *context, int worker) {
    Gradient *self = context;
    int last = self->part_count > 0 ? last_filled(self->batch) : -1;
    for (;;) {
        pthread_mutex_lock(&self->lock);
        int index = self->next_shard++;
        pthread_mutex_unlock(&self->lock);
        if (index >= self->batch->shard_count) break;
        const ShardBatch *shard = &self->batch->shards[index];
        if (shard->count == 0) continue;
        float *result;
        TRY(take_vector(self, worker, shard->shard, &result));
        if (index == last) {
            TRY(compute_last(self, shard, result));
            continue;
        }
        TRY(execution_train(self->executions[worker], shard, self->seed, self->values,
                            self->batch->count, self->smoothing, result, NULL));
        TRY(hand_over(self, worker));
        TRY(climb(self, worker, shard->shard, result));
    }
    /* a rank without a sample takes part in the same sums */
    while (last < 0 && self->next_part < self->part_count)
        TRY(give_part(self));
    return STATUS_OK;
}

Status gradient_compute(Gradient *self, const Batch *batch, const uint8_t *present,
                        uint64_t seed, const StepValues *values, float smoothing) {
    self->batch = batch;
    self->present = present;
    self->seed = seed;
    self->values = values;
    self->smoothing = smoothing;
    self->next_shard = 0;
    self->next_part = 0;
    self->chain_length = 0;
    for (int i = 0; i < self->reduction->mine.count; i++)
        self->waiting[i].data = NULL;
    return workers_run(self->workers, compute_shards, self);
}
