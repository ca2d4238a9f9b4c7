/* Passes that work on each element alone: which thread takes which changes no bit. Include "launch.h"
 * first. */
#pragma once

#include "kernels/cuda/lanes.cuh"

/* Enough blocks to fill any device; a thread then goes on in strides of the whole grid. */
enum { MAP_THREADS = 256, MAP_BLOCKS_MAX = 8192 };

static inline int64_t map_blocks(int64_t threads) {
    int64_t blocks = (threads + MAP_THREADS - 1) / MAP_THREADS;
    return blocks < (int64_t)MAP_BLOCKS_MAX ? blocks : (int64_t)MAP_BLOCKS_MAX;
}

DEVICE int64_t map_thread(void) {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

DEVICE int64_t map_stride(void) {
    return (int64_t)gridDim.x * blockDim.x;
}

/* y = Function::of(function, a), WIDTH elements at a time in the first `vectors` of them, then one. y may be a. */
template <int WIDTH, typename To, typename From, typename Function>
KERNEL void map_one_kernel(Function function, int64_t vectors, int64_t count, To *y,
                           const From *a) {
    for (int64_t at = map_thread(); at < vectors; at += map_stride()) {
        float x[WIDTH];
        lanes_load<WIDTH>(x, a + at * WIDTH);
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            x[i] = Function::of(function, x[i]);
        lanes_store<WIDTH>(y + at * WIDTH, x);
    }
    for (int64_t at = vectors * WIDTH + map_thread(); at < count; at += map_stride())
        lane_store(y + at, Function::of(function, lane_load(a + at)));
}

/* y = Function::of(function, a, b). y may be either. */
template <int WIDTH, typename T, typename Function>
KERNEL void map_two_kernel(Function function, int64_t vectors, int64_t count, T *y,
                           const T *a, const T *b) {
    for (int64_t at = map_thread(); at < vectors; at += map_stride()) {
        float x[WIDTH], z[WIDTH];
        lanes_load<WIDTH>(x, a + at * WIDTH);
        lanes_load<WIDTH>(z, b + at * WIDTH);
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            x[i] = Function::of(function, x[i], z[i]);
        lanes_store<WIDTH>(y + at * WIDTH, x);
    }
    for (int64_t at = vectors * WIDTH + map_thread(); at < count; at += map_stride())
        lane_store(y + at, Function::of(function, lane_load(a + at), lane_load(b + at)));
}

template <typename To, typename From, typename Function>
static Status map_one(VendorQueue *queue, Function function, To *y, const From *a,
                      int64_t count) {
    if (count <= 0) return STATUS_OK;
    constexpr int width =
        sizeof(To) < sizeof(From) ? (int)Lanes<To>::COUNT : (int)Lanes<From>::COUNT;
    int64_t vectors = lanes_aligned(y) && lanes_aligned(a) ? count / width : 0;
    int64_t threads = vectors > 0 ? vectors : count;
    return LAUNCH(queue, map_blocks(threads), 1, MAP_THREADS,
                  (map_one_kernel<width, To, From, Function>), function, vectors, count, y,
                  a);
}

template <typename T, typename Function>
static Status map_two(VendorQueue *queue, Function function, T *y, const T *a, const T *b,
                      int64_t count) {
    if (count <= 0) return STATUS_OK;
    constexpr int width = Lanes<T>::COUNT;
    bool aligned = lanes_aligned(y) && lanes_aligned(a) && lanes_aligned(b);
    int64_t vectors = aligned ? count / width : 0;
    int64_t threads = vectors > 0 ? vectors : count;
    return LAUNCH(queue, map_blocks(threads), 1, MAP_THREADS,
                  (map_two_kernel<width, T, Function>), function, vectors, count, y, a, b);
}

/* The data of an activation, whatever its elements are. */
template <typename T> static inline T *map_data(const Tensor *tensor) {
    return reinterpret_cast<T *>(tensor->data);
}
