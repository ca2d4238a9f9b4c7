/* Numbers from one type to the other: float to bf16 rounds to nearest, bf16 to float is exact. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/map.cuh"

struct Same {
    DEVICE float of(Same, float x) {
        return x;
    }
};

Status cuda_convert(VendorQueue *queue, void *to, VendorType to_type, const void *from,
                    VendorType from_type, int64_t count) {
    if (count <= 0) return STATUS_OK;
    if (to_type == from_type)
        return vendor_copy(queue, to, from,
                           (size_t)count *
                               (to_type == VENDOR_BF16 ? sizeof(Bf16) : sizeof(float)));
    if (to_type == VENDOR_BF16)
        return map_one(queue, Same{}, static_cast<Bf16 *>(to),
                       static_cast<const float *>(from), count);
    return map_one(queue, Same{}, static_cast<float *>(to), static_cast<const Bf16 *>(from),
                   count);
}
