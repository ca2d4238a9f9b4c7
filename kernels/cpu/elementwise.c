/* Passes over single elements: flat.h's loops, since an activation has no padding. */
#include "kernels/cpu/cpu.h"

#include "kernels/flat.h"

#include <assert.h>

/* Whether the operands lie alike in memory. They do not when the network's input, which is always
 * canonical, is one of them. */
static bool alike(const Tensor *a, const Tensor *b) {
    assert(tensor_elements(a) == tensor_elements(b));
    return a->layout == b->layout;
}

Status cpu_relu_forward(Backend *self, int worker, Tensor *y, const Tensor *x) {
    Worker *mine = cpu_worker(self, worker);
    const float *from = x->data;
    float *to = y->data;
    if (!alike(y, x)) {
        TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
        TRY(layout_rows_for(mine, SCRATCH_Y, y, &to));
    }
    flat_relu(to, from, tensor_elements(x));
    if (to != y->data) layout_rows_store(y, to);
    return STATUS_OK;
}

Status cpu_relu_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                         const Tensor *y) {
    Worker *mine = cpu_worker(self, worker);
    const float *gradient = dy->data, *result = y->data;
    float *to = dx->data;
    if (!alike(dx, dy) || !alike(dy, y)) {
        TRY(layout_rows_of(mine, SCRATCH_X, dy, &gradient));
        TRY(layout_rows_of(mine, SCRATCH_Y, y, &result));
        TRY(layout_rows_for(mine, SCRATCH_W, dx, &to));
    }
    flat_relu_gradient(to, gradient, result, tensor_elements(y));
    if (to != dx->data) layout_rows_store(dx, to);
    return STATUS_OK;
}

Status cpu_add(Backend *self, int worker, Tensor *y, const Tensor *a, const Tensor *b) {
    Worker *mine = cpu_worker(self, worker);
    const float *left = a->data, *right = b->data;
    float *to = y->data;
    if (!alike(y, a) || !alike(a, b)) {
        TRY(layout_rows_of(mine, SCRATCH_X, a, &left));
        TRY(layout_rows_of(mine, SCRATCH_W, b, &right));
        TRY(layout_rows_for(mine, SCRATCH_Y, y, &to));
    }
    flat_add(to, left, right, tensor_elements(y));
    if (to != y->data) layout_rows_store(y, to);
    return STATUS_OK;
}

Status cpu_dropout(Backend *self, int worker, Rng rng, const StepValues *values,
                   uint32_t first_sample, float rate, Tensor *y, const Tensor *x) {
    Worker *mine = cpu_worker(self, worker);
    rng.time = values->step;
    int64_t samples = x->shape[0], size = tensor_elements(x) / samples;
    if (alike(y, x) && x->layout == LAYOUT_CANONICAL) {
        flat_dropout(rng, first_sample, rate, y->data, x->data, samples, size);
        return STATUS_OK;
    }
    /* random numbers belong to canonical indices: turn one sample at a time */
    int64_t channels = x->shape[1], pixels = size / channels;
    float *canonical;
    TRY(cpu_scratch(mine, SCRATCH_X, (size_t)size * sizeof(float), &canonical));
    for (int64_t n = 0; n < samples; n++) {
        const float *from = x->data + n * size;
        if (x->layout == LAYOUT_NHWC) {
            layout_transpose(canonical, from, pixels, channels);
            from = canonical;
        }
        bool turn = y->layout == LAYOUT_NHWC;
        float *to = turn ? canonical : y->data + n * size;
        flat_dropout(rng, first_sample + (uint32_t)n, rate, to, from, 1, size);
        if (turn) layout_transpose(y->data + n * size, canonical, channels, pixels);
    }
    return STATUS_OK;
}
