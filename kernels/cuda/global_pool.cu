/* The mean over an image's plane, and its gradient: (N,H,W,C) to (N,C) and back. Sums are in double, in
 * the plane's order: the reference's bits. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum { THREADS = 128, IMAGES_AT_ONCE = 65535 };

typedef struct {
    int64_t images, channels, plane;
} Planes;

/* One channel a thread: neighbours read neighbours. */
template <typename To, typename From>
KERNEL void global_pool_kernel(Planes p, To *y, const From *x) {
    int64_t channel = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (channel >= p.channels) return;
    for (int64_t n = blockIdx.y; n < p.images; n += gridDim.y) {
        const From *from = x + n * p.plane * p.channels + channel;
        double sum = 0.0;
#pragma unroll 8
        for (int64_t pixel = 0; pixel < p.plane; pixel++)
            sum += (double)lane_load(from + pixel * p.channels);
        lane_store(y + n * p.channels + channel, (float)(sum / (double)p.plane));
    }
}

template <typename To, typename From>
KERNEL void global_pool_gradient_kernel(Planes p, To *dx, const From *dy) {
    int64_t channel = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (channel >= p.channels) return;
    for (int64_t n = blockIdx.y; n < p.images; n += gridDim.y) {
        To *to = dx + n * p.plane * p.channels + channel;
        float share = lane_load(dy + n * p.channels + channel) / (float)p.plane;
        for (int64_t pixel = 0; pixel < p.plane; pixel++)
            lane_store(to + pixel * p.channels, share);
    }
}

static Planes planes_of(const Tensor *image, const Tensor *rows) {
    assert(image->rank == 4 && rows->rank == 2);
    assert(image->layout == LAYOUT_LAST_F32 || image->layout == LAYOUT_LAST_BF16);
    assert(rows->shape[0] == image->shape[0] && rows->shape[1] == image->shape[1]);
    return {image->shape[0], image->shape[1], image->shape[2] * image->shape[3]};
}

template <typename To, typename From>
static Status forward(VendorQueue *queue, const Planes &p, Tensor *y, const Tensor *x) {
    return LAUNCH(queue, (p.channels + THREADS - 1) / THREADS,
                  p.images < IMAGES_AT_ONCE ? p.images : (int64_t)IMAGES_AT_ONCE, THREADS,
                  (global_pool_kernel<To, From>), p, reinterpret_cast<To *>(y->data),
                  reinterpret_cast<const From *>(x->data));
}

template <typename To, typename From>
static Status backward(VendorQueue *queue, const Planes &p, Tensor *dx, const Tensor *dy) {
    return LAUNCH(queue, (p.channels + THREADS - 1) / THREADS,
                  p.images < IMAGES_AT_ONCE ? p.images : (int64_t)IMAGES_AT_ONCE, THREADS,
                  (global_pool_gradient_kernel<To, From>), p,
                  reinterpret_cast<To *>(dx->data),
                  reinterpret_cast<const From *>(dy->data));
}

Status cuda_global_pool_forward(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    Planes p = planes_of(x, y);
    if (tensor_elements(x) == 0) return STATUS_OK;
    if (cuda_is_bf16(x))
        return cuda_is_bf16(y) ? forward<Bf16, Bf16>(queue, p, y, x)
                               : forward<float, Bf16>(queue, p, y, x);
    return cuda_is_bf16(y) ? forward<Bf16, float>(queue, p, y, x)
                           : forward<float, float>(queue, p, y, x);
}

Status cuda_global_pool_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    Planes p = planes_of(dx, dy);
    if (tensor_elements(dx) == 0) return STATUS_OK;
    if (cuda_is_bf16(dx))
        return cuda_is_bf16(dy) ? backward<Bf16, Bf16>(queue, p, dx, dy)
                                : backward<Bf16, float>(queue, p, dx, dy);
    return cuda_is_bf16(dy) ? backward<float, Bf16>(queue, p, dx, dy)
                            : backward<float, float>(queue, p, dx, dy);
}
