/* oneDNN's objects behind small functions: errors, the pinned instruction set, scratch memory and
 * reorders. */
#include "kernels/cpu/cpu.h"

#include <dnnl_debug.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

Status library_status(dnnl_status_t status, const char *call) {
    if (status == dnnl_success) return STATUS_OK;
    if (status == dnnl_out_of_memory)
        return FAIL(STATUS_MEMORY, "use smaller shards or fewer workers",
                    "oneDNN is out of memory in %s", call);
    return FAIL(STATUS_DEVICE, "try device: reference, and report this",
                "oneDNN failed with %s in %s", dnnl_status2str(status), call);
}

typedef struct {
    const char *name;
    dnnl_cpu_isa_t isa;
} InstructionSet;

/* Best first. One name stands for one set of code paths on every processor: newer extensions
 * (vnni, bf16, amx) are left out, since they would make machines differ. */
static const InstructionSet instruction_sets[] = {
    {"avx512", dnnl_cpu_isa_avx512_core},
    {"avx2", dnnl_cpu_isa_avx2},
    {"avx", dnnl_cpu_isa_avx},
    {"sse41", dnnl_cpu_isa_sse41},
};
enum { INSTRUCTION_SETS = sizeof instruction_sets / sizeof *instruction_sets };

static const InstructionSet *find_set(const char *name) {
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        if (strcmp(name, instruction_sets[i].name) == 0) return &instruction_sets[i];
    return NULL;
}

static bool processor_has(dnnl_cpu_isa_t isa) {
    __builtin_cpu_init();
    if (isa == dnnl_cpu_isa_avx512_core)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return true; /* the program itself is compiled for AVX2 */
}

/* oneDNN's names for a limit, and the best of our sets under each. */
static const struct {
    const char *name, *set;
} limits[] = {
    {"ALL", "avx512"},
    {"DEFAULT", "avx512"},
    {"AVX512_CORE", "avx512"},
    {"AVX512_CORE_VNNI", "avx512"},
    {"AVX512_CORE_BF16", "avx512"},
    {"AVX512_CORE_AMX", "avx512"},
    {"AVX512_MIC_4OPS", "avx2"},
    {"AVX512_MIC", "avx2"},
    {"AVX2_VNNI", "avx2"},
    {"AVX2", "avx2"},
    {"AVX", "avx"},
    {"SSE41", "sse41"},
};

/* The first set that the user's environment allows. Pinning overrides oneDNN's own look at it, so that it
 * is ours to obey; a name that nobody knows is no limit for oneDNN, but here it is refused: it would
 * decide the run's bits in silence. */
static Status limit_of_environment(const InstructionSet **first) {
    const char *variable = "ONEDNN_MAX_CPU_ISA", *limit = getenv(variable), *set = NULL;
    if (limit == NULL) limit = getenv(variable = "DNNL_MAX_CPU_ISA");
    if (limit == NULL || limit[0] == '\0') limit = "ALL";
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (strcasecmp(limit, limits[i].name) == 0) set = limits[i].set;
    if (set == NULL)
        return FAIL(STATUS_UNSUPPORTED, "unset it, or use AVX512_CORE, AVX2, AVX or SSE41",
                    "%s=%s is no instruction set", variable, limit);
    *first = find_set(set);
    return STATUS_OK;
}

/* The set that `name` asks for; NULL: the best that environment and processor allow. */
static Status choose(const char *name, const InstructionSet **wanted) {
    if (name == NULL) {
        TRY(limit_of_environment(wanted));
        while (!processor_has((*wanted)->isa))
            ++*wanted; /* it has the last */
        return STATUS_OK;
    }
    *wanted = find_set(name);
    if (*wanted == NULL)
        return FAIL(
            STATUS_UNSUPPORTED,
            "go on with the version of Rekindle that began the run, or begin a new run",
            "the run is pinned to the instruction set \"%s\", which this version does "
            "not know (it knows avx512, avx2, avx and sse41)",
            name);
    if (!processor_has((*wanted)->isa))
        return FAIL(
            STATUS_UNSUPPORTED,
            "launch on a machine that has it, or begin a new run for this one",
            "the run is pinned to the instruction set %s, which this processor has not",
            name);
    return STATUS_OK;
}

static pthread_mutex_t pin_lock = PTHREAD_MUTEX_INITIALIZER;
static const InstructionSet *pinned_set; /* guarded by pin_lock */

static Status pin(const char *name, const char **pinned) {
    const InstructionSet *wanted;
    TRY(choose(name, &wanted));
    if (pinned_set == NULL) {
        dnnl_status_t status = dnnl_set_max_cpu_isa(wanted->isa);
        if (status != dnnl_success || dnnl_get_effective_cpu_isa() != wanted->isa)
            return FAIL(STATUS_UNSUPPORTED, "pin before anything else uses oneDNN",
                        "oneDNN cannot be pinned to %s", wanted->name);
        pinned_set = wanted;
    }
    if (wanted != pinned_set && name != NULL)
        return FAIL(STATUS_UNSUPPORTED, "use one instruction set in a process",
                    "oneDNN is pinned to %s in this process and cannot change to %s",
                    pinned_set->name, wanted->name);
    *pinned = pinned_set->name;
    return STATUS_OK;
}

Status library_pin(const char *name, const char **pinned) {
    pthread_mutex_lock(&pin_lock);
    Status status = pin(name, pinned);
    pthread_mutex_unlock(&pin_lock);
    return status;
}

Status library_attributes(dnnl_primitive_attr_t *out) {
    *out = NULL;
    TRY_LIBRARY(dnnl_primitive_attr_create(out));
    dnnl_status_t status =
        dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status != dnnl_success) dnnl_primitive_attr_destroy(*out);
    return library_status(status, "dnnl_primitive_attr_set_scratchpad_mode");
}

Status library_scratch(const Cpu *cpu, const_dnnl_primitive_desc_t description,
                       dnnl_memory_t *memory, size_t *bytes) {
    const dnnl_memory_desc_t *format =
        dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    *bytes = dnnl_memory_desc_get_size(format);
    TRY_LIBRARY(dnnl_memory_create(memory, format, cpu->engine, DNNL_MEMORY_NONE));
    return STATUS_OK;
}

static Status reorder_create(const Cpu *cpu, const dnnl_memory_desc_t *from,
                             const dnnl_memory_desc_t *to, dnnl_primitive_attr_t attributes,
                             dnnl_primitive_desc_t *description, Reorder *out) {
    TRY_LIBRARY(dnnl_reorder_primitive_desc_create(description, from, cpu->engine, to,
                                                   cpu->engine, attributes));
    TRY_LIBRARY(dnnl_primitive_create(&out->primitive, *description));
    TRY_LIBRARY(dnnl_memory_create(&out->from, from, cpu->engine, DNNL_MEMORY_NONE));
    TRY_LIBRARY(dnnl_memory_create(&out->to, to, cpu->engine, DNNL_MEMORY_NONE));
    return library_scratch(cpu, *description, &out->scratch, &out->scratch_bytes);
}

Status library_reorder_create(const Cpu *cpu, const dnnl_memory_desc_t *from,
                              const dnnl_memory_desc_t *to, Reorder *out) {
    *out = (Reorder){0};
    dnnl_primitive_attr_t attributes;
    TRY(library_attributes(&attributes));
    dnnl_primitive_desc_t description = NULL;
    Status status = reorder_create(cpu, from, to, attributes, &description, out);
    if (description != NULL) dnnl_primitive_desc_destroy(description);
    dnnl_primitive_attr_destroy(attributes);
    if (status != STATUS_OK) library_reorder_destroy(out);
    return status;
}

Status library_reorder_run(Worker *worker, const Reorder *reorder, const void *from,
                           void *to) {
    void *scratch;
    TRY(cpu_scratch(worker, SCRATCH_LIBRARY, reorder->scratch_bytes, &scratch));
    TRY_LIBRARY(dnnl_memory_set_data_handle(reorder->from, (void *)(uintptr_t)from));
    TRY_LIBRARY(dnnl_memory_set_data_handle(reorder->to, to));
    TRY_LIBRARY(dnnl_memory_set_data_handle(reorder->scratch, scratch));
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, reorder->from},
                                   {DNNL_ARG_TO, reorder->to},
                                   {DNNL_ARG_SCRATCHPAD, reorder->scratch}};
    TRY_LIBRARY(dnnl_primitive_execute(reorder->primitive, worker->stream, 3, arguments));
    return STATUS_OK;
}

void library_reorder_destroy(Reorder *reorder) {
    if (reorder->primitive != NULL) dnnl_primitive_destroy(reorder->primitive);
    if (reorder->from != NULL) dnnl_memory_destroy(reorder->from);
    if (reorder->to != NULL) dnnl_memory_destroy(reorder->to);
    if (reorder->scratch != NULL) dnnl_memory_destroy(reorder->scratch);
    *reorder = (Reorder){0};
}
