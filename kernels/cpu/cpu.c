/* Opens the CPU device: workers with scratch memory, and the table that ties its files together. */
#include "kernels/cpu/cpu.h"

#include "kernels/flat.h"
#include "kernels/load.h"
#include "kernels/loss.h"

#include <assert.h>
#include <malloc.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Part of the device kind: raise it when a change in these files changes bits. */
enum { KERNELS_VERSION = 3 };

Worker *cpu_worker(Backend *self, int worker) {
    static _Thread_local bool single;
    if (!single) {
        omp_set_num_threads(1);
        single = true;
    }
    assert(worker >= 0 && worker < self->workers);
    return &((Cpu *)self)->workers[worker];
}

Status cpu_aligned(size_t bytes, void *out) {
    size_t whole = (bytes + 63) / 64 * 64;
    void *memory = aligned_alloc(64, whole == 0 ? 64 : whole);
    memcpy(out, &memory, sizeof memory);
    return memory != NULL
               ? STATUS_OK
               : FAIL(STATUS_MEMORY, "use smaller shards, fewer workers or a smaller model",
                      "no memory for %zu bytes", bytes);
}

Status cpu_scratch(Worker *worker, ScratchUse use, size_t bytes, void *out) {
    if (bytes > worker->scratch_bytes[use]) {
        free(worker->scratch[use]);
        worker->scratch[use] = NULL;
        worker->scratch_bytes[use] = 0;
        TRY(cpu_aligned(bytes, &worker->scratch[use]));
        worker->scratch_bytes[use] = bytes;
    }
    memcpy(out, &worker->scratch[use], sizeof(void *));
    return STATUS_OK;
}

static Status cpu_allocate(Backend *self, size_t bytes, void **out) {
    (void)self;
    return cpu_aligned(bytes, out);
}

static void cpu_release(Backend *self, void *memory) {
    if (memory == NULL) return;
    weights_forget((Cpu *)self, memory, malloc_usable_size(memory));
    free(memory);
}

static Status cpu_copy_in(Backend *self, void *device, const void *host, size_t bytes) {
    (void)self;
    memcpy(device, host, bytes);
    return STATUS_OK;
}

static Status cpu_copy_out(Backend *self, void *host, const void *device, size_t bytes) {
    (void)self;
    memcpy(host, device, bytes);
    return STATUS_OK;
}

static Status cpu_finish(Backend *self, int worker) {
    (void)self, (void)worker; /* every operation ends before it returns */
    return STATUS_OK;
}

static Status cpu_parameters_changed(Backend *self, const float *data, int64_t count) {
    weights_changed((Cpu *)self, data, count);
    return STATUS_OK;
}

static Status cpu_softmax_cross_entropy(Backend *self, int worker, float smoothing,
                                        float scale, float *metrics, Tensor *dlogits,
                                        const Tensor *logits, const int32_t *labels) {
    cpu_worker(self, worker);
    loss_softmax_cross_entropy(smoothing, scale, metrics,
                               dlogits != NULL ? dlogits->data : NULL, logits->data, labels,
                               logits->shape[0], logits->shape[1]);
    return STATUS_OK;
}

static Status cpu_accumulate(Backend *self, int worker, float *y, const float *x,
                             int64_t count) {
    cpu_worker(self, worker);
    flat_accumulate(y, x, count);
    return STATUS_OK;
}

static Status cpu_blend(Backend *self, int worker, float *y, const float *x, int64_t count,
                        float rate, float scale) {
    cpu_worker(self, worker);
    flat_blend(y, x, count, rate, scale);
    return STATUS_OK;
}

static Status cpu_sum_squares(Backend *self, int worker, const float *x, int64_t count,
                              double *out) {
    cpu_worker(self, worker);
    *out = flat_sum_squares(x, count);
    return STATUS_OK;
}

static Status cpu_sgd(Backend *self, int worker, const OptimizerPass *pass) {
    cpu_worker(self, worker);
    flat_sgd(pass);
    return STATUS_OK;
}

static Status cpu_adam(Backend *self, int worker, const OptimizerPass *pass) {
    cpu_worker(self, worker);
    flat_adam(pass);
    return STATUS_OK;
}

static void cpu_close(Backend *self) {
    Cpu *cpu = (Cpu *)self;
    for (int i = 0; cpu->workers != NULL && i < self->workers; i++) {
        convolution_destroy_all(&cpu->workers[i]);
        if (cpu->workers[i].stream != NULL) dnnl_stream_destroy(cpu->workers[i].stream);
        for (int use = 0; use < SCRATCHES; use++)
            free(cpu->workers[i].scratch[use]);
    }
    weights_forget(cpu, NULL, SIZE_MAX);
    if (cpu->engine != NULL) dnnl_engine_destroy(cpu->engine);
    pthread_mutex_destroy(&cpu->weights_lock);
    free(cpu->workers);
    free(cpu);
}

static const BackendOps cpu_ops = {
    .name = "cpu",
    .allocate = cpu_allocate,
    .release = cpu_release,
    .copy_in = cpu_copy_in,
    .copy_out = cpu_copy_out,
    .finish = cpu_finish,
    .layout = cpu_layout,
    .reorder = cpu_reorder,
    .parameters_changed = cpu_parameters_changed,
    .conv2d_forward = cpu_conv2d_forward,
    .conv2d_backward = cpu_conv2d_backward,
    .linear_forward = cpu_linear_forward,
    .linear_backward = cpu_linear_backward,
    .batch_norm_forward = cpu_batch_norm_forward,
    .batch_norm_inference = cpu_batch_norm_inference,
    .batch_norm_backward = cpu_batch_norm_backward,
    .relu_forward = cpu_relu_forward,
    .relu_backward = cpu_relu_backward,
    .add = cpu_add,
    .dropout = cpu_dropout,
    .max_pool_forward = cpu_max_pool_forward,
    .max_pool_backward = cpu_max_pool_backward,
    .avg_pool_forward = cpu_avg_pool_forward,
    .avg_pool_backward = cpu_avg_pool_backward,
    .global_pool_forward = cpu_global_pool_forward,
    .global_pool_backward = cpu_global_pool_backward,
    .softmax_cross_entropy = cpu_softmax_cross_entropy,
    .accumulate = cpu_accumulate,
    .blend = cpu_blend,
    .sum_squares = cpu_sum_squares,
    .sgd = cpu_sgd,
    .adam = cpu_adam,
    .close = cpu_close,
};

/* What bits depend on. oneDNN asks Intel processors for their cache sizes and blocks its loops,
 * and so its sums, by them; elsewhere it takes fixed sizes. */
static void describe(Cpu *cpu, const char *isa) {
    char caches[64] = "";
    if (__builtin_cpu_is("intel"))
        snprintf(caches, sizeof caches, " caches-%ldK-%ldK",
                 sysconf(_SC_LEVEL1_DCACHE_SIZE) / 1024,
                 sysconf(_SC_LEVEL2_CACHE_SIZE) / 1024);
    const dnnl_version_t *version = dnnl_version();
    snprintf(cpu->base.kind, sizeof cpu->base.kind, "cpu %s%s onednn-%d.%d.%d kernels-%d",
             isa, caches, version->major, version->minor, version->patch, KERNELS_VERSION);
}

static Status open_workers(Cpu *cpu, int workers) {
    TRY_LIBRARY(dnnl_engine_create(&cpu->engine, dnnl_cpu, 0));
    cpu->workers = calloc((size_t)workers, sizeof *cpu->workers);
    if (cpu->workers == NULL)
        return FAIL(STATUS_MEMORY, "use fewer workers", "no memory for %d workers",
                    workers);
    cpu->base.workers = workers;
    for (int i = 0; i < workers; i++)
        TRY_LIBRARY(dnnl_stream_create(&cpu->workers[i].stream, cpu->engine,
                                       dnnl_stream_default_flags));
    return STATUS_OK;
}

Status cpu_open(const BackendOptions *options, Backend **out) {
    *out = NULL;
    assert(options->workers >= 1);
    const char *isa;
    TRY(library_pin(options->isa, &isa));
    Cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the cpu device");
    cpu->base.ops = &cpu_ops;
    pthread_mutex_init(&cpu->weights_lock, NULL);
    cpu->avx512 = strcmp(isa, "avx512") == 0;
    describe(cpu, isa);
    Status status = open_workers(cpu, options->workers);
    if (status != STATUS_OK) {
        cpu_close(&cpu->base);
        return status;
    }
    *out = &cpu->base;
    return STATUS_OK;
}
