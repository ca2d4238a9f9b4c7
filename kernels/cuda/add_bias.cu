/* One number a column, added to every row. */
#include "launch.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"

template <typename T, int WIDTH>
KERNEL void add_bias_kernel(Columns cut, T *y, const float *bias) {
    const ColumnsPlace place = columns_place<WIDTH>(cut);
    if (place.column >= cut.columns) return;
    float add[WIDTH];
    lanes_load<WIDTH>(add, bias + place.column);
    for (int64_t row = place.row; row < place.end; row += place.step) {
        T *at = y + row * cut.columns + place.column;
        float x[WIDTH];
        lanes_load<WIDTH>(x, at);
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            x[i] += add[i];
        lanes_store<WIDTH>(at, x);
    }
}

template <typename T, int WIDTH>
static Status add(VendorQueue *queue, T *y, const float *bias, int64_t rows,
                  int64_t columns) {
    Columns cut = columns_pass_cut(rows, columns, WIDTH);
    return LAUNCH(queue, cut.chunks, cut.groups, COLUMNS_THREADS,
                  (add_bias_kernel<T, WIDTH>), cut, y, bias);
}

template <typename T>
static Status add_to(VendorQueue *queue, T *y, const float *bias, int64_t rows,
                     int64_t columns) {
    if (columns_width<T>(columns) > 1 && lanes_aligned(y) && lanes_aligned(bias))
        return add<T, Lanes<T>::COUNT>(queue, y, bias, rows, columns);
    return add<T, 1>(queue, y, bias, rows, columns);
}

Status cuda_add_bias(VendorQueue *queue, void *y, VendorType type, const float *bias,
                     int64_t rows, int64_t columns) {
    if (rows <= 0 || columns <= 0) return STATUS_OK;
    if (type == VENDOR_BF16)
        return add_to(queue, static_cast<Bf16 *>(y), bias, rows, columns);
    return add_to(queue, static_cast<float *>(y), bias, rows, columns);
}
