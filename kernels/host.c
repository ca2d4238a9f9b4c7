/* Host memory as device memory, and the passes over it that need nothing of the device. */
#include "kernels/host.h"

#include "kernels/flat.h"
#include "kernels/loss.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

Status host_allocate(Backend *self, size_t bytes, void **out) {
    size_t rounded = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;
    *out = rounded < bytes ? NULL : aligned_alloc(64, rounded);
    if (*out == NULL)
        return FAIL(STATUS_MEMORY,
                    "use a smaller train.batch, fewer train.threads or a smaller model",
                    "no memory for %zu bytes", bytes);
    atomic_fetch_add(&((HostDevice *)self)->allocated, malloc_usable_size(*out));
    return STATUS_OK;
}

void host_release(Backend *self, void *memory) {
    if (memory == NULL) return;
    atomic_fetch_sub(&((HostDevice *)self)->allocated, malloc_usable_size(memory));
    free(memory);
}

Status host_zero(Backend *self, int worker, void *memory, size_t bytes) {
    (void)self, (void)worker;
    if (bytes > 0) memset(memory, 0, bytes);
    return STATUS_OK;
}

Status host_copy(Backend *self, void *to, const void *from, size_t bytes) {
    (void)self;
    if (bytes > 0) memcpy(to, from, bytes);
    return STATUS_OK;
}

Status host_finish(Backend *self, int worker) {
    (void)self, (void)worker;
    return STATUS_OK;
}

Status host_pin(Backend *self, void *host, size_t bytes) {
    (void)self, (void)host, (void)bytes;
    return STATUS_OK;
}

void host_unpin(Backend *self, void *host) {
    (void)self, (void)host;
}

Status host_fetch_fence(Backend *self, int worker) {
    (void)self, (void)worker;
    return STATUS_OK;
}

Status host_fetch_finish(Backend *self) {
    (void)self;
    return STATUS_OK;
}

Status host_repeat(Backend *self, uint64_t key, Status (*body)(void *context),
                   void *context) {
    (void)self, (void)key;
    return body(context);
}

Status host_open_collective(Backend *self, Collective *base, Collective **out) {
    (void)self;
    *out = base;
    return STATUS_OK;
}

const char *host_plans(Backend *self) {
    (void)self;
    return "";
}

void host_memory(const HostDevice *self, size_t workspace, BackendMemory *out) {
    *out = (BackendMemory){.used = atomic_load(&self->allocated) + workspace,
                           .workspace = workspace};
    struct sysinfo machine;
    if (sysinfo(&machine) != 0) return;
    out->free = (machine.freeram + machine.bufferram) * machine.mem_unit;
    out->total = machine.totalram * machine.mem_unit;
}

Status host_accumulate(Backend *self, int worker, float *y, const float *x, int64_t count) {
    (void)self, (void)worker;
    flat_accumulate(y, x, count);
    return STATUS_OK;
}

Status host_blend(Backend *self, int worker, float *y, const float *from, const float *x,
                  int64_t count, float rate, float scale, const StepVerdict *verdict) {
    (void)self, (void)worker;
    if (!verdict->refused) flat_blend(y, from, x, count, rate, scale);
    return STATUS_OK;
}

Status host_sum_squares(Backend *self, int worker, const float *x, int64_t count,
                        int64_t chunk, double *sums) {
    (void)self, (void)worker;
    for (int64_t first = 0; first < count; first += chunk)
        sums[first / chunk] =
            flat_sum_squares(x + first, count - first < chunk ? count - first : chunk);
    return STATUS_OK;
}

Status host_judge(Backend *self, int worker, const double *sums, int64_t chunks,
                  double clip_norm, const float *metrics, StepVerdict *verdict) {
    (void)self, (void)worker;
    flat_judge(sums, chunks, clip_norm, metrics, verdict);
    return STATUS_OK;
}

Status host_sgd(Backend *self, int worker, const OptimizerPass *pass,
                const OptimizerPiece *pieces, int piece_count) {
    (void)self, (void)worker;
    for (int i = 0; i < piece_count && !pass->verdict->refused; i++)
        flat_sgd(pass, &pieces[i]);
    return STATUS_OK;
}

Status host_adam(Backend *self, int worker, const OptimizerPass *pass,
                 const OptimizerPiece *pieces, int piece_count) {
    (void)self, (void)worker;
    for (int i = 0; i < piece_count && !pass->verdict->refused; i++)
        flat_adam(pass, &pieces[i]);
    return STATUS_OK;
}

Status host_softmax_cross_entropy(Backend *self, int worker, float smoothing, float scale,
                                  float *metrics, Tensor *dlogits, const Tensor *logits,
                                  const int32_t *labels) {
    (void)self, (void)worker;
    loss_softmax_cross_entropy(smoothing, scale, metrics,
                               dlogits != NULL ? dlogits->data : NULL, logits->data, labels,
                               logits->shape[0], logits->shape[1]);
    return STATUS_OK;
}

Status host_check_precision(const char *device, const BackendOptions *options) {
    if (options == NULL || options->precision == PRECISION_FP32) return STATUS_OK;
    return FAIL(STATUS_UNSUPPORTED,
                "set device: cuda, or train.precision: fp32 in a new run",
                "device %s computes in fp32 alone, not in %s", device,
                options->precision == PRECISION_TF32 ? "tf32" : "bf16");
}
