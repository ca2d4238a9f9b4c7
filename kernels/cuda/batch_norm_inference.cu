/* Batch norm with the running statistics. */
#include "launch.h"

#include "kernels/cuda/batch_norm.cuh"
#include "kernels/cuda/map.cuh"

KERNEL void inverse_std_kernel(float *inverse_std, const float *variance, double epsilon,
                               int64_t count) {
    int64_t at = map_thread();
    if (at < count)
        inverse_std[at] = (float)(1.0 / __builtin_sqrt((double)variance[at] + epsilon));
}

Status cuda_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm,
                                 Tensor *y, const Tensor *x, const Tensor *running_mean,
                                 const Tensor *running_variance) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    if (tensor_elements(x) == 0) return STATUS_OK;
    int64_t channels = x->shape[1];
    void *workspace;
    TRY(cuda_workspace(cuda, (size_t)channels * sizeof(float), &workspace));
    float *inverse_std = static_cast<float *>(workspace);
    TRY(LAUNCH(cuda->work, columns_divide_up(channels, MAP_THREADS), 1, MAP_THREADS,
               inverse_std_kernel, inverse_std, (const float *)running_variance->data,
               (double)norm->epsilon, channels));
    if (cuda_is_bf16(x))
        return normalise<Bf16>(cuda->work, norm, y, x, running_mean->data, inverse_std);
    return normalise<float>(cuda->work, norm, y, x, running_mean->data, inverse_std);
}
