/* y = x · wᵀ + b and its gradients: dx = dy · w, dw = dyᵀ · x, db = Σ_n dy. */
#include "kernels/reference/reference.h"

#include <assert.h>

Status reference_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                                const Tensor *w, const Tensor *b) {
    (void)self, (void)worker;
    int64_t rows = x->shape[0], k_count = x->shape[1], m_count = w->shape[0];
    assert(w->shape[1] == k_count && y->shape[0] == rows && y->shape[1] == m_count);
    for (int64_t n = 0; n < rows; n++)
        for (int64_t m = 0; m < m_count; m++) {
            double sum = 0.0;
            for (int64_t k = 0; k < k_count; k++)
                sum += (double)x->data[n * k_count + k] * (double)w->data[m * k_count + k];
            if (b != NULL) sum += (double)b->data[m];
            y->data[n * m_count + m] = (float)sum;
        }
    return STATUS_OK;
}

Status reference_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw,
                                 Tensor *db, const Tensor *dy, const Tensor *x,
                                 const Tensor *w) {
    (void)self, (void)worker;
    int64_t rows = x->shape[0], k_count = x->shape[1], m_count = w->shape[0];
    assert(w->shape[1] == k_count && dy->shape[0] == rows && dy->shape[1] == m_count);
    for (int64_t n = 0; dx != NULL && n < rows; n++)
        for (int64_t k = 0; k < k_count; k++) {
            double sum = 0.0;
            for (int64_t m = 0; m < m_count; m++)
                sum += (double)dy->data[n * m_count + m] * (double)w->data[m * k_count + k];
            dx->data[n * k_count + k] = (float)sum;
        }
    for (int64_t m = 0; dw != NULL && m < m_count; m++)
        for (int64_t k = 0; k < k_count; k++) {
            double sum = 0.0;
            for (int64_t n = 0; n < rows; n++)
                sum += (double)dy->data[n * m_count + m] * (double)x->data[n * k_count + k];
            dw->data[m * k_count + k] = (float)sum;
        }
    for (int64_t m = 0; db != NULL && m < m_count; m++) {
        double sum = 0.0;
        for (int64_t n = 0; n < rows; n++)
            sum += (double)dy->data[n * m_count + m];
        db->data[m] = (float)sum;
    }
    return STATUS_OK;
}
