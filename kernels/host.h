/* A device whose memory is the host's: what "cpu" and "reference" share of it. Everything is done when a
 * call returns, so nothing is ever waited for, and repeating is calling again. */
#pragma once

#include "src/backend.h"

#include <stdatomic.h>

/* The head of such a device's own structure. */
typedef struct {
    Backend base;
    atomic_size_t allocated; /* bytes in living allocations */
} HostDevice;

Status host_allocate(Backend *self, size_t bytes, void **out);
void host_release(Backend *self, void *memory);
Status host_zero(Backend *self, int worker, void *memory, size_t bytes);
Status host_copy(Backend *self, void *to, const void *from, size_t bytes);
Status host_finish(Backend *self, int worker);
Status host_pin(Backend *self, void *host, size_t bytes);
void host_unpin(Backend *self, void *host);
Status host_fetch_fence(Backend *self, int worker);
Status host_fetch_finish(Backend *self);
Status host_repeat(Backend *self, uint64_t key, Status (*body)(void *context),
                   void *context);
Status host_open_collective(Backend *self, Collective *base, Collective **out);
const char *host_plans(Backend *self);

/* What is allocated here, and of the machine. `workspace`: the device's own bytes. */
void host_memory(const HostDevice *self, size_t workspace, BackendMemory *out);

/* The flat passes. */
Status host_accumulate(Backend *self, int worker, float *y, const float *x, int64_t count);
Status host_blend(Backend *self, int worker, float *y, const float *from, const float *x,
                  int64_t count, float rate, float scale, const StepVerdict *verdict);
Status host_sum_squares(Backend *self, int worker, const float *x, int64_t count,
                        int64_t chunk, double *sums);
Status host_judge(Backend *self, int worker, const double *sums, int64_t chunks,
                  double clip_norm, const float *metrics, StepVerdict *verdict);
Status host_sgd(Backend *self, int worker, const OptimizerPass *pass,
                const OptimizerPiece *pieces, int piece_count);
Status host_adam(Backend *self, int worker, const OptimizerPass *pass,
                 const OptimizerPiece *pieces, int piece_count);
Status host_softmax_cross_entropy(Backend *self, int worker, float smoothing, float scale,
                                  float *metrics, Tensor *dlogits, const Tensor *logits,
                                  const int32_t *labels);

/* Errors: STATUS_UNSUPPORTED for another precision than fp32 */
Status host_check_precision(const char *device, const BackendOptions *options);
