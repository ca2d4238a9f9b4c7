/* The summation tree's shape. */
#include "src/core/tree.h"

int tree_split(int first, int end) {
    int power = 1;
    while (2 * power < end - first)
        power *= 2;
    return first + power;
}

static int collect(int node_first, int node_end, int first, int end, TreeNode *out,
                   int count) {
    if (node_end <= first || end <= node_first) return count;
    if (first <= node_first && node_end <= end) {
        out[count] = (TreeNode){node_first, node_end};
        return count + 1;
    }
    int split = tree_split(node_first, node_end);
    count = collect(node_first, split, first, end, out, count);
    return collect(split, node_end, first, end, out, count);
}

int tree_maximal_nodes(int shards, int first, int end, TreeNode out[64]) {
    return first < end ? collect(0, shards, first, end, out, 0) : 0;
}
