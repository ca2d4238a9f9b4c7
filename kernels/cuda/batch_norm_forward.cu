/* Batch norm with its batch's own statistics. They are sums of (x − shift) and (x − shift)² in double,
 * shift being the channel's first element: (shift − mean)² ≤ count · variance, so what the subtraction
 * Σd² − (Σd)²/count cancels costs at most count · 2^-53 of the variance, below a float's last bit. */
#include "launch.h"

#include "kernels/cuda/batch_norm.cuh"

template <typename T, int WIDE> struct StatisticsTerms {
    enum { VALUES = 2, WIDTH = WIDE, AT_ONCE = 4 };
    const T *x;
    DEVICE void begin(const StatisticsTerms &self, float (&shift)[WIDE], int64_t column) {
        lanes_load<WIDE>(shift, self.x + column);
    }
    template <int ROWS>
    DEVICE void add(const StatisticsTerms &self, double (&sums)[2][WIDE],
                    const float (&shift)[WIDE], int64_t at, int64_t apart) {
        float x[ROWS][WIDE];
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            lanes_load<WIDE>(x[k], self.x + at + k * apart);
#pragma unroll
        for (int k = 0; k < ROWS; k++)
#pragma unroll
            for (int i = 0; i < WIDE; i++) {
                double away = (double)x[k][i] - (double)shift[i];
                sums[0][i] += away;
                sums[1][i] = __builtin_fma(away, away, sums[1][i]);
            }
    }
};

template <typename T> struct StatisticsTotals {
    enum { VALUES = 2 };
    const T *x;
    double count, epsilon;
    float *mean, *inverse_std, *batch_mean, *batch_variance;
    DEVICE void store(const StatisticsTotals &self, int64_t column,
                      const double (&totals)[2]) {
        double away = totals[0] / self.count;
        double centre = (double)lane_load(self.x + column) + away;
        double squares = totals[1] - totals[0] * away;
        if (squares < 0.0) squares = 0.0; /* rounding; NaN stays */
        double freedom = self.count > 1.0 ? self.count - 1.0 : 1.0;
        self.mean[column] = self.batch_mean[column] = (float)centre;
        self.inverse_std[column] =
            (float)(1.0 / __builtin_sqrt(squares / self.count + self.epsilon));
        self.batch_variance[column] = (float)(squares / freedom);
    }
};

template <typename T>
static Status forward(Cuda *cuda, const BatchNorm *norm, Tensor *y, const Tensor *x,
                      Tensor *mean, Tensor *inverse_std, Tensor *batch_mean,
                      Tensor *batch_variance) {
    int64_t rows = batch_norm_rows(x), columns = x->shape[1];
    const T *data = reinterpret_cast<const T *>(x->data);
    void *partials;
    TRY(cuda_workspace(cuda, columns_workspace(rows, columns, 2), &partials));
    StatisticsTotals<T> totals = {data,
                                  (double)rows,
                                  (double)norm->epsilon,
                                  mean->data,
                                  inverse_std->data,
                                  batch_mean->data,
                                  batch_variance->data};
    if (columns_width<T>(columns) == 1) {
        StatisticsTerms<T, 1> terms = {data};
        TRY(columns_sum(cuda->work, terms, totals, rows, columns,
                        static_cast<double *>(partials)));
    } else {
        assert(lanes_aligned(data));
        StatisticsTerms<T, Lanes<T>::COUNT> terms = {data};
        TRY(columns_sum(cuda->work, terms, totals, rows, columns,
                        static_cast<double *>(partials)));
    }
    return normalise<T>(cuda->work, norm, y, x, mean->data, inverse_std->data);
}

Status cuda_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                               const Tensor *x, Tensor *mean, Tensor *inverse_std,
                               Tensor *batch_mean, Tensor *batch_variance) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    if (tensor_elements(x) == 0) return STATUS_OK;
    if (cuda_is_bf16(x))
        return forward<Bf16>(cuda, norm, y, x, mean, inverse_std, batch_mean,
                             batch_variance);
    return forward<float>(cuda, norm, y, x, mean, inverse_std, batch_mean, batch_variance);
}
