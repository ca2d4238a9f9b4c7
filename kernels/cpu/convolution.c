/* Convolutions by oneDNN. A primitive is made once per worker, shape and layout and kept; its
 * operands are the caller's memory where the formats agree, else scratch memory and a reorder. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef enum { CONV_FORWARD, CONV_BACKWARD_DATA, CONV_BACKWARD_WEIGHTS } ConvKind;

/* All that a primitive depends on. Only ints: compared and hashed as bytes. */
typedef struct {
    int kind, with_bias, x_layout, y_layout;
    int batch, channels, height, width;      /* x */
    int out_channels, out_height, out_width; /* y */
    int filter_height, filter_width, stride, padding, groups;
} ConvKey;

typedef struct {
    dnnl_memory_t memory; /* in the primitive's format */
    size_t bytes;
    bool reordered; /* the caller's format is another one */
    Reorder reorder;
} Operand;

typedef enum { OPERAND_X, OPERAND_W, OPERAND_Y, OPERANDS } OperandName;

struct Convolution {
    ConvKey key;
    Convolution *next;
    dnnl_primitive_t primitive;
    Operand operands[OPERANDS];
    dnnl_memory_desc_t plain_weights, weights_format;
    dnnl_memory_t bias, scratch;
    size_t scratch_bytes;
};

/* Per kind: the library's names of x, w and y, and which of them is the result. */
static const int argument_of[3][OPERANDS] = {
    [CONV_FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
    [CONV_BACKWARD_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
    [CONV_BACKWARD_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
};
static const dnnl_query_t query_of[3][OPERANDS] = {
    [CONV_FORWARD] = {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md},
    [CONV_BACKWARD_DATA] = {dnnl_query_diff_src_md, dnnl_query_weights_md,
                            dnnl_query_diff_dst_md},
    [CONV_BACKWARD_WEIGHTS] = {dnnl_query_src_md, dnnl_query_diff_weights_md,
                               dnnl_query_diff_dst_md},
};
static const OperandName result_of[3] = {
    [CONV_FORWARD] = OPERAND_Y,
    [CONV_BACKWARD_DATA] = OPERAND_X,
    [CONV_BACKWARD_WEIGHTS] = OPERAND_W,
};

static uint32_t bucket_of(const ConvKey *key) {
    const int *words = (const int *)key;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof *key / sizeof *words; i++)
        hash = (hash ^ (uint32_t)words[i]) * 16777619u;
    return (hash ^ hash >> 16) % CONVOLUTION_BUCKETS;
}

static void destroy(Convolution *convolution) {
    if (convolution->primitive != NULL) dnnl_primitive_destroy(convolution->primitive);
    for (int i = 0; i < OPERANDS; i++) {
        if (convolution->operands[i].memory != NULL)
            dnnl_memory_destroy(convolution->operands[i].memory);
        library_reorder_destroy(&convolution->operands[i].reorder);
    }
    if (convolution->bias != NULL) dnnl_memory_destroy(convolution->bias);
    if (convolution->scratch != NULL) dnnl_memory_destroy(convolution->scratch);
    free(convolution);
}

void convolution_destroy_all(Worker *worker) {
    for (int i = 0; i < CONVOLUTION_BUCKETS; i++)
        for (Convolution *entry = worker->convolutions[i], *next; entry != NULL;
             entry = next) {
            next = entry->next;
            destroy(entry);
        }
}

/* The formats that the caller's memory has. */
typedef struct {
    dnnl_memory_desc_t x, w, y, bias;
} Formats;

static dnnl_format_tag_t activation_tag(int layout) {
    return layout == LAYOUT_NHWC ? dnnl_nhwc : dnnl_nchw;
}

static Status caller_formats(const ConvKey *key, Formats *out) {
    dnnl_dims_t x = {key->batch, key->channels, key->height, key->width};
    dnnl_dims_t y = {key->batch, key->out_channels, key->out_height, key->out_width};
    int group_channels = key->channels / key->groups;
    dnnl_dims_t w = {key->out_channels, group_channels, key->filter_height,
                     key->filter_width};
    dnnl_dims_t grouped = {key->groups, key->out_channels / key->groups, group_channels,
                           key->filter_height, key->filter_width};
    dnnl_dims_t bias = {key->out_channels};
    TRY_LIBRARY(dnnl_memory_desc_init_by_tag(&out->x, 4, x, dnnl_f32,
                                             activation_tag(key->x_layout)));
    TRY_LIBRARY(dnnl_memory_desc_init_by_tag(&out->y, 4, y, dnnl_f32,
                                             activation_tag(key->y_layout)));
    TRY_LIBRARY(
        key->groups == 1
            ? dnnl_memory_desc_init_by_tag(&out->w, 4, w, dnnl_f32, dnnl_oihw)
            : dnnl_memory_desc_init_by_tag(&out->w, 5, grouped, dnnl_f32, dnnl_goihw));
    TRY_LIBRARY(dnnl_memory_desc_init_by_tag(&out->bias, 1, bias, dnnl_f32, dnnl_a));
    return STATUS_OK;
}

/* The same tensor in the format that the library likes best. */
static Status any_format(const dnnl_memory_desc_t *format, dnnl_memory_desc_t *out) {
    TRY_LIBRARY(dnnl_memory_desc_init_by_tag(out, format->ndims, format->dims, dnnl_f32,
                                             dnnl_format_tag_any));
    return STATUS_OK;
}

static Status describe_backward(const ConvKey *key, const Formats *formats,
                                const dnnl_dims_t strides, const dnnl_dims_t padding,
                                dnnl_primitive_attr_t attributes, dnnl_engine_t engine,
                                dnnl_primitive_desc_t forward, dnnl_primitive_desc_t *out) {
    dnnl_convolution_desc_t operation;
    if (key->kind == CONV_BACKWARD_DATA)
        TRY_LIBRARY(dnnl_convolution_backward_data_desc_init(
            &operation, dnnl_convolution_direct, &formats->x, &formats->w, &formats->y,
            strides, padding, padding));
    else
        TRY_LIBRARY(dnnl_convolution_backward_weights_desc_init(
            &operation, dnnl_convolution_direct, &formats->x, &formats->w, NULL,
            &formats->y, strides, padding, padding));
    TRY_LIBRARY(dnnl_primitive_desc_create(out, &operation, attributes, engine, forward));
    return STATUS_OK;
}

/* The implementation's name, which begins with its kind. */
static bool is_named(const_dnnl_primitive_desc_t description, const char *kind) {
    const char *name = "";
    dnnl_primitive_desc_query(description, dnnl_query_impl_info_str, 0, &name);
    return strncmp(name, kind, strlen(kind)) == 0;
}

/* For avx512 the library prefers its batch-reduce GEMM going forward, which is the faster one in a
 * middle range of channels only. Measured with oneDNN 2.6.3 on one Zen 5 core, its ms : the direct
 * kernel's (3×3): 16→16 28×28 N32 0.77 : 0.54, 32→32 14×14 N32 0.71 : 0.56, 64→64 28×28 N16 4.2 : 4.5,
 * 256→256 7×7 N16 4.0 : 4.5, 256→512 7×7 N16 3.2 : 2.8, 512→512 4×4 N16 11.6 : 5.4, N4 4.0 : 1.8. */
static bool is_better_direct(const ConvKey *key) {
    enum { FEWEST = 64, MOST = 256 };
    int low = key->channels < key->out_channels ? key->channels : key->out_channels;
    int high = key->channels + key->out_channels - low;
    return key->kind == CONV_FORWARD && (low < FEWEST || high > MOST);
}

/* Replaces the library's first choice by its direct kernel, where it has one for these formats. */
static Status take_direct(const Cpu *cpu, const dnnl_convolution_desc_t *operation,
                          dnnl_primitive_attr_t attributes, dnnl_primitive_desc_t *inout) {
    dnnl_primitive_desc_iterator_t all;
    TRY_LIBRARY(dnnl_primitive_desc_iterator_create(&all, operation, attributes,
                                                    cpu->engine, NULL));
    do {
        dnnl_primitive_desc_t other = dnnl_primitive_desc_iterator_fetch(all);
        if (other != NULL && is_named(other, "jit:avx512")) {
            dnnl_primitive_desc_destroy(*inout);
            *inout = other;
            break;
        }
        if (other != NULL) dnnl_primitive_desc_destroy(other);
    } while (dnnl_primitive_desc_iterator_next(all) == dnnl_success);
    dnnl_primitive_desc_iterator_destroy(all);
    return STATUS_OK;
}

static Status describe(const Cpu *cpu, const ConvKey *key, const Formats *formats,
                       dnnl_primitive_attr_t attributes, dnnl_primitive_desc_t *out) {
    dnnl_dims_t strides = {key->stride, key->stride},
                padding = {key->padding, key->padding};
    dnnl_convolution_desc_t operation;
    TRY_LIBRARY(dnnl_convolution_forward_desc_init(
        &operation, dnnl_forward_training, dnnl_convolution_direct, &formats->x,
        &formats->w, key->with_bias ? &formats->bias : NULL, &formats->y, strides, padding,
        padding));
    dnnl_primitive_desc_t forward;
    TRY_LIBRARY(
        dnnl_primitive_desc_create(&forward, &operation, attributes, cpu->engine, NULL));
    if (key->kind == CONV_FORWARD) {
        Status taken = STATUS_OK;
        if (is_named(forward, "brgconv:") && is_better_direct(key))
            taken = take_direct(cpu, &operation, attributes, &forward);
        *out = forward;
        return taken;
    }
    Status status = describe_backward(key, formats, strides, padding, attributes,
                                      cpu->engine, forward, out);
    dnnl_primitive_desc_destroy(forward);
    return status;
}

/* The library's plain loops are hundreds of times slower than its compiled kernels. */
static bool is_plain_loops(const_dnnl_primitive_desc_t description) {
    return is_named(description, "ref");
}

/* First choice: activations as they are. Where that has only plain loops: any formats, which cost
 * a reorder of x and y. */
static Status choose(const Cpu *cpu, const ConvKey *key, const Formats *caller,
                     dnnl_primitive_attr_t attributes, dnnl_primitive_desc_t *out) {
    Formats formats = *caller;
    TRY(any_format(&caller->w, &formats.w));
    TRY(describe(cpu, key, &formats, attributes, out));
    if (!is_plain_loops(*out)) return STATUS_OK;
    TRY(any_format(&caller->x, &formats.x));
    TRY(any_format(&caller->y, &formats.y));
    dnnl_primitive_desc_t other;
    TRY(describe(cpu, key, &formats, attributes, &other));
    if (is_plain_loops(other)) {
        dnnl_primitive_desc_destroy(other);
        return STATUS_OK;
    }
    dnnl_primitive_desc_destroy(*out);
    *out = other;
    return STATUS_OK;
}

static Status prepare_operand(const Cpu *cpu, const dnnl_memory_desc_t *caller,
                              const dnnl_memory_desc_t *library, bool is_result,
                              Operand *out) {
    TRY_LIBRARY(dnnl_memory_create(&out->memory, library, cpu->engine, DNNL_MEMORY_NONE));
    out->bytes = dnnl_memory_desc_get_size(library);
    out->reordered = !dnnl_memory_desc_equal(caller, library);
    if (!out->reordered) return STATUS_OK;
    return is_result ? library_reorder_create(cpu, library, caller, &out->reorder)
                     : library_reorder_create(cpu, caller, library, &out->reorder);
}

static Status prepare(const Cpu *cpu, const Formats *caller,
                      const_dnnl_primitive_desc_t description, Convolution *out) {
    const dnnl_memory_desc_t *formats[OPERANDS] = {&caller->x, &caller->w, &caller->y};
    for (int i = 0; i < OPERANDS; i++) {
        const dnnl_memory_desc_t *format =
            dnnl_primitive_desc_query_md(description, query_of[out->key.kind][i], 0);
        if (i == OPERAND_W) out->weights_format = *format;
        TRY(prepare_operand(cpu, formats[i], format, i == (int)result_of[out->key.kind],
                            &out->operands[i]));
    }
    out->plain_weights = caller->w;
    TRY_LIBRARY(
        dnnl_memory_create(&out->bias, &caller->bias, cpu->engine, DNNL_MEMORY_NONE));
    TRY(library_scratch(cpu, description, &out->scratch, &out->scratch_bytes));
    TRY_LIBRARY(dnnl_primitive_create(&out->primitive, description));
    return STATUS_OK;
}

static Status build(const Cpu *cpu, Convolution *out) {
    Formats caller;
    TRY(caller_formats(&out->key, &caller));
    dnnl_primitive_attr_t attributes;
    TRY(library_attributes(&attributes));
    dnnl_primitive_desc_t description = NULL;
    Status status = choose(cpu, &out->key, &caller, attributes, &description);
    if (status == STATUS_OK) status = prepare(cpu, &caller, description, out);
    if (description != NULL) dnnl_primitive_desc_destroy(description);
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

static Status find(Cpu *cpu, Worker *worker, const ConvKey *key, Convolution **out) {
    Convolution **bucket = &worker->convolutions[bucket_of(key)];
    for (Convolution *entry = *bucket; entry != NULL; entry = entry->next)
        if (memcmp(&entry->key, key, sizeof *key) == 0) {
            *out = entry;
            return STATUS_OK;
        }
    Convolution *entry = calloc(1, sizeof *entry);
    if (entry == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a convolution");
    entry->key = *key;
    Status status = build(cpu, entry);
    if (status != STATUS_OK) {
        destroy(entry);
        return status;
    }
    entry->next = *bucket;
    *bucket = entry;
    *out = entry;
    return STATUS_OK;
}

/* Lets the operand's memory object view the caller's data, or scratch memory that holds (for
 * inputs) or will hold (for the result) the data in the primitive's format. */
static Status bind(Worker *worker, Operand *operand, OperandName name, bool is_result,
                   float *data) {
    static const ScratchUse uses[OPERANDS] = {SCRATCH_X, SCRATCH_W, SCRATCH_Y};
    void *memory = data;
    if (operand->reordered) {
        TRY(cpu_scratch(worker, uses[name], operand->bytes, &memory));
        if (!is_result) TRY(library_reorder_run(worker, &operand->reorder, data, memory));
    }
    TRY_LIBRARY(dnnl_memory_set_data_handle(operand->memory, memory));
    return STATUS_OK;
}

/* Runs one primitive over the caller's x, w and y, of which one is the result. */
static Status run(Cpu *cpu, Worker *worker, const ConvKey *key, float *const data[OPERANDS],
                  const float *bias) {
    Convolution *convolution = NULL;
    TRY(find(cpu, worker, key, &convolution));
    dnnl_exec_arg_t arguments[OPERANDS + 2];
    OperandName result = result_of[key->kind];
    for (int i = 0; i < OPERANDS; i++) {
        Operand *operand = &convolution->operands[i];
        arguments[i] = (dnnl_exec_arg_t){argument_of[key->kind][i], operand->memory};
        if (i == OPERAND_W && result != OPERAND_W && operand->reordered)
            TRY(weights_in_format(cpu, worker, data[i], &convolution->plain_weights,
                                  &convolution->weights_format, &arguments[i].memory));
        else
            TRY(bind(worker, operand, (OperandName)i, i == (int)result, data[i]));
    }
    int count = OPERANDS;
    void *scratch;
    TRY(cpu_scratch(worker, SCRATCH_LIBRARY, convolution->scratch_bytes, &scratch));
    TRY_LIBRARY(dnnl_memory_set_data_handle(convolution->scratch, scratch));
    arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, convolution->scratch};
    if (bias != NULL) {
        TRY_LIBRARY(
            dnnl_memory_set_data_handle(convolution->bias, (void *)(uintptr_t)bias));
        arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, convolution->bias};
    }
    TRY_LIBRARY(
        dnnl_primitive_execute(convolution->primitive, worker->stream, count, arguments));

    Operand *out = &convolution->operands[result];
    if (!out->reordered) return STATUS_OK;
    void *memory;
    TRY_LIBRARY(dnnl_memory_get_data_handle(out->memory, &memory));
    return library_reorder_run(worker, &out->reorder, memory, data[result]);
}

static ConvKey key_of(ConvKind kind, const Conv2d *conv, const Tensor *x, const Tensor *w,
                      const Tensor *y, bool with_bias) {
    assert(x->rank == 4 && w->rank == 4 && y->rank == 4);
    assert(x->shape[0] == y->shape[0] && w->shape[0] == y->shape[1]);
    assert(w->shape[1] * conv->groups == x->shape[1]);
    return (ConvKey){
        .kind = (int)kind,
        .with_bias = with_bias,
        .x_layout = x->layout,
        .y_layout = y->layout,
        .batch = (int)x->shape[0],
        .channels = (int)x->shape[1],
        .height = (int)x->shape[2],
        .width = (int)x->shape[3],
        .out_channels = (int)y->shape[1],
        .out_height = (int)y->shape[2],
        .out_width = (int)y->shape[3],
        .filter_height = (int)w->shape[2],
        .filter_width = (int)w->shape[3],
        .stride = conv->stride,
        .padding = conv->padding,
        .groups = conv->groups,
    };
}

Status cpu_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                          const Tensor *x, const Tensor *w, const Tensor *b) {
    Worker *mine = cpu_worker(self, worker);
    ConvKey key = key_of(CONV_FORWARD, conv, x, w, y, b != NULL);
    return run((Cpu *)self, mine, &key, (float *[]){x->data, w->data, y->data},
               b != NULL ? b->data : NULL);
}

Status cpu_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                           Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                           const Tensor *w) {
    Worker *mine = cpu_worker(self, worker);
    if (dx != NULL) {
        ConvKey key = key_of(CONV_BACKWARD_DATA, conv, dx, w, dy, false);
        TRY(run((Cpu *)self, mine, &key, (float *[]){dx->data, w->data, dy->data}, NULL));
    }
    if (dw != NULL && !((Cpu *)self)->avx512 && image_can(conv, x, dw, dy)) {
        TRY(image_weights(mine, conv, dw, dy, x));
    } else if (dw != NULL && patches_can(conv, dw, dy)) {
        TRY(patches_weights(mine, conv, dw, dy, x));
    } else if (dw != NULL) {
        ConvKey key = key_of(CONV_BACKWARD_WEIGHTS, conv, x, dw, dy, false);
        TRY(run((Cpu *)self, mine, &key, (float *[]){x->data, dw->data, dy->data}, NULL));
    }
    if (db == NULL) return STATUS_OK;
    const float *rows;
    TRY(layout_rows_of(mine, SCRATCH_Y, dy, &rows));
    return columns_sum(mine, db->data, rows, tensor_elements(dy) / dy->shape[1],
                       dy->shape[1], 1.0);
}
