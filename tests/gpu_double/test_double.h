/* What test_double.c calls of test_double.cu. */
#pragma once

#include "kernels/cuda/vendor.h"

typedef enum {
    DIVERGENT_BARRIER,
    EXITED_LANE,
    SHUFFLE_AGAINST_BARRIER,
    MISALIGNED
} BrokenKernel;

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = value + i */
Status launch_fill(VendorQueue *queue, float *y, int64_t count, float value);
/* sums[b] = sum of x[256·b .. 256·b + 255] */
Status launch_block_sum(VendorQueue *queue, float *sums, const float *x, int blocks);
/* One block turns its values round three times; without barriers once, as a race. */
Status launch_reverse(VendorQueue *queue, float *y, int threads, bool barrier);
/* y[i] = y[i + by] inside of one warp */
Status launch_shift_down(VendorQueue *queue, double *y, int by);
Status launch_broken(VendorQueue *queue, void *memory, BrokenKernel which);
/* Adds 1 to each thread's own place. */
Status launch_everywhere(VendorQueue *queue, int *y, int64_t blocks_x, int64_t blocks_y,
                         int64_t threads);
Status launch_read_uninitialised(VendorQueue *queue, float *y);
uint16_t bf16_round(float x);

#ifdef __cplusplus
}
#endif
