/* Rounds a bias to bf16: cuBLASLt adds a bias of the output's type. */
#include "launch.h"

#include "kernels/cuda/real/gemm.h"

KERNEL void round_bias(Bf16 *out, const float *bias, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = bf16_from_float(bias[i]);
}

Status gemm_round_bias(VendorQueue *queue, void *bf16, const float *bias, int64_t count) {
    const int64_t blocks = (count + 255) / 256;
    return LAUNCH(queue, blocks, 1, 256, round_bias, static_cast<Bf16 *>(bf16), bias, count);
}
