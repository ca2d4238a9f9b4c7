/* Queues are streams: work in order, copies, events, and graphs of captured work. */
#include "kernels/cuda/real/real.h"

#include <stdlib.h>

struct VendorEvent {
    cudaEvent_t event;
};

struct VendorGraph {
    cudaGraphExec_t exec;
};

static Status no_memory(void) {
    return FAIL(STATUS_MEMORY, "give the rank more memory", "no memory for a handle");
}

Status vendor_queue_create(bool urgent, VendorQueue **out) {
    *out = NULL;
    TRY(real_use_device());
    VendorQueue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) return no_memory();
    int least = 0, greatest = 0;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (error ==
        cudaSuccess) /* non-blocking: no order with the default stream, which nobody uses */
        error = cudaStreamCreateWithPriority(&queue->stream, cudaStreamNonBlocking,
                                             urgent ? greatest : least);
    if (error != cudaSuccess) {
        free(queue);
        return real_cuda_failed(error, "cudaStreamCreateWithPriority");
    }
    *out = queue;
    return STATUS_OK;
}

void vendor_queue_destroy(VendorQueue *queue) {
    if (queue == NULL) return;
    if (real_use_device() == STATUS_OK) cudaStreamDestroy(queue->stream);
    free(queue);
}

static Status copy(VendorQueue *queue, void *to, const void *from, size_t bytes,
                   enum cudaMemcpyKind kind) {
    if (bytes == 0) return STATUS_OK;
    TRY(real_use_device());
    TRY_CUDA(cudaMemcpyAsync(to, from, bytes, kind, queue->stream));
    return STATUS_OK;
}

Status vendor_copy_in(VendorQueue *queue, void *device, const void *pinned, size_t bytes) {
    return copy(queue, device, pinned, bytes, cudaMemcpyHostToDevice);
}

Status vendor_copy_out(VendorQueue *queue, void *pinned, const void *device, size_t bytes) {
    return copy(queue, pinned, device, bytes, cudaMemcpyDeviceToHost);
}

Status vendor_copy(VendorQueue *queue, void *device, const void *from_device,
                   size_t bytes) {
    return copy(queue, device, from_device, bytes, cudaMemcpyDeviceToDevice);
}

Status vendor_zero(VendorQueue *queue, void *device, size_t bytes) {
    if (bytes == 0) return STATUS_OK;
    TRY(real_use_device());
    TRY_CUDA(cudaMemsetAsync(device, 0, bytes, queue->stream));
    return STATUS_OK;
}

Status vendor_wait(VendorQueue *queue) {
    TRY(real_use_device());
    TRY_CUDA(cudaStreamSynchronize(queue->stream));
    return STATUS_OK;
}

/* ---- events */

Status vendor_event_create(VendorEvent **out) {
    *out = NULL;
    TRY(real_use_device());
    VendorEvent *event = calloc(1, sizeof *event);
    if (event == NULL) return no_memory();
    cudaError_t error = cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        free(event);
        return real_cuda_failed(error, "cudaEventCreateWithFlags");
    }
    *out = event;
    return STATUS_OK;
}

void vendor_event_destroy(VendorEvent *event) {
    if (event == NULL) return;
    if (real_use_device() == STATUS_OK) cudaEventDestroy(event->event);
    free(event);
}

Status vendor_record(VendorQueue *queue, VendorEvent *event) {
    TRY(real_use_device());
    TRY_CUDA(cudaEventRecord(event->event, queue->stream));
    return STATUS_OK;
}

Status vendor_queue_wait(VendorQueue *queue, VendorEvent *event) {
    TRY(real_use_device());
    TRY_CUDA(cudaStreamWaitEvent(queue->stream, event->event, 0));
    return STATUS_OK;
}

Status vendor_event_done(VendorEvent *event, bool *done) {
    *done = false;
    TRY(real_use_device());
    cudaError_t state = cudaEventQuery(event->event);
    if (state == cudaErrorNotReady) {
        cudaGetLastError(); /* no error: a launch after this must not find it */
        return STATUS_OK;
    }
    if (state != cudaSuccess) return real_cuda_failed(state, "cudaEventQuery");
    *done = true;
    return STATUS_OK;
}

/* ---- graphs */

/* Thread-local: what must not be captured (an allocation, a wait) is refused in this thread, while
 * other threads' loader and saver work on with their own queues. */
Status vendor_capture_begin(VendorQueue *queue) {
    TRY(real_use_device());
    TRY_CUDA(cudaStreamBeginCapture(queue->stream, cudaStreamCaptureModeThreadLocal));
    return STATUS_OK;
}

Status vendor_capture_end(VendorQueue *queue, VendorGraph **out) {
    *out = NULL;
    TRY(real_use_device());
    cudaGraph_t captured = NULL;
    TRY_CUDA(cudaStreamEndCapture(queue->stream, &captured));
    VendorGraph *graph = calloc(1, sizeof *graph);
    if (graph == NULL) {
        cudaGraphDestroy(captured);
        return no_memory();
    }
    /* nodes keep the priority of the queue they were captured from; else all take the launching one's
     * (driver_types.h, cudaGraphInstantiateFlagUseNodePriority), and what is urgent waits */
    cudaError_t error = cudaGraphInstantiate(&graph->exec, captured,
                                             cudaGraphInstantiateFlagUseNodePriority);
    cudaGraphDestroy(captured); /* the executable graph has its own copy */
    if (error != cudaSuccess) {
        free(graph);
        return real_cuda_failed(error, "cudaGraphInstantiate");
    }
    *out = graph;
    return STATUS_OK;
}

Status vendor_graph_launch(VendorQueue *queue, VendorGraph *graph) {
    TRY(real_use_device());
    TRY_CUDA(cudaGraphLaunch(graph->exec, queue->stream));
    return STATUS_OK;
}

void vendor_graph_destroy(VendorGraph *graph) {
    if (graph == NULL) return;
    if (real_use_device() == STATUS_OK) cudaGraphExecDestroy(graph->exec);
    free(graph);
}

/* ---- kernels: what launch.h, a header of C++, declares and calls */

Status real_launch_begin(VendorQueue *queue, cudaStream_t *stream);
Status real_launch_end(const char *kernel, unsigned blocks_x, unsigned blocks_y,
                       unsigned threads);

Status real_launch_begin(VendorQueue *queue, cudaStream_t *stream) {
    TRY(real_use_device());
    *stream = queue->stream;
    return STATUS_OK;
}

Status real_launch_end(const char *kernel, unsigned blocks_x, unsigned blocks_y,
                       unsigned threads) {
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return STATUS_OK;
    return real_kernel_failed(error, kernel, blocks_x, blocks_y, threads);
}
