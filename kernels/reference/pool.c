/* Pooling: max and average over square windows, and the mean over whole planes. A plane is one
 * (n, c); planes do not mix. */
#include "kernels/reference/reference.h"

#include <assert.h>

typedef struct {
    int64_t planes, h, w, rows, cols; /* N·C; x's plane; y's plane */
    int64_t kernel, stride, padding;
} Extents;

static Extents extents_of(const Pool2d *pool, const Tensor *x, const Tensor *y) {
    Extents e = {x->shape[0] * x->shape[1],
                 x->shape[2],
                 x->shape[3],
                 y->shape[2],
                 y->shape[3],
                 pool->kernel,
                 pool->stride,
                 pool->padding};
    assert(x->layout == 0 && y->layout == 0);
    assert(y->shape[0] == x->shape[0] && y->shape[1] == x->shape[1]);
    assert(e.rows == (e.h + 2 * e.padding - e.kernel) / e.stride + 1);
    assert(e.cols == (e.w + 2 * e.padding - e.kernel) / e.stride + 1);
    return e;
}

/* Window element (r, s) of output (i, j) as an index into the plane of x, or −1 in the padding. */
static int64_t tap(const Extents *e, int64_t i, int64_t j, int64_t r, int64_t s) {
    int64_t h = i * e->stride + r - e->padding, v = j * e->stride + s - e->padding;
    return h < 0 || h >= e->h || v < 0 || v >= e->w ? -1 : h * e->w + v;
}

static Status check(const Pool2d *pool) {
    if (pool->padding >= pool->kernel)
        return FAIL(STATUS_USAGE, "use a padding smaller than the pool's kernel",
                    "pooling windows in padding only: kernel %d, padding %d", pool->kernel,
                    pool->padding);
    if (pool->kernel > 15)
        return FAIL(STATUS_UNSUPPORTED, "use a kernel of at most 15, or global pooling",
                    "max pooling with kernel %d", pool->kernel);
    return STATUS_OK;
}

/* The window index of the first maximum of output (i, j); a NaN is larger than all. */
static int64_t maximum_of(const Extents *e, const float *plane, int64_t i, int64_t j) {
    int64_t best = -1;
    float top = 0.0f;
    for (int64_t k = 0; k < e->kernel * e->kernel; k++) {
        int64_t from = tap(e, i, j, k / e->kernel, k % e->kernel);
        if (from < 0) continue;
        if (best >= 0 && (plane[from] <= top || top != top)) continue;
        best = k;
        top = plane[from];
    }
    return best;
}

Status reference_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                                  uint8_t *choice, const Tensor *x) {
    (void)self, (void)worker;
    TRY(check(pool));
    Extents e = extents_of(pool, x, y);
    for (int64_t plane = 0; plane < e.planes; plane++)
        for (int64_t i = 0; i < e.rows; i++)
            for (int64_t j = 0; j < e.cols; j++) {
                const float *from = x->data + plane * e.h * e.w;
                int64_t k = maximum_of(&e, from, i, j);
                int64_t to = (plane * e.rows + i) * e.cols + j;
                y->data[to] = from[tap(&e, i, j, k / e.kernel, k % e.kernel)];
                choice[to] = (uint8_t)k;
            }
    return STATUS_OK;
}

Status reference_max_pool_backward(Backend *self, int worker, const Pool2d *pool,
                                   Tensor *dx, const Tensor *dy, const uint8_t *choice) {
    (void)self, (void)worker;
    TRY(check(pool));
    Extents e = extents_of(pool, dx, dy);
    for (int64_t i = 0; i < e.planes * e.h * e.w; i++)
        dx->data[i] = 0.0f;
    for (int64_t plane = 0; plane < e.planes; plane++)
        for (int64_t i = 0; i < e.rows; i++)
            for (int64_t j = 0; j < e.cols; j++) {
                int64_t from = (plane * e.rows + i) * e.cols + j;
                int64_t k = choice[from];
                dx->data[plane * e.h * e.w + tap(&e, i, j, k / e.kernel, k % e.kernel)] +=
                    dy->data[from];
            }
    return STATUS_OK;
}

Status reference_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                                  const Tensor *x) {
    (void)self, (void)worker;
    Extents e = extents_of(pool, x, y);
    double area = (double)(e.kernel * e.kernel);
    for (int64_t plane = 0; plane < e.planes; plane++)
        for (int64_t i = 0; i < e.rows; i++)
            for (int64_t j = 0; j < e.cols; j++) {
                double sum = 0.0;
                for (int64_t k = 0; k < e.kernel * e.kernel; k++) {
                    int64_t from = tap(&e, i, j, k / e.kernel, k % e.kernel);
                    if (from >= 0) sum += (double)x->data[plane * e.h * e.w + from];
                }
                y->data[(plane * e.rows + i) * e.cols + j] = (float)(sum / area);
            }
    return STATUS_OK;
}

Status reference_avg_pool_backward(Backend *self, int worker, const Pool2d *pool,
                                   Tensor *dx, const Tensor *dy) {
    (void)self, (void)worker;
    Extents e = extents_of(pool, dx, dy);
    float area = (float)(e.kernel * e.kernel);
    for (int64_t i = 0; i < e.planes * e.h * e.w; i++)
        dx->data[i] = 0.0f;
    for (int64_t plane = 0; plane < e.planes; plane++)
        for (int64_t i = 0; i < e.rows; i++)
            for (int64_t j = 0; j < e.cols; j++) {
                float share = dy->data[(plane * e.rows + i) * e.cols + j] / area;
                for (int64_t k = 0; k < e.kernel * e.kernel; k++) {
                    int64_t to = tap(&e, i, j, k / e.kernel, k % e.kernel);
                    if (to >= 0) dx->data[plane * e.h * e.w + to] += share;
                }
            }
    return STATUS_OK;
}

Status reference_global_pool_forward(Backend *self, int worker, Tensor *y,
                                     const Tensor *x) {
    (void)self, (void)worker;
    int64_t planes = x->shape[0] * x->shape[1], area = x->shape[2] * x->shape[3];
    for (int64_t plane = 0; plane < planes; plane++) {
        double sum = 0.0;
        for (int64_t i = 0; i < area; i++)
            sum += (double)x->data[plane * area + i];
        y->data[plane] = (float)(sum / (double)area);
    }
    return STATUS_OK;
}

Status reference_global_pool_backward(Backend *self, int worker, Tensor *dx,
                                      const Tensor *dy) {
    (void)self, (void)worker;
    int64_t planes = dx->shape[0] * dx->shape[1], area = dx->shape[2] * dx->shape[3];
    for (int64_t plane = 0; plane < planes; plane++)
        for (int64_t i = 0; i < area; i++)
            dx->data[plane * area + i] = dy->data[plane] / (float)area;
    return STATUS_OK;
}
