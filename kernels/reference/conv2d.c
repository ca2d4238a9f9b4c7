/* Convolution as its definition (a correlation, as everywhere in deep learning):
 * y[n,m,i,j] = b[m] + Σ_c,r,s x[n, c, i·stride + r − padding, j·stride + s − padding] · w[m,c,r,s],
 * c over the channels of m's group; what lies outside of x is zero. */
#include "kernels/reference/reference.h"

#include <assert.h>

/* All extents and the index functions of one call. */
typedef struct {
    int64_t n, c, h, w;    /* x */
    int64_t m, rows, cols; /* y */
    int64_t depth, r, s;   /* w: channels of one group, filter's height and width */
    int64_t group_m;       /* output channels of one group */
    int64_t stride, padding;
} Extents;

static Extents extents_of(const Conv2d *conv, const int64_t x[4], const int64_t y[4],
                          const int64_t w[4]) {
    Extents e = {.n = x[0],
                 .c = x[1],
                 .h = x[2],
                 .w = x[3],
                 .m = y[1],
                 .rows = y[2],
                 .cols = y[3],
                 .depth = w[1],
                 .r = w[2],
                 .s = w[3],
                 .group_m = y[1] / conv->groups,
                 .stride = conv->stride,
                 .padding = conv->padding};
    assert(y[0] == x[0] && w[0] == y[1] && w[1] * conv->groups == x[1]);
    assert(y[1] % conv->groups == 0);
    assert(y[2] == (x[2] + 2 * e.padding - w[2]) / e.stride + 1);
    assert(y[3] == (x[3] + 2 * e.padding - w[3]) / e.stride + 1);
    return e;
}

/* Channel of x that filter m reads as its c-th. */
static int64_t input_channel(const Extents *e, int64_t m, int64_t c) {
    return m / e->group_m * e->depth + c;
}

static int64_t x_at(const Extents *e, int64_t n, int64_t c, int64_t h, int64_t w) {
    return ((n * e->c + c) * e->h + h) * e->w + w;
}

static int64_t y_at(const Extents *e, int64_t n, int64_t m, int64_t i, int64_t j) {
    return ((n * e->m + m) * e->rows + i) * e->cols + j;
}

static int64_t w_at(const Extents *e, int64_t m, int64_t c, int64_t r, int64_t s) {
    return ((m * e->depth + c) * e->r + r) * e->s + s;
}

static double output_at(const Extents *e, const float *x, const float *w, int64_t n,
                        int64_t m, int64_t i, int64_t j) {
    double sum = 0.0;
    for (int64_t c = 0; c < e->depth; c++)
        for (int64_t r = 0; r < e->r; r++) {
            int64_t h = i * e->stride + r - e->padding;
            if (h < 0 || h >= e->h) continue;
            for (int64_t s = 0; s < e->s; s++) {
                int64_t v = j * e->stride + s - e->padding;
                if (v < 0 || v >= e->w) continue;
                sum += (double)x[x_at(e, n, input_channel(e, m, c), h, v)] *
                       (double)w[w_at(e, m, c, r, s)];
            }
        }
    return sum;
}

Status reference_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                                const Tensor *x, const Tensor *w, const Tensor *b) {
    (void)self, (void)worker;
    Extents e = extents_of(conv, x->shape, y->shape, w->shape);
    for (int64_t n = 0; n < e.n; n++)
        for (int64_t m = 0; m < e.m; m++)
            for (int64_t i = 0; i < e.rows; i++)
                for (int64_t j = 0; j < e.cols; j++) {
                    double sum = output_at(&e, x->data, w->data, n, m, i, j);
                    if (b != NULL) sum += (double)b->data[m];
                    y->data[y_at(&e, n, m, i, j)] = (float)sum;
                }
    return STATUS_OK;
}

/* dx[n,c,h,v]: every (m, r, s, i, j) whose window covers (h, v) there. */
static double dx_at(const Extents *e, const float *dy, const float *w, int64_t n, int64_t c,
                    int64_t h, int64_t v) {
    double sum = 0.0;
    int64_t first_m = c / e->depth * e->group_m;
    for (int64_t m = first_m; m < first_m + e->group_m; m++)
        for (int64_t r = 0; r < e->r; r++) {
            int64_t i = h + e->padding - r;
            if (i < 0 || i % e->stride != 0 || i / e->stride >= e->rows) continue;
            for (int64_t s = 0; s < e->s; s++) {
                int64_t j = v + e->padding - s;
                if (j < 0 || j % e->stride != 0 || j / e->stride >= e->cols) continue;
                sum += (double)dy[y_at(e, n, m, i / e->stride, j / e->stride)] *
                       (double)w[w_at(e, m, c % e->depth, r, s)];
            }
        }
    return sum;
}

static double dw_at(const Extents *e, const float *dy, const float *x, int64_t m, int64_t c,
                    int64_t r, int64_t s) {
    double sum = 0.0;
    for (int64_t n = 0; n < e->n; n++)
        for (int64_t i = 0; i < e->rows; i++) {
            int64_t h = i * e->stride + r - e->padding;
            if (h < 0 || h >= e->h) continue;
            for (int64_t j = 0; j < e->cols; j++) {
                int64_t v = j * e->stride + s - e->padding;
                if (v < 0 || v >= e->w) continue;
                sum += (double)dy[y_at(e, n, m, i, j)] *
                       (double)x[x_at(e, n, input_channel(e, m, c), h, v)];
            }
        }
    return sum;
}

static double db_at(const Extents *e, const float *dy, int64_t m) {
    double sum = 0.0;
    for (int64_t n = 0; n < e->n; n++)
        for (int64_t i = 0; i < e->rows; i++)
            for (int64_t j = 0; j < e->cols; j++)
                sum += (double)dy[y_at(e, n, m, i, j)];
    return sum;
}

Status reference_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                                 Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                                 const Tensor *w) {
    (void)self, (void)worker;
    Extents e = extents_of(conv, x->shape, dy->shape, w->shape);
    if (dx != NULL)
        for (int64_t n = 0; n < e.n; n++)
            for (int64_t c = 0; c < e.c; c++)
                for (int64_t h = 0; h < e.h; h++)
                    for (int64_t v = 0; v < e.w; v++)
                        dx->data[x_at(&e, n, c, h, v)] =
                            (float)dx_at(&e, dy->data, w->data, n, c, h, v);
    if (dw != NULL)
        for (int64_t m = 0; m < e.m; m++)
            for (int64_t c = 0; c < e.depth; c++)
                for (int64_t r = 0; r < e.r; r++)
                    for (int64_t s = 0; s < e.s; s++)
                        dw->data[w_at(&e, m, c, r, s)] =
                            (float)dw_at(&e, dy->data, x->data, m, c, r, s);
    if (db != NULL)
        for (int64_t m = 0; m < e.m; m++)
            db->data[m] = (float)db_at(&e, dy->data, m);
    return STATUS_OK;
}
