/* Batch norm over N, H, W of one shard, one channel at a time: two passes for the statistics (mean,
 * then the squares around it), since the one-pass form loses digits when the mean is large. */
#include "kernels/reference/reference.h"

#include "kernels/element.h"

#include <assert.h>
#include <math.h>

/* A channel's elements: for each of n rows, `plane` consecutive ones. */
typedef struct {
    int64_t n, channels, plane;
} Extents;

static Extents extents_of(const Tensor *x) {
    Extents e = {x->shape[0], x->shape[1], x->rank == 4 ? x->shape[2] * x->shape[3] : 1};
    assert(x->layout == 0 && (x->rank == 4 || x->rank == 2));
    return e;
}

static int64_t at(const Extents *e, int64_t n, int64_t c, int64_t p) {
    return (n * e->channels + c) * e->plane + p;
}

static void normalise(const Extents *e, const BatchNorm *norm, float *y, const float *x,
                      int64_t c, float mean, float inverse_std) {
    float gamma = norm->gamma->data[c], beta = norm->beta->data[c];
    for (int64_t n = 0; n < e->n; n++)
        for (int64_t p = 0; p < e->plane; p++) {
            int64_t i = at(e, n, c, p);
            float value = element_batch_norm(x[i], mean, inverse_std, gamma, beta);
            if (norm->residual != NULL) value += norm->residual->data[i];
            y[i] = norm->relu ? element_relu(value) : value;
        }
}

Status reference_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm,
                                    Tensor *y, const Tensor *x, Tensor *mean,
                                    Tensor *inverse_std, Tensor *batch_mean,
                                    Tensor *batch_variance) {
    (void)self, (void)worker;
    Extents e = extents_of(x);
    int64_t count = e.n * e.plane;
    double freedom = count > 1 ? (double)(count - 1) : 1.0;
    for (int64_t c = 0; c < e.channels; c++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t n = 0; n < e.n; n++)
            for (int64_t p = 0; p < e.plane; p++)
                sum += (double)x->data[at(&e, n, c, p)];
        double centre = sum / (double)count;
        for (int64_t n = 0; n < e.n; n++)
            for (int64_t p = 0; p < e.plane; p++) {
                double away = (double)x->data[at(&e, n, c, p)] - centre;
                squares += away * away;
            }
        double variance = squares / (double)count;
        mean->data[c] = (float)centre;
        inverse_std->data[c] = (float)(1.0 / sqrt(variance + (double)norm->epsilon));
        batch_mean->data[c] = (float)centre;
        batch_variance->data[c] = (float)(squares / freedom);
        normalise(&e, norm, y->data, x->data, c, mean->data[c], inverse_std->data[c]);
    }
    return STATUS_OK;
}

Status reference_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm,
                                      Tensor *y, const Tensor *x,
                                      const Tensor *running_mean,
                                      const Tensor *running_variance) {
    (void)self, (void)worker;
    Extents e = extents_of(x);
    for (int64_t c = 0; c < e.channels; c++) {
        double variance = (double)running_variance->data[c];
        float inverse_std = (float)(1.0 / sqrt(variance + (double)norm->epsilon));
        normalise(&e, norm, y->data, x->data, c, running_mean->data[c], inverse_std);
    }
    return STATUS_OK;
}

Status reference_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm,
                                     Tensor *dx, Tensor *dgamma, Tensor *dbeta,
                                     Tensor *dresidual, const Tensor *dy, const Tensor *y,
                                     const Tensor *x, const Tensor *mean,
                                     const Tensor *inverse_std) {
    (void)self, (void)worker;
    Extents e = extents_of(x);
    double count = (double)(e.n * e.plane);
    for (int64_t c = 0; c < e.channels; c++) {
        float centre = mean->data[c], inverse = inverse_std->data[c];
        double sum = 0.0, product = 0.0;
        for (int64_t n = 0; n < e.n; n++)
            for (int64_t p = 0; p < e.plane; p++) {
                int64_t i = at(&e, n, c, p);
                float dz = norm->relu ? element_relu_gradient(dy->data[i], y->data[i])
                                      : dy->data[i];
                sum += (double)dz;
                product +=
                    (double)dz * ((double)x->data[i] - (double)centre) * (double)inverse;
            }
        dbeta->data[c] = (float)sum;
        dgamma->data[c] = (float)product;
        for (int64_t n = 0; n < e.n; n++)
            for (int64_t p = 0; p < e.plane; p++) {
                int64_t i = at(&e, n, c, p);
                float dz = norm->relu ? element_relu_gradient(dy->data[i], y->data[i])
                                      : dy->data[i];
                if (dresidual != NULL) dresidual->data[i] = dz;
                dx->data[i] = element_batch_norm_gradient(
                    dz, x->data[i], centre, inverse, norm->gamma->data[c],
                    (float)(sum / count), (float)(product / count));
            }
    }
    return STATUS_OK;
}
