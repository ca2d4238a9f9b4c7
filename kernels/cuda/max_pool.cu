/* The largest element of each window, and which it was. */
#include "launch.h"

#include "kernels/cuda/window.cuh"

enum { KERNEL_MAX = 15 }; /* window indices fit a byte */

/* Four bytes to a word, the first in its low end. */
template <int LANES> DEVICE void choice_store(uint8_t *to, const uint32_t (&which)[LANES]) {
    if constexpr (LANES == 1) {
        *to = (uint8_t)which[0];
    } else {
#pragma unroll
        for (int i = 0; i < LANES; i += 4)
            *reinterpret_cast<uint32_t *>(to + i) =
                which[i] | which[i + 1] << 8 | which[i + 2] << 16 | which[i + 3] << 24;
    }
}

template <int LANES>
DEVICE void choice_load(uint32_t (&which)[LANES], const uint8_t *from) {
    if constexpr (LANES == 1) {
        which[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < LANES; i += 4) {
            uint32_t word = *reinterpret_cast<const uint32_t *>(from + i);
#pragma unroll
            for (int k = 0; k < 4; k++)
                which[i + k] = word >> (8 * k) & 255u;
        }
    }
}

/* The first maximum in window order; a NaN is larger than all, so that a diverged run is seen. */
template <typename T, int LANES>
KERNEL void max_pool_kernel(Window w, T *y, uint8_t *choice, const T *x) {
    int column;
    int64_t channel;
    if (!window_place(w, w.columns, LANES, &column, &channel)) return;
    const int left = column * w.stride - w.padding;
    const int s_first = window_max(0, -left), s_end = window_min(w.kernel, w.width - left);
    for (int64_t line = blockIdx.y; line < w.images * w.rows; line += gridDim.y) {
        const int64_t image = line / w.rows;
        const int top = (int)(line % w.rows) * w.stride - w.padding;
        const int r_first = window_max(0, -top),
                  r_end = window_min(w.kernel, w.height - top);
        float best[LANES];
        uint32_t which[LANES];
#pragma unroll
        for (int i = 0; i < LANES; i++) {
            best[i] = element_from_bits(0xff800000u); /* −infinity */
            which[i] = (uint32_t)(r_first * w.kernel + s_first);
        }
        for (int r = r_first; r < r_end; r++) {
            const T *from =
                x + ((image * w.height + top + r) * w.width + left) * w.channels;
            for (int s = s_first; s < s_end; s++) {
                float value[LANES];
                lanes_load<LANES>(value, from + s * w.channels + channel);
#pragma unroll
                for (int i = 0; i < LANES; i++) {
                    bool worse = value[i] <= best[i] || best[i] != best[i];
                    if (worse) continue;
                    best[i] = value[i];
                    which[i] = (uint32_t)(r * w.kernel + s);
                }
            }
        }
        const int64_t at = (line * w.columns + column) * w.channels + channel;
        lanes_store<LANES>(y + at, best);
        choice_store<LANES>(choice + at, which);
    }
}

/* dx = Σ of dy over the windows that chose this element, in the outputs' order. */
template <typename T, int LANES>
KERNEL void max_pool_gradient_kernel(Window w, T *dx, const T *dy, const uint8_t *choice) {
    int column;
    int64_t channel;
    if (!window_place(w, w.width, LANES, &column, &channel)) return;
    int j_first, j_last;
    window_holding(w, column, w.columns, &j_first, &j_last);
    for (int64_t line = blockIdx.y; line < w.images * w.height; line += gridDim.y) {
        const int64_t image = line / w.height;
        const int row = (int)(line % w.height);
        int i_first, i_last;
        window_holding(w, row, w.rows, &i_first, &i_last);
        float sum[LANES];
#pragma unroll
        for (int k = 0; k < LANES; k++)
            sum[k] = 0.0f;
        for (int i = i_first; i <= i_last; i++)
            for (int j = j_first; j <= j_last; j++) {
                const int r = row + w.padding - i * w.stride;
                const uint32_t mine =
                    (uint32_t)(r * w.kernel + column + w.padding - j * w.stride);
                const int64_t at =
                    ((image * w.rows + i) * w.columns + j) * w.channels + channel;
                float given[LANES];
                uint32_t which[LANES];
                lanes_load<LANES>(given, dy + at);
                choice_load<LANES>(which, choice + at);
#pragma unroll
                for (int k = 0; k < LANES; k++)
                    if (which[k] == mine) sum[k] += given[k];
            }
        lanes_store<LANES>(dx + (line * w.width + column) * w.channels + channel, sum);
    }
}

static Status check(const Pool2d *pool) {
    if (pool->padding >= pool->kernel)
        return FAIL(STATUS_USAGE, "use a padding smaller than the pool's kernel",
                    "pooling windows in padding only: kernel %d, padding %d", pool->kernel,
                    pool->padding);
    if (pool->kernel > KERNEL_MAX)
        return FAIL(STATUS_UNSUPPORTED, "use a kernel of at most 15, or global pooling",
                    "max pooling with kernel %d", pool->kernel);
    return STATUS_OK;
}

template <typename T, int LANES>
static Status forward(VendorQueue *queue, const Window &w, Tensor *y, uint8_t *choice,
                      const Tensor *x) {
    WindowGrid grid = window_grid(w, w.rows, w.columns, LANES);
    return LAUNCH(queue, grid.blocks, grid.lines, grid.threads, (max_pool_kernel<T, LANES>),
                  w, reinterpret_cast<T *>(y->data), choice,
                  reinterpret_cast<const T *>(x->data));
}

template <typename T, int LANES>
static Status backward(VendorQueue *queue, const Window &w, Tensor *dx, const Tensor *dy,
                       const uint8_t *choice) {
    WindowGrid grid = window_grid(w, w.height, w.width, LANES);
    return LAUNCH(queue, grid.blocks, grid.lines, grid.threads,
                  (max_pool_gradient_kernel<T, LANES>), w, reinterpret_cast<T *>(dx->data),
                  reinterpret_cast<const T *>(dy->data), choice);
}

Status cuda_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                             uint8_t *choice, const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    TRY(check(pool));
    Window w = window_of(pool, x, y);
    if (tensor_elements(y) == 0) return STATUS_OK;
    if (cuda_is_bf16(x))
        return window_lanes<Bf16>(w, x, y, choice) > 1
                   ? forward<Bf16, 8>(queue, w, y, choice, x)
                   : forward<Bf16, 1>(queue, w, y, choice, x);
    return window_lanes<float>(w, x, y, choice) > 1
               ? forward<float, 4>(queue, w, y, choice, x)
               : forward<float, 1>(queue, w, y, choice, x);
}

Status cuda_max_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                              const Tensor *dy, const uint8_t *choice) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    TRY(check(pool));
    Window w = window_of(pool, dx, dy);
    if (tensor_elements(dx) == 0) return STATUS_OK;
    if (cuda_is_bf16(dx))
        return window_lanes<Bf16>(w, dx, dy, choice) > 1
                   ? backward<Bf16, 8>(queue, w, dx, dy, choice)
                   : backward<Bf16, 1>(queue, w, dx, dy, choice);
    return window_lanes<float>(w, dx, dy, choice) > 1
               ? backward<float, 4>(queue, w, dx, dy, choice)
               : backward<float, 1>(queue, w, dx, dy, choice);
}
