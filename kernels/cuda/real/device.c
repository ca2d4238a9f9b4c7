/* The device behind the seam: counts, opens and describes it, and turns the vendors' errors into ours. */
#include "kernels/cuda/real/real.h"

#include <stdio.h>
#include <string.h>

#define FIX "relaunch; if it comes back, look at nvidia-smi and dmesg"

static struct {
    int index;
    char name[64];
} opened = {.index = -1};

static _Thread_local int my_index = -1; /* the device that this thread's calls are about */

/* "cudaMalloc(&memory, bytes)" is named as cudaMalloc. */
static int name_length(const char *call) {
    return (int)strcspn(call, "(");
}

static const char *device_text(char text[96]) {
    if (opened.index < 0) return "no device";
    snprintf(text, 96, "device %d (%s)", opened.index, opened.name);
    return text;
}

Status real_cuda_failed(cudaError_t error, const char *call) {
    char device[96];
    cudaGetLastError(); /* it has been told: the thread's next check must not find it again */
    if (error == cudaErrorMemoryAllocation)
        return FAIL(STATUS_MEMORY, "use a smaller batch or more ranks",
                    "%.*s on %s: no memory left", name_length(call), call,
                    device_text(device));
    return FAIL(STATUS_DEVICE, FIX, "%.*s on %s: %s (%s)", name_length(call), call,
                device_text(device), cudaGetErrorString(error), cudaGetErrorName(error));
}

Status real_kernel_failed(cudaError_t error, const char *kernel, unsigned blocks_x,
                          unsigned blocks_y, unsigned threads) {
    char device[96];
    return FAIL(STATUS_DEVICE, FIX,
                "kernel %s (%u × %u blocks of %u threads) on %s: %s (%s)", kernel, blocks_x,
                blocks_y, threads, device_text(device), cudaGetErrorString(error),
                cudaGetErrorName(error));
}

Status real_cudnn_failed(cudnnStatus_t error, const char *call) {
    char device[96], detail[256] = "";
    cudnnGetLastErrorString(detail, sizeof detail);
    Status code = error == CUDNN_STATUS_ALLOC_FAILED ? STATUS_MEMORY : STATUS_DEVICE;
    return FAIL(code, FIX, "%.*s on %s: %s%s%s", name_length(call), call,
                device_text(device), cudnnGetErrorString(error),
                detail[0] == '\0' ? "" : ": ", detail);
}

Status real_cublas_failed(cublasStatus_t error, const char *call) {
    char device[96];
    Status code = error == CUBLAS_STATUS_ALLOC_FAILED ? STATUS_MEMORY : STATUS_DEVICE;
    return FAIL(code, FIX, "%.*s on %s: %s", name_length(call), call, device_text(device),
                cublasLtGetStatusString(error));
}

Status real_use_device(void) {
    if (my_index == opened.index) return STATUS_OK;
    TRY_CUDA(cudaSetDevice(opened.index));
    my_index = opened.index;
    return STATUS_OK;
}

Status vendor_count(int *count) {
    *count = 0;
    int found = 0;
    if (cudaGetDeviceCount(&found) == cudaSuccess)
        *count = found;
    else
        cudaGetLastError(); /* no driver, no device, an old driver: no GPU */
    return STATUS_OK;
}

Status vendor_open(int index, VendorDevice *device) {
    *device = (VendorDevice){0};
    /* Host waits sleep: a spinning rank would take the core of its own loader and saver. */
    TRY_CUDA(
        cudaInitDevice(index, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid));
    TRY_CUDA(cudaSetDevice(index));
    struct cudaDeviceProp found;
    TRY_CUDA(cudaGetDeviceProperties(&found, index));
    if (found.major < 8)
        return FAIL(STATUS_UNSUPPORTED,
                    "use a GPU of Ampere's generation or later, or set device: cpu",
                    "device %d (%.63s) is sm_%d%d: there are kernels for sm_80 and later",
                    index, found.name, found.major, found.minor);
    opened.index = my_index = index;
    snprintf(opened.name, sizeof opened.name, "%.63s", found.name);

    snprintf(device->name, sizeof device->name, "%.63s", found.name);
    const unsigned char *id = (const unsigned char *)found.uuid.bytes;
    for (int i = 0, at = 0; i < 16; i++)
        at += snprintf(device->identity + at, sizeof device->identity - (size_t)at,
                       "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
    size_t cudnn = cudnnGetVersion(), lt = cublasLtGetVersion();
    snprintf(device->libraries, sizeof device->libraries,
             "cudnn-%zu.%zu.%zu cublaslt-%zu.%zu.%zu", cudnn / 10000, cudnn / 100 % 100,
             cudnn % 100, lt / 10000, lt / 100 % 100, lt % 100);
    device->compute_major = found.major;
    device->compute_minor = found.minor;
    device->multiprocessors = found.multiProcessorCount;
    device->memory = found.totalGlobalMem;
    return STATUS_OK;
}

void vendor_close(void) {
    real_finish_aborts();
    real_close_products();
    real_close_convolutions();
    opened.index = my_index = -1;
}

Status vendor_memory_free(size_t *bytes) {
    size_t total;
    TRY(real_use_device());
    TRY_CUDA(cudaMemGetInfo(bytes, &total));
    return STATUS_OK;
}
