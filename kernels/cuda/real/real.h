/* What the files behind the seam share: the vendors' headers, and how their errors become ours. */
#pragma once

#include "kernels/cuda/vendor.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nccl.h>

/* A FAIL that names the call, the vendor's text and the device. STATUS_MEMORY when memory ran out. */
Status real_cuda_failed(cudaError_t error, const char *call);
Status real_kernel_failed(cudaError_t error, const char *kernel, unsigned blocks_x,
                          unsigned blocks_y, unsigned threads);
Status real_cudnn_failed(cudnnStatus_t error, const char *call);
Status real_cublas_failed(cublasStatus_t error, const char *call);

#define TRY_CUDA(call)                                                     \
    do {                                                                   \
        cudaError_t error_ = (call);                                       \
        if (error_ != cudaSuccess) return real_cuda_failed(error_, #call); \
    } while (0)
#define TRY_CUDNN(call)                                                              \
    do {                                                                             \
        cudnnStatus_t error_ = (call);                                               \
        if (error_ != CUDNN_STATUS_SUCCESS) return real_cudnn_failed(error_, #call); \
    } while (0)
#define TRY_CUBLAS(call)                                                               \
    do {                                                                               \
        cublasStatus_t error_ = (call);                                                \
        if (error_ != CUBLAS_STATUS_SUCCESS) return real_cublas_failed(error_, #call); \
    } while (0)

/* The libraries' handles, made when first needed. */
void real_close_products(void);
void real_close_convolutions(void);
/* Waits for communicators that are being aborted, for a while: graphs that hold their exchanges are gone by
 * now. */
void real_finish_aborts(void);

struct VendorQueue {
    cudaStream_t stream;
};

/* Makes the opened device the calling thread's: the runtime keeps one for each thread. */
Status real_use_device(void);
