/* The reductions from device to device: only work is given, on a queue of its own that waits for the
 * nodes and that later work waits for.
 *
 * Exact: a range of the vector is cut into one slice a rank; each rank receives its slice of all other
 * ranks' nodes, finishes the tree for it, and the slices are gathered. NCCL gathers slices of one size
 * only, so a range that does not divide is made longer at its lower end, where nothing is summed yet:
 * ranges come from the end to the front, and in front of the sum there is room for the last. Grouped
 * messages could gather exact slices, but would send each once to every rank of another host.
 *
 * Fast: each rank adds its own nodes, NCCL adds the ranks in whatever order it likes. */
#include "dist/cuda/collective_nccl.h"
#include "dist/cuda/tree_plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNIT = 16, /* floats; slices are whole cache lines */
    /* A range costs some tens of microseconds whatever its length; in that time NVLink moves about this
     * many floats. Shorter parts would only wait for each other. */
    PART_MIN = 1 << 20,
    /* What is not yet exchanged when the last gradient is done cannot hide behind the backward pass: a
     * sixteenth of the vector. More parts gain little, and each adds its own cost. */
    PARTS_MAX = 16,
    ALIGNMENT = 64 /* floats; vectors begin where a device's memory does best */
};

typedef struct {
    Reduction base;
    ReductionMode mode;
    TreeNode *leaves; /* the nodes of all ranks, left to right */
    int *owners;      /* and the ranks that hold them */
    float **slices; /* and where this rank's slice of each lies, for the range under way */
    int leaf_count;
    int own_first; /* leaves[own_first ..] are base.nodes */
    TreePlan *plan;
    int64_t range_max; /* floats that are exchanged at once: bounds `received` */
    int64_t left;      /* [0, left) is not yet given */
    float *memory;     /* all below, and the nodes */
    float *sum;        /* base.sum, writable here; size · UNIT floats of room in front */
    float *received;   /* slices of other ranks' nodes, one after another */
} ExchangeNccl;

typedef struct {
    int64_t first, end; /* floats of the vector */
} Slice;

static int64_t round_up(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

/* The floats of a gathered slice when ranks share `count`. */
static int64_t slice_length(int64_t count, int size) {
    return round_up(count, (int64_t)UNIT * size) / size;
}

/* The part of the range that `rank` sums. */
static Slice slice_of(Slice range, int rank, int size) {
    int64_t length = slice_length(range.end - range.first, size);
    Slice slice = {range.end - (size - rank) * length,
                   range.end - (size - rank - 1) * length};
    if (slice.first < range.first) slice.first = range.first;
    if (slice.end < range.first) slice.end = range.first;
    return slice;
}

/* ---- opening */

/* Lists the maximal nodes of every rank, or only counts them. */
static int list_leaves(ExchangeNccl *exchange, int size, bool count_only) {
    int shards = exchange->base.shards, count = 0;
    for (int rank = 0; rank < size; rank++) {
        ShardRange range = shard_range(shards, rank, size);
        TreeNode nodes[64];
        int found =
            tree_maximal_nodes(shards, range.first, range.first + range.count, nodes);
        for (int i = 0; i < found && !count_only; i++) {
            exchange->leaves[count + i] = nodes[i];
            exchange->owners[count + i] = rank;
        }
        count += found;
    }
    return count;
}

static Status plan_leaves(ExchangeNccl *exchange, const Collective *collective) {
    Reduction *base = &exchange->base;
    int size = collective->size;
    exchange->leaf_count = list_leaves(exchange, size, true);
    size_t room = (size_t)exchange->leaf_count;
    exchange->leaves = calloc(room, sizeof *exchange->leaves);
    exchange->owners = calloc(room, sizeof *exchange->owners);
    exchange->slices = calloc(room, sizeof *exchange->slices);
    exchange->plan = tree_plan_create(base->shards, exchange->leaf_count);
    if (exchange->leaves == NULL || exchange->owners == NULL || exchange->slices == NULL ||
        exchange->plan == NULL)
        return FAIL(STATUS_MEMORY, "free some memory",
                    "no memory to plan the sum of %d shards", base->shards);
    list_leaves(exchange, size, false);
    base->mine = shard_range(base->shards, collective->rank, size);
    for (int leaf = exchange->leaf_count - 1; leaf >= 0; leaf--)
        if (exchange->owners[leaf] == collective->rank) {
            exchange->own_first = leaf;
            base->node_count++;
        }
    return STATUS_OK;
}

static Status make_room(ExchangeNccl *exchange, CollectiveNccl *self) {
    Reduction *base = &exchange->base;
    int size = self->base.size;
    bool alone = size == 1;
    int64_t part = round_up((base->length + PARTS_MAX - 1) / PARTS_MAX, UNIT);
    if (part < PART_MIN) part = PART_MIN;
    base->part = alone || part >= base->length ? 0 : part;
    exchange->range_max = base->part > 0 ? base->part : base->length;
    int64_t stride = round_up(base->length, ALIGNMENT);
    int64_t front = round_up((int64_t)UNIT * size, ALIGNMENT);
    int64_t foreign =
        exchange->mode == REDUCTION_EXACT ? exchange->leaf_count - base->node_count : 0;
    int64_t floats = stride * base->node_count + (alone ? 0 : front + stride) +
                     foreign * slice_length(exchange->range_max, size);
    size_t bytes = (size_t)floats * sizeof(float);
    TRY(cuda_allocate(self->cuda, bytes > 0 ? bytes : 1, (void **)&exchange->memory));
    for (int i = 0; i < base->node_count; i++) {
        TreeNode node = exchange->leaves[exchange->own_first + i];
        base->nodes[i].first = node.first;
        base->nodes[i].end = node.end;
        base->nodes[i].data = exchange->memory + i * stride;
    }
    float *behind = exchange->memory + base->node_count * stride;
    exchange->sum = alone ? base->nodes[0].data : behind + front;
    exchange->received = alone ? NULL : exchange->sum + stride;
    base->sum = exchange->sum;
    return STATUS_OK;
}

Status exchange_nccl_open(CollectiveNccl *self, ReductionMode mode, int shards,
                          int64_t length, Reduction **out) {
    *out = NULL;
    assert(shards >= 1 && length >= 0 && length % UNIT == 0);
    ExchangeNccl *exchange = calloc(1, sizeof *exchange);
    Status mine = exchange != NULL ? STATUS_OK
                                   : FAIL(STATUS_MEMORY, "free some memory",
                                          "no memory for the reduction");
    if (exchange != NULL) {
        exchange->base.queued = true;
        exchange->base.shards = shards;
        exchange->base.length = length;
        exchange->left = length;
        exchange->mode = mode;
        mine = plan_leaves(exchange, &self->base);
        if (mine == STATUS_OK) mine = make_room(exchange, self);
    }
    Status status = self->host->ops->agree(self->host, mine);
    if (status != STATUS_OK) {
        if (exchange != NULL) exchange_nccl_close(self, &exchange->base);
        return status;
    }
    *out = &exchange->base;
    return STATUS_OK;
}

void exchange_nccl_close(CollectiveNccl *self, Reduction *reduction) {
    if (reduction == NULL) return;
    ExchangeNccl *exchange = (ExchangeNccl *)reduction;
    nccl_settle(self);
    /* a release waits for all work: on a device that hangs it would never return */
    if (!self->cuda->hung) cuda_release(self->cuda, exchange->memory);
    tree_plan_destroy(exchange->plan);
    free(exchange->leaves);
    free(exchange->owners);
    free(exchange->slices);
    free(exchange);
}

/* ---- exact */

static bool is_present(TreeNode node, const uint8_t *present) {
    return memchr(present + node.first, 1, (size_t)(node.end - node.first)) != NULL;
}

/* This rank's slices of the other ranks' nodes, and theirs of its own. What two ranks send each other is
 * matched in the order in which both list it: by leaf. */
static Status exchange_slices(CollectiveNccl *self, ExchangeNccl *exchange,
                              const uint8_t *present, Slice range) {
    int rank = self->base.rank, size = self->base.size;
    Slice mine = slice_of(range, rank, size);
    float *next = exchange->received;
    for (int leaf = 0; leaf < exchange->leaf_count; leaf++) {
        if (!is_present(exchange->leaves[leaf], present)) continue;
        int own = leaf - exchange->own_first, owner = exchange->owners[leaf];
        if (owner == rank) {
            const float *node = exchange->base.nodes[own].data;
            exchange->slices[leaf] = exchange->base.nodes[own].data + mine.first;
            for (int to = 0; to < size; to++) {
                Slice theirs = slice_of(range, to, size);
                if (to == rank || theirs.first == theirs.end) continue;
                TRY(vendor_send(self->queue, self->comm, node + theirs.first,
                                theirs.end - theirs.first, to));
            }
        } else if (mine.first < mine.end) {
            exchange->slices[leaf] = next;
            TRY(vendor_receive(self->queue, self->comm, next, mine.end - mine.first,
                               owner));
            next += mine.end - mine.first;
        }
    }
    return STATUS_OK;
}

static Status sum_exact(CollectiveNccl *self, ExchangeNccl *exchange,
                        const uint8_t *present, Slice range) {
    int rank = self->base.rank, size = self->base.size;
    TRY(vendor_group_begin(self->comm));
    Status exchanged = exchange_slices(self, exchange, present, range);
    Failure failure = *status_failure();
    Status ended = vendor_group_end(self->comm); /* what was begun is ended in any case */
    if (exchanged != STATUS_OK) return status_adopt(&failure);
    TRY(ended);
    TRY(nccl_wait_given(self));
    Slice mine = slice_of(range, rank, size);
    tree_plan_make(exchange->plan, exchange->leaves, exchange->leaf_count, present);
    TRY(tree_plan_run(exchange->plan, self->queue, exchange->slices,
                      exchange->sum + mine.first, mine.end - mine.first));
    int64_t length = slice_length(range.end - range.first, size);
    float *all = exchange->sum + range.end - size * length;
    TRY(vendor_all_gather(self->queue, self->comm, all, all + rank * length, length));
    return nccl_wait_given(self);
}

/* ---- fast */

static Status sum_fast(CollectiveNccl *self, ExchangeNccl *exchange, const uint8_t *present,
                       Slice range) {
    const Reduction *base = &exchange->base;
    float *sum = exchange->sum + range.first;
    for (int i = 0; i < base->node_count; i++)
        exchange->slices[i] = base->nodes[i].data + range.first;
    tree_plan_make(exchange->plan, exchange->leaves + exchange->own_first, base->node_count,
                   present);
    const float *mine = sum;
    int only = tree_plan_only_leaf(exchange->plan);
    if (only >= 0) /* then NCCL does the copying */
        mine = exchange->slices[only];
    else
        TRY(tree_plan_run(exchange->plan, self->queue, exchange->slices, sum,
                          range.end - range.first));
    TRY(vendor_all_reduce(self->queue, self->comm, sum, mine, range.end - range.first));
    return nccl_wait_given(self);
}

/* ---- both */

/* Sums [first, left) once the work given so far is done. */
static Status sum_down_to(CollectiveNccl *self, ExchangeNccl *exchange,
                          const uint8_t *present, int64_t first) {
    if (self->failure.code != STATUS_OK) return status_adopt(&self->failure);
    self->cuda->doing = "an exchange of gradients";
    TRY(vendor_record(self->cuda->work, self->given));
    TRY(vendor_queue_wait(self->queue, self->given));
    while (exchange->left > first) {
        Slice range = {exchange->left - exchange->range_max, exchange->left};
        if (range.first < first) range.first = first;
        TRY(exchange->mode == REDUCTION_EXACT ? sum_exact(self, exchange, present, range)
                                              : sum_fast(self, exchange, present, range));
        exchange->left = range.first;
    }
    return STATUS_OK;
}

Status exchange_nccl_part(CollectiveNccl *self, Reduction *reduction,
                          const uint8_t *present, int64_t first, int64_t count) {
    ExchangeNccl *exchange = (ExchangeNccl *)reduction;
    if (first + count == reduction->length) /* also where an earlier vector was given up */
        exchange->left = reduction->length;
    assert(first >= 0 && first % UNIT == 0 && first + count == exchange->left);
    return sum_down_to(self, exchange, present, first);
}

Status exchange_nccl_reduce(CollectiveNccl *self, Reduction *reduction,
                            const uint8_t *present) {
    ExchangeNccl *exchange = (ExchangeNccl *)reduction;
    Status status = sum_down_to(self, exchange, present, 0);
    exchange->left = reduction->length;
    TRY(status);
    TRY(vendor_record(self->queue, self->summed));
    return vendor_queue_wait(self->cuda->work, self->summed);
}
