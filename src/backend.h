/* The table that a device implements: all the arithmetic of training, one entry an operation.
 *
 * src/ calls it and knows no device library; kernels/reference (plain loops, the oracle),
 * kernels/cpu (oneDNN) and kernels/cuda fill it. No entry is NULL: an operation that a device has
 * not FAILs with a fix.
 *
 * Exactness. The result of an operation depends on its arguments alone: on their values and shapes,
 * never on the worker, the number of workers, alignment, history or time (where a library offers
 * several ways, the way chosen is among what `plans` tells, and `BackendOptions.plans` repeats it).
 *
 * Workers. `worker` (0 .. workers-1) is an independent queue: a thread's own scratch memory on the
 * CPU, a stream on a GPU. Calls of different workers may run at once; one worker's calls are in
 * order. On the CPU an operation runs whole on the calling thread.
 *
 * Work that is given and work that is done. On a GPU an operation only gives work: its result is there for
 * later operations of the same worker, for the host and other workers after `finish`. Pointers to
 * tensors' data, metrics, labels, StepValues and StepVerdict are device memory; structures that hold
 * them are read during the call. On a device with host_memory everything is done when a call returns.
 *
 * Accumulation. Every output is overwritten, unless the text says "adds". No output may alias an
 * input, unless the text says so. Gradients are of the *sum* over the shard of scaled losses: the
 * scale enters once, in softmax_cross_entropy. */
#pragma once

#include "src/core/rng.h"
#include "src/core/status.h"
#include "src/state/tensor.h"

#include <stdbool.h>

typedef struct Backend Backend;
typedef struct Collective Collective; /* src/collective.h */

typedef struct {
    int stride, padding; /* the same in both directions */
    int groups;          /* divides both channel counts */
} Conv2d;

typedef struct {
    int kernel, stride,
        padding; /* square windows; output size rounds down, as PyTorch's default */
} Pool2d;

/* Batch norm over N, H, W of one shard (rank 4 or rank 2 input), with what usually follows it:
 * y = relu(gamma · (x − mean) / sqrt(var + epsilon) + beta + residual). */
typedef struct {
    const Tensor *gamma, *beta; /* (C) */
    const Tensor *residual;     /* y's shape and layout, or NULL */
    bool relu;
    float epsilon;
} BatchNorm;

/* What changes with every step, in device memory: so a recorded step can be run again with new values. */
typedef struct {
    uint32_t step; /* 0-based: Rng.time of what is drawn in it */
    float lr;
    float correction1;      /* Adam: 1 − beta1^t, t = step + 1 */
    float correction2_sqrt; /* Adam: sqrt(1 − beta2^t) */
} StepValues;

/* What a step's update has to know of its gradient, in device memory. */
typedef struct {
    double norm;          /* Euclidean, before clipping */
    float loss, correct;  /* sums over the batch */
    float gradient_scale; /* clipping: ≤ 1 */
    uint32_t refused; /* 1: loss or norm is not finite, and the update changes nothing */
} StepVerdict;

/* A part of the flat arenas with one weight decay. */
typedef struct {
    int64_t first, count; /* floats; multiples of 16 */
    float weight_decay;
} OptimizerPiece;

/* One optimizer pass over pieces of the arenas. g is multiplied by verdict->gradient_scale first.
 * It reads what X_from names and writes X. They are equal: the pass is in place. Or they do not overlap:
 * then the sources stay as they are, and every float of the pieces is written. */
typedef struct {
    float *w,
        *m;   /* parameters; momentum, or first moment (NULL for SGD without momentum) */
    float *v; /* second moment (Adam, AdamW) or NULL */
    const float *w_from, *m_from, *v_from; /* NULL where m or v is */
    const float *g;                        /* reduced gradient */
    const StepValues *values;
    const StepVerdict *verdict;
    float momentum; /* SGD: m = momentum·m + g; w −= lr·m (nesterov: lr·(g + momentum·m)) */
    bool nesterov;
    double beta1,
        beta2;      /* Adam, as PyTorch's; double, since 1 − beta in float loses digits */
    float epsilon;  /* outside of the root */
    bool decoupled; /* AdamW: w −= lr·weight_decay·w first; else g += weight_decay·w */
} OptimizerPass;

/* What one shard's classification adds to the step's sums. The counts are exact in float: a batch has at
 * most 2^24 samples. The rest is zero: sums come in whole cache lines. */
enum {
    METRIC_LOSS = 0,
    METRIC_CORRECT = 1,
    METRIC_TOP5 = 2,
    METRIC_COUNT = 3,
    METRICS = 16
};

typedef struct {
    size_t used;        /* allocated through `allocate`, and by the backend itself */
    size_t workspace;   /* of these: the backend's own */
    size_t free, total; /* of the device; 0: not known */
} BackendMemory;

typedef struct {
    const char *name; /* "cpu", "reference", "cuda": shown in logs and errors */

    /* Device memory is host memory: the host reads and writes it directly, copies are memcpy. */
    bool host_memory;

    /* ---- memory. Device memory, 64-byte aligned at least, not zeroed */
    Status (*allocate)(Backend *self, size_t bytes, void **out);
    void (*release)(Backend *self, void *memory); /* NULL is allowed */
    Status (*zero)(Backend *self, int worker, void *memory, size_t bytes);
    /* In order with the work of worker 0. When they return the host memory may be used again, or has
     * arrived. Any host memory. */
    Status (*copy_in)(Backend *self, void *device, const void *host, size_t bytes);
    Status (*copy_out)(Backend *self, void *host, const void *device, size_t bytes);
    Status (*finish)(Backend *self, int worker); /* all work given to the worker is done */
    void (*memory)(Backend *self, BackendMemory *out);

    /* ---- copies to the host beside the work: a snapshot, a step's verdict. Only to pinned memory,
     * which is page-aligned and whole pages. fetch begins to copy what the work given so far leaves,
     * and returns at once; fetch_finish waits for all fetches begun. Work given later may write the
     * source before it is read, unless fetch_fence was called in between: that lets the device,
     * not the host, wait. */
    Status (*pin)(Backend *self, void *host, size_t bytes);
    void (*unpin)(Backend *self, void *host); /* NULL is allowed */
    Status (*fetch)(Backend *self, void *host, const void *device, size_t bytes);
    Status (*fetch_fence)(Backend *self, int worker);
    Status (*fetch_finish)(Backend *self);

    /* ---- repetition. Runs body, which only gives work to worker 0. A device may record what the second
     * run with a key gives, and from then on repeat the recording without calling body: so whatever
     * differs between runs of one key lies in device memory, and all memory stays where it is.
     * Key 0: never recorded; body may then use all workers. Not nested. */
    Status (*repeat)(Backend *self, uint64_t key, Status (*body)(void *context),
                     void *context);

    /* ---- layout. Chooses tensor->layout for an activation of tensor->shape (by shape alone, so
     * that all operations agree) and gives the bytes that its data needs. */
    size_t (*layout)(Backend *self, Tensor *tensor);
    /* y = x in y's layout; same shape. Also (N,C,H,W) ↔ (N, C·H·W): flatten and back, where the
     * rank-2 side has the elements in canonical order. */
    Status (*reorder)(Backend *self, int worker, Tensor *y, const Tensor *x);

    /* The parameters in [data, data + count) have new values: caches of blocked weights made from
     * them are stale. Call it after every write (initialisation, optimizer, restore), in order with
     * the work of worker 0 and with no other worker's operation running. */
    Status (*parameters_changed)(Backend *self, const float *data, int64_t count);
    /* The parameters that were computed with at [from, from + count) lie at `to` from now on, with new
     * values: caches made from them move along and are stale. The ranges do not overlap. To be called
     * as parameters_changed. A device without host_memory FAILs: its parameters never move, since a
     * snapshot of them is the host's copy. */
    Status (*parameters_moved)(Backend *self, const float *from, const float *to,
                               int64_t count);

    /* ---- convolution: x (N,C,H,W), w (M,C/groups,R,S), b (M) or NULL, y (N,M,H',W').
     * backward: any of dx, dw, db may be NULL. dw, db canonical. */
    Status (*conv2d_forward)(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                             const Tensor *x, const Tensor *w, const Tensor *b);
    Status (*conv2d_backward)(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                              Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                              const Tensor *w);

    /* ---- linear: y (N,M) = x (N,K) · wᵀ + b, w (M,K), b (M) or NULL. dx, dw, db may be NULL. */
    Status (*linear_forward)(Backend *self, int worker, Tensor *y, const Tensor *x,
                             const Tensor *w, const Tensor *b);
    Status (*linear_backward)(Backend *self, int worker, Tensor *dx, Tensor *dw, Tensor *db,
                              const Tensor *dy, const Tensor *x, const Tensor *w);

    /* ---- batch norm. mean, inverse_std (C): saved for backward. statistics: batch mean and
     * *unbiased* variance (C each), which the step averages over shards into the running ones. A
     * channel of one value (an epoch's last shards) has variance 0 and y = beta (+ residual).
     * y may be x's memory only in inference. */
    Status (*batch_norm_forward)(Backend *self, int worker, const BatchNorm *norm,
                                 Tensor *y, const Tensor *x, Tensor *mean,
                                 Tensor *inverse_std, Tensor *batch_mean,
                                 Tensor *batch_variance);
    Status (*batch_norm_inference)(Backend *self, int worker, const BatchNorm *norm,
                                   Tensor *y, const Tensor *x, const Tensor *running_mean,
                                   const Tensor *running_variance);
    /* y: the forward's result (for relu). dresidual: NULL unless norm->residual; gets dy·[y>0].
     * dx may be dy's memory. */
    Status (*batch_norm_backward)(Backend *self, int worker, const BatchNorm *norm,
                                  Tensor *dx, Tensor *dgamma, Tensor *dbeta,
                                  Tensor *dresidual, const Tensor *dy, const Tensor *y,
                                  const Tensor *x, const Tensor *mean,
                                  const Tensor *inverse_std);

    /* ---- elementwise. In place (y = x, dx = dy) is allowed. */
    Status (*relu_forward)(Backend *self, int worker, Tensor *y, const Tensor *x);
    Status (*relu_backward)(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                            const Tensor *y);
    Status (*add)(Backend *self, int worker, Tensor *y, const Tensor *a, const Tensor *b);
    /* Inverted dropout: kept with probability 1 − rate, then divided by it. Element e (canonical
     * index inside its sample) of batch row n is kept when
     * rng_uniform(rng at time values->step, first_sample + n, e) ≥ rate. The same call serves forward
     * and backward. */
    Status (*dropout)(Backend *self, int worker, Rng rng, const StepValues *values,
                      uint32_t first_sample, float rate, Tensor *y, const Tensor *x);

    /* ---- pooling: (N,C,H,W) → (N,C,H',W'). Average counts padding, as PyTorch's default.
     * max_pool ties: the first in window order. choice: one byte per output element (same layout
     * and padding as y, so half of y's bytes are enough), the window index of the maximum;
     * kernel ≤ 15. Windows that lie in padding only are refused. */
    Status (*max_pool_forward)(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                               uint8_t *choice, const Tensor *x);
    Status (*max_pool_backward)(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                                const Tensor *dy, const uint8_t *choice);
    Status (*avg_pool_forward)(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                               const Tensor *x);
    Status (*avg_pool_backward)(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                                const Tensor *dy);
    /* (N,C,H,W) any layout ↔ (N,C) canonical: mean over H, W. */
    Status (*global_pool_forward)(Backend *self, int worker, Tensor *y, const Tensor *x);
    Status (*global_pool_backward)(Backend *self, int worker, Tensor *dx, const Tensor *dy);

    /* ---- loss. logits (N,M), labels N class indices in device memory.
     * metrics[METRIC_LOSS] = sum over rows of the cross-entropy against the smoothed target
     * ((1−s)·onehot + s/M); CORRECT, TOP5: rows whose label is first / among the five largest (ties:
     * the lower index is the larger); COUNT = N; the rest of METRICS is zeroed.
     * dlogits (N,M) = scale · d loss / d logits, or NULL. */
    Status (*softmax_cross_entropy)(Backend *self, int worker, float smoothing, float scale,
                                    float *metrics, Tensor *dlogits, const Tensor *logits,
                                    const int32_t *labels);

    /* ---- flat passes over arenas; count is a multiple of 16 and pointers are 64-byte aligned. */
    Status (*accumulate)(Backend *self, int worker, float *y, const float *x,
                         int64_t count); /* adds x to y */
    /* y = (1 − rate)·from + rate·scale·x: running statistics. `from` is y, or does not overlap it.
     * Nothing when the verdict refuses. */
    Status (*blend)(Backend *self, int worker, float *y, const float *from, const float *x,
                    int64_t count, float rate, float scale, const StepVerdict *verdict);
    /* sums[i] = sum of squares of x[i·chunk, (i + 1)·chunk) (the last chunk may be shorter), in double,
     * in one fixed order; not finite when an element is not. */
    Status (*sum_squares)(Backend *self, int worker, const float *x, int64_t count,
                          int64_t chunk, double *sums);
    /* norm = root of the tree sum (src/core/tree.h) of the chunks' sums; gradient_scale =
     * clip_norm / (norm + 1e-6) where clip_norm > 0 and norm > clip_norm, else 1; metrics: METRICS
     * floats, the batch's sums. */
    Status (*judge)(Backend *self, int worker, const double *sums, int64_t chunks,
                    double clip_norm, const float *metrics, StepVerdict *verdict);
    /* pieces: device memory. Nothing when the verdict refuses. */
    Status (*sgd)(Backend *self, int worker, const OptimizerPass *pass,
                  const OptimizerPiece *pieces, int piece_count);
    Status (*adam)(Backend *self, int worker, const OptimizerPass *pass,
                   const OptimizerPiece *pieces, int piece_count);

    /* ---- the rest of a launch. The communicator whose reductions sum this device's memory: `base`
     * itself where that is host memory. Collective; *out, unless it is base, is the caller's, to be
     * closed before the backend and never closing base. Errors are agreed on. */
    Status (*open_collective)(Backend *self, Collective *base, Collective **out);
    /* The choices among a library's ways that were made so far: lines of text, sorted; "" where there
     * are none. Valid until the next operation. Ranks: local */
    const char *(*plans)(Backend *self);

    void (*close)(Backend *self);
} BackendOps;

/* A device begins with this; the rest is its own. */
struct Backend {
    const BackendOps *ops;
    int workers;
    char kind
        [160]; /* device kind: what bits depend on, e.g. "cpu avx2 onednn-2.6.3 kernels-3" */
};

/* How a device computes; parameters, moments, gradients and their sums are float always.
 * TF32: float products whose factors may be rounded to 10 bits. BF16: activations and the weights that
 * are multiplied with them have 8 bits, sums are float. */
typedef enum { PRECISION_FP32, PRECISION_TF32, PRECISION_BF16 } Precision;

typedef struct {
    int workers; /* wished for; Backend.workers tells how many there are */
    /* CPU: the instruction set that the run's first launch recorded ("avx2", "avx512"); NULL: the best of
     * this processor that ONEDNN_MAX_CPU_ISA (or DNNL_MAX_CPU_ISA) allows */
    const char *isa;
    Precision precision;
    int host_rank; /* the rank's place among those of its host: which GPU it takes */
    /* What `plans` told in the newest launch of the run that told any, and the kind of the device that
     * told it: they are for that kind alone, another one ignores them. NULL or "": none */
    const char *plans, *plans_kind;
    double
        patience_s; /* GPU: how long the host waits for the device before it says that the device, or a
                          rank that it exchanges with, hangs; 0: for ever */
} BackendOptions;

/* Opens the device that `name` asks for: "cpu", "reference", "cuda", or "auto": cuda where there is
 * a GPU, else cpu. Implemented by kernels/load.c. Ranks: local
 * Memory:  *out is the caller's; close it with ops->close
 * Errors:  STATUS_UNSUPPORTED for a name, precision or instruction set that this machine has not */
Status backend_open(const char *name, const BackendOptions *options, Backend **out);
