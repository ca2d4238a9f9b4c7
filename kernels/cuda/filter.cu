/* Filters between the registry's order, (m, c, r·s) float, and the libraries' (m, r·s, c). */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/transpose.cuh"

Status cuda_filter_to_last(VendorQueue *queue, void *last, VendorType type, const float *w,
                           int64_t m, int64_t c, int64_t rs) {
    if (c == 1 || rs == 1) /* the orders are the same */
        return cuda_convert(queue, last, type, w, VENDOR_F32, m * c * rs);
    if (type == VENDOR_BF16)
        return transpose(queue, static_cast<Bf16 *>(last), w, m, c, rs);
    return transpose(queue, static_cast<float *>(last), w, m, c, rs);
}

Status cuda_filter_from_last(VendorQueue *queue, float *w, const void *last,
                             VendorType type, int64_t m, int64_t c, int64_t rs) {
    if (c == 1 || rs == 1)
        return cuda_convert(queue, w, VENDOR_F32, last, type, m * c * rs);
    if (type == VENDOR_BF16)
        return transpose(queue, w, static_cast<const Bf16 *>(last), m, rs, c);
    return transpose(queue, w, static_cast<const float *>(last), m, rs, c);
}
