/* However shards are spread over ranks, they are added in one and the same tree. */
#include "src/collective.h"
#include "src/core/tree.h"
#include "tests/support/test.h"

#include <stdbool.h>
#include <string.h>

enum { SHARDS_MAX = 64 };

/* A sum whose value tells the order of its additions: the hash of (left, right). */
static uint64_t join(uint64_t left, uint64_t right) {
    return (left * 0x9e3779b97f4a7c15u ^ (right + 0x7f4a7c15u)) * 0xbf58476d1ce4e5b9u + 1;
}

static uint64_t sum_of(int first, int end) {
    if (end - first == 1) return (uint64_t)first + 1;
    int split = tree_split(first, end);
    return join(sum_of(first, split), sum_of(split, end));
}

typedef struct {
    TreeNode node;
    uint64_t sum;
} Part;

/* Joins the ranks' nodes from the bottom up, and counts what was left unused. */
static uint64_t combine(const Part *parts, int count, int *used, int first, int end) {
    for (int i = 0; i < count; i++)
        if (parts[i].node.first == first && parts[i].node.end == end) {
            ++*used;
            return parts[i].sum;
        }
    assert_true(end - first >= 2); /* else a shard belongs to no rank */
    int split = tree_split(first, end);
    uint64_t left = combine(parts, count, used, first, split);
    return join(left, combine(parts, count, used, split, end));
}

static void a_node_splits_at_the_largest_power_of_two_below_its_length(void **state) {
    (void)state;
    assert_int_equal(tree_split(0, 2), 1);
    assert_int_equal(tree_split(0, 3), 2);
    assert_int_equal(tree_split(0, 4), 2);
    assert_int_equal(tree_split(0, 5), 4);
    assert_int_equal(tree_split(0, 8), 4);
    assert_int_equal(tree_split(4, 7), 6);
    assert_int_equal(tree_split(0, 4096), 2048);
    assert_int_equal(tree_split(0, 4095), 2048);
}

static int logarithm(int value) {
    int log = 0;
    while (value > 1 << log)
        log++;
    return log;
}

static void maximal_nodes_cover_their_range_once(void **state) {
    (void)state;
    for (int shards = 1; shards <= SHARDS_MAX; shards++)
        for (int first = 0; first <= shards; first++)
            for (int end = first; end <= shards; end++) {
                TreeNode nodes[64];
                int count = tree_maximal_nodes(shards, first, end, nodes);
                assert_in_range(count, first < end, 2 * logarithm(shards) + 1);
                int at = first;
                for (int i = 0; i < count; i++) {
                    assert_int_equal(nodes[i].first, at);
                    assert_true(nodes[i].end > at);
                    at = nodes[i].end;
                }
                assert_int_equal(at, end);
            }
}

static void the_widest_range_fits_its_room(void **state) {
    (void)state;
    TreeNode nodes[64];
    assert_int_equal(tree_maximal_nodes(4096, 0, 4096, nodes), 1);
    int count = tree_maximal_nodes(4096, 1, 4095, nodes);
    assert_in_range(count, 1, 25);
    assert_int_equal(nodes[0].first, 1);
    assert_int_equal(nodes[count - 1].end, 4095);
    assert_int_equal(tree_maximal_nodes(4096, 7, 7, nodes), 0);
}

static void every_split_over_ranks_gives_the_one_sum(void **state) {
    (void)state;
    for (int shards = 1; shards <= SHARDS_MAX; shards++) {
        uint64_t expected = sum_of(0, shards);
        for (int ranks = 1; ranks <= shards; ranks++) {
            Part parts[64 * SHARDS_MAX];
            int count = 0, used = 0;
            for (int rank = 0; rank < ranks; rank++) {
                ShardRange range = shard_range(shards, rank, ranks);
                TreeNode nodes[64];
                int mine = tree_maximal_nodes(shards, range.first,
                                              range.first + range.count, nodes);
                for (int i = 0; i < mine; i++)
                    parts[count++] = (Part){nodes[i], sum_of(nodes[i].first, nodes[i].end)};
            }
            if (combine(parts, count, &used, 0, shards) != expected)
                fail_msg("%d shards on %d ranks are added in another order", shards, ranks);
            assert_int_equal(used, count);
        }
    }
}

static void ranges_of_shards_are_contiguous_and_even(void **state) {
    (void)state;
    for (int shards = 1; shards <= 80; shards++)
        for (int ranks = 1; ranks <= 2 * shards; ranks++) {
            int at = 0;
            for (int rank = 0; rank < ranks; rank++) {
                ShardRange range = shard_range(shards, rank, ranks);
                assert_int_equal(range.first, at);
                assert_in_range(range.count, shards / ranks, (shards + ranks - 1) / ranks);
                at += range.count;
            }
            assert_int_equal(at, shards);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_splits_at_the_largest_power_of_two_below_its_length),
        cmocka_unit_test(maximal_nodes_cover_their_range_once),
        cmocka_unit_test(the_widest_range_fits_its_room),
        cmocka_unit_test(every_split_over_ranks_gives_the_one_sum),
        cmocka_unit_test(ranges_of_shards_are_contiguous_and_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
