/* Reads the convolutions off the networks' own descriptions. */
#include "tests/gpu_plan/networks.h"

#include "src/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(Convolutions *all, const VendorConvolution *one) {
    for (int i = 0; i < all->count; i++)
        if (memcmp(&all->items[i], one, sizeof *one) == 0) return;
    if (all->count < CONVOLUTIONS_MAX) all->items[all->count++] = *one;
}

static void add_nodes(Convolutions *all, const Graph *graph, int batch) {
    for (int i = 0; i < graph->count; i++) {
        const Node *node = &graph->nodes[i];
        if (node->kind != NODE_CONV2D) continue;
        const Node *x = &graph->nodes[node->input];
        VendorConvolution one;
        memset(&one, 0, sizeof one); /* compared as bytes */
        one.n = batch;
        one.c = x->channels;
        one.h = x->height;
        one.w = x->width;
        one.m = node->channels;
        one.r = one.s = node->kernel;
        one.stride = node->conv.stride;
        one.padding = node->conv.padding;
        one.groups = node->conv.groups < 1 ? 1 : node->conv.groups;
        add(all, &one);
    }
}

bool convolutions_add(Convolutions *all, const char *arch, int channels, int size,
                      int batch) {
    Config *config = calloc(1, sizeof *config);
    Graph *graph = calloc(1, sizeof *graph);
    State *state = NULL;
    bool built = false;
    if (config != NULL && graph != NULL && state_create(&state) == STATUS_OK) {
        snprintf(config->model.arch, sizeof config->model.arch, "%s", arch);
        config->model.classes = 10;
        built = model_build(config, channels, size, size, state, graph) == STATUS_OK;
    }
    if (built) add_nodes(all, graph, batch);
    state_destroy(state);
    free(graph);
    free(config);
    return built;
}

static int convolve(Graph *graph, const char *name, int x, int channels, int kernel,
                    int stride) {
    Conv2d window = {.stride = stride, .padding = kernel / 2};
    return graph_conv2d(graph, name, x, channels, kernel, window, false,
                        INITIAL_NORMAL_FAN_OUT);
}

/* The stride is in the 3×3 convolution, as torchvision has it. */
static int bottleneck(Graph *graph, const char *name, int x, int channels, int stride) {
    char part[4][48];
    for (int i = 0; i < 4; i++)
        snprintf(part[i], sizeof part[i], "%s.conv%d", name, i);
    bool changes = stride != 1 || (x >= 0 && graph->nodes[x].channels != 4 * channels);
    int shortcut = changes ? convolve(graph, part[0], x, 4 * channels, 1, stride) : x;
    x = convolve(graph, part[1], x, channels, 1, 1);
    x = convolve(graph, part[2], x, channels, 3, stride);
    x = convolve(graph, part[3], x, 4 * channels, 1, 1);
    return graph_relu(graph, graph_add(graph, x, shortcut));
}

static int resnet50(Graph *graph) {
    static const int blocks[4] = {3, 4, 6, 3};
    Pool2d pool = {.kernel = 3, .stride = 2, .padding = 1};
    Conv2d stem = {.stride = 2, .padding = 3};
    int x = graph_input(graph, 3, 224, 224), channels = 64;
    x = graph_conv2d(graph, "conv1", x, 64, 7, stem, false, INITIAL_NORMAL_FAN_OUT);
    x = graph_max_pool(graph, x, pool);
    for (int stage = 0; stage < 4; stage++, channels *= 2)
        for (int block = 0; block < blocks[stage]; block++) {
            char name[32];
            snprintf(name, sizeof name, "layer%d.%d", stage + 1, block);
            x = bottleneck(graph, name, x, channels, stage > 0 && block == 0 ? 2 : 1);
        }
    return graph_linear(graph, "fc", graph_global_pool(graph, x), 1000);
}

bool convolutions_add_resnet50(Convolutions *all, int batch) {
    Graph *graph = calloc(1, sizeof *graph);
    State *state = NULL;
    bool built = false;
    if (graph != NULL && state_create(&state) == STATUS_OK) {
        graph_begin(graph, state);
        int output = resnet50(graph);
        built = graph_finish(graph, output, 1000) == STATUS_OK;
    }
    if (built) add_nodes(all, graph, batch);
    state_destroy(state);
    free(graph);
    return built;
}
