/* Element types, and the view of memory that operations take.
 *
 * Dimensions, everywhere: N batch, C channels, H height, W width; K input features, M output
 * features of a linear layer; R, S a filter's height and width. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum { DTYPE_F32 = 1, DTYPE_F64 = 2, DTYPE_I64 = 3, DTYPE_U64 = 4 } DType;

size_t dtype_size(DType dtype);      /* bytes of one element */
const char *dtype_name(DType dtype); /* "float32", "float64", "int64", "uint64" */

enum { TENSOR_RANK_MAX = 4 };

/* A view of device memory; it owns nothing. Shape is always the logical one: (N, C, H, W), (N, K),
 * (M, K), (C).
 *
 * `layout` 0 is canonical: row-major in the order of the shape, what PyTorch calls contiguous.
 * Parameters, gradients, labels, the network's input and logits are always canonical floats. Any other
 * value is the backend's own (channels-blocked or 16-bit activations, say) and only it may look inside:
 * Backend.layout chooses it and Backend.reorder leaves it. */
typedef struct {
    float *data;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    int layout;
} Tensor;

/* Product of the shape: elements without a layout's padding. */
int64_t tensor_elements(const Tensor *tensor);

static inline Tensor tensor_1d(float *data, int64_t a) {
    return (Tensor){data, 1, {a, 1, 1, 1}, 0};
}
static inline Tensor tensor_2d(float *data, int64_t a, int64_t b) {
    return (Tensor){data, 2, {a, b, 1, 1}, 0};
}
static inline Tensor tensor_4d(float *data, int64_t a, int64_t b, int64_t c, int64_t d) {
    return (Tensor){data, 4, {a, b, c, d}, 0};
}
