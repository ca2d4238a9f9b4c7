/* Sums of squares of fixed chunks, in double: a square of a float is exact there. A block a chunk; thread
 * t takes the quads t, t + 512, … in turn. */
#include "launch.h"

#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum { THREADS = 512, AT_ONCE = 4 };

/* COUNT quads, a stride of the block apart: all loads, then the sum in their order. */
template <bool ALIGNED, int COUNT> DEVICE void add_quads(double &sum, const float *x) {
    float a[COUNT][4];
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        if constexpr (ALIGNED) {
            lanes_load<4>(a[k], x + 4 * THREADS * k);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[k][i] = x[4 * THREADS * k + i];
        }
#pragma unroll
    for (int k = 0; k < COUNT; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum = __builtin_fma((double)a[k][i], (double)a[k][i], sum);
}

template <bool ALIGNED>
KERNEL void sum_squares_kernel(const float *x, int64_t count, int64_t chunk, double *sums) {
    SHARED(double, all, THREADS);
    const int64_t first = blockIdx.x * chunk;
    const int64_t here = count - first < chunk ? count - first : chunk;
    const int64_t quads = here / 4;
    x += first;
    double sum[1] = {0.0};
    int64_t quad = threadIdx.x;
    for (; quad + (AT_ONCE - 1) * THREADS < quads; quad += AT_ONCE * THREADS)
        add_quads<ALIGNED, AT_ONCE>(sum[0], x + 4 * quad);
    for (; quad < quads; quad += THREADS)
        add_quads<ALIGNED, 1>(sum[0], x + 4 * quad);
    for (int64_t at = 4 * quads + threadIdx.x; at < here; at += THREADS)
        sum[0] = __builtin_fma((double)x[at], (double)x[at], sum[0]);
    block_sum(sum, all);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum[0];
}

Status cuda_sum_squares(Backend *self, int worker, const float *x, int64_t count,
                        int64_t chunk, double *sums) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    assert(chunk > 0);
    if (count <= 0) return STATUS_OK;
    int64_t chunks = (count + chunk - 1) / chunk;
    if (chunk % 4 == 0 && lanes_aligned(x))
        return LAUNCH(queue, chunks, 1, THREADS, (sum_squares_kernel<true>), x, count,
                      chunk, sums);
    return LAUNCH(queue, chunks, 1, THREADS, (sum_squares_kernel<false>), x, count, chunk,
                  sums);
}
