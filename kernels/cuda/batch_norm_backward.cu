/* Batch norm's gradients: with dz = dy·[y > 0],
 *   dbeta = Σ dz,   dgamma = Σ dz · (x − mean) · inverse_std,   dresidual = dz,
 *   dx = gamma·inverse_std · (dz − dbeta/count − x̂·dgamma/count). */
#include "launch.h"

#include "kernels/cuda/batch_norm.cuh"

/* dz of ROWS rows of elements from index `at` on; y is NULL where no relu followed. One question whether
 * it is, not one a row, so that all loads are under way together. */
template <int ROWS, typename T, int WIDTH>
DEVICE void relu_gradients(float (&dz)[ROWS][WIDTH], const T *dy, const T *y, int64_t at,
                           int64_t apart) {
#pragma unroll
    for (int k = 0; k < ROWS; k++)
        lanes_load<WIDTH>(dz[k], dy + at + k * apart);
    if (y == nullptr) return;
    float above[ROWS][WIDTH];
#pragma unroll
    for (int k = 0; k < ROWS; k++)
        lanes_load<WIDTH>(above[k], y + at + k * apart);
#pragma unroll
    for (int k = 0; k < ROWS; k++)
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            dz[k][i] = element_relu_gradient(dz[k][i], above[k][i]);
}

template <typename T, int WIDE> struct GradientTerms {
    enum { VALUES = 2, WIDTH = WIDE, AT_ONCE = 2 };
    const T *dy, *y, *x;
    const float *mean;
    DEVICE void begin(const GradientTerms &self, float (&mean)[WIDE], int64_t column) {
        lanes_load<WIDE>(mean, self.mean + column);
    }
    template <int ROWS>
    DEVICE void add(const GradientTerms &self, double (&sums)[2][WIDE],
                    const float (&mean)[WIDE], int64_t at, int64_t apart) {
        float dz[ROWS][WIDE], x[ROWS][WIDE];
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            lanes_load<WIDE>(x[k], self.x + at + k * apart);
        relu_gradients<ROWS, T, WIDE>(dz, self.dy, self.y, at, apart);
#pragma unroll
        for (int k = 0; k < ROWS; k++)
#pragma unroll
            for (int i = 0; i < WIDE; i++) {
                double away = (double)x[k][i] - (double)mean[i];
                sums[0][i] += (double)dz[k][i];
                sums[1][i] = __builtin_fma((double)dz[k][i], away, sums[1][i]);
            }
    }
};

struct GradientTotals {
    enum { VALUES = 2 };
    double count;
    const float *inverse_std;
    float *dgamma, *dbeta, *mean_dgamma, *mean_dbeta;
    DEVICE void store(const GradientTotals &self, int64_t column,
                      const double (&totals)[2]) {
        double product = totals[1] * (double)self.inverse_std[column];
        self.dbeta[column] = (float)totals[0];
        self.dgamma[column] = (float)product;
        self.mean_dbeta[column] = (float)(totals[0] / self.count);
        self.mean_dgamma[column] = (float)(product / self.count);
    }
};

template <typename T> struct Gradient {
    T *dx, *dresidual; /* dx may be dy; dresidual may be NULL */
    const T *dy, *y, *x;
    const float *gamma, *mean, *inverse_std, *mean_dgamma, *mean_dbeta;
};

/* What a thread keeps of its columns. */
template <int WIDTH> struct GradientColumns {
    float gamma[WIDTH], mean[WIDTH], inverse_std[WIDTH], mean_dgamma[WIDTH],
        mean_dbeta[WIDTH];
};

/* ROWS elements of each column, `apart` from each other: all loads, then all stores. */
template <int ROWS, typename T, int WIDTH>
DEVICE void gradient_rows(const Gradient<T> &g, const GradientColumns<WIDTH> &of,
                          int64_t at, int64_t apart) {
    float dz[ROWS][WIDTH], x[ROWS][WIDTH];
#pragma unroll
    for (int k = 0; k < ROWS; k++)
        lanes_load<WIDTH>(x[k], g.x + at + k * apart);
    relu_gradients<ROWS, T, WIDTH>(dz, g.dy, g.y, at, apart);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        if (g.dresidual != nullptr) lanes_store<WIDTH>(g.dresidual + at + k * apart, dz[k]);
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            x[k][i] = element_batch_norm_gradient(dz[k][i], x[k][i], of.mean[i],
                                                  of.inverse_std[i], of.gamma[i],
                                                  of.mean_dbeta[i], of.mean_dgamma[i]);
        lanes_store<WIDTH>(g.dx + at + k * apart, x[k]);
    }
}

template <typename T, int WIDTH> KERNEL void gradient_kernel(Gradient<T> g, Columns cut) {
    constexpr int AT_ONCE = 2;
    const ColumnsPlace place = columns_place<WIDTH>(cut);
    if (place.column >= cut.columns) return;
    GradientColumns<WIDTH> of;
    lanes_load<WIDTH>(of.gamma, g.gamma + place.column);
    lanes_load<WIDTH>(of.mean, g.mean + place.column);
    lanes_load<WIDTH>(of.inverse_std, g.inverse_std + place.column);
    lanes_load<WIDTH>(of.mean_dgamma, g.mean_dgamma + place.column);
    lanes_load<WIDTH>(of.mean_dbeta, g.mean_dbeta + place.column);
    const int64_t apart = place.step * cut.columns;
    int64_t row = place.row;
    for (; row + (AT_ONCE - 1) * place.step < place.end; row += AT_ONCE * place.step)
        gradient_rows<AT_ONCE>(g, of, row * cut.columns + place.column, apart);
    for (; row < place.end; row += place.step)
        gradient_rows<1>(g, of, row * cut.columns + place.column, apart);
}

template <typename T, int WIDTH>
static Status run(Cuda *cuda, const Gradient<T> &g, const GradientTotals &totals,
                  int64_t rows, int64_t columns, double *partials) {
    GradientTerms<T, WIDTH> terms = {g.dy, g.y, g.x, g.mean};
    TRY(columns_sum(cuda->work, terms, totals, rows, columns, partials));
    Columns cut = columns_pass_cut(rows, columns, WIDTH);
    return LAUNCH(cuda->work, cut.chunks, cut.groups, COLUMNS_THREADS,
                  (gradient_kernel<T, WIDTH>), g, cut);
}

template <typename T>
static Status backward(Cuda *cuda, const BatchNorm *norm, Tensor *dx, Tensor *dgamma,
                       Tensor *dbeta, Tensor *dresidual, const Tensor *dy, const Tensor *y,
                       const Tensor *x, const Tensor *mean, const Tensor *inverse_std) {
    int64_t rows = batch_norm_rows(x), columns = x->shape[1];
    assert(dx->layout == x->layout && dy->layout == x->layout && y->layout == x->layout);
    assert(dresidual == NULL || dresidual->layout == x->layout);
    size_t partials_bytes = columns_workspace(rows, columns, 2);
    partials_bytes = (partials_bytes + 63) / 64 * 64;
    size_t row_bytes = ((size_t)columns * sizeof(float) + 63) / 64 * 64;
    void *workspace;
    TRY(cuda_workspace(cuda, partials_bytes + 2 * row_bytes, &workspace));
    char *means = static_cast<char *>(workspace) + partials_bytes;
    float *mean_dgamma = reinterpret_cast<float *>(means);
    float *mean_dbeta = reinterpret_cast<float *>(means + row_bytes);
    double *partials = static_cast<double *>(workspace);
    GradientTotals totals = {(double)rows, inverse_std->data, dgamma->data,
                             dbeta->data,  mean_dgamma,       mean_dbeta};
    Gradient<T> g = {reinterpret_cast<T *>(dx->data),
                     dresidual == NULL ? nullptr : reinterpret_cast<T *>(dresidual->data),
                     reinterpret_cast<const T *>(dy->data),
                     norm->relu ? reinterpret_cast<const T *>(y->data) : nullptr,
                     reinterpret_cast<const T *>(x->data),
                     norm->gamma->data,
                     mean->data,
                     inverse_std->data,
                     mean_dgamma,
                     mean_dbeta};
    if (columns_width<T>(columns) == 1)
        return run<T, 1>(cuda, g, totals, rows, columns, partials);
    assert(lanes_aligned(g.dx) && lanes_aligned(g.dresidual) && lanes_aligned(g.dy) &&
           lanes_aligned(g.y) && lanes_aligned(g.x) && lanes_aligned(g.gamma) &&
           lanes_aligned(g.mean) && lanes_aligned(g.inverse_std));
    return run<T, Lanes<T>::COUNT>(cuda, g, totals, rows, columns, partials);
}

Status cuda_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm,
                                Tensor *dx, Tensor *dgamma, Tensor *dbeta,
                                Tensor *dresidual, const Tensor *dy, const Tensor *y,
                                const Tensor *x, const Tensor *mean,
                                const Tensor *inverse_std) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    if (tensor_elements(x) == 0) return STATUS_OK;
    if (cuda_is_bf16(x))
        return backward<Bf16>(cuda, norm, dx, dgamma, dbeta, dresidual, dy, y, x, mean,
                              inverse_std);
    return backward<float>(cuda, norm, dx, dgamma, dbeta, dresidual, dy, y, x, mean,
                           inverse_std);
}
