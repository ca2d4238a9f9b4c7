/* Sums of device memory between ranks have the bits of the one tree over shards, however they travel:
 * over the communicator's exchange, given at once or in parts, plain or recorded, or through host memory
 * where ranks share a device (GPU_DOUBLE_DEVICES=1). Nothing waits between the work that makes the nodes,
 * the sum and the work that uses it, so that an order which is not asked for shows. */
#include "dist/cuda/tree_plan.h"
#include "dist/tree_sum.h"
#include "dist/world.h"
#include "kernels/cuda/cuda.h"
#include "src/collective.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

Status rekindle_cuda_open(const BackendOptions *options, Backend **out);

enum { SHARDS_MAX = 300, STEPS = 3, PATIENCE_S = 30 };

static Collective *world, *gpus;
static Backend *backend;

static uint64_t mixed(uint64_t x) {
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ x >> 32;
}

/* Magnitudes from 2^-20 to 2^20 of both signs, and values that nearly cancel their neighbour's, so that
 * every other order of additions shows. */
static float value(int step, int shard, int64_t i) {
    uint64_t x =
        mixed((uint64_t)step * 7919 + (uint64_t)(shard / 2) * 104729 + (uint64_t)i + 1);
    uint32_t exponent = 127 - 20 + (uint32_t)(x >> 40) % 41;
    uint32_t bits = (uint32_t)(x & 0x807fffffu) | exponent << 23;
    float large;
    memcpy(&large, &bits, sizeof large);
    float noise = (float)((shard * 31 + i) % 17) * 0x1p-12f;
    return shard % 2 == 0 ? large : (i % 3 == 0 ? noise - large : large * 0.3f + noise);
}

/* Which shards are not empty: all, one, or a pattern with holes. */
static void choose_present(int pattern, int shards, uint8_t *present) {
    for (int shard = 0; shard < shards; shard++) {
        bool holes = mixed((uint64_t)(shard * 64 + pattern)) % 3 != 0;
        bool lone = shard == (pattern * 5) % shards;
        present[shard] = pattern % 3 == 0 || (pattern % 3 == 1 ? lone : holes) ? 1 : 0;
    }
}

/* ---- the oracle: the host's tree over all shards' vectors */

typedef struct {
    int shards;
    int64_t length;
    float *vectors; /* one a shard */
    float *sum;
} Oracle;

static float *floats(int64_t count) {
    float *data = aligned_alloc(64, (size_t)(count > 0 ? count : 16) * sizeof(float));
    assert_non_null(data);
    return data;
}

static Oracle oracle_create(int shards, int64_t length) {
    return (Oracle){shards, length, floats(shards * length), floats(length)};
}

static void oracle_destroy(Oracle *oracle) {
    free(oracle->vectors);
    free(oracle->sum);
}

static void oracle_fill(Oracle *oracle, int step) {
    for (int shard = 0; shard < oracle->shards; shard++)
        for (int64_t i = 0; i < oracle->length; i++)
            oracle->vectors[shard * oracle->length + i] = value(step, shard, i);
}

/* The sum over the shards [first, end), in the tree's order. */
static void oracle_sum(const Oracle *oracle, int first, int end, const uint8_t *present,
                       float *sum) {
    TreeLeaf leaves[SHARDS_MAX];
    for (int shard = first; shard < end; shard++)
        leaves[shard - first] =
            (TreeLeaf){{shard, shard + 1}, oracle->vectors + shard * oracle->length};
    TreeSum *tree = tree_sum_create(oracle->shards, end - first);
    assert_non_null(tree);
    tree_sum_plan(tree, leaves, end - first, present);
    tree_sum_run(tree, sum, oracle->length, false);
    tree_sum_destroy(tree);
}

/* ---- a step: the device copies prepared nodes into the reduction's, and the sum out of it */

typedef struct {
    Reduction *reduction;
    uint8_t present[SHARDS_MAX];
    float *prepared; /* device: the nodes, one after another */
    float *result;   /* device */
    int division;    /* of the vector into parts; 0: none */
} Step;

static Status write_nodes(const Step *step, int64_t first, int64_t count) {
    const Reduction *reduction = step->reduction;
    for (int n = 0; n < reduction->node_count; n++)
        TRY(vendor_copy(cuda_of(backend)->work, reduction->nodes[n].data + first,
                        step->prepared + n * reduction->length + first,
                        (size_t)count * sizeof(float)));
    return STATUS_OK;
}

static Status run_step(void *context) {
    const Step *step = context;
    Reduction *reduction = step->reduction;
    int64_t left = reduction->length;
    for (uint64_t k = 0; step->division > 0 && left > 0; k++) {
        int64_t units = left / 16;
        int64_t count =
            (int64_t)(mixed((uint64_t)step->division * 977 + k) % (uint64_t)units + 1) * 16;
        if (k == 6 || (k > 0 && count == left)) break; /* the rest is for reduce */
        left -= count;
        TRY(write_nodes(step, left, count));
        TRY(gpus->ops->reduce_part(gpus, reduction, step->present, left, count));
    }
    if (left > 0) TRY(write_nodes(step, 0, left));
    TRY(gpus->ops->reduce(gpus, reduction, step->present));
    size_t bytes = (size_t)reduction->length * sizeof(float);
    TRY(vendor_copy(cuda_of(backend)->work, step->result, reduction->sum, bytes));
    for (int n = 0; n < reduction->node_count; n++) /* the next backward pass begins */
        TRY(vendor_zero(cuda_of(backend)->work, reduction->nodes[n].data, bytes));
    return STATUS_OK;
}

/* Gives the device what the step's nodes will be; nothing of it where no shard is present. */
static void prepare(Step *step, const Oracle *oracle) {
    const Reduction *reduction = step->reduction;
    float *node = floats(oracle->length);
    for (int n = 0; n < reduction->node_count; n++) {
        int first = reduction->nodes[n].first, end = reduction->nodes[n].end;
        if (memchr(step->present + first, 1, (size_t)(end - first)) != NULL)
            oracle_sum(oracle, first, end, step->present, node);
        else
            for (int64_t i = 0; i < oracle->length; i++)
                node[i] = NAN; /* must not be looked at */
        assert_ok(backend->ops->copy_in(backend, step->prepared + n * oracle->length, node,
                                        (size_t)oracle->length * sizeof(float)));
    }
    free(node);
}

static void check_exact(const Step *step, Oracle *oracle, int number) {
    int64_t length = oracle->length;
    float *found = floats(length);
    oracle_sum(oracle, 0, oracle->shards, step->present, oracle->sum);
    assert_ok(backend->ops->copy_out(backend, found, step->result,
                                     (size_t)length * sizeof(float)));
    for (int64_t i = 0; i < length; i++)
        if (memcmp(&found[i], &oracle->sum[i], sizeof(float)) != 0)
            fail_msg("V %d length %lld step %d division %d element %lld: %a, not %a",
                     oracle->shards, (long long)length, number, step->division,
                     (long long)i, (double)found[i], (double)oracle->sum[i]);
    free(found);
}

/* Float additions err by 2^-24 of what they add. */
static void check_fast(const Step *step, Oracle *oracle, int number) {
    int64_t length = oracle->length;
    float *found = floats(length);
    assert_ok(backend->ops->copy_out(backend, found, step->result,
                                     (size_t)length * sizeof(float)));
    for (int64_t i = 0; i < length; i++) {
        double sum = 0, size = 0;
        for (int shard = 0; shard < oracle->shards; shard++) {
            if (!step->present[shard]) continue;
            sum += (double)oracle->vectors[shard * length + i];
            size += fabs((double)oracle->vectors[shard * length + i]);
        }
        if (!(fabs((double)found[i] - sum) <= size * 16 * 0x1p-24))
            fail_msg("V %d length %lld step %d element %lld: %a, not %a", oracle->shards,
                     (long long)length, number, (long long)i, (double)found[i], sum);
    }
    free(found);
}

static void check_layout(const Reduction *reduction, int64_t length) {
    ShardRange mine = shard_range(reduction->shards, world->rank, world->size);
    assert_int_equal(reduction->mine.first, mine.first);
    assert_int_equal(reduction->mine.count, mine.count);
    assert_int_equal(reduction->length, length);
    assert_int_equal((uintptr_t)reduction->sum % 64, 0);
    int next = mine.first;
    for (int n = 0; n < reduction->node_count; n++) {
        assert_int_equal((uintptr_t)reduction->nodes[n].data % 64, 0);
        assert_int_equal(reduction->nodes[n].first, next);
        next = reduction->nodes[n].end;
    }
    assert_int_equal(next, mine.first + mine.count);
}

/* Runs STEPS steps with new data each; a key's first run is plain, its second recorded, the rest are
 * repeated. present and division belong to the key. */
static void check_reduction(ReductionMode mode, int shards, int64_t length, int pattern,
                            int division, uint64_t key) {
    Oracle oracle = oracle_create(shards, length);
    Step step = {.division = division};
    assert_ok(gpus->ops->reduction_open(gpus, mode, shards, length, &step.reduction));
    check_layout(step.reduction, length);
    bool queued = step.reduction->queued;
    if (!queued) {
        assert_int_equal(step.reduction->part, 0);
        step.division = 0;
    }
    size_t bytes = (size_t)length * sizeof(float);
    size_t nodes = (size_t)step.reduction->node_count;
    assert_ok(
        backend->ops->allocate(backend, bytes * (nodes + 1), (void **)&step.prepared));
    assert_ok(backend->ops->allocate(backend, bytes + 64, (void **)&step.result));
    choose_present(pattern, shards, step.present);
    for (int number = 0; number < STEPS; number++) {
        oracle_fill(&oracle, number);
        prepare(&step, &oracle);
        assert_ok(queued ? backend->ops->repeat(backend, key, run_step, &step)
                         : run_step(&step));
        if (mode == REDUCTION_EXACT)
            check_exact(&step, &oracle, number);
        else
            check_fast(&step, &oracle, number);
    }
    backend->ops->release(backend, step.prepared);
    backend->ops->release(backend, step.result);
    gpus->ops->reduction_close(gpus, step.reduction);
    oracle_destroy(&oracle);
}

static const int shard_counts[] = {1, 2, 3, 5, 8, 12};
static uint64_t next_key = 1;

static void exact_sums_have_the_bits_of_the_tree_however_they_are_divided(void **state) {
    (void)state;
    static const int64_t lengths[] = {16, 48, 1040, 20000};
    for (int v = 0; v < (int)(sizeof shard_counts / sizeof *shard_counts); v++)
        for (int l = 0; l < (int)(sizeof lengths / sizeof *lengths); l++) {
            check_reduction(REDUCTION_EXACT, shard_counts[v], lengths[l], l, 0, next_key++);
            /* of three, one is never recorded */
            uint64_t key = (v + l) % 3 == 0 ? 0 : next_key++;
            check_reduction(REDUCTION_EXACT, shard_counts[v], lengths[l], v + l + 1,
                            v * 7 + l * 3 + 1, key);
        }
}

static void long_vectors_go_in_several_ranges(void **state) {
    (void)state;
    check_reduction(REDUCTION_EXACT, 3, 300000, 0, 5, next_key++);
    check_reduction(REDUCTION_EXACT, 5, 300000, 2, 0, next_key++);
    check_reduction(REDUCTION_EXACT, 2, (int64_t)2500000 / 16 * 16, 0, 0, next_key++);
}

static void many_shards_are_summed_exactly(void **state) {
    (void)state;
    check_reduction(REDUCTION_EXACT, 100, 1040, 2, 3, next_key++);
    check_reduction(REDUCTION_EXACT, SHARDS_MAX, 208, 2, 1, next_key++);
}

static void the_fast_sum_has_the_value_of_the_sum(void **state) {
    (void)state;
    for (size_t v = 0; v < sizeof shard_counts / sizeof *shard_counts; v++)
        for (int variant = 0; variant < 3; variant++)
            check_reduction(REDUCTION_FAST, shard_counts[v], 5008, variant, variant,
                            next_key++);
}

static void no_present_shard_gives_zeros(void **state) {
    (void)state;
    for (int mode = REDUCTION_EXACT; mode <= REDUCTION_FAST; mode++) {
        Step step = {0};
        assert_ok(
            gpus->ops->reduction_open(gpus, (ReductionMode)mode, 5, 2000, &step.reduction));
        assert_ok(gpus->ops->reduce(gpus, step.reduction, step.present));
        float found[2000];
        assert_ok(
            backend->ops->copy_out(backend, found, step.reduction->sum, sizeof found));
        for (int i = 0; i < 2000; i++)
            assert_true(found[i] == 0.0f);
        gpus->ops->reduction_close(gpus, step.reduction);
    }
}

/* Steps of two reductions are given one behind the other without any wait of the host. */
static void steps_may_be_given_before_the_last_is_done(void **state) {
    (void)state;
    enum { LENGTH = 4000, SHARDS = 8 };
    Oracle oracle = oracle_create(SHARDS, LENGTH);
    Step steps[2] = {{.division = 2}, {.division = 3}};
    float *results[2][STEPS], *prepared[2][STEPS];
    for (int s = 0; s < 2; s++) {
        assert_ok(gpus->ops->reduction_open(gpus, REDUCTION_EXACT, SHARDS, LENGTH,
                                            &steps[s].reduction));
        if (!steps[s].reduction->queued) steps[s].division = 0;
        choose_present(s * 2, SHARDS, steps[s].present);
        for (int number = 0; number < STEPS; number++) {
            assert_ok(backend->ops->allocate(backend, LENGTH * sizeof(float) * 8,
                                             (void **)&prepared[s][number]));
            assert_ok(backend->ops->allocate(backend, LENGTH * sizeof(float),
                                             (void **)&results[s][number]));
            steps[s].prepared = prepared[s][number];
            oracle_fill(&oracle, s * STEPS + number);
            prepare(&steps[s], &oracle);
        }
    }
    for (int number = 0; number < STEPS; number++)
        for (int s = 0; s < 2; s++) {
            steps[s].prepared = prepared[s][number];
            steps[s].result = results[s][number];
            assert_ok(run_step(&steps[s]));
        }
    for (int number = 0; number < STEPS; number++)
        for (int s = 0; s < 2; s++) {
            steps[s].result = results[s][number];
            oracle_fill(&oracle, s * STEPS + number);
            check_exact(&steps[s], &oracle, number);
            backend->ops->release(backend, prepared[s][number]);
            backend->ops->release(backend, results[s][number]);
        }
    for (int s = 0; s < 2; s++)
        gpus->ops->reduction_close(gpus, steps[s].reduction);
    oracle_destroy(&oracle);
}

/* The plan of one device over all shards: more terms, and deeper, than one pass of the kernel takes. */
static void any_number_of_vectors_is_summed_on_one_device(void **state) {
    (void)state;
    static const int counts[] = {1, 2, 3, 5, 8, 12, 64, 65, 129, 200, SHARDS_MAX};
    enum { LENGTH = 528 };
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        int shards = counts[c];
        Oracle oracle = oracle_create(shards, LENGTH);
        oracle_fill(&oracle, 1);
        float *vectors, *sum, found[LENGTH], *data[SHARDS_MAX];
        size_t bytes = LENGTH * sizeof(float);
        TreeNode leaves[SHARDS_MAX];
        assert_ok(
            backend->ops->allocate(backend, bytes * (size_t)shards, (void **)&vectors));
        assert_ok(backend->ops->allocate(backend, bytes, (void **)&sum));
        TreePlan *plan = tree_plan_create(shards, shards);
        assert_non_null(plan);
        for (int pattern = 0; pattern < 6; pattern++) {
            assert_ok(backend->ops->copy_in(backend, vectors, oracle.vectors,
                                            bytes * (size_t)shards));
            for (int shard = 0; shard < shards; shard++) {
                leaves[shard] = (TreeNode){shard, shard + 1};
                data[shard] = vectors + shard * LENGTH;
            }
            uint8_t present[SHARDS_MAX];
            choose_present(pattern, shards, present);
            tree_plan_make(plan, leaves, shards, present);
            assert_ok(tree_plan_run(plan, cuda_of(backend)->work, data, sum, LENGTH));
            assert_ok(backend->ops->copy_out(backend, found, sum, bytes));
            oracle_sum(&oracle, 0, shards, present, oracle.sum);
            assert_memory_equal(found, oracle.sum, bytes);
        }
        tree_plan_destroy(plan);
        backend->ops->release(backend, vectors);
        backend->ops->release(backend, sum);
        oracle_destroy(&oracle);
    }
}

/* The nodes of a range that ends before its tree does: each addition waits for all smaller ones. */
static void deep_trees_are_summed_on_one_device(void **state) {
    (void)state;
    enum { DEEP_SHARDS = 4096, LENGTH = 64 };
    TreeNode nodes[64];
    int count = tree_maximal_nodes(DEEP_SHARDS, 1, DEEP_SHARDS - 1, nodes);
    assert_true(count > 20);
    uint8_t present[DEEP_SHARDS];
    memset(present, 1, sizeof present);
    Oracle oracle = oracle_create(count, LENGTH);
    oracle_fill(&oracle, 2);
    TreeLeaf leaves[64];
    float *vectors, *sum, found[LENGTH], *data[64];
    size_t bytes = LENGTH * sizeof(float);
    assert_ok(backend->ops->allocate(backend, bytes * (size_t)count, (void **)&vectors));
    assert_ok(backend->ops->allocate(backend, bytes, (void **)&sum));
    for (int i = 0; i < count; i++) {
        leaves[i] = (TreeLeaf){nodes[i], oracle.vectors + i * LENGTH};
        data[i] = vectors + i * LENGTH;
    }
    TreeSum *tree = tree_sum_create(DEEP_SHARDS, count);
    TreePlan *plan = tree_plan_create(DEEP_SHARDS, count);
    assert_true(tree != NULL && plan != NULL);
    tree_sum_plan(tree, leaves, count, present);
    tree_sum_run(tree, oracle.sum, LENGTH, false);
    tree_plan_make(plan, nodes, count, present);
    assert_ok(
        backend->ops->copy_in(backend, vectors, oracle.vectors, bytes * (size_t)count));
    assert_ok(tree_plan_run(plan, cuda_of(backend)->work, data, sum, LENGTH));
    assert_ok(backend->ops->copy_out(backend, found, sum, bytes));
    assert_memory_equal(found, oracle.sum, bytes);
    tree_sum_destroy(tree);
    tree_plan_destroy(plan);
    backend->ops->release(backend, vectors);
    backend->ops->release(backend, sum);
    oracle_destroy(&oracle);
}

static void what_happens_on_the_host_goes_on_to_the_hosts_collective(void **state) {
    (void)state;
    assert_int_equal(gpus->rank, world->rank);
    assert_int_equal(gpus->size, world->size);
    assert_int_equal(gpus->hosts, world->hosts);
    assert_string_equal(gpus->host, world->host);
    uint32_t bits = 1u << world->rank;
    assert_ok(gpus->ops->control(gpus, &bits));
    assert_int_equal(bits, (1u << world->size) - 1);
    int root = world->size - 1, sent = world->rank == root ? 77 : 0;
    assert_ok(gpus->ops->broadcast(gpus, &sent, sizeof sent, root));
    assert_int_equal(sent, 77);
    int all[64] = {0};
    assert_ok(gpus->ops->gather(gpus, &world->rank, sizeof world->rank, all));
    for (int rank = 0; rank < world->size; rank++)
        assert_int_equal(all[rank], rank);
    Status mine = STATUS_OK;
    if (world->rank == root) mine = FAIL(STATUS_IO, "free some space", "disk full");
    assert_fails(gpus->ops->agree(gpus, mine), STATUS_IO, "disk full");
    assert_ok(gpus->ops->barrier(gpus));
}

static void ranks_that_share_a_device_go_through_host_memory_only_then(void **state) {
    (void)state;
    const char *devices = getenv("GPU_DOUBLE_DEVICES");
    bool shared = devices != NULL && atoi(devices) < world->size;
    Reduction *reduction;
    assert_ok(gpus->ops->reduction_open(gpus, REDUCTION_EXACT, 4, 3200000, &reduction));
    assert_int_equal(reduction->queued, !shared);
    assert_int_equal(reduction->part > 0, !shared && world->size > 1);
    gpus->ops->reduction_close(gpus, reduction);
}

int main(int argc, char **argv) {
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    BackendOptions options = {
        .workers = 1, .host_rank = world->host_rank, .patience_s = PATIENCE_S};
    Status status = world->ops->agree(world, rekindle_cuda_open(&options, &backend));
    if (status == STATUS_OK) status = backend->ops->open_collective(backend, world, &gpus);
    if (status != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_share_a_device_go_through_host_memory_only_then),
        cmocka_unit_test(any_number_of_vectors_is_summed_on_one_device),
        cmocka_unit_test(deep_trees_are_summed_on_one_device),
        cmocka_unit_test(exact_sums_have_the_bits_of_the_tree_however_they_are_divided),
        cmocka_unit_test(long_vectors_go_in_several_ranges),
        cmocka_unit_test(many_shards_are_summed_exactly),
        cmocka_unit_test(the_fast_sum_has_the_value_of_the_sum),
        cmocka_unit_test(no_present_shard_gives_zeros),
        cmocka_unit_test(steps_may_be_given_before_the_last_is_done),
        cmocka_unit_test(what_happens_on_the_host_goes_on_to_the_hosts_collective),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpus->ops->close(gpus);
    backend->ops->close(backend);
    world_finish(world);
    return failed;
}
