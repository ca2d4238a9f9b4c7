/* One operation, forward and backward, as training would call it: activations in the layout that the
 * device chooses, parameters announced by parameters_changed. Outputs hold NaN before the call, so that
 * an element that an operation forgets shows. */
#include "src/backend.h"
#include "tests/parity/driver.h"
#include "tests/parity/records.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static Backend *backend;
static const BackendOps *ops;

/* Device memory full of NaN. */
static Status poisoned(size_t bytes, void **out) {
    TRY(ops->allocate(backend, bytes, out));
    size_t count = bytes / sizeof(float);
    float *values = malloc(bytes + sizeof(float));
    if (values == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for an output");
    for (size_t i = 0; i < count; i++)
        values[i] = nanf("");
    Status status = ops->copy_in(backend, *out, values, count * sizeof(float));
    free(values);
    return status;
}

static size_t canonical_bytes(const Tensor *tensor) {
    return (size_t)tensor_elements(tensor) * sizeof(float);
}

static Status new_canonical(const Tensor *like, Tensor *out) {
    *out = *like;
    out->layout = 0;
    return poisoned(canonical_bytes(out), (void **)&out->data);
}

/* Memory for an activation of that shape, in the device's own layout. */
static Status new_activation(const Tensor *like, Tensor *out) {
    *out = *like;
    out->layout = 0;
    size_t bytes = ops->layout(backend, out);
    return poisoned(bytes, (void **)&out->data);
}

static Status input(const char *name, const Tensor **out) {
    *out = records_find(name);
    return *out != NULL ? STATUS_OK : FAIL(STATUS_USAGE, NULL, "no input %s", name);
}

static Status read_canonical(const char *name, Tensor *out) {
    const Tensor *host;
    TRY(input(name, &host));
    TRY(new_canonical(host, out));
    return ops->copy_in(backend, out->data, host->data, canonical_bytes(host));
}

static Status read_activation(const char *name, Tensor *out) {
    Tensor canonical;
    TRY(read_canonical(name, &canonical));
    TRY(new_activation(&canonical, out));
    return ops->reorder(backend, 0, out, &canonical);
}

/* *out is NULL when the input has no such array. */
static Status read_parameter(const char *name, Tensor *memory, const Tensor **out) {
    *out = NULL;
    if (records_find(name) == NULL) return STATUS_OK;
    TRY(read_canonical(name, memory));
    *out = memory;
    return ops->parameters_changed(backend, memory->data, tensor_elements(memory));
}

static Status write_output(const char *name, const Tensor *tensor) {
    Tensor canonical = *tensor;
    if (tensor->layout != 0) {
        TRY(new_canonical(tensor, &canonical));
        TRY(ops->reorder(backend, 0, &canonical, tensor));
    }
    TRY(ops->finish(backend, 0));
    float *host = malloc(canonical_bytes(tensor) + sizeof(float));
    if (host == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for %s", name);
    TRY(ops->copy_out(backend, host, canonical.data, canonical_bytes(tensor)));
    records_write(name, tensor->rank, tensor->shape, host);
    free(host);
    return STATUS_OK;
}

/* ---- operations */

static Status run_linear(void) {
    Tensor x, y, dy, dx, dw, db, w_memory, b_memory;
    const Tensor *w, *b;
    TRY(read_activation("x", &x));
    TRY(read_parameter("w", &w_memory, &w));
    TRY(read_parameter("b", &b_memory, &b));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&dy, &y));
    TRY(new_activation(&x, &dx));
    TRY(new_canonical(w, &dw));
    TRY(ops->linear_forward(backend, 0, &y, &x, w, b));
    if (b != NULL) TRY(new_canonical(b, &db));
    TRY(ops->linear_backward(backend, 0, &dx, &dw, b != NULL ? &db : NULL, &dy, &x, w));
    TRY(write_output("y", &y));
    TRY(write_output("dx", &dx));
    TRY(write_output("dw", &dw));
    return b != NULL ? write_output("db", &db) : STATUS_OK;
}

/* first=1: the network's first layer, whose input is canonical and needs no gradient. */
static Status run_conv2d(void) {
    bool first = option("first", 0) != 0;
    Conv2d conv = {.stride = (int)option("stride", 1),
                   .padding = (int)option("padding", 0),
                   .groups = (int)option("groups", 1)};
    Tensor x, y, dy, dx, dw, db, w_memory, b_memory;
    const Tensor *w, *b;
    TRY(first ? read_canonical("x", &x) : read_activation("x", &x));
    TRY(read_parameter("w", &w_memory, &w));
    TRY(read_parameter("b", &b_memory, &b));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&dy, &y));
    TRY(new_activation(&x, &dx));
    TRY(new_canonical(w, &dw));
    if (b != NULL) TRY(new_canonical(b, &db));
    TRY(ops->conv2d_forward(backend, 0, &conv, &y, &x, w, b));
    TRY(ops->conv2d_backward(backend, 0, &conv, first ? NULL : &dx, &dw,
                             b != NULL ? &db : NULL, &dy, &x, w));
    TRY(write_output("y", &y));
    if (!first) TRY(write_output("dx", &dx));
    TRY(write_output("dw", &dw));
    return b != NULL ? write_output("db", &db) : STATUS_OK;
}

static Status run_batch_norm(void) {
    Tensor x, y, dy, dx, residual, dresidual, gamma_memory, beta_memory;
    Tensor dgamma, dbeta, mean, inverse_std, batch_mean, batch_variance;
    const Tensor *gamma, *beta;
    bool adds = records_find("residual") != NULL;
    TRY(read_activation("x", &x));
    TRY(read_activation("dy", &dy));
    TRY(read_parameter("gamma", &gamma_memory, &gamma));
    TRY(read_parameter("beta", &beta_memory, &beta));
    if (adds) {
        TRY(read_activation("residual", &residual));
        TRY(new_activation(&x, &dresidual));
    }
    BatchNorm norm = {.gamma = gamma,
                      .beta = beta,
                      .residual = adds ? &residual : NULL,
                      .relu = option("relu", 0) != 0,
                      .epsilon = 1e-5f};
    TRY(new_activation(&x, &y));
    TRY(new_activation(&x, &dx));
    Tensor *channels[] = {&dgamma,      &dbeta,      &mean,
                          &inverse_std, &batch_mean, &batch_variance};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
        TRY(new_canonical(gamma, channels[i]));
    TRY(ops->batch_norm_forward(backend, 0, &norm, &y, &x, &mean, &inverse_std, &batch_mean,
                                &batch_variance));
    TRY(ops->batch_norm_backward(backend, 0, &norm, &dx, &dgamma, &dbeta,
                                 adds ? &dresidual : NULL, &dy, &y, &x, &mean,
                                 &inverse_std));
    TRY(write_output("y", &y));
    TRY(write_output("dx", &dx));
    TRY(write_output("dgamma", &dgamma));
    TRY(write_output("dbeta", &dbeta));
    TRY(write_output("batch_mean", &batch_mean));
    TRY(write_output("batch_variance", &batch_variance));
    return adds ? write_output("dresidual", &dresidual) : STATUS_OK;
}

static Status run_batch_norm_inference(void) {
    Tensor x, y, residual, gamma_memory, beta_memory, mean, variance;
    const Tensor *gamma, *beta;
    bool adds = records_find("residual") != NULL;
    TRY(read_activation("x", &x));
    TRY(read_parameter("gamma", &gamma_memory, &gamma));
    TRY(read_parameter("beta", &beta_memory, &beta));
    TRY(read_canonical("mean", &mean));
    TRY(read_canonical("variance", &variance));
    if (adds) TRY(read_activation("residual", &residual));
    BatchNorm norm = {.gamma = gamma,
                      .beta = beta,
                      .residual = adds ? &residual : NULL,
                      .relu = option("relu", 0) != 0,
                      .epsilon = 1e-5f};
    TRY(new_activation(&x, &y));
    TRY(ops->batch_norm_inference(backend, 0, &norm, &y, &x, &mean, &variance));
    return write_output("y", &y);
}

static Status run_relu(void) {
    Tensor x, y, dy, dx;
    TRY(read_activation("x", &x));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&x, &y));
    TRY(new_activation(&x, &dx));
    TRY(ops->relu_forward(backend, 0, &y, &x));
    TRY(ops->relu_backward(backend, 0, &dx, &dy, &y));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Status run_add(void) {
    Tensor a, b, y;
    TRY(read_activation("a", &a));
    TRY(read_activation("b", &b));
    TRY(new_activation(&a, &y));
    TRY(ops->add(backend, 0, &y, &a, &b));
    return write_output("y", &y);
}

static Status run_dropout(void) {
    Tensor x, y, dy, dx;
    Rng rng =
        rng_at((uint64_t)option("seed", 0), RNG_DROPOUT, (uint32_t)option("layer", 0), 0);
    StepValues step = {.step = (uint32_t)option("step", 0)}, *values;
    uint32_t sample = (uint32_t)option("sample", 0);
    float rate = (float)option("rate", 0.5);
    TRY(read_activation("x", &x));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&x, &y));
    TRY(new_activation(&x, &dx));
    TRY(ops->allocate(backend, sizeof *values, (void **)&values));
    TRY(ops->copy_in(backend, values, &step, sizeof step));
    TRY(ops->dropout(backend, 0, rng, values, sample, rate, &y, &x));
    TRY(ops->dropout(backend, 0, rng, values, sample, rate, &dx, &dy));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Pool2d pool_options(void) {
    return (Pool2d){.kernel = (int)option("kernel", 2),
                    .stride = (int)option("stride", 2),
                    .padding = (int)option("padding", 0)};
}

static Status run_max_pool(void) {
    Tensor x, y, dy, dx;
    void *choice;
    Pool2d pool = pool_options();
    TRY(read_activation("x", &x));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&dy, &y));
    TRY(new_activation(&x, &dx));
    Tensor shape = y;
    TRY(ops->allocate(backend, ops->layout(backend, &shape) / sizeof(float), &choice));
    TRY(ops->max_pool_forward(backend, 0, &pool, &y, choice, &x));
    TRY(ops->max_pool_backward(backend, 0, &pool, &dx, &dy, choice));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Status run_avg_pool(void) {
    Tensor x, y, dy, dx;
    Pool2d pool = pool_options();
    TRY(read_activation("x", &x));
    TRY(read_activation("dy", &dy));
    TRY(new_activation(&dy, &y));
    TRY(new_activation(&x, &dx));
    TRY(ops->avg_pool_forward(backend, 0, &pool, &y, &x));
    TRY(ops->avg_pool_backward(backend, 0, &pool, &dx, &dy));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Status run_global_pool(void) {
    Tensor x, y, dy, dx;
    TRY(read_activation("x", &x));
    TRY(read_canonical("dy", &dy));
    TRY(new_canonical(&dy, &y));
    TRY(new_activation(&x, &dx));
    TRY(ops->global_pool_forward(backend, 0, &y, &x));
    TRY(ops->global_pool_backward(backend, 0, &dx, &dy));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Status run_flatten(void) {
    Tensor x, y, dy, dx;
    TRY(read_activation("x", &x));
    TRY(read_canonical("dy", &dy));
    TRY(new_canonical(&dy, &y));
    TRY(new_activation(&x, &dx));
    TRY(ops->reorder(backend, 0, &y, &x));
    TRY(ops->reorder(backend, 0, &dx, &dy));
    TRY(write_output("y", &y));
    return write_output("dx", &dx);
}

static Status run_softmax_cross_entropy(void) {
    Tensor logits, dlogits, metrics;
    const Tensor *classes;
    void *labels;
    TRY(read_canonical("logits", &logits));
    TRY(input("labels", &classes));
    int64_t rows = classes->shape[0];
    int32_t *host = malloc((size_t)rows * sizeof *host);
    if (host == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the labels");
    for (int64_t i = 0; i < rows; i++)
        host[i] = (int32_t)classes->data[i];
    TRY(ops->allocate(backend, (size_t)rows * sizeof *host, &labels));
    TRY(ops->copy_in(backend, labels, host, (size_t)rows * sizeof *host));
    free(host);
    TRY(new_canonical(&logits, &dlogits));
    Tensor shape = tensor_1d(NULL, METRICS);
    TRY(new_canonical(&shape, &metrics));
    TRY(ops->softmax_cross_entropy(backend, 0, (float)option("smoothing", 0),
                                   (float)option("scale", 1), metrics.data, &dlogits,
                                   &logits, labels));
    TRY(write_output("metrics", &metrics));
    return write_output("dlogits", &dlogits);
}

static const struct {
    const char *name;
    Status (*run)(void);
} layers[] = {
    {"linear", run_linear},
    {"conv2d", run_conv2d},
    {"batch_norm", run_batch_norm},
    {"batch_norm_inference", run_batch_norm_inference},
    {"relu", run_relu},
    {"add", run_add},
    {"dropout", run_dropout},
    {"max_pool", run_max_pool},
    {"avg_pool", run_avg_pool},
    {"global_pool", run_global_pool},
    {"flatten", run_flatten},
    {"softmax_cross_entropy", run_softmax_cross_entropy},
};

Status layer_run(const char *device, const char *op) {
    BackendOptions one = {.workers = 1};
    TRY(backend_open(device, &one, &backend));
    ops = backend->ops;
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        if (strcmp(layers[i].name, op) == 0) return layers[i].run();
    return FAIL(STATUS_USAGE, NULL, "unknown operation %s", op);
}
