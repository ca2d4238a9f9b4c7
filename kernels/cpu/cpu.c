/* Opens the CPU device: workers with scratch memory, and the table that ties its files together. */
#include "kernels/cpu/cpu.h"

#include "kernels/load.h"

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

static void cpu_release(Backend *self, void *memory) {
    if (memory == NULL) return;
    weights_forget((Cpu *)self, memory, malloc_usable_size(memory));
    host_release(self, memory);
}

static void cpu_memory(Backend *self, BackendMemory *out) {
    Cpu *cpu = (Cpu *)self;
    size_t workspace = weights_bytes(cpu);
    for (int i = 0; i < self->workers; i++)
        for (int use = 0; use < SCRATCHES; use++)
            workspace += cpu->workers[i].scratch_bytes[use];
    host_memory(&cpu->host, workspace, out);
}

static Status cpu_parameters_changed(Backend *self, const float *data, int64_t count) {
    weights_changed((Cpu *)self, data, count);
    return STATUS_OK;
}

static Status cpu_parameters_moved(Backend *self, const float *from, const float *to,
                                   int64_t count) {
    weights_moved((Cpu *)self, from, to, count);
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
    .host_memory = true,
    .allocate = host_allocate,
    .release = cpu_release,
    .zero = host_zero,
    .copy_in = host_copy,
    .copy_out = host_copy,
    .finish = host_finish,
    .memory = cpu_memory,
    .pin = host_pin,
    .unpin = host_unpin,
    .fetch = host_copy,
    .fetch_fence = host_fetch_fence,
    .fetch_finish = host_fetch_finish,
    .repeat = host_repeat,
    .layout = cpu_layout,
    .reorder = cpu_reorder,
    .parameters_changed = cpu_parameters_changed,
    .parameters_moved = cpu_parameters_moved,
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
    .softmax_cross_entropy = host_softmax_cross_entropy,
    .accumulate = host_accumulate,
    .blend = host_blend,
    .sum_squares = host_sum_squares,
    .judge = host_judge,
    .sgd = host_sgd,
    .adam = host_adam,
    .open_collective = host_open_collective,
    .plans = host_plans,
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
    snprintf(cpu->host.base.kind, sizeof cpu->host.base.kind,
             "cpu %s%s onednn-%d.%d.%d kernels-%d", isa, caches, version->major,
             version->minor, version->patch, KERNELS_VERSION);
}

static Status open_workers(Cpu *cpu, int workers) {
    TRY_LIBRARY(dnnl_engine_create(&cpu->engine, dnnl_cpu, 0));
    cpu->workers = calloc((size_t)workers, sizeof *cpu->workers);
    if (cpu->workers == NULL)
        return FAIL(STATUS_MEMORY, "use fewer workers", "no memory for %d workers",
                    workers);
    cpu->host.base.workers = workers;
    for (int i = 0; i < workers; i++)
        TRY_LIBRARY(dnnl_stream_create(&cpu->workers[i].stream, cpu->engine,
                                       dnnl_stream_default_flags));
    return STATUS_OK;
}

Status cpu_open(const BackendOptions *options, Backend **out) {
    *out = NULL;
    assert(options->workers >= 1);
    TRY(host_check_precision("cpu", options));
    const char *isa;
    TRY(library_pin(options->isa, &isa));
    Cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the cpu device");
    cpu->host.base.ops = &cpu_ops;
    pthread_mutex_init(&cpu->weights_lock, NULL);
    cpu->avx512 = strcmp(isa, "avx512") == 0;
    describe(cpu, isa);
    Status status = open_workers(cpu, options->workers);
    if (status != STATUS_OK) {
        cpu_close(&cpu->host.base);
        return status;
    }
    *out = &cpu->host.base;
    return STATUS_OK;
}
