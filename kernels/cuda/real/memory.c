/* Device memory and pinned host memory: plain allocations, so that what a run holds is what it asked
 * for. */
#include "kernels/cuda/real/real.h"

Status vendor_allocate(size_t bytes, void **out) {
    *out = NULL;
    TRY(real_use_device());
    TRY_CUDA(cudaMalloc(out, bytes == 0 ? 1 : bytes));
    return STATUS_OK;
}

void vendor_release(void *device_memory) {
    if (device_memory == NULL || real_use_device() != STATUS_OK) return;
    cudaFree(
        device_memory); /* waits for all work; after a device failure nothing can be done */
}

/* Portable: pinned for every context, so also for a thread that has not used the device yet. */
Status vendor_allocate_pinned(size_t bytes, void **out) {
    *out = NULL;
    TRY(real_use_device());
    TRY_CUDA(cudaHostAlloc(out, bytes == 0 ? 1 : bytes, cudaHostAllocPortable));
    return STATUS_OK;
}

void vendor_release_pinned(void *host_memory) {
    if (host_memory == NULL || real_use_device() != STATUS_OK) return;
    cudaFreeHost(host_memory);
}

Status vendor_pin(void *host_memory, size_t bytes) {
    TRY(real_use_device());
    TRY_CUDA(cudaHostRegister(host_memory, bytes, cudaHostRegisterPortable));
    return STATUS_OK;
}

void vendor_unpin(void *host_memory) {
    if (host_memory == NULL || real_use_device() != STATUS_OK) return;
    cudaHostUnregister(host_memory);
}
