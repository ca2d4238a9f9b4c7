/* Parameters as the libraries take them: filters channels-last, everything that is multiplied in bf16 where
 * the precision is. A copy is made at first use, stays at its place, and is made anew by
 * parameters_changed: inside the update's recording where there is one, so that a repeated step reads
 * what the one before wrote. */
#include "kernels/cuda/host.h"

#include <assert.h>
#include <stdlib.h>

typedef struct {
    const float *w;
    int64_t m, c, rs; /* (m, c, r·s); a linear layer's weight has r·s = 1 */
    void *copy;
} Weight;

struct CudaWeights {
    Weight *items;
    int count, room;
};

Status cuda_weights_open(Cuda *cuda) {
    cuda->weights = calloc(1, sizeof *cuda->weights);
    return cuda->weights != NULL
               ? STATUS_OK
               : FAIL(STATUS_MEMORY, NULL, "no memory for a table of weights");
}

void cuda_weights_close(Cuda *cuda) {
    if (cuda->weights == NULL) return;
    for (int i = 0; i < cuda->weights->count; i++)
        cuda_release(cuda, cuda->weights->items[i].copy);
    free(cuda->weights->items);
    free(cuda->weights);
    cuda->weights = NULL;
}

/* (m, c, 1) and (m, 1, r·s) are the same channels-last. */
static bool order_differs(const Weight *weight) {
    return weight->rs > 1 && weight->c > 1;
}

static int64_t elements(const Weight *weight) {
    return weight->m * weight->c * weight->rs;
}

static Status fill(Cuda *cuda, const Weight *weight) {
    VendorType type = cuda_compute_type(cuda);
    return order_differs(weight)
               ? cuda_filter_to_last(cuda->work, weight->copy, type, weight->w, weight->m,
                                     weight->c, weight->rs)
               : cuda_convert(cuda->work, weight->copy, type, weight->w, VENDOR_F32,
                              elements(weight));
}

static Status add(Cuda *cuda, Weight weight, const void **out) {
    CudaWeights *self = cuda->weights;
    if (self->count == self->room) {
        int room = self->room == 0 ? 64 : 2 * self->room;
        Weight *items = realloc(self->items, (size_t)room * sizeof *items);
        if (items == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory for a table of weights");
        self->items = items;
        self->room = room;
    }
    TRY(cuda_allocate(cuda,
                      (size_t)elements(&weight) * cuda_type_size(cuda_compute_type(cuda)),
                      &weight.copy));
    Status status = fill(cuda, &weight);
    if (status != STATUS_OK) {
        cuda_release(cuda, weight.copy);
        return status;
    }
    self->items[self->count++] = weight;
    *out = weight.copy;
    /* a recorded update does not make this copy anew: it has to be recorded again */
    return cuda_recordings_renew(cuda);
}

Status cuda_weights_of(Cuda *cuda, const Tensor *w, const void **out) {
    assert(w->layout == LAYOUT_CANONICAL && (w->rank == 2 || w->rank == 4));
    Weight wanted = {.w = w->data, .m = w->shape[0], .c = w->shape[1], .rs = 1};
    if (w->rank == 4) wanted.rs = w->shape[2] * w->shape[3];
    if (cuda_compute_type(cuda) == VENDOR_F32 && !order_differs(&wanted)) {
        *out = w->data;
        return STATUS_OK;
    }
    for (int i = 0; i < cuda->weights->count; i++) {
        const Weight *weight = &cuda->weights->items[i];
        if (weight->w == wanted.w && weight->m == wanted.m && weight->c == wanted.c &&
            weight->rs == wanted.rs) {
            *out = weight->copy;
            return STATUS_OK;
        }
    }
    return add(cuda, wanted, out);
}

static bool overlaps(const Weight *weight, const void *data, size_t bytes) {
    const char *begin = (const char *)weight->w, *first = data;
    return begin < first + bytes &&
           first < begin + (size_t)elements(weight) * sizeof(float);
}

Status cuda_parameters_changed(Backend *self, const float *data, int64_t count) {
    Cuda *cuda = cuda_of(self);
    for (int i = 0; i < cuda->weights->count; i++)
        if (overlaps(&cuda->weights->items[i], data, (size_t)count * sizeof(float)))
            TRY(fill(cuda, &cuda->weights->items[i]));
    return STATUS_OK;
}

Status cuda_parameters_moved(Backend *self, const float *from, const float *to,
                             int64_t count) {
    (void)self;
    return FAIL(STATUS_UNSUPPORTED,
                "take the snapshot by fetch, and update the parameters in place",
                "device cuda cannot move %lld parameters from %p to %p: recordings and "
                "plans hold their addresses",
                (long long)count, (const void *)from, (const void *)to);
}

void cuda_weights_forget(Cuda *cuda, const void *data, size_t bytes) {
    CudaWeights *self = cuda->weights;
    for (int i = 0; self != NULL && i < self->count;) {
        if (!overlaps(&self->items[i], data, bytes)) {
            i++;
            continue;
        }
        void *copy = self->items[i].copy;
        self->items[i] = self->items[--self->count];
        cuda_release(cuda, copy); /* comes back here, with memory that is no parameter */
    }
}
