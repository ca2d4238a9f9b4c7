/* Sums of squares of fixed chunks, in double: a square of a float is exact there. A block a chunk; thread
 * t takes the quads t, t + 512, … in turn. */
#include "launch.h"

#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum { THREADS = 512 };

template <bool ALIGNED>
KERNEL void sum_squares_kernel(const float *x, int64_t count, int64_t chunk, double *sums) {
    SHARED(double, all, THREADS);
    const int64_t first = blockIdx.x * chunk;
    const int64_t here = count - first < chunk ? count - first : chunk;
    const int64_t quads = here / 4;
    x += first;
    double sum[1] = {0.0};
#pragma unroll 4
    for (int64_t quad = threadIdx.x; quad < quads; quad += THREADS) {
        float a[4];
        if constexpr (ALIGNED) {
            lanes_load<4>(a, x + 4 * quad);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[i] = x[4 * quad + i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[0] = __builtin_fma((double)a[i], (double)a[i], sum[0]);
    }
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
