/* Shards to workers, and the part of the summation tree that lies inside a rank. */
#include "src/train/gradient.h"

#include "src/core/tree.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VECTORS = 80 }; /* spare result vectors: log2(shards) + workers are in use at most */

/* A node whose sum is complete, waiting for its sibling. */
typedef struct {
    int first, end;
    float *data;
} Waiting;

struct Gradient {
    const Graph *graph;
    const State *state;
    Backend *backend;
    Workers *workers;
    Reduction *reduction;
    Execution **executions; /* one a worker */
    int64_t length;
    pthread_mutex_t lock; /* guards all below */
    int next_shard;
    Waiting *waiting; /* by first shard; data NULL: nobody waits there */
    float *spare[VECTORS];
    int spare_count;
    /* of the running step */
    const Batch *batch;
    uint64_t seed;
    int64_t step;
    float smoothing;
};

Status gradient_open(const Graph *graph, const State *state, Backend *backend,
                     Workers *workers, Reduction *reduction, int64_t shard_rows_max,
                     Gradient **out) {
    *out = NULL;
    Gradient *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the gradient");
    self->graph = graph;
    self->state = state;
    self->backend = backend;
    self->workers = workers;
    self->reduction = reduction;
    self->length = result_length(state);
    pthread_mutex_init(&self->lock, NULL);
    self->executions = calloc((size_t)workers_count(workers), sizeof(Execution *));
    self->waiting = calloc((size_t)reduction->mine.count, sizeof(Waiting));
    Status status = self->executions != NULL && self->waiting != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for the gradient");
    for (int i = 0; i < workers_count(workers) && status == STATUS_OK; i++)
        status = execution_open(graph, state, backend, i, shard_rows_max, true,
                                &self->executions[i]);
    /* padding between entries is never written: zero it once */
    for (int i = 0; i < reduction->node_count; i++)
        memset(reduction->nodes[i].data, 0, (size_t)self->length * sizeof(float));
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
static Status take_vector(Gradient *self, int shard, float **out) {
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
    memset(*out, 0, (size_t)self->length * sizeof(float));
    return STATUS_OK;
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
            TRY(self->backend->ops->finish(self->backend, worker));
            give_vector_back(self, right);
            data = left;
        }
        first = parent.first;
        end = parent.end;
    }
    return STATUS_OK;
}

static Status compute_shards(void *context, int worker) {
    Gradient *self = context;
    for (;;) {
        pthread_mutex_lock(&self->lock);
        int index = self->next_shard++;
        pthread_mutex_unlock(&self->lock);
        if (index >= self->batch->shard_count) return STATUS_OK;
        const ShardBatch *shard = &self->batch->shards[index];
        if (shard->count == 0) continue;
        float *result;
        TRY(take_vector(self, shard->shard, &result));
        TRY(execution_train(self->executions[worker], shard, self->seed, self->step,
                            self->batch->count, self->smoothing, result));
        TRY(climb(self, worker, shard->shard, result));
    }
}

Status gradient_compute(Gradient *self, const Batch *batch, uint64_t seed, int64_t step,
                        float smoothing) {
    self->batch = batch;
    self->seed = seed;
    self->step = step;
    self->smoothing = smoothing;
    self->next_shard = 0;
    for (int i = 0; i < self->reduction->mine.count; i++)
        self->waiting[i].data = NULL;
    return workers_run(self->workers, compute_shards, self);
}
