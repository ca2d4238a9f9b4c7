/* The plan is the tree in postfix order; each block of it runs through all additions while its
 * intermediate sums stay in the first-level cache, so memory sees each node once. */
#include "dist/tree_sum.h"

#include <assert.h>
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024, SLOTS = 33 }; /* a tree over int shards is at most 32 deep */

typedef struct {
    const float *data; /* a leaf, or NULL: */
    int slot;          /* an intermediate sum */
} Operand;

typedef struct {
    Operand left, right;
    int slot; /* where left + right goes, except in the last step */
} Step;

struct TreeSum {
    float slots[SLOTS][BLOCK] __attribute__((aligned(64)));
    int shards, room, count;
    const float *only; /* the single leaf that contributes, if it is single */
    Step *steps;
    uint8_t *present; /* of the newest plan */
    bool planned;
};

typedef struct {
    TreeSum *sum;
    const TreeLeaf *leaves, *end; /* not yet placed */
    const uint8_t *present;
} Planner;

TreeSum *tree_sum_create(int shards, int leaves) {
    TreeSum *sum = aligned_alloc(64, sizeof *sum);
    if (sum == NULL) return NULL;
    memset(sum, 0, sizeof *sum);
    sum->shards = shards;
    sum->room = leaves;
    sum->steps = calloc((size_t)leaves + 1, sizeof *sum->steps);
    sum->present = calloc((size_t)shards, 1);
    if (sum->steps == NULL || sum->present == NULL) {
        tree_sum_destroy(sum);
        return NULL;
    }
    return sum;
}

void tree_sum_destroy(TreeSum *sum) {
    if (sum == NULL) return;
    free(sum->steps);
    free(sum->present);
    free(sum);
}

/* Plans the node [first, end); its sum is *out: a leaf, or lies in `slot`, above which all slots
 * are free for use. Returns false when nothing in it contributes. */
static bool plan_node(Planner *planner, int first, int end, int slot, Operand *out) {
    if (planner->leaves == planner->end || planner->leaves->node.first >= end) return false;
    const TreeLeaf *leaf = planner->leaves;
    if (leaf->node.first == first && leaf->node.end == end) {
        planner->leaves++;
        *out = (Operand){leaf->data, -1};
        return memchr(planner->present + first, 1, (size_t)(end - first)) != NULL;
    }
    assert(end - first >= 2); /* else the leaves are no tree nodes in order */
    Operand left, right;
    int split = tree_split(first, end);
    bool has_left = plan_node(planner, first, split, slot, &left);
    bool has_right = plan_node(planner, split, end, has_left ? slot + 1 : slot, &right);
    if (has_left && has_right) {
        planner->sum->steps[planner->sum->count++] = (Step){left, right, slot};
        *out = (Operand){NULL, slot};
    } else if (has_left || has_right) {
        *out = has_left ? left : right;
    }
    return has_left || has_right;
}

void tree_sum_plan(TreeSum *sum, const TreeLeaf *leaves, int count,
                   const uint8_t *present) {
    assert(count <= sum->room);
    Planner planner = {sum, leaves, leaves + count, present};
    Operand result;
    sum->count = 0;
    bool any = plan_node(&planner, 0, sum->shards, 0, &result);
    assert(planner.leaves == planner.end);
    sum->only = any ? result.data : NULL;
    memcpy(sum->present, present, (size_t)sum->shards);
    sum->planned = true;
}

bool tree_sum_planned_for(const TreeSum *sum, const uint8_t *present) {
    return sum->planned && memcmp(sum->present, present, (size_t)sum->shards) == 0;
}

const float *tree_sum_only_leaf(const TreeSum *sum) {
    return sum->only; /* NULL also when the result is an intermediate sum */
}

static void add(float *out, const float *left, const float *right, int64_t length) {
    for (int64_t i = 0; i < length; i += 8)
        _mm256_store_ps(out + i,
                        _mm256_add_ps(_mm256_load_ps(left + i), _mm256_load_ps(right + i)));
}

static void add_streaming(float *out, const float *left, const float *right,
                          int64_t length) {
    for (int64_t i = 0; i < length; i += 8)
        _mm256_stream_ps(
            out + i, _mm256_add_ps(_mm256_load_ps(left + i), _mm256_load_ps(right + i)));
}

static const float *at(TreeSum *sum, Operand operand, int64_t offset) {
    return operand.data != NULL ? operand.data + offset : sum->slots[operand.slot];
}

void tree_sum_run(TreeSum *sum, float *out, int64_t length, bool streaming) {
    assert(sum->planned && length % 16 == 0);
    if (length == 0) return;
    if (sum->count == 0 && sum->only == NULL) {
        memset(out, 0, (size_t)length * sizeof(float));
        return;
    }
    if (sum->count == 0) {
        memmove(out, sum->only, (size_t)length * sizeof(float));
        return;
    }
    for (int64_t begin = 0; begin < length; begin += BLOCK) {
        int64_t size = length - begin < BLOCK ? length - begin : BLOCK;
        for (int i = 0; i < sum->count - 1; i++) {
            const Step *step = &sum->steps[i];
            add(sum->slots[step->slot], at(sum, step->left, begin),
                at(sum, step->right, begin), size);
        }
        const Step *last = &sum->steps[sum->count - 1];
        const float *left = at(sum, last->left, begin);
        const float *right = at(sum, last->right, begin);
        if (streaming)
            add_streaming(out + begin, left, right, size);
        else
            add(out + begin, left, right, size);
    }
    if (streaming) _mm_sfence();
}
