/* Finds an architecture by its name. */
#include "src/model/model.h"

#include <string.h>

static const struct {
    const char *name;
    int (*describe)(Graph *graph, const Config *config, int input);
} architectures[] = {
    {"mlp", model_mlp},
    {"lenet", model_lenet},
    {"resnet20", model_resnet20},
    {"resnet18", model_resnet18},
};

Status model_build(const Config *config, int channels, int height, int width, State *state,
                   Graph *graph) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strcmp(architectures[i].name, config->model.arch) != 0) continue;
        graph_begin(graph, state);
        int input = graph_input(graph, channels, height, width);
        int output = architectures[i].describe(graph, config, input);
        return graph_finish(graph, output, (int)config->model.classes);
    }
    return FAIL(STATUS_USAGE, "set model.arch to one of: mlp, lenet, resnet20, resnet18",
                "there is no architecture \"%s\"", config->model.arch);
}

bool model_has_batch_norm(const Graph *graph) {
    for (int i = 0; i < graph->count; i++)
        if (graph->nodes[i].kind == NODE_BATCH_NORM) return true;
    return false;
}
