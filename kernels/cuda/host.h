/* What the host side of the CUDA device shares beyond cuda.h: the parts that one file each keeps, and the
 * entries of the table that are no arithmetic. Included by kernels/cuda only. */
#pragma once

#include "kernels/cuda/cuda.h"

/* Raise it when a change to our own kernels, or to how the libraries are called, changes bits: it is part
 * of the device kind, so that a checkpoint tells whether the same bits may be expected. */
enum { CUDA_KERNELS_VERSION = 1 };

enum { CUDA_ALIGNMENT = 256 };

static inline size_t cuda_aligned(size_t bytes) {
    return (bytes + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

/* ---- memory.c */
Status cuda_memory_open(Cuda *cuda);
void cuda_memory_close(Cuda *cuda);
/* A moment later than all allocations so far: a recording made now names memory of earlier moments. */
uint64_t cuda_memory_moment(Cuda *cuda);

Status cuda_backend_allocate(Backend *self, size_t bytes, void **out);
void cuda_backend_release(Backend *self, void *memory);
Status cuda_zero(Backend *self, int worker, void *memory, size_t bytes);
void cuda_memory(Backend *self, BackendMemory *out);

/* ---- wait.c */
Status cuda_finish(Backend *self, int worker);
Status cuda_wait_event(Cuda *cuda, VendorEvent *event); /* as cuda_wait, for one event */
/* Waits for all that was given, before something is released: a vendor's release waits, too, and would do so for
 * ever on a device that hangs. False: it hangs, and what it uses goes with the process. The newest failure stays. */
bool cuda_settle(Cuda *cuda);
/* Fails inside a recording: what waits, copies or allocates cannot be recorded. */
Status cuda_not_recording(const Cuda *cuda, const char *what);

/* ---- transfer.c */
Status cuda_transfers_open(Cuda *cuda);
void cuda_transfers_close(Cuda *cuda);
Status cuda_copy_in(Backend *self, void *device, const void *host, size_t bytes);
Status cuda_copy_out(Backend *self, void *host, const void *device, size_t bytes);
Status cuda_pin(Backend *self, void *host, size_t bytes);
void cuda_unpin(Backend *self, void *host);
Status cuda_fetch(Backend *self, void *host, const void *device, size_t bytes);
Status cuda_fetch_fence(Backend *self, int worker);
Status cuda_fetch_finish(Backend *self);

/* ---- repeat.c */
Status cuda_recordings_open(Cuda *cuda);
void cuda_recordings_close(Cuda *cuda);
/* Forgets the recordings made after `moment`: they may name what was there then and is no more. Nothing
 * that was given may still be under way. */
void cuda_recordings_drop(Cuda *cuda, uint64_t moment);
/* Forgets all recordings, once what was given is done. Errors: as cuda_wait */
Status cuda_recordings_renew(Cuda *cuda);
Status cuda_repeat(Backend *self, uint64_t key, Status (*body)(void *context),
                   void *context);

/* ---- plans.c */
/* recorded: BackendOptions.plans. Errors: STATUS_CORRUPT when it is none of ours */
Status cuda_plans_open(Cuda *cuda, const char *recorded);
void cuda_plans_close(Cuda *cuda);
/* The plan for a description: made at first use, the plans' own. Errors: STATUS_UNSUPPORTED when there
 * is none, or the recorded one cannot be made again; STATUS_DEVICE; STATUS_MEMORY */
Status cuda_plans_gemm(Cuda *cuda, const VendorGemm *gemm, VendorPlan **out);
Status cuda_plans_convolution(Cuda *cuda, const VendorConvolution *convolution,
                              VendorPlan **out);
const char *cuda_plans(Backend *self);

/* ---- weights.c */
Status cuda_weights_open(Cuda *cuda);
void cuda_weights_close(Cuda *cuda);
/* A parameter as the libraries take it: filters (m, r, s, c), all in bf16 where the precision is. Valid,
 * at its place, until the parameter's memory is released. */
Status cuda_weights_of(Cuda *cuda, const Tensor *w, const void **out);
/* The parameters in [data, data + bytes) are no more. */
void cuda_weights_forget(Cuda *cuda, const void *data, size_t bytes);

/* ---- layout.c */
size_t cuda_layout(Backend *self, Tensor *tensor);

/* The type in which products and convolutions take activations. */
static inline VendorType cuda_compute_type(const Cuda *cuda) {
    return cuda->precision == PRECISION_BF16 ? VENDOR_BF16 : VENDOR_F32;
}

static inline VendorType cuda_type_of(const Tensor *tensor) {
    return cuda_is_bf16(tensor) ? VENDOR_BF16 : VENDOR_F32;
}

static inline size_t cuda_type_size(VendorType type) {
    return type == VENDOR_BF16 ? 2 : 4;
}
