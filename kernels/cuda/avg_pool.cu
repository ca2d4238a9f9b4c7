/* The mean of each window; padding counts as zeros. */
#include "launch.h"

#include "kernels/cuda/window.cuh"

/* Sums are in double, in window order: the reference's bits. */
template <typename T, int LANES> KERNEL void avg_pool_kernel(Window w, T *y, const T *x) {
    int column;
    int64_t channel;
    if (!window_place(w, w.columns, LANES, &column, &channel)) return;
    const int left = column * w.stride - w.padding;
    const int s_first = window_max(0, -left), s_end = window_min(w.kernel, w.width - left);
    const double area = (double)(w.kernel * w.kernel);
    for (int64_t line = blockIdx.y; line < w.images * w.rows; line += gridDim.y) {
        const int64_t image = line / w.rows;
        const int top = (int)(line % w.rows) * w.stride - w.padding;
        const int r_first = window_max(0, -top),
                  r_end = window_min(w.kernel, w.height - top);
        double sum[LANES];
#pragma unroll
        for (int i = 0; i < LANES; i++)
            sum[i] = 0.0;
        for (int r = r_first; r < r_end; r++) {
            const T *from =
                x + ((image * w.height + top + r) * w.width + left) * w.channels;
            for (int s = s_first; s < s_end; s++) {
                float value[LANES];
                lanes_load<LANES>(value, from + s * w.channels + channel);
#pragma unroll
                for (int i = 0; i < LANES; i++)
                    sum[i] += (double)value[i];
            }
        }
        float mean[LANES];
#pragma unroll
        for (int i = 0; i < LANES; i++)
            mean[i] = (float)(sum[i] / area);
        lanes_store<LANES>(y + (line * w.columns + column) * w.channels + channel, mean);
    }
}

/* dx = Σ of dy / area over the windows that hold this element, in the outputs' order. */
template <typename T, int LANES>
KERNEL void avg_pool_gradient_kernel(Window w, T *dx, const T *dy) {
    int column;
    int64_t channel;
    if (!window_place(w, w.width, LANES, &column, &channel)) return;
    const float area = (float)(w.kernel * w.kernel);
    int j_first, j_last;
    window_holding(w, column, w.columns, &j_first, &j_last);
    for (int64_t line = blockIdx.y; line < w.images * w.height; line += gridDim.y) {
        const int64_t image = line / w.height;
        int i_first, i_last;
        window_holding(w, (int)(line % w.height), w.rows, &i_first, &i_last);
        float sum[LANES];
#pragma unroll
        for (int k = 0; k < LANES; k++)
            sum[k] = 0.0f;
        for (int i = i_first; i <= i_last; i++)
            for (int j = j_first; j <= j_last; j++) {
                float given[LANES];
                lanes_load<LANES>(given,
                                  dy + ((image * w.rows + i) * w.columns + j) * w.channels +
                                      channel);
#pragma unroll
                for (int k = 0; k < LANES; k++)
                    sum[k] += given[k] / area;
            }
        lanes_store<LANES>(dx + (line * w.width + column) * w.channels + channel, sum);
    }
}

template <typename T, int LANES>
static Status forward(VendorQueue *queue, const Window &w, Tensor *y, const Tensor *x) {
    WindowGrid grid = window_grid(w, w.rows, w.columns, LANES);
    return LAUNCH(queue, grid.blocks, grid.lines, grid.threads, (avg_pool_kernel<T, LANES>),
                  w, reinterpret_cast<T *>(y->data), reinterpret_cast<const T *>(x->data));
}

template <typename T, int LANES>
static Status backward(VendorQueue *queue, const Window &w, Tensor *dx, const Tensor *dy) {
    WindowGrid grid = window_grid(w, w.height, w.width, LANES);
    return LAUNCH(queue, grid.blocks, grid.lines, grid.threads,
                  (avg_pool_gradient_kernel<T, LANES>), w, reinterpret_cast<T *>(dx->data),
                  reinterpret_cast<const T *>(dy->data));
}

Status cuda_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                             const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    Window w = window_of(pool, x, y);
    if (tensor_elements(y) == 0) return STATUS_OK;
    if (cuda_is_bf16(x))
        return window_lanes<Bf16>(w, x, y) > 1 ? forward<Bf16, 8>(queue, w, y, x)
                                               : forward<Bf16, 1>(queue, w, y, x);
    return window_lanes<float>(w, x, y) > 1 ? forward<float, 4>(queue, w, y, x)
                                            : forward<float, 1>(queue, w, y, x);
}

Status cuda_avg_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                              const Tensor *dy) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    Window w = window_of(pool, dx, dy);
    if (tensor_elements(dx) == 0) return STATUS_OK;
    if (cuda_is_bf16(dx))
        return window_lanes<Bf16>(w, dx, dy) > 1 ? backward<Bf16, 8>(queue, w, dx, dy)
                                                 : backward<Bf16, 1>(queue, w, dx, dy);
    return window_lanes<float>(w, dx, dy) > 1 ? backward<float, 4>(queue, w, dx, dy)
                                              : backward<float, 1>(queue, w, dx, dy);
}
