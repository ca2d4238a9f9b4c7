/* Inverted dropout. A thread takes four pixels of one channel: where a plane is a multiple of four, these
 * are the four numbers of one Philox block. Neighbouring threads take neighbouring channels, as memory
 * does. Rows are a single channel. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/philox.cuh"

#include <assert.h>

enum { THREADS = 256, SIDE = 4, SAMPLES_AT_ONCE = 65535 };

typedef struct {
    int64_t samples;
    uint32_t channels, plane;
    float rate;
    uint32_t first_sample;
} Dropout;

template <typename T>
KERNEL void dropout_kernel(Dropout drop, Rng rng, const StepValues *values, T *y,
                           const T *x) {
    uint32_t item = blockIdx.x * THREADS + threadIdx.x;
    uint32_t channel = item % drop.channels, first = item / drop.channels * SIDE;
    if (first >= drop.plane) return;
    uint32_t end = drop.plane - first < SIDE ? drop.plane : first + SIDE;
    float keep = 1.0f - drop.rate;
    rng.time = values->step;
    for (int64_t n = blockIdx.y; n < drop.samples; n += gridDim.y) {
        uint32_t sample = drop.first_sample + (uint32_t)n, words[4], made = 0;
        int64_t base = n * drop.plane * drop.channels + channel;
        for (uint32_t pixel = first; pixel < end; pixel++) {
            uint32_t lane = channel * drop.plane + pixel; /* the canonical index */
            if (pixel == first || lane / 4 != made) {
                made = lane / 4;
                philox_block(rng, sample, made, words);
            }
            uint32_t half = (lane & 2u) != 0 ? words[2] : words[0];
            uint32_t odd = (lane & 2u) != 0 ? words[3] : words[1];
            float uniform = philox_uniform((lane & 1u) != 0 ? odd : half);
            int64_t at = base + (int64_t)pixel * drop.channels;
            lane_store(y + at,
                       element_dropout(lane_load(x + at), uniform, drop.rate, keep));
        }
    }
}

Status cuda_dropout(Backend *self, int worker, Rng rng, const StepValues *values,
                    uint32_t first_sample, float rate, Tensor *y, const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    int64_t count = tensor_elements(x);
    assert(y->layout == x->layout && tensor_elements(y) == count);
    if (count == 0) return STATUS_OK;
    bool last = x->layout == LAYOUT_LAST_F32 || x->layout == LAYOUT_LAST_BF16;
    int64_t inside = count / x->shape[0], channels = last ? x->shape[1] : 1;
    assert(inside <= INT32_MAX); /* an element's number has 32 bits */
    Dropout drop = {x->shape[0], (uint32_t)channels, (uint32_t)(inside / channels), rate,
                    first_sample};
    int64_t items = (drop.plane + SIDE - 1) / SIDE * channels;
    int64_t blocks = (items + THREADS - 1) / THREADS;
    int64_t samples =
        drop.samples < SAMPLES_AT_ONCE ? drop.samples : (int64_t)SAMPLES_AT_ONCE;
    if (cuda_is_bf16(x))
        return LAUNCH(queue, blocks, samples, THREADS, (dropout_kernel<Bf16>), drop, rng,
                      values, reinterpret_cast<Bf16 *>(y->data),
                      reinterpret_cast<const Bf16 *>(x->data));
    return LAUNCH(queue, blocks, samples, THREADS, (dropout_kernel<float>), drop, rng,
                  values, y->data, (const float *)x->data);
}
