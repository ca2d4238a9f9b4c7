/* Pooling over rows of channels: a window is a few rows, combined channel by channel. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { KERNEL_MAX = 15, VECTOR = 8 };

/* One side's range of window positions that lie inside the image: offset k is at start + k. */
typedef struct {
    int64_t start, begin, end;
} Window;

static Window window_of(const Pool2d *pool, int64_t out, int64_t size) {
    Window window = {.start = out * pool->stride - pool->padding, .end = pool->kernel};
    if (window.start < 0) window.begin = -window.start;
    if (window.start + window.end > size) window.end = size - window.start;
    return window;
}

static void check(const Pool2d *pool, const Tensor *x, const Tensor *y) {
    assert(pool->kernel <= KERNEL_MAX && x->rank == 4 && y->rank == 4);
    assert(x->shape[0] == y->shape[0] && x->shape[1] == y->shape[1]);
}

/* A maximum needs an element: a window that lies in padding alone has none. */
static Status check_windows(const Pool2d *pool, const Tensor *x, const Tensor *y) {
    for (int side = 2; side < 4; side++)
        for (int64_t out = 0; out < y->shape[side]; out++) {
            Window window = window_of(pool, out, x->shape[side]);
            if (window.begin >= window.end)
                return FAIL(STATUS_UNSUPPORTED, "use a padding of at most half the kernel",
                            "a pooling window of %d with padding %d lies in padding only",
                            pool->kernel, pool->padding);
        }
    return STATUS_OK;
}

/* The maximum of one window in up to 8 channels, whose lanes `mask` turns on: the first in window
 * order; NaN wins, so that a diverged run is seen. */
static inline __attribute__((always_inline)) void
max_window(float *y, uint8_t *choice, const float *x, Window h, Window w, int kernel,
           int64_t row_stride, int64_t channels, __m256i mask, size_t count) {
    __m256 best = _mm256_set1_ps(-INFINITY);
    __m256i which = _mm256_set1_epi32((int)(h.begin * kernel + w.begin));
    for (int64_t r = h.begin; r < h.end; r++)
        for (int64_t s = w.begin; s < w.end; s++) {
            const float *from = x + (h.start + r) * row_stride + (w.start + s) * channels;
            __m256 value = _mm256_maskload_ps(from, mask);
            __m256 better = _mm256_and_ps(_mm256_cmp_ps(value, best, _CMP_NLE_UQ),
                                          _mm256_cmp_ps(best, best, _CMP_ORD_Q));
            best = _mm256_blendv_ps(best, value, better);
            which = _mm256_blendv_epi8(which, _mm256_set1_epi32((int)(r * kernel + s)),
                                       _mm256_castps_si256(better));
        }
    _mm256_maskstore_ps(y, mask, best);
    __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(which), _mm256_extracti128_si256(which, 1));
    uint64_t bytes = (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    memcpy(choice, &bytes, count);
}

Status cpu_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                            uint8_t *choice, const Tensor *x) {
    Worker *mine = cpu_worker(self, worker);
    check(pool, x, y);
    TRY(check_windows(pool, x, y));
    const float *from;
    float *to;
    TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
    TRY(layout_rows_for(mine, SCRATCH_Y, y, &to));
    int64_t channels = x->shape[1], height = x->shape[2], width = x->shape[3], at = 0;
    __m256i rest = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(channels % VECTOR)),
                                      _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int64_t n = 0; n < x->shape[0]; n++)
        for (int64_t oh = 0; oh < y->shape[2]; oh++)
            for (int64_t ow = 0; ow < y->shape[3]; ow++, at += channels) {
                const float *sample = from + n * height * width * channels;
                Window h = window_of(pool, oh, height), w = window_of(pool, ow, width);
                int64_t c = 0;
                for (; c + VECTOR <= channels; c += VECTOR)
                    max_window(to + at + c, choice + at + c, sample + c, h, w, pool->kernel,
                               width * channels, channels, _mm256_set1_epi32(-1), VECTOR);
                if (c < channels)
                    max_window(to + at + c, choice + at + c, sample + c, h, w, pool->kernel,
                               width * channels, channels, rest, (size_t)(channels - c));
            }
    layout_rows_store(y, to);
    return STATUS_OK;
}

Status cpu_max_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                             const Tensor *dy, const uint8_t *choice) {
    Worker *mine = cpu_worker(self, worker);
    check(pool, dx, dy);
    const float *from;
    float *to;
    TRY(layout_rows_of(mine, SCRATCH_Y, dy, &from));
    TRY(layout_rows_for(mine, SCRATCH_X, dx, &to));
    memset(to, 0, (size_t)tensor_elements(dx) * sizeof *to);
    int64_t channels = dx->shape[1], height = dx->shape[2], width = dx->shape[3], at = 0;
    int64_t
        offset[KERNEL_MAX * KERNEL_MAX]; /* of a window index, from the window's start */
    for (int k = 0; k < pool->kernel * pool->kernel; k++)
        offset[k] = (k / pool->kernel * width + k % pool->kernel) * channels;
    for (int64_t n = 0; n < dy->shape[0]; n++)
        for (int64_t oh = 0; oh < dy->shape[2]; oh++)
            for (int64_t ow = 0; ow < dy->shape[3]; ow++, at += channels) {
                int64_t h = oh * pool->stride - pool->padding;
                int64_t w = ow * pool->stride - pool->padding;
                int64_t start = ((n * height + h) * width + w) * channels;
                for (int64_t c = 0; c < channels; c++)
                    to[start + offset[choice[at + c]] + c] += from[at + c];
            }
    layout_rows_store(dx, to);
    return STATUS_OK;
}

Status cpu_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                            const Tensor *x) {
    Worker *mine = cpu_worker(self, worker);
    check(pool, x, y);
    const float *from;
    float *to;
    TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
    TRY(layout_rows_for(mine, SCRATCH_Y, y, &to));
    int64_t channels = x->shape[1], height = x->shape[2], width = x->shape[3];
    float area = (float)(pool->kernel * pool->kernel);
    float *restrict sum = to;
    for (int64_t n = 0; n < x->shape[0]; n++)
        for (int64_t oh = 0; oh < y->shape[2]; oh++)
            for (int64_t ow = 0; ow < y->shape[3]; ow++, sum += channels) {
                Window h = window_of(pool, oh, height), w = window_of(pool, ow, width);
                memset(sum, 0, (size_t)channels * sizeof *sum);
                for (int64_t r = h.begin; r < h.end; r++)
                    for (int64_t s = w.begin; s < w.end; s++) {
                        const float *restrict pixel =
                            from +
                            ((n * height + h.start + r) * width + w.start + s) * channels;
                        for (int64_t c = 0; c < channels; c++)
                            sum[c] += pixel[c];
                    }
                for (int64_t c = 0; c < channels; c++)
                    sum[c] /= area;
            }
    layout_rows_store(y, to);
    return STATUS_OK;
}

Status cpu_avg_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                             const Tensor *dy) {
    Worker *mine = cpu_worker(self, worker);
    check(pool, dx, dy);
    const float *from;
    float *to;
    TRY(layout_rows_of(mine, SCRATCH_Y, dy, &from));
    TRY(layout_rows_for(mine, SCRATCH_X, dx, &to));
    memset(to, 0, (size_t)tensor_elements(dx) * sizeof *to);
    int64_t channels = dx->shape[1], height = dx->shape[2], width = dx->shape[3];
    float area = (float)(pool->kernel * pool->kernel);
    const float *restrict gradient = from;
    for (int64_t n = 0; n < dy->shape[0]; n++)
        for (int64_t oh = 0; oh < dy->shape[2]; oh++)
            for (int64_t ow = 0; ow < dy->shape[3]; ow++, gradient += channels) {
                Window h = window_of(pool, oh, height), w = window_of(pool, ow, width);
                for (int64_t r = h.begin; r < h.end; r++)
                    for (int64_t s = w.begin; s < w.end; s++) {
                        float *restrict pixel =
                            to +
                            ((n * height + h.start + r) * width + w.start + s) * channels;
                        for (int64_t c = 0; c < channels; c++)
                            pixel[c] += gradient[c] / area;
                    }
            }
    layout_rows_store(dx, to);
    return STATUS_OK;
}

Status cpu_global_pool_forward(Backend *self, int worker, Tensor *y, const Tensor *x) {
    Worker *mine = cpu_worker(self, worker);
    const float *from;
    TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
    int64_t channels = x->shape[1], pixels = x->shape[2] * x->shape[3];
    for (int64_t n = 0; n < x->shape[0]; n++)
        TRY(columns_sum(mine, y->data + n * channels, from + n * pixels * channels, pixels,
                        channels, 1.0 / (double)pixels));
    return STATUS_OK;
}

Status cpu_global_pool_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy) {
    Worker *mine = cpu_worker(self, worker);
    float *to;
    TRY(layout_rows_for(mine, SCRATCH_X, dx, &to));
    int64_t channels = dx->shape[1], pixels = dx->shape[2] * dx->shape[3];
    for (int64_t n = 0; n < dx->shape[0]; n++) {
        float *first = to + n * pixels * channels;
        for (int64_t c = 0; c < channels; c++)
            first[c] = dy->data[n * channels + c] / (float)pixels;
        for (int64_t p = 1; p < pixels; p++)
            memcpy(first + p * channels, first, (size_t)channels * sizeof *first);
    }
    layout_rows_store(dx, to);
    return STATUS_OK;
}
