/* Opens the reference device: its table, its memory (the host's), and the operations that are one
 * call of a shared pass. */
#include "kernels/load.h"

#include "kernels/flat.h"
#include "kernels/loss.h"
#include "kernels/reference/reference.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Status allocate(Backend *self, size_t bytes, void **out) {
    (void)self;
    size_t rounded = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;
    *out = rounded < bytes ? NULL : aligned_alloc(64, rounded);
    if (*out == NULL)
        return FAIL(STATUS_MEMORY, "use a smaller train.batch or a smaller model",
                    "no memory for %zu bytes", bytes);
    return STATUS_OK;
}

static void release(Backend *self, void *memory) {
    (void)self;
    free(memory);
}

static Status copy(Backend *self, void *to, const void *from, size_t bytes) {
    (void)self;
    if (bytes > 0) memcpy(to, from, bytes);
    return STATUS_OK;
}

static Status finish(Backend *self, int worker) {
    (void)self, (void)worker; /* every operation is done when its call returns */
    return STATUS_OK;
}

static size_t layout(Backend *self, Tensor *tensor) {
    (void)self;
    tensor->layout = 0;
    return (size_t)tensor_elements(tensor) * sizeof(float);
}

static Status reorder(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)worker;
    assert(tensor_elements(y) == tensor_elements(x));
    return copy(self, y->data, x->data, (size_t)tensor_elements(x) * sizeof(float));
}

static Status parameters_changed(Backend *self, const float *data, int64_t count) {
    (void)self, (void)data, (void)count; /* weights are read where they lie */
    return STATUS_OK;
}

static Status relu_forward(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)self, (void)worker;
    flat_relu(y->data, x->data, tensor_elements(x));
    return STATUS_OK;
}

static Status relu_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                            const Tensor *y) {
    (void)self, (void)worker;
    flat_relu_gradient(dx->data, dy->data, y->data, tensor_elements(y));
    return STATUS_OK;
}

static Status add(Backend *self, int worker, Tensor *y, const Tensor *a, const Tensor *b) {
    (void)self, (void)worker;
    flat_add(y->data, a->data, b->data, tensor_elements(y));
    return STATUS_OK;
}

static Status dropout(Backend *self, int worker, Rng rng, uint32_t first_sample, float rate,
                      Tensor *y, const Tensor *x) {
    (void)self, (void)worker;
    int64_t rows = x->shape[0];
    flat_dropout(rng, first_sample, rate, y->data, x->data, rows,
                 tensor_elements(x) / rows);
    return STATUS_OK;
}

static Status softmax_cross_entropy(Backend *self, int worker, float smoothing, float scale,
                                    float *metrics, Tensor *dlogits, const Tensor *logits,
                                    const int32_t *labels) {
    (void)self, (void)worker;
    loss_softmax_cross_entropy(smoothing, scale, metrics,
                               dlogits == NULL ? NULL : dlogits->data, logits->data, labels,
                               logits->shape[0], logits->shape[1]);
    return STATUS_OK;
}

static Status accumulate(Backend *self, int worker, float *y, const float *x,
                         int64_t count) {
    (void)self, (void)worker;
    flat_accumulate(y, x, count);
    return STATUS_OK;
}

static Status blend(Backend *self, int worker, float *y, const float *x, int64_t count,
                    float rate, float scale) {
    (void)self, (void)worker;
    flat_blend(y, x, count, rate, scale);
    return STATUS_OK;
}

static Status sum_squares(Backend *self, int worker, const float *x, int64_t count,
                          double *out) {
    (void)self, (void)worker;
    *out = flat_sum_squares(x, count);
    return STATUS_OK;
}

static Status sgd(Backend *self, int worker, const OptimizerPass *pass) {
    (void)self, (void)worker;
    flat_sgd(pass);
    return STATUS_OK;
}

static Status adam(Backend *self, int worker, const OptimizerPass *pass) {
    (void)self, (void)worker;
    flat_adam(pass);
    return STATUS_OK;
}

static void device_close(Backend *self) {
    free(self);
}

static const BackendOps table = {
    .name = "reference",
    .allocate = allocate,
    .release = release,
    .copy_in = copy,
    .copy_out = copy,
    .finish = finish,
    .layout = layout,
    .reorder = reorder,
    .parameters_changed = parameters_changed,
    .conv2d_forward = reference_conv2d_forward,
    .conv2d_backward = reference_conv2d_backward,
    .linear_forward = reference_linear_forward,
    .linear_backward = reference_linear_backward,
    .batch_norm_forward = reference_batch_norm_forward,
    .batch_norm_inference = reference_batch_norm_inference,
    .batch_norm_backward = reference_batch_norm_backward,
    .relu_forward = relu_forward,
    .relu_backward = relu_backward,
    .add = add,
    .dropout = dropout,
    .max_pool_forward = reference_max_pool_forward,
    .max_pool_backward = reference_max_pool_backward,
    .avg_pool_forward = reference_avg_pool_forward,
    .avg_pool_backward = reference_avg_pool_backward,
    .global_pool_forward = reference_global_pool_forward,
    .global_pool_backward = reference_global_pool_backward,
    .softmax_cross_entropy = softmax_cross_entropy,
    .accumulate = accumulate,
    .blend = blend,
    .sum_squares = sum_squares,
    .sgd = sgd,
    .adam = adam,
    .close = device_close,
};

Status reference_open(const BackendOptions *options, Backend **out) {
    *out = NULL;
    Backend *backend = calloc(1, sizeof *backend);
    if (backend == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the reference device");
    backend->ops = &table;
    backend->workers = options == NULL || options->workers < 1 ? 1 : options->workers;
    snprintf(backend->kind, sizeof backend->kind, "reference rekindle-1");
    *out = backend;
    return STATUS_OK;
}
