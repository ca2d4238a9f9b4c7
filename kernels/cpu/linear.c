/* Linear layers by oneDNN's GEMM, which for one thread is as fast as its inner product on plain
 * weights and costs less per call; biases by our own loops. */
#include "kernels/cpu/cpu.h"

#include <assert.h>

Status cpu_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                          const Tensor *w, const Tensor *b) {
    cpu_worker(self, worker);
    int64_t rows = x->shape[0], inputs = x->shape[1], outputs = w->shape[0];
    assert(y->shape[0] == rows && y->shape[1] == outputs && w->shape[1] == inputs);
    TRY_LIBRARY(dnnl_sgemm('N', 'T', rows, outputs, inputs, 1.0f, x->data, inputs, w->data,
                           inputs, 0.0f, y->data, outputs));
    if (b == NULL) return STATUS_OK;
    for (int64_t row = 0; row < rows; row++) {
        float *restrict to = y->data + row * outputs;
        const float *restrict bias = b->data;
        for (int64_t i = 0; i < outputs; i++)
            to[i] += bias[i];
    }
    return STATUS_OK;
}

Status cpu_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw, Tensor *db,
                           const Tensor *dy, const Tensor *x, const Tensor *w) {
    Worker *mine = cpu_worker(self, worker);
    int64_t rows = dy->shape[0], outputs = dy->shape[1], inputs = w->shape[1];
    assert(x->shape[0] == rows && x->shape[1] == inputs && w->shape[0] == outputs);
    if (dx != NULL)
        TRY_LIBRARY(dnnl_sgemm('N', 'N', rows, inputs, outputs, 1.0f, dy->data, outputs,
                               w->data, inputs, 0.0f, dx->data, inputs));
    if (dw != NULL)
        TRY_LIBRARY(dnnl_sgemm('T', 'N', outputs, inputs, rows, 1.0f, dy->data, outputs,
                               x->data, inputs, 0.0f, dw->data, inputs));
    if (db != NULL) TRY(columns_sum(mine, db->data, dy->data, rows, outputs, 1.0));
    return STATUS_OK;
}
