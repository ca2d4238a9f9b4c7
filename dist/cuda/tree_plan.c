/* A plan is one pass of the kernel, or several where a pass would have too many terms: then subtrees are
 * summed first, each into the memory of its leftmost leaf. The order of additions is the tree's anyway. */
#include "dist/cuda/tree_plan.h"

#include "dist/cuda/tree_sum.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int leaf, additions; /* as in TreePass */
} Term;

typedef struct {
    int first, count; /* of TreePlan.terms */
} Pass;

struct TreePlan {
    int shards, room;
    uint8_t *present; /* of the newest plan */
    int leaf_count;   /* of the newest plan; -1: there is none */
    Term *terms;      /* of all passes */
    Pass *passes;
    int term_count, pass_count;
    Term *open; /* terms not yet in a pass: the sums under way, left to right */
    int open_count;
};

typedef struct {
    TreePlan *plan;
    const TreeNode *leaves;
    int next, count;
    const uint8_t *present;
} Planner;

TreePlan *tree_plan_create(int shards, int leaves) {
    TreePlan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) return NULL;
    size_t room = (size_t)leaves + 1;
    plan->shards = shards;
    plan->room = leaves;
    plan->leaf_count = -1;
    plan->present = calloc((size_t)shards, 1);
    plan->terms =
        calloc(2 * room, sizeof *plan->terms); /* a pass of n terms spares n − 1 */
    plan->passes = calloc(room, sizeof *plan->passes);
    plan->open = calloc(room, sizeof *plan->open);
    if (plan->present == NULL || plan->terms == NULL || plan->passes == NULL ||
        plan->open == NULL) {
        tree_plan_destroy(plan);
        return NULL;
    }
    return plan;
}

void tree_plan_destroy(TreePlan *plan) {
    if (plan == NULL) return;
    free(plan->present);
    free(plan->terms);
    free(plan->passes);
    free(plan->open);
    free(plan);
}

/* Makes a pass of the open terms from `first` on; its sum takes their place, as a leaf. */
static void close_pass(TreePlan *plan, int first) {
    int count = plan->open_count - first;
    if (count == 1) return;
    memcpy(plan->terms + plan->term_count, plan->open + first,
           (size_t)count * sizeof(Term));
    plan->passes[plan->pass_count++] = (Pass){plan->term_count, count};
    plan->term_count += count;
    plan->open[first].additions = 0;
    plan->open_count = first + 1;
}

/* Plans the node [first, end) behind the open terms. Returns how many sums are under way at once in it;
 * 0 when nothing in it contributes. */
static int plan_node(Planner *planner, int first, int end) {
    TreePlan *plan = planner->plan;
    if (planner->next == planner->count || planner->leaves[planner->next].first >= end)
        return 0;
    TreeNode leaf = planner->leaves[planner->next];
    if (leaf.first == first && leaf.end == end) {
        int number = planner->next++;
        if (memchr(planner->present + first, 1, (size_t)(end - first)) == NULL) return 0;
        plan->open[plan->open_count++] = (Term){number, 0};
        return 1;
    }
    assert(end - first >= 2); /* else the leaves are no tree nodes in order */
    int split = tree_split(first, end), start = plan->open_count;
    int left = plan_node(planner, first, split);
    int middle = plan->open_count;
    int right = plan_node(planner, split, end);
    if (left == 0 || right == 0) return left + right;
    int depth = left > right ? left : right + 1;
    if (plan->open_count - start > TREE_TERMS || depth > TREE_DEPTH) {
        close_pass(plan, middle);
        Term right_sum = plan->open[--plan->open_count];
        close_pass(plan, start);
        plan->open[plan->open_count++] = right_sum;
        depth = 2;
    }
    plan->open[plan->open_count - 1].additions++;
    return depth;
}

void tree_plan_make(TreePlan *plan, const TreeNode *leaves, int count,
                    const uint8_t *present) {
    assert(count <= plan->room);
    if (plan->leaf_count == count &&
        memcmp(plan->present, present, (size_t)plan->shards) == 0)
        return;
    plan->term_count = plan->pass_count = plan->open_count = 0;
    Planner planner = {plan, leaves, 0, count, present};
    plan_node(&planner, 0, plan->shards);
    assert(planner.next == count);
    if (plan->open_count > 1) close_pass(plan, 0);
    memcpy(plan->present, present, (size_t)plan->shards);
    plan->leaf_count = count;
}

int tree_plan_only_leaf(const TreePlan *plan) {
    return plan->open_count == 1 && plan->pass_count == 0 ? plan->open[0].leaf : -1;
}

Status tree_plan_run(const TreePlan *plan, VendorQueue *queue, float *const *data,
                     float *sum, int64_t length) {
    if (length == 0) return STATUS_OK;
    size_t bytes = (size_t)length * sizeof(float);
    if (plan->open_count == 0) return vendor_zero(queue, sum, bytes);
    int only = tree_plan_only_leaf(plan);
    if (only >= 0)
        return data[only] == sum ? STATUS_OK : vendor_copy(queue, sum, data[only], bytes);
    for (int i = 0; i < plan->pass_count; i++) {
        const Term *terms = plan->terms + plan->passes[i].first;
        bool last = i == plan->pass_count - 1;
        TreePass pass = {.sum = last ? sum : data[terms[0].leaf],
                         .count = plan->passes[i].count};
        for (int k = 0; k < pass.count; k++) {
            pass.terms[k] = data[terms[k].leaf];
            pass.additions[k] = (uint8_t)terms[k].additions;
        }
        TRY(cuda_tree_sum(queue, &pass, length));
    }
    return STATUS_OK;
}
