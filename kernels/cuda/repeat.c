/* A step that is given again and again is recorded once and then repeated by the device without the host:
 * Backend.repeat. The first run with a key is plain (it makes plans, workspace and copies of weights), the
 * second is recorded, later ones repeat the recording.
 *
 * A recording names memory. It is dropped, and the key begins with a plain run again, when memory is
 * released that was allocated before it (it may be named in it), and when a copy of a weight is added (a
 * recorded update would not renew that copy). */
#include "kernels/cuda/host.h"

#include "src/core/log.h"

#include <assert.h>
#include <stdlib.h>

enum { RECORDINGS = 32 }; /* kept at once; the one that was used longest ago goes first */

typedef struct {
    uint64_t key;
    VendorGraph *graph; /* NULL: its first run is done, the next is recorded */
    bool plain;         /* cannot be recorded: run as it is, for good */
    uint64_t moment;    /* of the newest run of body, among the allocations */
    uint64_t used;
} Recording;

struct CudaRecordings {
    Recording items[RECORDINGS];
    int count;
    uint64_t uses;
    bool repeating;
};

Status cuda_recordings_open(Cuda *cuda) {
    cuda->recordings = calloc(1, sizeof *cuda->recordings);
    return cuda->recordings != NULL ? STATUS_OK
                                    : FAIL(STATUS_MEMORY, NULL, "no memory for recordings");
}

static void drop(CudaRecordings *self, int at) {
    vendor_graph_destroy(self->items[at].graph);
    self->items[at] = self->items[--self->count];
}

void cuda_recordings_close(Cuda *cuda) {
    CudaRecordings *self = cuda->recordings;
    if (self == NULL) return;
    while (self->count > 0)
        drop(self, self->count - 1);
    free(self);
    cuda->recordings = NULL;
}

void cuda_recordings_drop(Cuda *cuda, uint64_t moment) {
    CudaRecordings *self = cuda->recordings;
    for (int i = 0; self != NULL && i < self->count;) {
        if (!self->items[i].plain && self->items[i].moment > moment)
            drop(self, i);
        else
            i++;
    }
}

/* A graph that still runs is not destroyed. */
Status cuda_recordings_renew(Cuda *cuda) {
    bool any = false;
    for (int i = 0; i < cuda->recordings->count; i++)
        any = any || cuda->recordings->items[i].graph != NULL;
    if (any) TRY(cuda_wait(cuda, cuda->work));
    cuda_recordings_drop(cuda, 0);
    return STATUS_OK;
}

static Recording *find(CudaRecordings *self, uint64_t key) {
    for (int i = 0; i < self->count; i++)
        if (self->items[i].key == key) return &self->items[i];
    return NULL;
}

/* Remembers that the key has had its first run. */
static Status note(Cuda *cuda, uint64_t key) {
    CudaRecordings *self = cuda->recordings;
    if (self->count == RECORDINGS) {
        int oldest = 0;
        for (int i = 1; i < self->count; i++)
            if (self->items[i].used < self->items[oldest].used) oldest = i;
        if (self->items[oldest].graph != NULL) TRY(cuda_wait(cuda, cuda->work));
        drop(self, oldest);
    }
    self->items[self->count++] =
        (Recording){.key = key, .used = ++self->uses, .moment = cuda_memory_moment(cuda)};
    return STATUS_OK;
}

/* Lets body's work be recorded. *ran: the body's own result; the returned failure is of the recording. */
static Status record(Cuda *cuda, Status (*body)(void *context), void *context, Status *ran,
                     VendorGraph **out) {
    *out = NULL;
    *ran = STATUS_OK;
    TRY(vendor_capture_begin(cuda->work));
    cuda->recording = true;
    Failure failure;
    *ran = body(context);
    if (*ran != STATUS_OK) failure = *status_failure();
    cuda->recording = false;
    Status status = vendor_capture_end(cuda->work, out);
    if (*ran == STATUS_OK) return status;
    vendor_graph_destroy(*out);
    *out = NULL;
    return status_adopt(&failure);
}

/* The second run: recorded, or plain for good where that does not work. */
static Status second_run(Cuda *cuda, uint64_t key, Status (*body)(void *context),
                         void *context) {
    Status ran;
    VendorGraph *graph;
    Status status = record(cuda, body, context, &ran, &graph);
    if (ran == STATUS_COMM) return status; /* nothing may be exchanged after it */
    Recording *recording = find(cuda->recordings, key);
    assert(recording != NULL); /* nothing can be released while it records */
    if (status == STATUS_OK) {
        recording->graph = graph;
        recording->moment = cuda_memory_moment(cuda);
        return vendor_graph_launch(cuda->work, graph);
    }
    Failure failure = *status_failure();
    recording->plain = true;
    TRY(body(context)); /* its own failure, if it has one, is what is told */
    LOG_W("the device's work is not recorded but given anew each time, which is slower: %s",
          failure.what);
    return STATUS_OK;
}

static Status run(Cuda *cuda, uint64_t key, Status (*body)(void *context), void *context) {
    CudaRecordings *self = cuda->recordings;
    Recording *recording = find(self, key);
    if (recording == NULL) {
        TRY(body(context));
        return note(cuda, key);
    }
    recording->used = ++self->uses;
    if (recording->plain) return body(context);
    if (recording->graph == NULL) return second_run(cuda, key, body, context);
    cuda->doing = "a recorded step";
    return vendor_graph_launch(cuda->work, recording->graph);
}

Status cuda_repeat(Backend *self, uint64_t key, Status (*body)(void *context),
                   void *context) {
    Cuda *cuda = cuda_of(self);
    assert(!cuda->recordings->repeating); /* not nested */
    if (key == 0) return body(context);
    cuda->recordings->repeating = true;
    Status status = run(cuda, key, body, context);
    cuda->recordings->repeating = false;
    return status;
}
