/* Residual networks (He et al., 2015) of basic blocks, with torchvision's parameter names.
 *
 * resnet20: the CIFAR form, three stages of three blocks with 16, 32, 64 channels. Where a stage
 * halves the image its first block's shortcut is a 1×1 convolution with batch norm (the paper's
 * option B).
 * resnet18: four stages of two blocks with 64 to 512 channels and the small-image stem (3×3, stride 1,
 * no pooling). */
#include "src/model/model.h"

#include <stdio.h>

static int conv_norm(Graph *graph, const char *conv, const char *norm, int x, int channels,
                     int kernel, int stride) {
    Conv2d window = {.stride = stride, .padding = kernel / 2};
    x = graph_conv2d(graph, conv, x, channels, kernel, window, false,
                     INITIAL_NORMAL_FAN_OUT);
    return graph_batch_norm(graph, norm, x);
}

static int basic_block(Graph *graph, const char *name, int x, int channels, int stride) {
    char conv1[48], bn1[48], conv2[48], bn2[48], down_conv[48], down_norm[48];
    snprintf(conv1, sizeof conv1, "%s.conv1", name);
    snprintf(bn1, sizeof bn1, "%s.bn1", name);
    snprintf(conv2, sizeof conv2, "%s.conv2", name);
    snprintf(bn2, sizeof bn2, "%s.bn2", name);
    snprintf(down_conv, sizeof down_conv, "%s.downsample.0", name);
    snprintf(down_norm, sizeof down_norm, "%s.downsample.1", name);

    int shortcut = x;
    bool changes = stride != 1 || (x >= 0 && graph->nodes[x].channels != channels);
    x = graph_relu(graph, conv_norm(graph, conv1, bn1, x, channels, 3, stride));
    x = conv_norm(graph, conv2, bn2, x, channels, 3, 1);
    if (changes)
        shortcut = conv_norm(graph, down_conv, down_norm, shortcut, channels, 1, stride);
    if (x < 0 || shortcut < 0) return -1;
    return graph_relu(graph, graph_add(graph, x, shortcut));
}

static int resnet(Graph *graph, const Config *config, int x, int stages, int blocks,
                  int channels) {
    x = graph_relu(graph, conv_norm(graph, "conv1", "bn1", x, channels, 3, 1));
    for (int stage = 0; stage < stages; stage++, channels *= 2)
        for (int block = 0; block < blocks; block++) {
            char name[32];
            snprintf(name, sizeof name, "layer%d.%d", stage + 1, block);
            x = basic_block(graph, name, x, channels, stage > 0 && block == 0 ? 2 : 1);
        }
    x = graph_global_pool(graph, x);
    x = graph_dropout(graph, x, config->model.dropout);
    return graph_linear(graph, "fc", x, (int)config->model.classes);
}

int model_resnet20(Graph *graph, const Config *config, int input) {
    return resnet(graph, config, input, 3, 3, 16);
}

int model_resnet18(Graph *graph, const Config *config, int input) {
    return resnet(graph, config, input, 4, 2, 64);
}
