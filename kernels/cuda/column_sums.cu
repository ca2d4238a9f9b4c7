/* Sums down the columns: gradients of biases. */
#include "launch.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"

template <typename T, int WIDE> struct ColumnTerms {
    enum { VALUES = 1, WIDTH = WIDE, AT_ONCE = 4 };
    const T *x;
    DEVICE void begin(const ColumnTerms &, float (&)[WIDE], int64_t) {
    }
    template <int ROWS>
    DEVICE void add(const ColumnTerms &self, double (&sums)[1][WIDE], const float (&)[WIDE],
                    int64_t at, int64_t apart) {
        float x[ROWS][WIDE];
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            lanes_load<WIDE>(x[k], self.x + at + k * apart);
#pragma unroll
        for (int k = 0; k < ROWS; k++)
#pragma unroll
            for (int i = 0; i < WIDE; i++)
                sums[0][i] += (double)x[k][i];
    }
};

struct ColumnTotals {
    enum { VALUES = 1 };
    float *sums;
    DEVICE void store(const ColumnTotals &self, int64_t column, const double (&totals)[1]) {
        self.sums[column] = (float)totals[0];
    }
};

size_t cuda_column_sums_workspace(int64_t rows, int64_t columns) {
    return columns_workspace(rows, columns, 1);
}

template <typename T>
static Status sum(VendorQueue *queue, float *sums, const T *x, int64_t rows,
                  int64_t columns, double *partials) {
    ColumnTotals totals = {sums};
    if (columns_width<T>(columns) == 1) {
        ColumnTerms<T, 1> terms = {x};
        return columns_sum(queue, terms, totals, rows, columns, partials);
    }
    assert(lanes_aligned(x));
    ColumnTerms<T, Lanes<T>::COUNT> terms = {x};
    return columns_sum(queue, terms, totals, rows, columns, partials);
}

Status cuda_column_sums(VendorQueue *queue, float *sums, const void *x, VendorType type,
                        int64_t rows, int64_t columns, void *workspace) {
    if (columns <= 0) return STATUS_OK;
    if (rows <= 0) return vendor_zero(queue, sums, (size_t)columns * sizeof *sums);
    double *partials = static_cast<double *>(workspace);
    if (type == VENDOR_BF16)
        return sum(queue, sums, static_cast<const Bf16 *>(x), rows, columns, partials);
    return sum(queue, sums, static_cast<const float *>(x), rows, columns, partials);
}
