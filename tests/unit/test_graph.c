/* Networks as lists of nodes: shapes, names, and what is folded into one pass. */
#include "tests/support/test.h"

#include "src/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Config config;
    State *state;
    Graph graph;
} Fixture;

static Status build(Fixture *fixture, const char *arch, int size) {
    memset(fixture, 0, sizeof *fixture);
    snprintf(fixture->config.model.arch, sizeof fixture->config.model.arch, "%s", arch);
    fixture->config.model.classes = 10;
    fixture->config.model.batch_norm = true;
    fixture->config.model.dropout = 0.25;
    fixture->config.model.widths = (ConfigList){3, {784, 256, 10}};
    TRY(state_create(&fixture->state));
    return model_build(&fixture->config, 1, size, size, fixture->state, &fixture->graph);
}

static int count_kind(const Graph *graph, NodeKind kind) {
    int count = 0;
    for (int i = 0; i < graph->count; i++)
        count += graph->nodes[i].kind == kind;
    return count;
}

static int64_t parameters(const State *state) {
    int64_t count = 0;
    for (int i = 0; i < state->count; i++)
        if (state->entries[i].arena == ARENA_PARAMETER)
            count += (int64_t)(state->entries[i].bytes / sizeof(float));
    return count;
}

static void an_mlp_has_the_weights_of_its_widths(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_ok(build(fixture, "mlp", 28));
    assert_int_equal(parameters(fixture->state), 784 * 256 + 256 + 2 * 256 + 256 * 10 + 10);
    assert_true(state_find(fixture->state, "model/fc2.weight") >= 0);
    state_destroy(fixture->state);
    free(fixture);
}

static void an_mlp_whose_first_width_is_not_the_samples_size_is_refused(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_fails(build(fixture, "mlp", 14), STATUS_USAGE, "196");
    state_destroy(fixture->state);
    free(fixture);
}

static void resnet18_has_torchvisions_names_and_size(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_ok(build(fixture, "resnet18", 28));
    static const char *const names[] = {
        "model/conv1.weight",
        "model/bn1.running_var",
        "model/layer1.1.conv2.weight",
        "model/layer2.0.downsample.0.weight",
        "model/layer4.0.downsample.1.running_mean",
        "model/fc.bias",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (state_find(fixture->state, names[i]) < 0) fail_msg("no entry %s", names[i]);
    /* torchvision's 11,689,512 with a 3x3 stem of one channel and ten classes */
    assert_int_equal(parameters(fixture->state),
                     11689512 - 64 * 3 * 49 + 64 * 9 - 512 * 1000 - 1000 + 512 * 10 + 10);
    state_destroy(fixture->state);
    free(fixture);
}

static void every_relu_and_add_of_a_resnet_folds_into_a_batch_norm(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_ok(build(fixture, "resnet20", 28));
    const Graph *graph = &fixture->graph;
    assert_int_equal(count_kind(graph, NODE_RELU), 0);
    assert_int_equal(count_kind(graph, NODE_ADD), 0);
    assert_int_equal(count_kind(graph, NODE_BATCH_NORM), 21);
    int residuals = 0;
    for (int i = 0; i < graph->count; i++) {
        const Node *node = &graph->nodes[i];
        if (node->residual < 0) continue;
        residuals++;
        assert_true(node->residual < i); /* computed before it is added */
        assert_true(node->relu);
    }
    assert_int_equal(residuals, 9);
    state_destroy(fixture->state);
    free(fixture);
}

static void an_image_smaller_than_the_filters_is_refused(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_fails(build(fixture, "lenet", 6), STATUS_USAGE, "does not fit");
    state_destroy(fixture->state);
    free(fixture);
}

static void an_unknown_architecture_names_the_known_ones(void **unused) {
    (void)unused;
    Fixture *fixture = malloc(sizeof *fixture);
    assert_fails(build(fixture, "lenett", 28), STATUS_USAGE, "resnet18");
    state_destroy(fixture->state);
    free(fixture);
}

static void initial_values_depend_on_seed_and_name_alone(void **unused) {
    (void)unused;
    Fixture *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    assert_ok(build(a, "lenet", 28));
    assert_ok(build(b, "lenet", 28));
    assert_ok(state_allocate(a->state));
    assert_ok(state_allocate(b->state));
    graph_initialise(&a->graph, 7);
    graph_initialise(&b->graph, 7);
    assert_true(digest_equal(state_digest(a->state), state_digest(b->state)));
    graph_initialise(&b->graph, 8);
    assert_false(digest_equal(state_digest(a->state), state_digest(b->state)));
    /* uniform within 1/sqrt(fan_in), and neither constant nor one-sided */
    const float *w = state_data(a->state, state_find(a->state, "model/fc1.weight"));
    float low = 0, high = 0, bound = 1.0f / 20.0f;
    for (int i = 0; i < 120 * 400; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    assert_true(low >= -bound && low < -0.99f * bound && high <= bound &&
                high > 0.99f * bound);
    state_destroy(a->state);
    state_destroy(b->state);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_has_the_weights_of_its_widths),
        cmocka_unit_test(an_mlp_whose_first_width_is_not_the_samples_size_is_refused),
        cmocka_unit_test(resnet18_has_torchvisions_names_and_size),
        cmocka_unit_test(every_relu_and_add_of_a_resnet_folds_into_a_batch_norm),
        cmocka_unit_test(an_image_smaller_than_the_filters_is_refused),
        cmocka_unit_test(an_unknown_architecture_names_the_known_ones),
        cmocka_unit_test(initial_values_depend_on_seed_and_name_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
