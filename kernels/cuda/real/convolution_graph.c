/* The operation graph of one convolution: three tensors, channels last, and the operation. */
#include "kernels/cuda/real/convolution.h"

cudnnStatus_t descriptors_add(Descriptors *all, cudnnBackendDescriptorType_t type,
                              cudnnBackendDescriptor_t *out) {
    *out = NULL;
    if (all->count == sizeof all->items / sizeof *all->items)
        return CUDNN_STATUS_INTERNAL_ERROR;
    cudnnStatus_t status = cudnnBackendCreateDescriptor(type, out);
    if (status == CUDNN_STATUS_SUCCESS) all->items[all->count++] = *out;
    return status;
}

void descriptors_destroy(Descriptors *all) {
    while (all->count > 0)
        cudnnBackendDestroyDescriptor(all->items[--all->count]);
}

/* (n, c, h, w) in memory as (n, h, w, c). */
static cudnnStatus_t tensor(Descriptors *all, int64_t uid, VendorType type, int64_t n,
                            int64_t c, int64_t h, int64_t w,
                            cudnnBackendDescriptor_t *out) {
    int64_t dimensions[4] = {n, c, h, w};
    int64_t strides[4] = {h * w * c, 1, w * c, c};
    int64_t alignment = 16; /* of any tensor in any arena */
    cudnnDataType_t data = type == VENDOR_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_TENSOR_DESCRIPTOR, out));
    CUDNN_SET(*out, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    CUDNN_SET(*out, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &data);
    CUDNN_SET(*out, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dimensions);
    CUDNN_SET(*out, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    CUDNN_SET(*out, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    return cudnnBackendFinalize(*out);
}

static cudnnStatus_t window(Descriptors *all, const VendorConvolution *convolution,
                            cudnnBackendDescriptor_t *out) {
    cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode =
        CUDNN_CROSS_CORRELATION; /* not flipped, as everywhere here */
    int64_t rank = 2, dilation[2] = {1, 1};
    int64_t stride[2] = {convolution->stride, convolution->stride};
    int64_t padding[2] = {convolution->padding, convolution->padding};
    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, out));
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &rank);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
              &mode);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, padding);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, padding);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    CUDNN_SET(*out, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    return cudnnBackendFinalize(*out);
}

/* What differs between the directions: the names of an operation's parts. */
typedef struct {
    cudnnBackendDescriptorType_t operation;
    cudnnBackendAttributeName_t window, x, w, y, alpha, beta;
    int64_t x_uid, w_uid, y_uid;
} Direction;

static const Direction directions[] = {
    [VENDOR_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CONVOLUTION_UID_A,
                        CONVOLUTION_UID_B, CONVOLUTION_UID_OUT},
    [VENDOR_BACKWARD_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                              CONVOLUTION_UID_OUT, CONVOLUTION_UID_B, CONVOLUTION_UID_A},
    [VENDOR_BACKWARD_WEIGHTS] =
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CONVOLUTION_UID_A,
         CONVOLUTION_UID_OUT, CONVOLUTION_UID_B},
};

cudnnStatus_t convolution_graph(const ConvolutionTarget *target,
                                const VendorConvolution *convolution, VendorType output,
                                Descriptors *all, cudnnBackendDescriptor_t *graph) {
    const VendorConvolution *v = convolution;
    const Direction *direction = &directions[v->direction];
    bool weights = v->direction == VENDOR_BACKWARD_WEIGHTS;
    int64_t height = (v->h + 2 * v->padding - v->r) / v->stride + 1;
    int64_t width = (v->w + 2 * v->padding - v->s) / v->stride + 1;
    cudnnBackendDescriptor_t x, w, y, shape, operation;
    CUDNN_NEED(tensor(all, direction->x_uid, v->type, v->n, v->c, v->h, v->w, &x));
    CUDNN_NEED(tensor(all, direction->w_uid, weights ? output : v->type, v->m,
                      v->c / v->groups, v->r, v->s, &w));
    CUDNN_NEED(tensor(all, direction->y_uid, v->type, v->n, v->m, height, width, &y));
    CUDNN_NEED(window(all, v, &shape));

    float one = 1.0f, zero = 0.0f; /* the output is overwritten */
    CUDNN_NEED(descriptors_add(all, direction->operation, &operation));
    CUDNN_SET(operation, direction->window, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &shape);
    CUDNN_SET(operation, direction->x, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
    CUDNN_SET(operation, direction->w, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &w);
    CUDNN_SET(operation, direction->y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y);
    CUDNN_SET(operation, direction->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    CUDNN_SET(operation, direction->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    CUDNN_NEED(cudnnBackendFinalize(operation));

    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, graph));
    if (target->handle != NULL)
        CUDNN_SET(*graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
                  &target->handle);
    CUDNN_SET(*graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
              &operation);
    return cudnnBackendFinalize(*graph);
}
