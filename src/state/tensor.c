/* Sizes and names of element types. */
#include "src/state/tensor.h"

size_t dtype_size(DType dtype) {
    return dtype == DTYPE_F32 ? 4 : 8;
}

const char *dtype_name(DType dtype) {
    switch (dtype) {
    case DTYPE_F32:
        return "float32";
    case DTYPE_F64:
        return "float64";
    case DTYPE_I64:
        return "int64";
    case DTYPE_U64:
        return "uint64";
    }
    return "unknown";
}

int64_t tensor_elements(const Tensor *tensor) {
    int64_t elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        elements *= tensor->shape[i];
    return elements;
}
