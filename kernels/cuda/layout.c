/* Which layout an activation has: by its rank and the precision alone, so that all operations agree. */
#include "kernels/cuda/host.h"

size_t cuda_layout(Backend *self, Tensor *tensor) {
    bool half = cuda_of(self)->precision == PRECISION_BF16;
    if (tensor->rank == 4)
        tensor->layout = half ? LAYOUT_LAST_BF16 : LAYOUT_LAST_F32;
    else
        tensor->layout = half ? LAYOUT_ROWS_BF16 : LAYOUT_CANONICAL;
    return (size_t)tensor_elements(tensor) * cuda_type_size(cuda_type_of(tensor));
}
