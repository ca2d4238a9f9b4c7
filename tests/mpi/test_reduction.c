/* The exact reduction has the bits of the one sequential tree, whatever the ranks, the transport
 * and the empty shards; the fast one has its value. */
#include "dist/collective_alone.h"
#include "dist/exchange.h"
#include "dist/world.h"
#include "src/core/tree.h"
#include "tests/support/test.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { STEPS = 6 };

static Collective *world;
static const int shard_counts[] = {1, 2, 3, 5, 8, 12, 16, 100};
static const int64_t lengths[] = {0, 16, 112, 1024, 3 * 1024 + 48, 100000};

/* Magnitudes from 2^-30 to 2^30 of both signs, and values that cancel their neighbour's, so that
 * every other order of additions shows. */
static float value(int step, int shard, int64_t i) {
    uint64_t x = (uint64_t)step * 7919 + (uint64_t)(shard / 2) * 104729 + (uint64_t)i + 1;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    float mantissa = 1.0f + (float)(x >> 41) * 0x1p-23f;
    float sign = (x & 1) != 0 ? -1.0f : 1.0f;
    float noise = (float)((shard * 31 + i) % 17) * 0x1p-20f;
    float large = ldexpf(mantissa, (int)(x >> 8 & 63) - 32) * sign;
    return shard % 2 == 0 ? large : (i % 3 == 0 ? noise - large : large * 0.3f + noise);
}

/* Which shards are empty: none, all but one (a walking one), or a pattern with holes. */
static void choose_present(int step, int shards, uint8_t *present) {
    for (int shard = 0; shard < shards; shard++) {
        bool holes = (shard * 7 + step) % 4 == 0 || shard == shards - 1;
        bool lone = shard == (step * 5) % shards;
        present[shard] = step % 3 == 0 || (step % 3 == 1 ? lone : holes) ? 1 : 0;
    }
}

/* The definition, one element at a time. Returns false when the node contributes nothing. */
static bool tree_value(int step, int first, int end, int64_t i, const uint8_t *present,
                       float *out) {
    if (end - first == 1) {
        if (present[first]) *out = value(step, first, i);
        return present[first];
    }
    float left = 0, right = 0;
    int split = tree_split(first, end);
    bool has_left = tree_value(step, first, split, i, present, &left);
    bool has_right = tree_value(step, split, end, i, present, &right);
    *out = has_left && has_right ? left + right : has_left ? left : right;
    return has_left || has_right;
}

static void write_nodes(Reduction *reduction, int step, const uint8_t *present) {
    for (int n = 0; n < reduction->node_count; n++) {
        int first = reduction->nodes[n].first, end = reduction->nodes[n].end;
        for (int64_t i = 0; i < reduction->length; i++) {
            float sum;
            bool any = tree_value(step, first, end, i, present, &sum);
            reduction->nodes[n].data[i] = any ? sum : NAN; /* must not be looked at */
        }
    }
}

static void check_exact(Reduction *reduction, int step, const uint8_t *present) {
    for (int64_t i = 0; i < reduction->length; i++) {
        float expected = 0;
        tree_value(step, 0, reduction->shards, i, present, &expected);
        if (memcmp(&expected, &reduction->sum[i], sizeof expected) != 0)
            fail_msg("V %d length %lld step %d element %lld: %a, not %a", reduction->shards,
                     (long long)reduction->length, step, (long long)i,
                     (double)reduction->sum[i], (double)expected);
    }
}

static void check_layout(const Reduction *reduction) {
    ShardRange mine = shard_range(reduction->shards, world->rank, world->size);
    assert_int_equal(reduction->mine.first, mine.first);
    assert_int_equal(reduction->mine.count, mine.count);
    assert_int_equal((uintptr_t)reduction->sum % 64, 0);
    int next = mine.first;
    for (int n = 0; n < reduction->node_count; n++) {
        assert_int_equal((uintptr_t)reduction->nodes[n].data % 64, 0);
        assert_int_equal(reduction->nodes[n].first, next);
        next = reduction->nodes[n].end;
    }
    assert_int_equal(next, mine.first + mine.count);
}

static void check_all(Transport transport) {
    for (size_t v = 0; v < sizeof shard_counts / sizeof *shard_counts; v++) {
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            int shards = shard_counts[v];
            if (shards > 16 && lengths[l] > 2000) continue; /* the oracle is slow */
            Reduction *reduction;
            assert_ok(exchange_open(world, REDUCTION_EXACT, transport, shards, lengths[l],
                                    &reduction));
            if (transport != TRANSPORT_BEST)
                assert_int_equal(exchange_transport(reduction), transport);
            check_layout(reduction);
            uint8_t present[100];
            for (int step = 0; step < (lengths[l] > 4000 ? 3 : STEPS); step++) {
                choose_present(step, shards, present);
                write_nodes(reduction, step, present);
                assert_ok(exchange_reduce(world, reduction, present));
                check_exact(reduction, step, present);
            }
            exchange_close(reduction);
        }
    }
}

static void shared_memory_gives_the_bits_of_the_tree(void **state) {
    (void)state;
    check_all(TRANSPORT_SHARED);
}

static void messages_give_the_bits_of_the_tree(void **state) {
    (void)state;
    check_all(TRANSPORT_MESSAGES);
}

static void the_collectives_own_reduction_gives_the_bits_of_the_tree(void **state) {
    (void)state;
    for (int shards = 1; shards <= 16; shards++) {
        Reduction *reduction;
        assert_ok(
            world->ops->reduction_open(world, REDUCTION_EXACT, shards, 1040, &reduction));
        check_layout(reduction);
        uint8_t present[16];
        for (int step = 0; step < STEPS; step++) {
            choose_present(step, shards, present);
            write_nodes(reduction, step, present);
            assert_ok(world->ops->reduce(world, reduction, present));
            check_exact(reduction, step, present);
        }
        world->ops->reduction_close(world, reduction);
    }
}

/* Opens with one rank held under a resource limit; the others see nothing of it. */
static Status open_limited(int rank, int resource, rlim_t most, Transport transport,
                           Reduction **out) {
    struct rlimit before;
    assert_int_equal(getrlimit((__rlimit_resource_t)resource, &before), 0);
    struct rlimit limited = {most, before.rlim_max};
    if (world->rank == rank)
        assert_int_equal(setrlimit((__rlimit_resource_t)resource, &limited), 0);
    Status status = exchange_open(world, REDUCTION_EXACT, transport, 8, 1040, out);
    assert_int_equal(setrlimit((__rlimit_resource_t)resource, &before), 0);
    return status;
}

static void check_fallback(int rank, int resource, rlim_t most, Status code,
                           const char *text) {
    Reduction *reduction;
    assert_fails(open_limited(rank, resource, most, TRANSPORT_SHARED, &reduction), code,
                 text);
    assert_null(reduction);
    assert_ok(open_limited(rank, resource, most, TRANSPORT_BEST, &reduction));
    assert_int_equal(exchange_transport(reduction), TRANSPORT_MESSAGES);
    uint8_t present[8];
    for (int step = 0; step < STEPS; step++) {
        choose_present(step, 8, present);
        write_nodes(reduction, step, present);
        assert_ok(exchange_reduce(world, reduction, present));
        check_exact(reduction, step, present);
    }
    exchange_close(reduction);
}

static void without_room_for_shared_memory_messages_take_over(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    check_fallback(0, RLIMIT_FSIZE, 4096, STATUS_MEMORY, "cannot size shared memory");
}

static void a_rank_that_cannot_join_shared_memory_makes_all_use_messages(void **state) {
    (void)state;
    if (world->size > 1)
        check_fallback(world->size - 1, RLIMIT_NOFILE, 0, STATUS_UNSUPPORTED,
                       "cannot see the memory of rank 0");
}

static void another_order_of_additions_would_show(void **state) {
    (void)state;
    uint8_t present[100];
    memset(present, 1, sizeof present);
    for (size_t v = 0; v < sizeof shard_counts / sizeof *shard_counts; v++) {
        int differences = 0;
        for (int64_t i = 0; i < 1024; i++) {
            float tree = 0, line = 0;
            tree_value(0, 0, shard_counts[v], i, present, &tree);
            for (int shard = shard_counts[v] - 1; shard >= 0; shard--)
                line = line + value(0, shard, i);
            differences += memcmp(&tree, &line, sizeof tree) != 0;
        }
        if (shard_counts[v] >= 3) assert_true(differences > 100);
    }
}

static void no_present_shard_gives_zeros(void **state) {
    (void)state;
    static const Transport transports[] = {TRANSPORT_SHARED, TRANSPORT_MESSAGES};
    uint8_t present[5] = {0};
    for (int t = 0; t < 2; t++) {
        Reduction *reduction;
        assert_ok(
            exchange_open(world, REDUCTION_EXACT, transports[t], 5, 2000, &reduction));
        write_nodes(reduction, 0, present);
        assert_ok(exchange_reduce(world, reduction, present));
        for (int64_t i = 0; i < reduction->length; i++)
            assert_true(reduction->sum[i] == 0.0f);
        exchange_close(reduction);
    }
}

static void the_fast_reduction_has_the_value_of_the_sum(void **state) {
    (void)state;
    for (size_t v = 0; v < sizeof shard_counts / sizeof *shard_counts; v++) {
        int shards = shard_counts[v];
        Reduction *reduction;
        assert_ok(
            world->ops->reduction_open(world, REDUCTION_FAST, shards, 1040, &reduction));
        check_layout(reduction);
        uint8_t present[100];
        for (int step = 0; step < STEPS; step++) {
            choose_present(step, shards, present);
            write_nodes(reduction, step, present);
            assert_ok(world->ops->reduce(world, reduction, present));
            for (int64_t i = 0; i < reduction->length; i++) {
                double sum = 0,
                       size = 0; /* float additions err by 2^-24 of what they add */
                for (int shard = 0; shard < shards; shard++) {
                    if (!present[shard]) continue;
                    sum += (double)value(step, shard, i);
                    size += fabs((double)value(step, shard, i));
                }
                assert_true(fabs((double)reduction->sum[i] - sum) <= size * 16 * 0x1p-24);
            }
        }
        world->ops->reduction_close(world, reduction);
    }
}

static void a_process_alone_sums_without_copying(void **state) {
    (void)state;
    Collective *alone;
    Reduction *reduction;
    assert_ok(collective_alone_open(&alone));
    assert_ok(alone->ops->reduction_open(alone, REDUCTION_EXACT, 12, 1040, &reduction));
    assert_int_equal(reduction->node_count, 1);
    uint8_t present[12];
    for (int step = 0; step < STEPS; step++) {
        choose_present(step, 12, present);
        write_nodes(reduction, step, present);
        assert_ok(alone->ops->reduce(alone, reduction, present));
        check_exact(reduction, step, present);
    }
    alone->ops->reduction_close(alone, reduction);
    alone->ops->close(alone);
    collective_alone_destroy(alone);
}

int main(int argc, char **argv) {
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_memory_gives_the_bits_of_the_tree),
        cmocka_unit_test(messages_give_the_bits_of_the_tree),
        cmocka_unit_test(the_collectives_own_reduction_gives_the_bits_of_the_tree),
        cmocka_unit_test(without_room_for_shared_memory_messages_take_over),
        cmocka_unit_test(a_rank_that_cannot_join_shared_memory_makes_all_use_messages),
        cmocka_unit_test(another_order_of_additions_would_show),
        cmocka_unit_test(no_present_shard_gives_zeros),
        cmocka_unit_test(the_fast_reduction_has_the_value_of_the_sum),
        cmocka_unit_test(a_process_alone_sums_without_copying),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_finish(world);
    return failed;
}
