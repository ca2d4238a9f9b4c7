/* Opens the CUDA device of this rank: the queues, and the table that ties this folder's files together. */
#include "kernels/cuda/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The one name that kernels/load.c asks the module for. */
Status rekindle_cuda_open(const BackendOptions *options, Backend **out);

static void cuda_close(Backend *self) {
    Cuda *cuda = cuda_of(self);
    if (!cuda_settle(cuda)) return; /* all goes with the process */
    cuda_recordings_close(cuda);
    cuda_weights_close(cuda);
    cuda_plans_close(cuda);
    cuda_memory_close(cuda);
    cuda_transfers_close(cuda);
    vendor_event_destroy(cuda->work_done);
    vendor_event_destroy(cuda->fetch_done);
    vendor_event_destroy(cuda->waited);
    vendor_queue_destroy(cuda->copies);
    vendor_queue_destroy(cuda->work);
    vendor_close();
    free(cuda);
}

static const BackendOps cuda_ops = {
    .name = "cuda",
    .host_memory = false,
    .allocate = cuda_backend_allocate,
    .release = cuda_backend_release,
    .zero = cuda_zero,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .finish = cuda_finish,
    .memory = cuda_memory,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .fetch = cuda_fetch,
    .fetch_fence = cuda_fetch_fence,
    .fetch_finish = cuda_fetch_finish,
    .repeat = cuda_repeat,
    .layout = cuda_layout,
    .reorder = cuda_reorder,
    .parameters_changed = cuda_parameters_changed,
    .parameters_moved = cuda_parameters_moved,
    .conv2d_forward = cuda_conv2d_forward,
    .conv2d_backward = cuda_conv2d_backward,
    .linear_forward = cuda_linear_forward,
    .linear_backward = cuda_linear_backward,
    .batch_norm_forward = cuda_batch_norm_forward,
    .batch_norm_inference = cuda_batch_norm_inference,
    .batch_norm_backward = cuda_batch_norm_backward,
    .relu_forward = cuda_relu_forward,
    .relu_backward = cuda_relu_backward,
    .add = cuda_add,
    .dropout = cuda_dropout,
    .max_pool_forward = cuda_max_pool_forward,
    .max_pool_backward = cuda_max_pool_backward,
    .avg_pool_forward = cuda_avg_pool_forward,
    .avg_pool_backward = cuda_avg_pool_backward,
    .global_pool_forward = cuda_global_pool_forward,
    .global_pool_backward = cuda_global_pool_backward,
    .softmax_cross_entropy = cuda_softmax_cross_entropy,
    .accumulate = cuda_accumulate,
    .blend = cuda_blend,
    .sum_squares = cuda_sum_squares,
    .judge = cuda_judge,
    .sgd = cuda_sgd,
    .adam = cuda_adam,
    .open_collective = cuda_open_collective,
    .plans = cuda_plans,
    .close = cuda_close,
};

/* What bits depend on: the device's name and architecture, the libraries, our kernels, the precision. */
static void name_kind(Cuda *cuda) {
    static const char *const precisions[] = {
        [PRECISION_FP32] = "fp32", [PRECISION_TF32] = "tf32", [PRECISION_BF16] = "bf16"};
    char name[sizeof cuda->device.name];
    snprintf(name, sizeof name, "%s", cuda->device.name);
    for (char *c = name; *c != '\0'; c++)
        if (*c <= ' ' || *c > '~') *c = '-';
    snprintf(cuda->base.kind, sizeof cuda->base.kind, "cuda %s sm_%d%d %s kernels-%d %s",
             name, cuda->device.compute_major, cuda->device.compute_minor,
             cuda->device.libraries, CUDA_KERNELS_VERSION, precisions[cuda->precision]);
}

static Status open_parts(Cuda *cuda, const BackendOptions *options) {
    TRY(vendor_queue_create(false, &cuda->work));
    TRY(vendor_queue_create(false, &cuda->copies));
    TRY(vendor_event_create(&cuda->work_done));
    TRY(vendor_event_create(&cuda->fetch_done));
    TRY(vendor_event_create(&cuda->waited));
    TRY(cuda_memory_open(cuda));
    TRY(cuda_transfers_open(cuda));
    TRY(cuda_recordings_open(cuda));
    TRY(cuda_weights_open(cuda));
    bool ours =
        options->plans_kind != NULL && strcmp(options->plans_kind, cuda->base.kind) == 0;
    return cuda_plans_open(cuda, ours ? options->plans : NULL);
}

/* Ranks of one host take its devices in turn; where the launcher shows each rank one device, all take
 * the first that they see. */
static Status choose_device(const BackendOptions *options, int *index) {
    int count = 0;
    TRY(vendor_count(&count));
    if (count <= 0)
        return FAIL(
            STATUS_UNSUPPORTED,
            "check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES, or set device: cpu",
            "no CUDA device is visible to this process");
    *index = options->host_rank % count;
    return STATUS_OK;
}

Status rekindle_cuda_open(const BackendOptions *options, Backend **out) {
    *out = NULL;
    int index = 0;
    TRY(choose_device(options, &index));
    Cuda *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a device");
    cuda->base = (Backend){.ops = &cuda_ops, .workers = 1};
    cuda->precision = options->precision;
    cuda->patience_s = options->patience_s;
    Status status = vendor_open(index, &cuda->device);
    if (status != STATUS_OK) {
        free(cuda);
        return status;
    }
    name_kind(cuda);
    status = open_parts(cuda, options);
    if (status != STATUS_OK) {
        Failure failure = *status_failure();
        cuda_close(&cuda->base);
        return status_adopt(&failure);
    }
    *out = &cuda->base;
    return STATUS_OK;
}
