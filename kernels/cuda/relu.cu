/* y = max(x, 0), and its gradient. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/map.cuh"

#include <assert.h>

struct Relu {
    DEVICE float of(Relu, float x) {
        return element_relu(x);
    }
};

struct ReluGradient {
    DEVICE float of(ReluGradient, float dy, float y) {
        return element_relu_gradient(dy, y);
    }
};

Status cuda_relu_forward(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    int64_t count = tensor_elements(x);
    assert(y->layout == x->layout && tensor_elements(y) == count);
    if (cuda_is_bf16(x))
        return map_one(queue, Relu{}, map_data<Bf16>(y), map_data<const Bf16>(x), count);
    return map_one(queue, Relu{}, y->data, (const float *)x->data, count);
}

Status cuda_relu_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                          const Tensor *y) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    int64_t count = tensor_elements(y);
    assert(dx->layout == y->layout && dy->layout == y->layout);
    assert(tensor_elements(dx) == count && tensor_elements(dy) == count);
    if (cuda_is_bf16(y))
        return map_two(queue, ReluGradient{}, map_data<Bf16>(dx), map_data<const Bf16>(dy),
                       map_data<const Bf16>(y), count);
    return map_two(queue, ReluGradient{}, dx->data, (const float *)dy->data,
                   (const float *)y->data, count);
}
