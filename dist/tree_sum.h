/* Sums a range of floats over the nodes of the shard tree, in the tree's one order, so that the
 * result has the same bits whoever holds the nodes. */
#pragma once

#include "src/core/tree.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    TreeNode node;
    const float *data; /* 64-byte aligned */
} TreeLeaf;

/* The additions to make, in order; compiled once, then run on block after block. */
typedef struct TreeSum TreeSum;

/* Room for the sum of up to `leaves` leaves over `shards` shards; NULL without memory. */
TreeSum *tree_sum_create(int shards, int leaves);
void tree_sum_destroy(TreeSum *sum);

/* Plans the sum of leaves[0 .. count), which are tree nodes from left to right (not necessarily
 * all of the tree). A leaf without a present shard contributes nothing.
 * Memory: keeps the leaves' data pointers, not `leaves` and `present` */
void tree_sum_plan(TreeSum *sum, const TreeLeaf *leaves, int count, const uint8_t *present);

/* True when the newest plan was made for this `present`. */
bool tree_sum_planned_for(const TreeSum *sum, const uint8_t *present);

/* The one leaf that the plan comes down to, so that nothing needs adding; NULL if there is not
 * exactly one. */
const float *tree_sum_only_leaf(const TreeSum *sum);

/* out[i] = the sum over all leaves of data[i], i in [0, length); zeros if none contributes.
 * Shapes:  out (length floats, 64-byte aligned), length a multiple of 16
 * Memory:  out may be a leaf's data; streaming: write past the caches (fenced before it
 *          returns) */
void tree_sum_run(TreeSum *sum, float *out, int64_t length, bool streaming);
