/* What the files of the CUDA device share: the device's own structure, its layouts, and its operations, one
 * a file. Nobody else includes this but dist/cuda, which sums the device's memory.
 *
 * One worker, one queue: all operations of src/backend.h are given to `work`, in order. Copies to the
 * host go on `copies`, the exchange between ranks on a queue of its own (dist/cuda). Nothing is allocated and
 * the host waits for nothing in an operation that runs a second time with the same shapes. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/vendor.h"
#include "src/backend.h"

/* Activations are channels-last (N,H,W,C), in float or in bf16; rows (N,K) in float (canonical) or in bf16.
 * `layout` gives LAST_* for rank 4 and CANONICAL or ROWS_BF16 for rank 2, by the precision alone. */
typedef enum {
    LAYOUT_CANONICAL = 0,
    LAYOUT_LAST_F32 = 1,
    LAYOUT_LAST_BF16 = 2,
    LAYOUT_ROWS_BF16 = 3
} CudaLayout;

typedef struct CudaWeights
    CudaWeights;                    /* weights.c: parameters as the libraries want them */
typedef struct CudaPlans CudaPlans; /* plans.c: how products and convolutions are made */
typedef struct CudaRecordings CudaRecordings; /* repeat.c */
typedef struct CudaMemory CudaMemory;         /* memory.c: what is allocated */
typedef struct CudaTransfers CudaTransfers;   /* transfer.c: pinned memory for copies */

typedef struct {
    Backend base;
    VendorDevice device;
    Precision precision;
    double patience_s;
    VendorQueue *work, *copies;
    VendorEvent *work_done,
        *fetch_done;     /* the newest fetch waits for one and ends with the other */
    VendorEvent *waited; /* what cuda_wait records and asks about */
    const char
        *doing; /* the newest work given that is worth a name: for the watchdog's text */
    bool hung;  /* the host gave up waiting: nothing that waits may be called any more */
    bool fetching;
    bool
        recording; /* between capture's begin and end: nothing may be allocated or waited for */
    CudaMemory *memory;
    CudaTransfers *transfers;
    CudaWeights *weights;
    CudaPlans *plans;
    CudaRecordings *recordings;
    void *workspace; /* of the libraries; fixed once the first step has run */
    size_t workspace_bytes;
    size_t used; /* bytes of device memory in all allocations */
    /* What the host asks while it waits for the device: whether those that the device exchanges with
     * are well. dist/cuda sets it; NULL: nothing to ask. An error ends the wait. */
    Status (*peers)(void *context);
    void *peers_context;
} Cuda;

static inline Cuda *cuda_of(Backend *self) {
    return (Cuda *)self;
}

static inline bool cuda_is_bf16(const Tensor *tensor) {
    return tensor->layout == LAYOUT_LAST_BF16 || tensor->layout == LAYOUT_ROWS_BF16;
}

/* The host waits for all work given to `queue`: yields the core, asks `peers`, and gives up after
 * patience_s. Errors: STATUS_DEVICE, STATUS_COMM from peers, STATUS_WATCHDOG when patience ends */
Status cuda_wait(Cuda *cuda, VendorQueue *queue);

/* Device memory that counts in `used`. Errors: STATUS_MEMORY naming what is free; STATUS_DEVICE */
Status cuda_allocate(Cuda *cuda, size_t bytes, void **out);
void cuda_release(Cuda *cuda, void *memory); /* NULL is allowed */

/* At least `bytes` of the workspace that all operations share, in order; valid until the next call. */
Status cuda_workspace(Cuda *cuda, size_t bytes, void **out);

/* ---- the operations: src/backend.h says what each does. */
Status cuda_reorder(Backend *self, int worker, Tensor *y, const Tensor *x);
Status cuda_parameters_changed(Backend *self, const float *data, int64_t count);
Status cuda_parameters_moved(Backend *self, const float *from, const float *to,
                             int64_t count);
Status cuda_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                           const Tensor *x, const Tensor *w, const Tensor *b);
Status cuda_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                            Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                            const Tensor *w);
Status cuda_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                           const Tensor *w, const Tensor *b);
Status cuda_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw, Tensor *db,
                            const Tensor *dy, const Tensor *x, const Tensor *w);
Status cuda_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                               const Tensor *x, Tensor *mean, Tensor *inverse_std,
                               Tensor *batch_mean, Tensor *batch_variance);
Status cuda_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm,
                                 Tensor *y, const Tensor *x, const Tensor *running_mean,
                                 const Tensor *running_variance);
Status cuda_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm,
                                Tensor *dx, Tensor *dgamma, Tensor *dbeta,
                                Tensor *dresidual, const Tensor *dy, const Tensor *y,
                                const Tensor *x, const Tensor *mean,
                                const Tensor *inverse_std);
Status cuda_relu_forward(Backend *self, int worker, Tensor *y, const Tensor *x);
Status cuda_relu_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                          const Tensor *y);
Status cuda_add(Backend *self, int worker, Tensor *y, const Tensor *a, const Tensor *b);
Status cuda_dropout(Backend *self, int worker, Rng rng, const StepValues *values,
                    uint32_t first_sample, float rate, Tensor *y, const Tensor *x);
Status cuda_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                             uint8_t *choice, const Tensor *x);
Status cuda_max_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                              const Tensor *dy, const uint8_t *choice);
Status cuda_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                             const Tensor *x);
Status cuda_avg_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                              const Tensor *dy);
Status cuda_global_pool_forward(Backend *self, int worker, Tensor *y, const Tensor *x);
Status cuda_global_pool_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy);
Status cuda_softmax_cross_entropy(Backend *self, int worker, float smoothing, float scale,
                                  float *metrics, Tensor *dlogits, const Tensor *logits,
                                  const int32_t *labels);
Status cuda_accumulate(Backend *self, int worker, float *y, const float *x, int64_t count);
Status cuda_blend(Backend *self, int worker, float *y, const float *from, const float *x,
                  int64_t count, float rate, float scale, const StepVerdict *verdict);
Status cuda_sum_squares(Backend *self, int worker, const float *x, int64_t count,
                        int64_t chunk, double *sums);
Status cuda_judge(Backend *self, int worker, const double *sums, int64_t chunks,
                  double clip_norm, const float *metrics, StepVerdict *verdict);
Status cuda_sgd(Backend *self, int worker, const OptimizerPass *pass,
                const OptimizerPiece *pieces, int piece_count);
Status cuda_adam(Backend *self, int worker, const OptimizerPass *pass,
                 const OptimizerPiece *pieces, int piece_count);

/* ---- passes that operations share. `queue` gets the work. */

/* w (m, c, r·s) float ↔ (m, r·s, c), in float or bf16: filters as convolutions want them, and back. */
Status cuda_filter_to_last(VendorQueue *queue, void *last, VendorType type, const float *w,
                           int64_t m, int64_t c, int64_t rs);
Status cuda_filter_from_last(VendorQueue *queue, float *w, const void *last,
                             VendorType type, int64_t m, int64_t c, int64_t rs);
/* to[i] = from[i] in another type. */
Status cuda_convert(VendorQueue *queue, void *to, VendorType to_type, const void *from,
                    VendorType from_type, int64_t count);
/* sums[c] = Σ over rows of x[row][c], x (rows × columns): bias gradients, in an order that depends on the
 * shape alone. workspace: cuda_column_sums_workspace() bytes. */
size_t cuda_column_sums_workspace(int64_t rows, int64_t columns);
Status cuda_column_sums(VendorQueue *queue, float *sums, const void *x, VendorType type,
                        int64_t rows, int64_t columns, void *workspace);
/* y (rows × columns) += bias (columns). */
Status cuda_add_bias(VendorQueue *queue, void *y, VendorType type, const float *bias,
                     int64_t rows, int64_t columns);

/* ---- dist/cuda: Backend.open_collective. */
Status cuda_open_collective(Backend *self, Collective *base, Collective **out);

#ifdef __cplusplus
}
#endif
