/* A network as a list of nodes, in the order in which they are computed. An architecture file
 * (lenet.c, resnet.c …) builds it by calls that read like a description; execution.c runs it.
 *
 * Errors stick: after the first one every call does nothing and returns -1, and graph_finish reports
 * it. So an architecture needs no checks of its own. */
#pragma once

#include "src/backend.h"
#include "src/state/state.h"

typedef enum {
    NODE_INPUT,
    NODE_CONV2D,
    NODE_LINEAR,
    NODE_BATCH_NORM,
    NODE_RELU,
    NODE_ADD,
    NODE_DROPOUT,
    NODE_MAX_POOL,
    NODE_AVG_POOL,
    NODE_GLOBAL_POOL,
    NODE_FLATTEN,
} NodeKind;

typedef struct {
    NodeKind kind;
    int input;    /* node whose output this one takes; -1 for the network's input */
    int residual; /* add: the other one; batch norm: what is added after it; else -1 */
    bool relu;    /* batch norm: followed by relu */
    int rank;     /* of the output: 4 or 2 */
    int channels, height,
        width; /* of the output for one sample; rank 2: channels features */
    int kernel;
    Conv2d conv;
    Pool2d pool;
    float rate;         /* dropout */
    uint32_t dropout;   /* the layer's number: its sub-stream of RNG_DROPOUT */
    int weight, bias;   /* entries of the state, or -1 */
    int mean, variance; /* batch norm: entries of the running statistics */
} Node;

typedef enum {
    INITIAL_UNIFORM_FAN_IN, /* U(±1/sqrt(fan_in)): PyTorch's default of Linear and Conv2d */
    INITIAL_NORMAL_FAN_OUT, /* N(0, 2/fan_out): He et al., torchvision's ResNet */
    INITIAL_ONE,
    INITIAL_ZERO,
} InitialKind;

typedef struct {
    int entry;
    InitialKind kind;
    int fan;
} Initial;

enum { GRAPH_NODES = 512, GRAPH_INITIALS = 1024 };

typedef struct {
    State *state; /* where parameters and buffers are declared, under "model/" */
    Node nodes[GRAPH_NODES];
    int count;
    int output; /* node that gives the logits (N, classes) */
    Initial initials[GRAPH_INITIALS];
    int initial_count;
    uint32_t dropouts;
    Status status;
} Graph;

#define BATCH_NORM_EPSILON 1e-5f
#define BATCH_NORM_RATE \
    0.1f /* running = (1 − rate)·running + rate·batch: PyTorch's momentum */

void graph_begin(Graph *graph, State *state);

/* Each returns the new node. Names follow torchvision: "layer1.0.conv1" declares
 * "model/layer1.0.conv1.weight". */
int graph_input(Graph *graph, int channels, int height, int width);
int graph_conv2d(Graph *graph, const char *name, int input, int channels, int kernel,
                 Conv2d conv, bool bias, InitialKind initial);
int graph_linear(Graph *graph, const char *name, int input, int features);
int graph_batch_norm(Graph *graph, const char *name, int input);
int graph_relu(Graph *graph, int input);
int graph_add(Graph *graph, int input, int residual);
int graph_dropout(Graph *graph, int input, double rate);
int graph_max_pool(Graph *graph, int input, Pool2d pool);
int graph_avg_pool(Graph *graph, int input, Pool2d pool);
int graph_global_pool(Graph *graph, int input);
int graph_flatten(Graph *graph, int input);

/* Ends the description: checks that `output` gives one value a class, and folds an add and a relu
 * that follow a batch norm into it (one pass over memory instead of three, the same bits).
 * Errors: the first error of any call; STATUS_USAGE for shapes that do not fit */
Status graph_finish(Graph *graph, int output, int classes);

/* Writes the initial values: a fresh start's only. Every number is a function of (seed, name). */
void graph_initialise(const Graph *graph, uint64_t seed);
