/* Builds the list of nodes, declares what each node trains, and folds what one pass can do. */
#include "src/model/graph.h"

#include <stdio.h>
#include <string.h>

void graph_begin(Graph *graph, State *state) {
    memset(graph, 0, sizeof *graph);
    graph->state = state;
}

static const Node *node_at(const Graph *graph, int index) {
    return &graph->nodes[index];
}

/* A new node with its input's shape; NULL once anything has failed. */
static Node *append(Graph *graph, NodeKind kind, int input) {
    if (graph->status != STATUS_OK) return NULL;
    if (graph->count == GRAPH_NODES) {
        graph->status =
            FAIL(STATUS_USAGE, "use fewer layers", "more than %d layers", GRAPH_NODES);
        return NULL;
    }
    Node *node = &graph->nodes[graph->count++];
    if (input >= 0) {
        const Node *from = node_at(graph, input);
        node->rank = from->rank;
        node->channels = from->channels;
        node->height = from->height;
        node->width = from->width;
    }
    node->kind = kind;
    node->input = input;
    node->residual = node->weight = node->bias = node->mean = node->variance = -1;
    return node;
}

static int index_of(const Graph *graph, const Node *node) {
    return node == NULL ? -1 : (int)(node - graph->nodes);
}

/* Declares "model/<name>.<suffix>" with the given shape and first values. */
static int declare(Graph *graph, ArenaKind arena, const char *name, const char *suffix,
                   int rank, const int64_t *shape, InitialKind initial, int fan) {
    if (graph->status != STATUS_OK) return -1;
    char path[STATE_PATH_MAX + 64];
    snprintf(path, sizeof path, "model/%s.%s", name, suffix);
    int entry = -1;
    graph->status =
        state_declare(graph->state, arena, path, DTYPE_F32, rank, shape, &entry);
    if (graph->status == STATUS_OK && graph->initial_count == GRAPH_INITIALS)
        graph->status = FAIL(STATUS_USAGE, "use fewer layers",
                             "more than %d parameter tensors", GRAPH_INITIALS);
    if (graph->status != STATUS_OK) return -1;
    graph->initials[graph->initial_count++] = (Initial){entry, initial, fan};
    return entry;
}

static void refuse(Graph *graph, const char *name, const char *why) {
    if (graph->status == STATUS_OK)
        graph->status = FAIL(STATUS_USAGE, "use larger images or another model.arch",
                             "layer %s does not fit: %s", name, why);
}

/* Output side of a window that slides over `size` padded values, rounded down; 0: does not fit. */
static int slide(int size, int kernel, int stride, int padding) {
    int room = size + 2 * padding - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

int graph_input(Graph *graph, int channels, int height, int width) {
    Node *node = append(graph, NODE_INPUT, -1);
    if (node == NULL) return -1;
    node->rank = 4;
    node->channels = channels;
    node->height = height;
    node->width = width;
    return index_of(graph, node);
}

int graph_conv2d(Graph *graph, const char *name, int input, int channels, int kernel,
                 Conv2d conv, bool bias, InitialKind initial) {
    Node *node = append(graph, NODE_CONV2D, input);
    if (node == NULL) return -1;
    if (conv.groups == 0) conv.groups = 1;
    if (conv.stride == 0) conv.stride = 1;
    int in = node->channels;
    if (node->rank != 4 || in % conv.groups != 0 || channels % conv.groups != 0)
        refuse(graph, name,
               "a convolution needs images, and groups that divide its channels");
    node->conv = conv;
    node->kernel = kernel;
    node->channels = channels;
    node->height = slide(node->height, kernel, conv.stride, conv.padding);
    node->width = slide(node->width, kernel, conv.stride, conv.padding);
    if (node->height < 1 || node->width < 1)
        refuse(graph, name, "the image is smaller than the filter");
    int64_t shape[4] = {channels, in / conv.groups, kernel, kernel};
    int fan_in = in / conv.groups * kernel * kernel;
    int fan = initial == INITIAL_NORMAL_FAN_OUT ? channels / conv.groups * kernel * kernel
                                                : fan_in;
    node->weight = declare(graph, ARENA_PARAMETER, name, "weight", 4, shape, initial, fan);
    if (bias)
        node->bias = declare(graph, ARENA_PARAMETER, name, "bias", 1, shape,
                             INITIAL_UNIFORM_FAN_IN, fan_in);
    return index_of(graph, node);
}

int graph_linear(Graph *graph, const char *name, int input, int features) {
    Node *node = append(graph, NODE_LINEAR, input);
    if (node == NULL) return -1;
    if (node->rank != 2) refuse(graph, name, "a linear layer needs flat input");
    int64_t shape[2] = {features, node->channels};
    int fan_in = node->channels;
    node->channels = features;
    node->weight = declare(graph, ARENA_PARAMETER, name, "weight", 2, shape,
                           INITIAL_UNIFORM_FAN_IN, fan_in);
    node->bias = declare(graph, ARENA_PARAMETER, name, "bias", 1, shape,
                         INITIAL_UNIFORM_FAN_IN, fan_in);
    return index_of(graph, node);
}

int graph_batch_norm(Graph *graph, const char *name, int input) {
    Node *node = append(graph, NODE_BATCH_NORM, input);
    if (node == NULL) return -1;
    int64_t shape[1] = {node->channels};
    node->weight =
        declare(graph, ARENA_PARAMETER, name, "weight", 1, shape, INITIAL_ONE, 0);
    node->bias = declare(graph, ARENA_PARAMETER, name, "bias", 1, shape, INITIAL_ZERO, 0);
    node->mean =
        declare(graph, ARENA_BUFFER, name, "running_mean", 1, shape, INITIAL_ZERO, 0);
    node->variance =
        declare(graph, ARENA_BUFFER, name, "running_var", 1, shape, INITIAL_ONE, 0);
    return index_of(graph, node);
}

int graph_relu(Graph *graph, int input) {
    return index_of(graph, append(graph, NODE_RELU, input));
}

int graph_add(Graph *graph, int input, int residual) {
    Node *node = append(graph, NODE_ADD, input);
    if (node == NULL) return -1;
    const Node *other = node_at(graph, residual);
    if (other->rank != node->rank || other->channels != node->channels ||
        other->height != node->height || other->width != node->width)
        refuse(graph, "add", "its two inputs have different shapes");
    node->residual = residual;
    return index_of(graph, node);
}

int graph_dropout(Graph *graph, int input, double rate) {
    if (rate == 0) return input;
    Node *node = append(graph, NODE_DROPOUT, input);
    if (node == NULL) return -1;
    node->rate = (float)rate;
    node->dropout = graph->dropouts++;
    return index_of(graph, node);
}

static int append_pool(Graph *graph, NodeKind kind, const char *name, int input,
                       Pool2d pool) {
    Node *node = append(graph, kind, input);
    if (node == NULL) return -1;
    node->pool = pool;
    node->height = slide(node->height, pool.kernel, pool.stride, pool.padding);
    node->width = slide(node->width, pool.kernel, pool.stride, pool.padding);
    if (node->rank != 4 || node->height < 1 || node->width < 1)
        refuse(graph, name, "the image is smaller than the window");
    return index_of(graph, node);
}

int graph_max_pool(Graph *graph, int input, Pool2d pool) {
    return append_pool(graph, NODE_MAX_POOL, "max pool", input, pool);
}

int graph_avg_pool(Graph *graph, int input, Pool2d pool) {
    return append_pool(graph, NODE_AVG_POOL, "average pool", input, pool);
}

/* Gives a node a flat output of `features` values. */
static int append_flat(Graph *graph, NodeKind kind, int input, bool pooled) {
    Node *node = append(graph, kind, input);
    if (node == NULL) return -1;
    if (!pooled) node->channels *= node->height * node->width;
    node->rank = 2;
    node->height = node->width = 1;
    return index_of(graph, node);
}

int graph_global_pool(Graph *graph, int input) {
    return append_flat(graph, NODE_GLOBAL_POOL, input, true);
}

int graph_flatten(Graph *graph, int input) {
    return append_flat(graph, NODE_FLATTEN, input, false);
}

static int consumers(const Graph *graph, int index) {
    int count = index == graph->output;
    for (int i = 0; i < graph->count; i++)
        count += (graph->nodes[i].input == index) + (graph->nodes[i].residual == index);
    return count;
}

/* Takes node `gone` out: whoever used it now uses `instead`. */
static void remove_node(Graph *graph, int gone, int instead) {
    for (int i = 0; i < graph->count; i++) {
        Node *node = &graph->nodes[i];
        if (node->input == gone) node->input = instead;
        if (node->residual == gone) node->residual = instead;
    }
    if (graph->output == gone) graph->output = instead;
    memmove(graph->nodes + gone, graph->nodes + gone + 1,
            (size_t)(graph->count - gone - 1) * sizeof *graph->nodes);
    graph->count--;
    for (int i = 0; i < graph->count; i++) {
        Node *node = &graph->nodes[i];
        node->input -= node->input > gone;
        node->residual -= node->residual > gone;
    }
    graph->output -= graph->output > gone;
}

/* An add folds into the later of its inputs (the other is computed by then), a relu into the batch
 * norm before it; each only where nobody else looks at the value in between. */
static void fold_into_batch_norms(Graph *graph) {
    for (int i = 0; i < graph->count; i++) {
        Node *node = &graph->nodes[i];
        if (node->kind == NODE_ADD) {
            int late = node->input > node->residual ? node->input : node->residual;
            int early = node->input + node->residual - late;
            Node *norm = &graph->nodes[late];
            if (norm->kind != NODE_BATCH_NORM || norm->relu || norm->residual >= 0 ||
                early == late || consumers(graph, late) != 1)
                continue;
            norm->residual = early;
            remove_node(graph, i--, late);
        } else if (node->kind == NODE_RELU) {
            int before = node->input;
            Node *norm = &graph->nodes[before];
            if (norm->kind != NODE_BATCH_NORM || norm->relu ||
                consumers(graph, before) != 1)
                continue;
            norm->relu = true;
            remove_node(graph, i--, before);
        }
    }
}

Status graph_finish(Graph *graph, int output, int classes) {
    if (graph->status != STATUS_OK) return graph->status;
    const Node *last = node_at(graph, output);
    if (last->rank != 2 || last->channels != classes)
        return FAIL(STATUS_USAGE, "make the last width equal to model.classes",
                    "the model gives %d values a sample, but there are %d classes",
                    last->channels, classes);
    graph->output = output;
    fold_into_batch_norms(graph);
    return STATUS_OK;
}
