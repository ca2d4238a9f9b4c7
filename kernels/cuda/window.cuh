/* Pooling windows over channels-last images: a thread takes a few channels of one pixel. Include
 * "launch.h" first. */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum { WINDOW_THREADS = 256, WINDOW_ROWS_MAX = 65535 };

typedef struct {
    int64_t images, channels;
    int height, width, rows, columns; /* of x and of y */
    int kernel, stride, padding;
} Window;

static inline Window window_of(const Pool2d *pool, const Tensor *x, const Tensor *y) {
    assert(x->rank == 4 && y->rank == 4 && y->layout == x->layout);
    assert(x->layout == LAYOUT_LAST_F32 || x->layout == LAYOUT_LAST_BF16);
    assert(y->shape[0] == x->shape[0] && y->shape[1] == x->shape[1]);
    return {x->shape[0],      x->shape[1],      (int)x->shape[2],
            (int)x->shape[3], (int)y->shape[2], (int)y->shape[3],
            pool->kernel,     pool->stride,     pool->padding};
}

/* Launching over images · `rows` lines of `columns` pixels: blocks along a line, and lines. */
typedef struct {
    int64_t blocks, lines, threads;
} WindowGrid;

static inline WindowGrid window_grid(const Window &w, int rows, int columns, int lanes) {
    int64_t items = columns * (w.channels / lanes), lines = w.images * rows;
    int64_t threads =
        items < WINDOW_THREADS ? (items + 31) / 32 * 32 : (int64_t)WINDOW_THREADS;
    return {(items + threads - 1) / threads,
            lines < WINDOW_ROWS_MAX ? lines : (int64_t)WINDOW_ROWS_MAX, threads};
}

/* Where a thread stands in its line; false: beyond the line's end. */
DEVICE bool window_place(const Window &w, int columns, int lanes, int *column,
                         int64_t *channel) {
    uint32_t vectors = (uint32_t)w.channels / (uint32_t)lanes;
    uint32_t item = blockIdx.x * blockDim.x + threadIdx.x;
    *column = (int)(item / vectors);
    *channel = (int64_t)(item % vectors) * lanes;
    return *column < columns;
}

DEVICE int window_max(int a, int b) {
    return a > b ? a : b;
}

DEVICE int window_min(int a, int b) {
    return a < b ? a : b;
}

/* The windows along one side that hold position `at`: outputs first … last, clipped to `count`. */
DEVICE void window_holding(const Window &w, int at, int count, int *first, int *last) {
    int low = at + w.padding - w.kernel + 1; /* the first output's window may begin here */
    *first = low > 0 ? (low + w.stride - 1) / w.stride : 0;
    *last = window_min((at + w.padding) / w.stride, count - 1);
}

/* 16 bytes of channels at a time, or one; no bit depends on it. */
template <typename T>
static inline int window_lanes(const Window &w, const Tensor *x, const Tensor *y,
                               const uint8_t *choice = nullptr) {
    bool wide = w.channels % Lanes<T>::COUNT == 0 && lanes_aligned(x->data) &&
                lanes_aligned(y->data) && lanes_aligned(choice);
    return wide ? (int)Lanes<T>::COUNT : 1;
}
