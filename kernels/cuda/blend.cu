/* Running statistics move toward the batch's, unless the step's verdict refuses. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/map.cuh"

#include <assert.h>

KERNEL void blend_kernel(float keep, float take, int64_t quads, float *y, const float *from,
                         const float *x, const StepVerdict *verdict) {
    if (verdict->refused != 0) return;
    for (int64_t at = map_thread(); at < quads; at += map_stride()) {
        float a[4], b[4];
        lanes_load<4>(a, from + 4 * at);
        lanes_load<4>(b, x + 4 * at);
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = element_blend(a[i], b[i], keep, take);
        lanes_store<4>(y + 4 * at, a);
    }
}

Status cuda_blend(Backend *self, int worker, float *y, const float *from, const float *x,
                  int64_t count, float rate, float scale, const StepVerdict *verdict) {
    (void)worker;
    assert(count % 4 == 0 && lanes_aligned(y) && lanes_aligned(from) && lanes_aligned(x));
    if (count == 0) return STATUS_OK;
    float keep = 1.0f - rate, take = rate * scale;
    int64_t quads = count / 4;
    return LAUNCH(cuda_of(self)->work, map_blocks(quads), 1, MAP_THREADS, blend_kernel,
                  keep, take, quads, y, from, x, verdict);
}
