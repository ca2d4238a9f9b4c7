/* A multi-layer perceptron: linear layers of the configured widths, ReLU between them. Names fc1, fc2 …
 * With model.widths [784, 10] it is softmax regression. */
#include "src/model/model.h"

#include <stdio.h>

int model_mlp(Graph *graph, const Config *config, int input) {
    const ConfigList *widths = &config->model.widths;
    int x = graph_flatten(graph, input);
    if (x >= 0 && graph->nodes[x].channels != (int)widths->values[0]) {
        graph->status =
            FAIL(STATUS_USAGE, "make the first of model.widths the size of a sample",
                 "model.widths begins with %d, but a sample has %d values",
                 (int)widths->values[0], graph->nodes[x].channels);
        return -1;
    }
    for (int i = 1; i < widths->count; i++) {
        char name[32];
        snprintf(name, sizeof name, "fc%d", i);
        x = graph_linear(graph, name, x, (int)widths->values[i]);
        if (i == widths->count - 1) break;
        if (config->model.batch_norm) {
            snprintf(name, sizeof name, "bn%d", i);
            x = graph_batch_norm(graph, name, x);
        }
        x = graph_relu(graph, x);
        x = graph_dropout(graph, x, config->model.dropout);
    }
    return x;
}
