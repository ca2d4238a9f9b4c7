/* What batch norm's operations share: the shape as rows of channels, and the normalising pass. Include
 * "launch.h" first. */
#pragma once

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"

/* Pixels of channels: the layout must have the channels last. */
static inline int64_t batch_norm_rows(const Tensor *x) {
    assert(x->rank == 2 || x->layout != LAYOUT_CANONICAL);
    return x->rank == 4 ? x->shape[0] * x->shape[2] * x->shape[3] : x->shape[0];
}

/* y = relu(gamma · (x − mean) · inverse_std + beta + residual); the last two where they are asked for. */
template <typename T> struct Normalise {
    T *y;
    const T *x, *residual;
    const float *gamma, *beta, *mean, *inverse_std;
    bool relu;
};

/* What a thread keeps of its columns. */
template <int WIDTH> struct NormaliseColumns {
    float gamma[WIDTH], beta[WIDTH], mean[WIDTH], inverse_std[WIDTH];
};

/* ROWS elements of each column, `apart` from each other: all loads, then all stores. */
template <int ROWS, typename T, int WIDTH>
DEVICE void normalise_rows(const Normalise<T> &n, const NormaliseColumns<WIDTH> &of,
                           int64_t at, int64_t apart) {
    float x[ROWS][WIDTH], residual[ROWS][WIDTH];
#pragma unroll
    for (int k = 0; k < ROWS; k++)
        lanes_load<WIDTH>(x[k], n.x + at + k * apart);
    if (n.residual != nullptr)
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            lanes_load<WIDTH>(residual[k], n.residual + at + k * apart);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float value = element_batch_norm(x[k][i], of.mean[i], of.inverse_std[i],
                                             of.gamma[i], of.beta[i]);
            if (n.residual != nullptr) value += residual[k][i];
            x[k][i] = n.relu ? element_relu(value) : value;
        }
        lanes_store<WIDTH>(n.y + at + k * apart, x[k]);
    }
}

template <typename T, int WIDTH> KERNEL void normalise_kernel(Normalise<T> n, Columns cut) {
    constexpr int AT_ONCE = WIDTH == 8 ? 2 : 4;
    const ColumnsPlace place = columns_place<WIDTH>(cut);
    if (place.column >= cut.columns) return;
    NormaliseColumns<WIDTH> of;
    lanes_load<WIDTH>(of.gamma, n.gamma + place.column);
    lanes_load<WIDTH>(of.beta, n.beta + place.column);
    lanes_load<WIDTH>(of.mean, n.mean + place.column);
    lanes_load<WIDTH>(of.inverse_std, n.inverse_std + place.column);
    const int64_t apart = place.step * cut.columns;
    int64_t row = place.row;
    for (; row + (AT_ONCE - 1) * place.step < place.end; row += AT_ONCE * place.step)
        normalise_rows<AT_ONCE>(n, of, row * cut.columns + place.column, apart);
    for (; row < place.end; row += place.step)
        normalise_rows<1>(n, of, row * cut.columns + place.column, apart);
}

template <typename T>
static Status normalise(VendorQueue *queue, const BatchNorm *norm, Tensor *y,
                        const Tensor *x, const float *mean, const float *inverse_std) {
    int64_t rows = batch_norm_rows(x), columns = x->shape[1];
    const Tensor *residual = norm->residual;
    assert(y->layout == x->layout && tensor_elements(y) == rows * columns);
    assert(residual == NULL || residual->layout == x->layout);
    Normalise<T> n = {reinterpret_cast<T *>(y->data),
                      reinterpret_cast<const T *>(x->data),
                      residual == NULL ? nullptr
                                       : reinterpret_cast<const T *>(residual->data),
                      norm->gamma->data,
                      norm->beta->data,
                      mean,
                      inverse_std,
                      norm->relu};
    bool aligned = lanes_aligned(n.y) && lanes_aligned(n.x) && lanes_aligned(n.residual) &&
                   lanes_aligned(n.gamma) && lanes_aligned(n.beta) && lanes_aligned(mean) &&
                   lanes_aligned(inverse_std);
    if (columns_width<T>(columns) > 1 && aligned) {
        constexpr int wide = Lanes<T>::COUNT;
        Columns cut = columns_pass_cut(rows, columns, wide);
        return LAUNCH(queue, cut.chunks, cut.groups, COLUMNS_THREADS,
                      (normalise_kernel<T, wide>), n, cut);
    }
    Columns cut = columns_pass_cut(rows, columns, 1);
    return LAUNCH(queue, cut.chunks, cut.groups, COLUMNS_THREADS, (normalise_kernel<T, 1>),
                  n, cut);
}
