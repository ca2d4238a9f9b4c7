/* Doubles from all threads of a block, added in one order. Include "launch.h" first. */
#pragma once

enum { BLOCK_SUM_COLUMNS = 32 };

/* sums = Σ of every thread's own, on every thread: threads 32 apart are added in turn, then these sums in
 * turn. `all` is shared, with room for COUNT doubles a thread; blockDim.x is a multiple of 32. Two
 * barriers; `all` is free again after one more. */
template <int COUNT> DEVICE void block_sum(double (&sums)[COUNT], double *all) {
    const uint32_t thread = threadIdx.x, threads = blockDim.x;
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        all[k * threads + thread] = sums[k];
    __syncthreads();
    if (thread < BLOCK_SUM_COLUMNS)
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            for (uint32_t other = thread + BLOCK_SUM_COLUMNS; other < threads;
                 other += BLOCK_SUM_COLUMNS)
                sums[k] += all[k * threads + other];
            all[k * threads + thread] = sums[k];
        }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        sums[k] = all[k * threads];
        for (uint32_t other = 1; other < BLOCK_SUM_COLUMNS; other++)
            sums[k] += all[k * threads + other];
    }
}
