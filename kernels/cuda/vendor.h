/* The seam: every call to the CUDA runtime, cuBLASLt, cuDNN and NCCL goes through these functions, in
 * our own terms. kernels/cuda/real stands behind them on a GPU, tests/gpu_double on the CPU; nothing
 * above (kernels/cuda, dist/cuda) includes a vendor's header.
 *
 * Queues. Work given to a queue runs later, in order; different queues run at once unless an event
 * orders them. Host memory that a queue copies from or to is pinned, and stays as it is until the copy
 * is done.
 *
 * Capture. Between vendor_capture_begin and vendor_capture_end the work given to the queue (and to
 * queues that wait for its events, until it waits for theirs) is recorded, not run. Only what returns
 * nothing to the host may be called meanwhile: copies, zero, record, wait, plan_run, launches,
 * exchanges, vendor_comm_poll. Pointers and scalars are recorded as they are; memory is read at each
 * launch.
 *
 * Threads: calls may come from any thread, not two at once for one object.
 * Errors:  STATUS_DEVICE naming the call, the vendor's text and the device; STATUS_MEMORY for device
 *          or pinned memory; STATUS_COMM from communicators. After STATUS_DEVICE only releases may
 *          follow */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct VendorQueue VendorQueue;
typedef struct VendorEvent VendorEvent;
typedef struct VendorGraph VendorGraph;
typedef struct VendorPlan VendorPlan;
typedef struct VendorComm VendorComm;

/* ---- the device */

typedef struct {
    char name[64];      /* "NVIDIA H200" */
    char identity[40];  /* of the physical device, the same in every process: its UUID */
    char libraries[64]; /* "cudnn-9.19.0 cublaslt-13.0.1": what else bits depend on */
    int compute_major, compute_minor;
    int multiprocessors;
    size_t memory; /* bytes in all */
} VendorDevice;

/* How many devices this process sees; 0 without a driver, which is no error. */
Status vendor_count(int *count);
/* Makes device `index` this process's own: all later calls are about it, from any thread. Once. */
Status vendor_open(int index, VendorDevice *device);
void vendor_close(void);
Status vendor_memory_free(size_t *bytes); /* device memory that is free now */

/* ---- memory, at least 256-byte aligned, not zeroed */
Status vendor_allocate(size_t bytes, void **out);
void vendor_release(void *device_memory); /* NULL is allowed; waits for all work */
Status vendor_allocate_pinned(size_t bytes, void **out);
void vendor_release_pinned(void *host_memory); /* NULL is allowed */
/* Pins memory that is there already: page-aligned, whole pages. */
Status vendor_pin(void *host_memory, size_t bytes);
void vendor_unpin(void *host_memory);

/* ---- queues and events */
Status vendor_queue_create(bool urgent,
                           VendorQueue **out); /* urgent: its work goes first */
void vendor_queue_destroy(VendorQueue *queue); /* NULL is allowed */
Status vendor_copy_in(VendorQueue *queue, void *device, const void *pinned, size_t bytes);
Status vendor_copy_out(VendorQueue *queue, void *pinned, const void *device, size_t bytes);
Status vendor_copy(VendorQueue *queue, void *device, const void *from_device, size_t bytes);
Status vendor_zero(VendorQueue *queue, void *device, size_t bytes);
/* The host waits until all work given to the queue so far is done. */
Status vendor_wait(VendorQueue *queue);

Status vendor_event_create(VendorEvent **out);
void vendor_event_destroy(VendorEvent *event);                    /* NULL is allowed */
Status vendor_record(VendorQueue *queue, VendorEvent *event);     /* all work so far */
Status vendor_queue_wait(VendorQueue *queue, VendorEvent *event); /* later work waits */
Status vendor_event_done(VendorEvent *event, bool *done);         /* asks, never waits */

/* ---- graphs */
Status vendor_capture_begin(VendorQueue *queue);
/* *out NULL after a failure; the queue is then usable again. */
Status vendor_capture_end(VendorQueue *queue, VendorGraph **out);
Status vendor_graph_launch(VendorQueue *queue, VendorGraph *graph);
void vendor_graph_destroy(VendorGraph *graph); /* NULL is allowed */

/* ---- products and convolutions: planned once, run often, the same bits each time. A plan is a
 * function of the description, the device and the libraries' versions; no plan uses atomics on
 * floats or depends on timing. */
typedef enum { VENDOR_F32, VENDOR_BF16 } VendorType;

/* out (rows × columns) = op(a) (rows × inner) · op(b) (inner × columns) (+ bias (columns)), row-major.
 * transpose_a: a is stored (inner × rows); transpose_b: b is stored (columns × inner). Sums in float. */
typedef struct {
    int64_t rows, columns, inner;
    bool transpose_a, transpose_b;
    bool bias;       /* float */
    VendorType type; /* of a and b */
    VendorType out;  /* of out: VENDOR_F32, or `type` */
    bool tf32;       /* F32 inputs may be rounded to TF32 */
} VendorGemm;

/* Channels last everywhere: x (N,H,W,C), w (M,R,S,C/groups), y (N,H',W',M). Sums in float.
 *   FORWARD           out = y,  a = x,  b = w
 *   BACKWARD_DATA     out = dx, a = dy, b = w
 *   BACKWARD_WEIGHTS  out = dw, a = x,  b = dy */
typedef enum {
    VENDOR_FORWARD,
    VENDOR_BACKWARD_DATA,
    VENDOR_BACKWARD_WEIGHTS
} VendorDirection;

typedef struct {
    VendorDirection direction;
    int64_t n, c, h, w; /* of x */
    int64_t m, r, s;    /* of w */
    int stride, padding, groups;
    VendorType
        type; /* of x, w, y and their gradients; dw may be wider: vendor_plan_output */
    bool tf32;
} VendorConvolution;

enum { VENDOR_PLAN_TEXT = 192, VENDOR_WORKSPACE_MAX = 256 << 20 };

/* `recorded`: the text of the plan that a checkpoint names, to be used again; NULL or empty: the
 * libraries' first choice that is deterministic and fits VENDOR_WORKSPACE_MAX.
 * Errors: STATUS_UNSUPPORTED when no plan, or not the recorded one, can be made */
Status vendor_plan_gemm(const VendorGemm *gemm, const char *recorded, VendorPlan **out);
Status vendor_plan_convolution(const VendorConvolution *convolution, const char *recorded,
                               VendorPlan **out);
void vendor_plan_destroy(VendorPlan *plan); /* NULL is allowed */
/* One word (no spaces, no control characters) that names the choice. */
const char *vendor_plan_text(const VendorPlan *plan);
size_t
vendor_plan_workspace(const VendorPlan *plan); /* bytes of device memory that a run needs */
VendorType vendor_plan_output(const VendorPlan *plan); /* dw: F32 where it can be planned */
Status vendor_plan_run(VendorQueue *queue, const VendorPlan *plan, void *out, const void *a,
                       const void *b, const float *bias, void *workspace);

/* ---- communicators: one device a rank, never two ranks on one device */
enum { VENDOR_COMM_ID = 128 };
Status vendor_comm_id(
    uint8_t id[VENDOR_COMM_ID]); /* on one rank; the others get it from that one */
/* Begins to connect and returns at once; vendor_comm_poll tells when it is done. */
Status vendor_comm_open(const uint8_t id[VENDOR_COMM_ID], int rank, int size,
                        VendorComm **out);
/* *ready: no earlier call is still under way. An exchange that was begun is given to its queue only then:
 * until then nothing else may be given to that queue or this communicator. Works in a capture, too.
 * STATUS_COMM: broken; only vendor_comm_abort may follow. */
Status vendor_comm_poll(VendorComm *comm, bool *ready);
/* Sends and receives between group_begin and group_end are one exchange. Counts are floats. */
Status vendor_group_begin(VendorComm *comm);
Status vendor_send(VendorQueue *queue, VendorComm *comm, const float *data, int64_t count,
                   int to);
Status vendor_receive(VendorQueue *queue, VendorComm *comm, float *data, int64_t count,
                      int from);
Status vendor_group_end(VendorComm *comm);
/* all (size × count): every rank's `mine`, in rank order; mine may be its own place in all. */
Status vendor_all_gather(VendorQueue *queue, VendorComm *comm, float *all,
                         const float *mine, int64_t count);
Status vendor_all_reduce(VendorQueue *queue, VendorComm *comm, float *sum,
                         const float *mine,
                         int64_t count); /* in any order; may be in place */
/* At once, whatever is under way, and frees it. Graphs that hold its exchanges may still be there, to be
 * destroyed. */
void vendor_comm_abort(VendorComm *comm);
/* After its last exchange is done, and graphs that hold any are destroyed; NULL is allowed. */
void vendor_comm_close(VendorComm *comm);

#ifdef __cplusplus
}
#endif
