/* The sum over the nodes of the shard tree on the device, in the order of dist/tree_sum.h: planned for
 * a set of present shards, then given as work for range after range. */
#pragma once

#include "kernels/cuda/vendor.h"
#include "src/core/tree.h"

typedef struct TreePlan TreePlan;

/* Room for the sum of up to `leaves` leaves over `shards` shards; NULL without memory. */
TreePlan *tree_plan_create(int shards, int leaves);
void tree_plan_destroy(TreePlan *plan); /* NULL is allowed */

/* Plans the sum of leaves[0 .. count), which are tree nodes from left to right (not necessarily all of
 * the tree), unless the newest plan is already for the same leaves, count and `present`. A leaf without a
 * present shard contributes nothing.
 * Memory: keeps neither `leaves` nor `present` */
void tree_plan_make(TreePlan *plan, const TreeNode *leaves, int count,
                    const uint8_t *present);

/* The number of the one leaf that the plan comes down to; -1 if there is not exactly one. */
int tree_plan_only_leaf(const TreePlan *plan);

/* Gives the work for sum[i] = the sum over all leaves, i in [0, length); zeros if none contributes.
 * Shapes:  data[leaf], sum: length floats, 64-byte aligned; length a multiple of 16
 * Memory:  device; sum may be a leaf's data; sums of many leaves overwrite some of the data */
Status tree_plan_run(const TreePlan *plan, VendorQueue *queue, float *const *data,
                     float *sum, int64_t length);
