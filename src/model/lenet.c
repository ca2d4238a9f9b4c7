/* LeNet-5 (LeCun et al., 1998) as it is trained today: ReLU and max pooling, with batch norm and
 * dropout where configured. */
#include "src/model/model.h"

int model_lenet(Graph *graph, const Config *config, int input) {
    const InitialKind uniform = INITIAL_UNIFORM_FAN_IN;
    const Pool2d halve = {.kernel = 2, .stride = 2};
    bool norm = config->model.batch_norm;

    int x =
        graph_conv2d(graph, "conv1", input, 6, 5, (Conv2d){.padding = 2}, !norm, uniform);
    if (norm) x = graph_batch_norm(graph, "bn1", x);
    x = graph_relu(graph, x);
    x = graph_max_pool(graph, x, halve);

    x = graph_conv2d(graph, "conv2", x, 16, 5, (Conv2d){0}, !norm, uniform);
    if (norm) x = graph_batch_norm(graph, "bn2", x);
    x = graph_relu(graph, x);
    x = graph_max_pool(graph, x, halve);

    x = graph_flatten(graph, x);
    x = graph_relu(graph, graph_linear(graph, "fc1", x, 120));
    x = graph_dropout(graph, x, config->model.dropout);
    x = graph_relu(graph, graph_linear(graph, "fc2", x, 84));
    x = graph_dropout(graph, x, config->model.dropout);
    return graph_linear(graph, "fc3", x, (int)config->model.classes);
}
