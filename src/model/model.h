/* The architectures by name. Each stands in a file of its own that reads like its description. */
#pragma once

#include "src/core/config.h"
#include "src/model/graph.h"

/* Describes the configured architecture for images of the given size and declares its parameters and
 * buffers in the state. Ranks: local, the same on each
 * Errors: STATUS_USAGE for an unknown model.arch (naming the known ones) or shapes that do not fit */
Status model_build(const Config *config, int channels, int height, int width, State *state,
                   Graph *graph);

/* Whether the model has batch norm (then a shard's size enters the arithmetic: users are warned). */
bool model_has_batch_norm(const Graph *graph);

int model_mlp(Graph *graph, const Config *config, int input);
int model_lenet(Graph *graph, const Config *config, int input);
int model_resnet20(Graph *graph, const Config *config, int input);
int model_resnet18(Graph *graph, const Config *config, int input);
