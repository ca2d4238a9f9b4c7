/* The one binary tree over shards in which everything is summed: node [lo, hi) splits at
 * lo + the largest power of two below its length; an empty shard contributes no node. Which rank
 * or thread adds a node changes nothing in the result. */
#pragma once

typedef struct {
    int first, end; /* shards [first, end) */
} TreeNode;

/* Where [first, end) splits; end - first ≥ 2. */
int tree_split(int first, int end);

/* The maximal nodes of the tree over [0, shards) that lie inside [first, end), left to right.
 * Returns how many; at most 2·log2(shards) + 1, written to out (room for 64). */
int tree_maximal_nodes(int shards, int first, int end, TreeNode out[64]);
