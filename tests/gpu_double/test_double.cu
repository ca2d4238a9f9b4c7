/* Kernels of the double's own tests. */
#include "launch.h"

#include "tests/gpu_double/test_double.h"

KERNEL void fill(float *y, int64_t count, float value) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = value + (float)i;
}

/* Each block sums its threads' values: by shuffles in a warp, by shared memory over warps. */
KERNEL void block_sum(float *sums, const float *x) {
    SHARED(float, partial, 32);
    float sum = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int lanes = 16; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++)
        total += partial[warp];
    sums[blockIdx.x] = total;
}

/* Turns the block's values round three times, with barriers; without them once, as a race. */
template <bool BARRIER> KERNEL void reverse(float *y) {
    SHARED(float, line, 1024);
    unsigned last = blockDim.x - 1;
    float value = y[threadIdx.x];
    for (int turn = 0; turn < (BARRIER ? 3 : 1); turn++) {
        line[threadIdx.x] = value;
        if (BARRIER) __syncthreads();
        value = line[last - threadIdx.x];
        if (BARRIER) __syncthreads();
    }
    y[threadIdx.x] = value;
}

KERNEL void shift_down(double *y, int by) {
    double value = y[threadIdx.x];
    y[threadIdx.x] = __shfl_down_sync(0xffffffffu, value, (unsigned)by);
}

KERNEL void divergent(float *y) {
    if (threadIdx.x < 8) {
        __syncthreads();
        y[0] = 1.0f;
    } else {
        __syncthreads();
        y[1] = 1.0f;
    }
}

KERNEL void exited_lane(int *y) {
    if (threadIdx.x == 5) return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
}

KERNEL void shuffle_against_barrier(int *y) {
    if (threadIdx.x == 5)
        __syncthreads();
    else
        y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
}

KERNEL void misaligned(float *y) {
    vec4_store(y + 1, Vec4{0, 0, 0, 0});
}

KERNEL void everywhere(int *y) {
    unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    y[block * blockDim.x + threadIdx.x] += 1;
}

KERNEL void read_uninitialised(float *y) {
    SHARED(float, line, 32);
    y[threadIdx.x] = line[threadIdx.x];
}

Status launch_fill(VendorQueue *queue, float *y, int64_t count, float value) {
    return LAUNCH(queue, (count + 255) / 256, 1, 256, fill, y, count, value);
}

Status launch_block_sum(VendorQueue *queue, float *sums, const float *x, int blocks) {
    return LAUNCH(queue, blocks, 1, 256, block_sum, sums, x);
}

Status launch_reverse(VendorQueue *queue, float *y, int threads, bool barrier) {
    if (barrier) return LAUNCH(queue, 1, 1, threads, (reverse<true>), y);
    return LAUNCH(queue, 1, 1, threads, (reverse<false>), y);
}

Status launch_shift_down(VendorQueue *queue, double *y, int by) {
    return LAUNCH(queue, 1, 1, 32, shift_down, y, by);
}

Status launch_broken(VendorQueue *queue, void *memory, BrokenKernel which) {
    switch (which) {
    case DIVERGENT_BARRIER:
        return LAUNCH(queue, 1, 1, 32, divergent, (float *)memory);
    case EXITED_LANE:
        return LAUNCH(queue, 1, 1, 32, exited_lane, (int *)memory);
    case SHUFFLE_AGAINST_BARRIER:
        return LAUNCH(queue, 1, 1, 32, shuffle_against_barrier, (int *)memory);
    case MISALIGNED:
        return LAUNCH(queue, 1, 1, 1, misaligned, (float *)memory);
    }
    return STATUS_OK;
}

Status launch_everywhere(VendorQueue *queue, int *y, int64_t blocks_x, int64_t blocks_y,
                         int64_t threads) {
    return LAUNCH(queue, blocks_x, blocks_y, threads, everywhere, y);
}

Status launch_read_uninitialised(VendorQueue *queue, float *y) {
    return LAUNCH(queue, 1, 1, 32, read_uninitialised, y);
}

uint16_t bf16_round(float x) {
    return bf16_from_float(x).bits;
}
