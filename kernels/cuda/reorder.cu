/* The same values in another layout: canonical order or channels-last, float or bf16, and flattened
 * or not. The rank-2 side of a flatten has its elements in canonical order. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/transpose.cuh"

#include <assert.h>

static bool is_last(const Tensor *tensor) {
    return tensor->layout == LAYOUT_LAST_F32 || tensor->layout == LAYOUT_LAST_BF16;
}

/* Every sample is a (rows × columns) matrix to be transposed. */
static Status turn(VendorQueue *queue, Tensor *y, const Tensor *x, int64_t batch,
                   int64_t rows, int64_t columns) {
    Bf16 *y16 = reinterpret_cast<Bf16 *>(y->data);
    const Bf16 *x16 = reinterpret_cast<const Bf16 *>(x->data);
    const float *x32 = x->data;
    if (cuda_is_bf16(y))
        return cuda_is_bf16(x) ? transpose(queue, y16, x16, batch, rows, columns)
                               : transpose(queue, y16, x32, batch, rows, columns);
    return cuda_is_bf16(x) ? transpose(queue, y->data, x16, batch, rows, columns)
                           : transpose(queue, y->data, x32, batch, rows, columns);
}

Status cuda_reorder(Backend *self, int worker, Tensor *y, const Tensor *x) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    int64_t count = tensor_elements(x);
    assert(tensor_elements(y) == count && y->shape[0] == x->shape[0]);
    const Tensor *image = is_last(x) ? x : y;
    int64_t channels = 1, plane = 1; /* of the side that is channels-last */
    if (is_last(image)) {
        channels = image->shape[1];
        plane = image->shape[2] * image->shape[3];
    }
    if (is_last(x) == is_last(y) || channels == 1 || plane == 1)
        return cuda_convert(queue, y->data, cuda_is_bf16(y) ? VENDOR_BF16 : VENDOR_F32,
                            x->data, cuda_is_bf16(x) ? VENDOR_BF16 : VENDOR_F32, count);
    return is_last(y) ? turn(queue, y, x, x->shape[0], channels, plane)
                      : turn(queue, y, x, x->shape[0], plane, channels);
}
