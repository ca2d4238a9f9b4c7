/* Device memory: counted, remembered with the moment of its allocation so that recordings and copies of
 * weights that name it go with it, and one workspace that all operations share in turn. */
#include "kernels/cuda/host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_STEP = 1 << 20 }; /* the workspace grows in whole MiB */

typedef struct {
    char *base;
    size_t bytes;
    uint64_t moment;
    bool callers; /* asked for through the table; else the device's own */
} Allocation;

struct CudaMemory {
    Allocation *items;
    int count, room;
    uint64_t moment; /* rises with every allocation and every recording */
};

Status cuda_memory_open(Cuda *cuda) {
    cuda->memory = calloc(1, sizeof *cuda->memory);
    return cuda->memory != NULL
               ? STATUS_OK
               : FAIL(STATUS_MEMORY, NULL, "no memory for the device's table");
}

/* What callers have not released goes with the device. */
void cuda_memory_close(Cuda *cuda) {
    cuda_release(cuda, cuda->workspace);
    cuda->workspace = NULL;
    cuda->workspace_bytes = 0;
    if (cuda->memory != NULL) free(cuda->memory->items);
    free(cuda->memory);
    cuda->memory = NULL;
}

uint64_t cuda_memory_moment(Cuda *cuda) {
    return ++cuda->memory->moment;
}

/* A vendor's refusal says little; this says what a user can change. */
static Status no_room(const Cuda *cuda, size_t bytes) {
    size_t left = 0;
    if (vendor_memory_free(&left) != STATUS_OK) left = 0;
    return FAIL(
        STATUS_MEMORY,
        "use more train.shards or a smaller train.batch, a smaller model, or a device "
        "with more memory; see whether other processes use this one (nvidia-smi)",
        "no room for %zu bytes on %s: %zu of %zu bytes are free, %zu are ours", bytes,
        cuda->device.name, left, cuda->device.memory, cuda->used);
}

Status cuda_allocate(Cuda *cuda, size_t bytes, void **out) {
    CudaMemory *memory = cuda->memory;
    *out = NULL;
    TRY(cuda_not_recording(cuda, "an allocation"));
    if (memory->count == memory->room) {
        int room = memory->room == 0 ? 64 : 2 * memory->room;
        Allocation *items = realloc(memory->items, (size_t)room * sizeof *items);
        if (items == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory for the device's table");
        memory->items = items;
        memory->room = room;
    }
    size_t whole = cuda_aligned(bytes == 0 ? 1 : bytes);
    Status status = vendor_allocate(whole, out);
    if (status != STATUS_OK) {
        *out = NULL;
        return status == STATUS_MEMORY ? no_room(cuda, whole) : status;
    }
    cuda->used += whole;
    memory->items[memory->count++] =
        (Allocation){.base = *out, .bytes = whole, .moment = ++memory->moment};
    return STATUS_OK;
}

void cuda_release(Cuda *cuda, void *data) {
    if (data == NULL) return;
    CudaMemory *memory = cuda->memory;
    int at = 0;
    while (at < memory->count && memory->items[at].base != (char *)data)
        at++;
    assert(at < memory->count); /* came from cuda_allocate, and is released once */
    assert(!cuda->recording);
    Allocation gone = memory->items[at];
    memory->items[at] = memory->items[--memory->count];
    cuda->used -= gone.bytes;
    if (!cuda_settle(cuda)) return;
    vendor_release(data); /* nothing that is dropped below still runs */
    cuda_recordings_drop(cuda, gone.moment);
    cuda_weights_forget(cuda, gone.base, gone.bytes);
}

Status cuda_workspace(Cuda *cuda, size_t bytes, void **out) {
    if (bytes > cuda->workspace_bytes) {
        TRY(cuda_not_recording(cuda, "a larger workspace"));
        cuda_release(cuda, cuda->workspace);
        cuda->workspace = NULL;
        cuda->workspace_bytes = 0;
        size_t whole = (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP * WORKSPACE_STEP;
        TRY(cuda_allocate(cuda, whole, &cuda->workspace));
        cuda->workspace_bytes = whole;
    }
    *out = cuda->workspace;
    return STATUS_OK;
}

Status cuda_backend_allocate(Backend *self, size_t bytes, void **out) {
    Cuda *cuda = cuda_of(self);
    TRY(cuda_allocate(cuda, bytes, out));
    cuda->memory->items[cuda->memory->count - 1].callers = true;
    return STATUS_OK;
}

void cuda_backend_release(Backend *self, void *memory) {
    cuda_release(cuda_of(self), memory);
}

Status cuda_zero(Backend *self, int worker, void *memory, size_t bytes) {
    assert(worker == 0);
    (void)worker;
    return bytes == 0 ? STATUS_OK : vendor_zero(cuda_of(self)->work, memory, bytes);
}

void cuda_memory(Backend *self, BackendMemory *out) {
    const Cuda *cuda = cuda_of(self);
    *out = (BackendMemory){.used = cuda->used, .total = cuda->device.memory};
    for (int i = 0; i < cuda->memory->count; i++)
        if (!cuda->memory->items[i].callers) out->workspace += cuda->memory->items[i].bytes;
    if (vendor_memory_free(&out->free) != STATUS_OK) out->free = 0;
}
