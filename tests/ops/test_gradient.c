/* A step's gradient: the same bits with any number of worker threads and ranks, uneven and empty shards
 * included, whole or in parts, and equal to finite differences of the loss. */
#include "tests/support/test.h"

#include "src/core/tree.h"
#include "src/model/model.h"
#include "src/train/gradient.h"
#include "src/train/residence.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 12, CLASSES = 10 };

typedef struct {
    State *state;
    Graph *graph;
    Backend *backend;
    int64_t length;
} Net;

static void open_net(Net *net, const char *device, const char *arch, double dropout,
                     int workers) {
    Config config = {0};
    snprintf(config.model.arch, sizeof config.model.arch, "%s", arch);
    config.model.classes = CLASSES;
    config.model.batch_norm = true;
    config.model.dropout = dropout;
    config.model.widths = (ConfigList){3, {SIDE * SIDE, 32, CLASSES}};
    net->graph = malloc(sizeof *net->graph);
    assert_ok(state_create(&net->state));
    assert_ok(model_build(&config, 1, SIDE, SIDE, net->state, net->graph));
    assert_ok(state_allocate(net->state));
    graph_initialise(net->graph, 11);
    BackendOptions options = {.workers = workers};
    assert_ok(backend_open(device, &options, &net->backend));
    assert_ok(residence_open(net->state, net->backend));
    assert_ok(residence_upload(net->state, net->backend));
    net->length = result_length(net->state);
}

static void close_net(Net *net) {
    residence_close(net->state, net->backend);
    net->backend->ops->close(net->backend);
    state_destroy(net->state);
    free(net->graph);
}

/* A batch of `count` samples whose pixels and labels come from a stream. */
static ShardBatch *make_shards(int64_t count, int shards) {
    ShardBatch *all = calloc((size_t)shards, sizeof *all);
    Rng rng = rng_at(5, RNG_TEST, 0, 0);
    for (int s = 0; s < shards; s++) {
        Rows rows = shard_rows(count, shards, s);
        size_t pixels = (size_t)rows.count * SIDE * SIDE;
        all[s] = (ShardBatch){.shard = s, .first = rows.first, .count = rows.count};
        all[s].images = aligned_alloc(64, (pixels * sizeof(float) + 127) / 64 * 64);
        all[s].labels = calloc((size_t)rows.count + 1, sizeof(int32_t));
        for (int64_t row = 0; row < rows.count; row++) {
            uint32_t sample = (uint32_t)(rows.first + row);
            for (int i = 0; i < SIDE * SIDE; i++)
                all[s].images[row * SIDE * SIDE + i] =
                    2 * rng_uniform(rng, sample, (uint32_t)i) - 1;
            all[s].labels[row] = (int32_t)rng_below(rng, sample, 9999, CLASSES);
        }
    }
    return all;
}

static void free_shards(ShardBatch *all, int shards) {
    for (int s = 0; s < shards; s++) {
        free(all[s].images);
        free(all[s].labels);
    }
    free(all);
}

/* A contributed node, by its first shard. */
typedef struct {
    int end;
    bool present;
    float *data;
} Contribution;

/* Adds contributed nodes as the reduction between ranks does. */
static bool add_tree(Contribution *at, int first, int end, int64_t length, float **out) {
    if (at[first].data != NULL && at[first].end == end) {
        *out = at[first].data;
        return at[first].present;
    }
    if (end - first == 1) return false;
    int split = tree_split(first, end);
    float *left = NULL, *right = NULL;
    bool has_left = add_tree(at, first, split, length, &left);
    bool has_right = add_tree(at, split, end, length, &right);
    if (has_left && has_right)
        for (int64_t i = 0; i < length; i++)
            left[i] += right[i];
    *out = has_left ? left : right;
    return has_left || has_right;
}

/* ---- a collective that watches the parts it is given */

enum { PARTS = 64 };

typedef struct {
    Collective base;
    int count;
    int64_t firsts[PARTS], ends[PARTS];
    float *given[PARTS][64]; /* what each present node held in the part when it was given */
} Watcher;

static bool node_is_present(const Reduction *reduction, int node, const uint8_t *present) {
    for (int s = reduction->nodes[node].first; s < reduction->nodes[node].end; s++)
        if (present[s]) return true;
    return false;
}

static Status watch_part(Collective *self, Reduction *reduction, const uint8_t *present,
                         int64_t first, int64_t count) {
    Watcher *watcher = (Watcher *)self;
    assert_true(watcher->count < PARTS);
    int64_t end =
        watcher->count == 0 ? reduction->length : watcher->firsts[watcher->count - 1];
    assert_int_equal(first + count, end); /* right below the one before */
    assert_true(first > 0 && first % 16 == 0 && count % 16 == 0);
    assert_true(count >= reduction->part);
    for (int i = 0; i < reduction->node_count; i++) {
        if (!node_is_present(reduction, i, present)) continue;
        size_t bytes = (size_t)count * sizeof(float);
        float *copy = watcher->given[watcher->count][i] = malloc(bytes);
        memcpy(copy, reduction->nodes[i].data + first, bytes);
    }
    watcher->firsts[watcher->count] = first;
    watcher->ends[watcher->count++] = end;
    return STATUS_OK;
}

static const CollectiveOps watcher_ops = {.name = "watcher", .reduce_part = watch_part};

/* Nothing of a part was written after it was given. Forgets them; returns how many there were. */
static int assert_parts_were_final(Watcher *watcher, const Reduction *reduction) {
    int count = watcher->count;
    for (int p = 0; p < count; p++)
        for (int i = 0; i < reduction->node_count; i++) {
            if (watcher->given[p][i] == NULL) continue;
            int64_t first = watcher->firsts[p];
            if (memcmp(watcher->given[p][i], reduction->nodes[i].data + first,
                       (size_t)(watcher->ends[p] - first) * sizeof(float)) != 0)
                fail_msg("node %d changed in [%lld, %lld) after it was given", i,
                         (long long)first, (long long)watcher->ends[p]);
            free(watcher->given[p][i]);
            watcher->given[p][i] = NULL;
        }
    watcher->count = 0;
    return count;
}

/* ---- steps */

/* The whole step as `ranks` ranks with `workers` threads each would sum it, in parts of at least `part`
 * floats (0: whole). *parts gets how many there were. */
static float *step_in_parts(Net *net, int64_t count, int shards, int ranks, int workers,
                            int64_t part, int *parts) {
    ShardBatch *all = make_shards(count, shards);
    Contribution *nodes = calloc((size_t)shards, sizeof *nodes);
    Workers *threads;
    StepValues values = {.step = 17};
    uint8_t *present = calloc((size_t)shards, 1);
    for (int s = 0; s < shards; s++)
        present[s] = all[s].count > 0;
    assert_ok(workers_open(workers, &threads));
    *parts = -1;
    for (int rank = 0; rank < ranks; rank++) {
        Watcher watcher = {.base = {.ops = &watcher_ops}};
        Reduction reduction = {.mine = shard_range(shards, rank, ranks),
                               .part = part,
                               .shards = shards,
                               .length = net->length};
        TreeNode maximal[64];
        reduction.node_count =
            tree_maximal_nodes(shards, reduction.mine.first,
                               reduction.mine.first + reduction.mine.count, maximal);
        for (int i = 0; i < reduction.node_count; i++) {
            size_t bytes = (size_t)net->length * sizeof(float);
            float *data = aligned_alloc(64, bytes);
            reduction.nodes[i].first = maximal[i].first;
            reduction.nodes[i].end = maximal[i].end;
            reduction.nodes[i].data = data;
            Contribution *node = &nodes[maximal[i].first];
            *node = (Contribution){.end = maximal[i].end, .data = data};
            for (int s = maximal[i].first; s < maximal[i].end; s++)
                node->present |= all[s].count > 0;
        }
        Gradient *gradient;
        assert_ok(gradient_open(net->graph, net->state, net->backend, threads,
                                &watcher.base, &reduction, (count + shards - 1) / shards,
                                &gradient));
        Batch batch = {.count = count,
                       .shard_count = reduction.mine.count,
                       .shards = all + reduction.mine.first};
        /* twice: the second time all memory is used again */
        for (int repeat = 0; repeat < 2; repeat++) {
            assert_ok(gradient_compute(gradient, &batch, present, 3, &values, 0.1f));
            int given = assert_parts_were_final(&watcher, &reduction);
            if (*parts >= 0) assert_int_equal(given, *parts); /* the same on each rank */
            *parts = given;
        }
        gradient_close(gradient);
    }
    float *sum = NULL, *copy = malloc((size_t)net->length * sizeof *copy);
    assert_true(add_tree(nodes, 0, shards, net->length, &sum));
    memcpy(copy, sum, (size_t)net->length * sizeof *copy);
    for (int s = 0; s < shards; s++)
        free(nodes[s].data);
    free(nodes);
    free(present);
    free_shards(all, shards);
    workers_close(threads);
    return copy;
}

static float *step_sum(Net *net, int64_t count, int shards, int ranks, int workers) {
    int parts;
    float *sum = step_in_parts(net, count, shards, ranks, workers, 0, &parts);
    assert_int_equal(parts, 0);
    return sum;
}

static void check_split(const char *device, const char *arch, int64_t count, int shards) {
    Net net;
    open_net(&net, device, arch, 0.25, 3);
    float *whole = step_sum(&net, count, shards, 1, 1);
    for (int ranks = 1; ranks <= shards; ranks += 2)
        for (int workers = 1; workers <= 3; workers++) {
            float *split = step_sum(&net, count, shards, ranks, workers);
            if (memcmp(whole, split, (size_t)net.length * sizeof *whole) != 0)
                fail_msg(
                    "%s on %s: %lld samples in %d shards differ on %d ranks x %d threads",
                    arch, device, (long long)count, shards, ranks, workers);
            free(split);
        }
    free(whole);
    close_net(&net);
}

static void any_ranks_and_threads_give_the_same_bits_on_the_cpu(void **unused) {
    (void)unused;
    check_split("cpu", "resnet20", 24, 8);
    check_split("cpu", "mlp", 100, 12);
}

static void uneven_and_empty_shards_give_the_same_bits(void **unused) {
    (void)unused;
    check_split("cpu", "mlp", 5, 8);
    check_split("cpu", "resnet20", 19, 7);
    check_split("reference", "mlp", 3, 8);
}

/* Parts of one node each, of a few, and one that no part reaches; ranks with and without samples. */
static void check_parts(const char *arch, int64_t count, int shards, int parts_at_least) {
    Net net;
    open_net(&net, "cpu", arch, 0.25, 1);
    float *whole = step_sum(&net, count, shards, 1, 1);
    const int64_t sizes[] = {16, net.length / 4, 2 * net.length};
    for (int ranks = 1; ranks <= shards; ranks += 2)
        for (int i = 0; i < 3; i++) {
            int parts;
            float *sum = step_in_parts(&net, count, shards, ranks, 1, sizes[i], &parts);
            if (memcmp(whole, sum, (size_t)net.length * sizeof *whole) != 0)
                fail_msg("%s: %d parts on %d ranks differ from the whole", arch, parts,
                         ranks);
            assert_true(i != 0 || parts >= parts_at_least);
            assert_true(i != 1 || parts <= 4);
            assert_true(i != 2 || parts == 0);
            free(sum);
        }
    free(whole);
    close_net(&net);
}

static void parts_are_final_when_given_and_change_no_bit(void **unused) {
    (void)unused;
    check_parts("mlp", 100, 12, 2);
    check_parts("mlp", 5, 8, 2); /* ranks without a sample */
    check_parts("resnet20", 19, 7, 20);
    check_parts("lenet", 24, 8, 4);
}

static void several_workers_give_no_parts(void **unused) {
    (void)unused;
    Net net;
    int parts;
    open_net(&net, "cpu", "mlp", 0.25, 2);
    free(step_in_parts(&net, 24, 8, 2, 2, 16, &parts));
    assert_int_equal(parts, 0);
    close_net(&net);
}

static double loss_at(Net *net, int64_t count) {
    float *sum = step_sum(net, count, 2, 1, 1);
    double loss = (double)sum[result_metrics(net->state) + METRIC_LOSS] / (double)count;
    free(sum);
    return loss;
}

/* Every kind of parameter of every kind of layer: the largest entry of its gradient. */
static void the_gradient_is_the_derivative_of_the_loss(void **unused) {
    (void)unused;
    Net net;
    open_net(&net, "reference", "resnet20", 0.0, 1);
    float *sum = step_sum(&net, 8, 2, 1, 1);
    float *parameters = net.state->arenas[ARENA_PARAMETER].data;
    static const char *const probes[] = {
        "model/conv1.weight",          "model/bn1.weight",
        "model/layer1.0.conv2.weight", "model/layer2.0.downsample.0.weight",
        "model/layer3.2.bn2.bias",     "model/fc.weight"};
    for (size_t p = 0; p < sizeof probes / sizeof *probes; p++) {
        const Entry *entry = &net.state->entries[state_find(net.state, probes[p])];
        int64_t first = (int64_t)(entry->offset / sizeof(float)), best = first;
        for (int64_t i = first; i < first + (int64_t)(entry->bytes / sizeof(float)); i++)
            if (fabsf(sum[i]) > fabsf(sum[best])) best = i;
        float kept = parameters[best], h = 5e-4f;
        parameters[best] = kept + h;
        double up = loss_at(&net, 8);
        parameters[best] = kept - h;
        double down = loss_at(&net, 8);
        parameters[best] = kept;
        double numeric = (up - down) / (2 * (double)h);
        /* float loss over h: a few 1e-3 of noise; relu and max kinks: some percent */
        if (fabs(numeric - (double)sum[best]) > 0.05 * fabs(numeric) + 4e-3)
            fail_msg("%s: gradient %g, finite difference %g", probes[p], (double)sum[best],
                     numeric);
    }
    free(sum);
    close_net(&net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_ranks_and_threads_give_the_same_bits_on_the_cpu),
        cmocka_unit_test(uneven_and_empty_shards_give_the_same_bits),
        cmocka_unit_test(parts_are_final_when_given_and_change_no_bit),
        cmocka_unit_test(several_workers_give_no_parts),
        cmocka_unit_test(the_gradient_is_the_derivative_of_the_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
