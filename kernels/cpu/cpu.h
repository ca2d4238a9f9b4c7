/* What the files of the CPU device share: its state, oneDNN's objects, scratch memory, and the two
 * layouts that activations have.
 *
 * Threads. A worker's state is touched by its own thread only; the cache of blocked weights is the
 * one thing that workers share, under locks. oneDNN is made to run on one thread everywhere, by
 * cpu_worker, which every operation calls first: a primitive that was created for another number
 * of threads computes something else.
 *
 * Denormals are computed in full: no thread changes the processor's floating-point flags. */
#pragma once

#include "kernels/host.h"

#include <dnnl.h>
#include <pthread.h>

/* Activations are pixels × channels ("nhwc") from end to end, with no padding: a tensor has as many
 * floats as elements, elementwise passes need not know the layout, and its memory is the same
 * under every instruction set. At most three channels (images) stay canonical.
 *
 * Measured with oneDNN 2.6.3 on one Zen 5 core, µs, nhwc against the best of its blocked formats
 * (3×3, forward / backward data / backward weights):
 *   avx512  16→16 28×28 N8   146/164/125 : 144/155/170    64→64 7×7 N8    128/142/116 : 147/143/153
 *           32→32 14×14 N8   132/143/127 : 158/154/161    512→512 4×4 N4  3400/2023/4830 : 2399/1560/4452
 *   avx2    16→16 28×28 N8   371/280/366 : 376/273/389    64→64 7×7 N8    248/243/299 : 248/254/295
 *           32→32 14×14 N8   271/264/311 : 265/252/281    512→512 4×4 N4  4504/3394/11127 : 5665/3674/8379
 * Odd channel counts (6→16) run only in nhwc: blocked ones fall to the library's plain loops. */
enum { LAYOUT_CANONICAL = 0, LAYOUT_NHWC = 1 };

/* What a worker's scratch memory is used for: uses that overlap in time have different names. */
typedef enum {
    SCRATCH_LIBRARY, /* oneDNN's own */
    SCRATCH_X,       /* an operand in another layout */
    SCRATCH_Y,
    SCRATCH_W,
    SCRATCH_EXTRA,
    SCRATCH_RESIDUAL,
    SCRATCH_SUMS, /* per-channel sums */
    SCRATCHES
} ScratchUse;

typedef struct Convolution Convolution;
enum { CONVOLUTION_BUCKETS = 256 };

typedef struct {
    dnnl_stream_t stream;
    void *scratch[SCRATCHES];
    size_t scratch_bytes[SCRATCHES];
    Convolution *convolutions[CONVOLUTION_BUCKETS]; /* hash table of what was used so far */
} Worker;

/* A library reorder between two formats of one tensor. */
typedef struct {
    dnnl_primitive_t primitive;
    dnnl_memory_t from, to, scratch;
    size_t scratch_bytes;
} Reorder;

/* One parameter in one of the library's formats. */
typedef struct Weights {
    struct Weights *next;
    const float *canonical;
    dnnl_memory_desc_t format;
    pthread_mutex_t lock; /* held while it is rebuilt; guards `fresh` */
    bool fresh;
    Reorder reorder;
    void *data;
    dnnl_memory_t
        memory; /* views data; never changed after creation, so workers share it */
} Weights;

enum { WEIGHTS_BUCKETS = 1024 };

typedef struct {
    HostDevice host;
    dnnl_engine_t engine;
    bool avx512; /* pinned to it */
    Worker *workers;
    pthread_mutex_t
        weights_lock; /* guards the table; an entry's content has its own lock */
    Weights *weights[WEIGHTS_BUCKETS];
} Cpu;

/* The worker's state. Call it first in every operation: it also holds oneDNN at one thread. */
Worker *cpu_worker(Backend *self, int worker);

/* At least `bytes` of the worker's memory for this use, 64-byte aligned; the last call's content is
 * lost. Memory:  the worker's, until its next call for the same use. */
Status cpu_scratch(Worker *worker, ScratchUse use, size_t bytes, void *out);

/* `bytes` rounded up and aligned to a cache line. Memory:  free() it */
Status cpu_aligned(size_t bytes, void *out);

/* ---- library.c */

#define TRY_LIBRARY(call) TRY(library_status((call), #call))

/* The one translation of the library's codes. */
Status library_status(dnnl_status_t status, const char *call);

/* Pins the instruction set for this process, before oneDNN is first used. `name` NULL: the best.
 * Errors:  STATUS_UNSUPPORTED if the processor has it not, or another one is pinned already */
Status library_pin(const char *name, const char **pinned);

/* Attributes that make a primitive take its scratch memory from us. */
Status library_attributes(dnnl_primitive_attr_t *out);

/* The size of a primitive's scratch memory, and a memory object for it. */
Status library_scratch(const Cpu *cpu, const_dnnl_primitive_desc_t description,
                       dnnl_memory_t *memory, size_t *bytes);

Status library_reorder_create(const Cpu *cpu, const dnnl_memory_desc_t *from,
                              const dnnl_memory_desc_t *to, Reorder *out);
Status library_reorder_run(Worker *worker, const Reorder *reorder, const void *from,
                           void *to);
void library_reorder_destroy(Reorder *reorder);

/* ---- weights.c */

/* The parameter in `format`, made from its canonical values if they changed since.
 * Memory:  the cache's, until the parameter is released or the device closed */
Status weights_in_format(Cpu *cpu, Worker *worker, const float *canonical,
                         const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *format,
                         dnnl_memory_t *out);
/* Marks entries of parameters in [data, data + count) stale. */
void weights_changed(Cpu *cpu, const float *data, int64_t count);
/* Entries of parameters in [from, from + count) become stale ones of the same parameters at `to`. */
void weights_moved(Cpu *cpu, const float *from, const float *to, int64_t count);
/* Bytes of all entries. */
size_t weights_bytes(Cpu *cpu);
/* Forgets entries of parameters in [memory, memory + bytes). */
void weights_forget(Cpu *cpu, const void *memory, size_t bytes);

/* ---- convolution.c: the operations of src/backend.h, here and below */
Status cpu_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                          const Tensor *x, const Tensor *w, const Tensor *b);
Status cpu_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                           Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                           const Tensor *w);
void convolution_destroy_all(Worker *worker);

/* ---- image.c */

/* Whether image_weights knows this convolution. */
bool image_can(const Conv2d *conv, const Tensor *x, const Tensor *dw, const Tensor *dy);
/* The weights' part of conv2d_backward. */
Status image_weights(Worker *worker, const Conv2d *conv, Tensor *dw, const Tensor *dy,
                     const Tensor *x);

/* ---- patches.c */

/* Whether patches_weights is the faster way for these shapes. */
bool patches_can(const Conv2d *conv, const Tensor *dw, const Tensor *dy);
/* The weights' part of conv2d_backward. */
Status patches_weights(Worker *worker, const Conv2d *conv, Tensor *dw, const Tensor *dy,
                       const Tensor *x);

/* ---- linear.c */
Status cpu_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                          const Tensor *w, const Tensor *b);
Status cpu_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw, Tensor *db,
                           const Tensor *dy, const Tensor *x, const Tensor *w);

/* ---- layout.c */
size_t cpu_layout(Backend *self, Tensor *tensor);
Status cpu_reorder(Backend *self, int worker, Tensor *y, const Tensor *x);

/* y (columns, rows) = x (rows, columns) transposed. */
void layout_transpose(float *restrict y, const float *restrict x, int64_t rows,
                      int64_t columns);

/* The input's elements as rows of channels: its own memory where it is stored like that, else a
 * copy in scratch memory. */
Status layout_rows_of(Worker *worker, ScratchUse use, const Tensor *x, const float **out);
/* Where to write rows of channels for `y`, then put them into y's own layout. */
Status layout_rows_for(Worker *worker, ScratchUse use, const Tensor *y, float **out);
void layout_rows_store(const Tensor *y, const float *rows);

/* ---- columns.c */

/* out[c] = sum over rows of x (rows, columns), row-major, times scale. In a fixed order: chunks of
 * 64 rows in float, four running sums each, chunks added in double.
 * Memory:  uses SCRATCH_SUMS */
Status columns_sum(Worker *worker, float *out, const float *x, int64_t rows,
                   int64_t columns, double scale);

/* ---- batch_norm.c */
Status cpu_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                              const Tensor *x, Tensor *mean, Tensor *inverse_std,
                              Tensor *batch_mean, Tensor *batch_variance);
Status cpu_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                                const Tensor *x, const Tensor *running_mean,
                                const Tensor *running_variance);
Status cpu_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm, Tensor *dx,
                               Tensor *dgamma, Tensor *dbeta, Tensor *dresidual,
                               const Tensor *dy, const Tensor *y, const Tensor *x,
                               const Tensor *mean, const Tensor *inverse_std);

/* ---- elementwise.c */
Status cpu_relu_forward(Backend *self, int worker, Tensor *y, const Tensor *x);
Status cpu_relu_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy,
                         const Tensor *y);
Status cpu_add(Backend *self, int worker, Tensor *y, const Tensor *a, const Tensor *b);
Status cpu_dropout(Backend *self, int worker, Rng rng, const StepValues *values,
                   uint32_t first_sample, float rate, Tensor *y, const Tensor *x);

/* ---- pool.c */
Status cpu_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                            uint8_t *choice, const Tensor *x);
Status cpu_max_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                             const Tensor *dy, const uint8_t *choice);
Status cpu_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                            const Tensor *x);
Status cpu_avg_pool_backward(Backend *self, int worker, const Pool2d *pool, Tensor *dx,
                             const Tensor *dy);
Status cpu_global_pool_forward(Backend *self, int worker, Tensor *y, const Tensor *x);
Status cpu_global_pool_backward(Backend *self, int worker, Tensor *dx, const Tensor *dy);
