/* Opens the reference device: its table, its memory (the host's), and the operations that are one
 * call of a shared pass. */
#include "kernels/load.h"

#include "kernels/flat.h"
#include "kernels/host.h"
#include "kernels/reference/reference.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void memory(Backend *self, BackendMemory *out) {
    host_memory((HostDevice *)self, 0, out);
}

static size_t layout(Backend *self, Tensor *tensor) {
    (void)self;
    tensor->layout = 0;
    return (size_t)tensor_elements(tensor) * sizeof(float);
}

static Status reorder(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)worker;
    assert(tensor_elements(y) == tensor_elements(x));
    return host_copy(self, y->data, x->data, (size_t)tensor_elements(x) * sizeof(float));
}

static Status parameters_changed(Backend *self, const float *data, int64_t count) {
    (void)self, (void)data, (void)count; /* weights are read where they lie */
    return STATUS_OK;
}

static Status parameters_moved(Backend *self, const float *from, const float *to,
                               int64_t count) {
    (void)self, (void)from, (void)to, (void)count;
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

static Status dropout(Backend *self, int worker, Rng rng, const StepValues *values,
                      uint32_t first_sample, float rate, Tensor *y, const Tensor *x) {
    (void)self, (void)worker;
    rng.time = values->step;
    int64_t rows = x->shape[0];
    flat_dropout(rng, first_sample, rate, y->data, x->data, rows,
                 tensor_elements(x) / rows);
    return STATUS_OK;
}

static void device_close(Backend *self) {
    free(self);
}

static const BackendOps table = {
    .name = "reference",
    .host_memory = true,
    .allocate = host_allocate,
    .release = host_release,
    .zero = host_zero,
    .copy_in = host_copy,
    .copy_out = host_copy,
    .finish = host_finish,
    .memory = memory,
    .pin = host_pin,
    .unpin = host_unpin,
    .fetch = host_copy,
    .fetch_fence = host_fetch_fence,
    .fetch_finish = host_fetch_finish,
    .repeat = host_repeat,
    .layout = layout,
    .reorder = reorder,
    .parameters_changed = parameters_changed,
    .parameters_moved = parameters_moved,
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
    .softmax_cross_entropy = host_softmax_cross_entropy,
    .accumulate = host_accumulate,
    .blend = host_blend,
    .sum_squares = host_sum_squares,
    .judge = host_judge,
    .sgd = host_sgd,
    .adam = host_adam,
    .open_collective = host_open_collective,
    .plans = host_plans,
    .close = device_close,
};

Status reference_open(const BackendOptions *options, Backend **out) {
    *out = NULL;
    TRY(host_check_precision("reference", options));
    HostDevice *device = calloc(1, sizeof *device);
    if (device == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the reference device");
    Backend *backend = &device->base;
    backend->ops = &table;
    backend->workers = options == NULL || options->workers < 1 ? 1 : options->workers;
    snprintf(backend->kind, sizeof backend->kind, "reference rekindle-1");
    *out = backend;
    return STATUS_OK;
}
