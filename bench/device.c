/* Times a device's operations one by one beside its own ceilings (a copy in its memory, a large product), the sum
 * of a rank's shards, and what a snapshot costs:
 *   bench_device DEVICE PRECISION [ROUNDS]
 * One line of JSON on standard output, a table on standard error. Operations are given many at a time and waited
 * for once; inputs rotate among sets larger than the caches. */
#include "bench/support/measure.h"
#include "dist/collective_alone.h"
#include "src/backend.h"
#include "src/collective.h"
#include "src/core/clock.h"
#include "src/core/rng.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROTATE = 4, ROUNDS = 9, ROUNDS_MAX = 99 };
#define MEASURE_S 0.02 /* of giving one operation again and again */

static Backend *device;
static int rounds = ROUNDS;

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    exit(1);
}

/* ---- memory with random values */

static float *random_floats(int64_t count, uint32_t stream) {
    float *host = malloc((size_t)count * sizeof *host), *out;
    if (host == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory"));
    Rng rng = rng_at(7, RNG_TEST, stream, 0);
    for (int64_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        rng_block(rng, (uint32_t)(i >> 32), (uint32_t)(i / 4), words);
        for (int64_t j = i; j < i + 4 && j < count; j++)
            host[j] = rng_uniform_from(words[j - i]) - 0.5f;
    }
    stop_unless(device->ops->allocate(device, (size_t)count * sizeof *host, (void **)&out));
    stop_unless(device->ops->copy_in(device, out, host, (size_t)count * sizeof *host));
    free(host);
    return out;
}

/* An activation in the device's layout with random values; rank 2 where h is 0. */
static Tensor random_tensor(int64_t n, int64_t c, int64_t h, int64_t w, uint32_t stream) {
    Tensor tensor = h > 0 ? tensor_4d(NULL, n, c, h, w) : tensor_2d(NULL, n, c);
    Tensor canonical = tensor;
    canonical.data = random_floats(tensor_elements(&tensor), stream);
    size_t bytes = device->ops->layout(device, &tensor);
    stop_unless(device->ops->allocate(device, bytes, (void **)&tensor.data));
    stop_unless(device->ops->reorder(device, 0, &tensor, &canonical));
    stop_unless(device->ops->finish(device, 0));
    device->ops->release(device, canonical.data);
    return tensor;
}

static double bytes_of(const Tensor *tensor) {
    Tensor copy = *tensor;
    return copy.layout == 0 && copy.rank != 4
               ? (double)tensor_elements(tensor) * sizeof(float)
               : (double)device->ops->layout(device, &copy);
}

/* ---- one operation */

typedef struct {
    Tensor x[ROTATE], y[ROTATE], dy[ROTATE], dx;
    Tensor w, b, dw, db, mean, inverse_std, batch_mean, batch_variance;
    Conv2d conv;
    float *flat[ROTATE], *moment1, *moment2, *gradient;
    float *other1, *other2; /* the moments' second set: out of place */
    int64_t count;
    const StepValues *values;
    const StepVerdict *verdict;
    const OptimizerPiece *pieces;
    int piece_count;
    double *sums;
} Case;

typedef Status (*Operation)(Case *c, int turn);

/* Seconds of one call. */
static double time_operation(Operation operation, Case *c) {
    for (int turn = 0; turn < 2 * ROTATE; turn++) /* plans, workspaces */
        stop_unless(operation(c, turn % ROTATE));
    stop_unless(device->ops->finish(device, 0));
    int calls = ROTATE;
    for (;;) { /* enough calls to fill a measurement */
        double start = clock_seconds();
        for (int i = 0; i < calls; i++)
            stop_unless(operation(c, i % ROTATE));
        stop_unless(device->ops->finish(device, 0));
        if (clock_seconds() - start >= MEASURE_S || calls > 1 << 20) break;
        calls *= 2;
    }
    double seconds[ROUNDS_MAX];
    for (int round = 0; round < rounds; round++) {
        double start = clock_seconds();
        for (int i = 0; i < calls; i++)
            stop_unless(operation(c, i % ROTATE));
        stop_unless(device->ops->finish(device, 0));
        seconds[round] = (clock_seconds() - start) / calls;
    }
    return measure_median(seconds, rounds);
}

static Status run_copy(Case *c, int turn) {
    return device->ops->reorder(device, 0, &c->y[turn], &c->x[turn]);
}
static Status run_linear(Case *c, int turn) {
    return device->ops->linear_forward(device, 0, &c->y[turn], &c->x[turn], &c->w, &c->b);
}
static Status run_linear_backward(Case *c, int turn) {
    return device->ops->linear_backward(device, 0, &c->dx, &c->dw, &c->db, &c->dy[turn],
                                        &c->x[turn], &c->w);
}
static Status run_conv(Case *c, int turn) {
    return device->ops->conv2d_forward(device, 0, &c->conv, &c->y[turn], &c->x[turn], &c->w,
                                       NULL);
}
static Status run_conv_data(Case *c, int turn) {
    return device->ops->conv2d_backward(device, 0, &c->conv, &c->dx, NULL, NULL,
                                        &c->dy[turn], &c->x[turn], &c->w);
}
static Status run_conv_weights(Case *c, int turn) {
    return device->ops->conv2d_backward(device, 0, &c->conv, NULL, &c->dw, NULL,
                                        &c->dy[turn], &c->x[turn], &c->w);
}
static BatchNorm norm_of(const Case *c) {
    return (BatchNorm){.gamma = &c->w, .beta = &c->b, .relu = true, .epsilon = 1e-5f};
}
static Status run_norm(Case *c, int turn) {
    BatchNorm norm = norm_of(c);
    return device->ops->batch_norm_forward(device, 0, &norm, &c->y[turn], &c->x[turn],
                                           &c->mean, &c->inverse_std, &c->batch_mean,
                                           &c->batch_variance);
}
static Status run_norm_backward(Case *c, int turn) {
    BatchNorm norm = norm_of(c);
    return device->ops->batch_norm_backward(device, 0, &norm, &c->dx, &c->dw, &c->db, NULL,
                                            &c->dy[turn], &c->y[turn], &c->x[turn],
                                            &c->mean, &c->inverse_std);
}
static Status run_accumulate(Case *c, int turn) {
    return device->ops->accumulate(device, 0, c->moment1, c->flat[turn], c->count);
}
static Status run_sum_squares(Case *c, int turn) {
    return device->ops->sum_squares(device, 0, c->flat[turn], c->count, 65536, c->sums);
}
static OptimizerPass pass_of(const Case *c, int turn) {
    return (OptimizerPass){.w = c->flat[turn],
                           .m = c->moment1,
                           .v = c->moment2,
                           .w_from = c->flat[turn],
                           .m_from = c->moment1,
                           .v_from = c->moment2,
                           .g = c->gradient,
                           .values = c->values,
                           .verdict = c->verdict,
                           .momentum = 0.9f,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .epsilon = 1e-8f,
                           .decoupled = true};
}
static Status run_sgd(Case *c, int turn) {
    OptimizerPass pass = pass_of(c, turn);
    pass.v = NULL;
    pass.v_from = NULL;
    return device->ops->sgd(device, 0, &pass, c->pieces, c->piece_count);
}
static Status run_adamw(Case *c, int turn) {
    OptimizerPass pass = pass_of(c, turn);
    return device->ops->adam(device, 0, &pass, c->pieces, c->piece_count);
}
/* As the step after a saving one: there, and from there back. */
static Status run_adamw_out_of_place(Case *c, int turn) {
    OptimizerPass pass = pass_of(c, turn);
    pass.w = c->flat[(turn + 1) % ROTATE];
    if (turn % 2 == 0)
        pass.m = c->other1, pass.v = c->other2;
    else
        pass.m_from = c->other1, pass.v_from = c->other2;
    return device->ops->adam(device, 0, &pass, c->pieces, c->piece_count);
}

/* ---- tables of cases */

static double copy_ceiling,
    product_ceiling; /* bytes/s read and written; multiply-adds·2/s */
static json_t *results;

static void report(const char *name, double seconds, double bytes, double flop) {
    double memory_s = copy_ceiling > 0 ? bytes / copy_ceiling : 0;
    double arithmetic_s = product_ceiling > 0 ? flop / product_ceiling : 0;
    double floor_s = memory_s > arithmetic_s ? memory_s : arithmetic_s;
    const char *bound = memory_s > arithmetic_s ? "memory" : "arithmetic";
    fprintf(stderr, "%-34s %9.1f us  %8.1f GB/s  %9.1f GFLOP/s  %5.1f %% of %s\n", name,
            1e6 * seconds, bytes / seconds / 1e9, flop / seconds / 1e9,
            100 * floor_s / seconds, bound);
    json_array_append_new(results,
                          json_pack("{s:s, s:f, s:f, s:f, s:s, s:f}", "operation", name,
                                    "us", 1e6 * seconds, "bytes", bytes, "flop", flop,
                                    "bound", bound, "part_of_ceiling", floor_s / seconds));
}

static void release_all(Tensor *tensors, int count) {
    for (int i = 0; i < count; i++)
        device->ops->release(device, tensors[i].data);
}

static void time_products(int64_t n, int64_t k, int64_t m) {
    Case c = {0};
    for (int i = 0; i < ROTATE; i++) {
        c.x[i] = random_tensor(n, k, 0, 0, (uint32_t)i);
        c.y[i] = random_tensor(n, m, 0, 0, 10);
        c.dy[i] = random_tensor(n, m, 0, 0, 20 + (uint32_t)i);
    }
    c.dx = random_tensor(n, k, 0, 0, 30);
    c.w = tensor_2d(random_floats(m * k, 40), m, k);
    c.dw = tensor_2d(random_floats(m * k, 41), m, k);
    c.b = tensor_1d(random_floats(m, 42), m);
    c.db = tensor_1d(random_floats(m, 43), m);
    stop_unless(device->ops->parameters_changed(device, c.w.data, m * k));
    double flop = 2.0 * (double)n * (double)k * (double)m;
    double bytes = bytes_of(&c.x[0]) + bytes_of(&c.y[0]) + (double)(m * k) * 4;
    char name[64];
    double seconds = time_operation(run_linear, &c);
    if (product_ceiling == 0) product_ceiling = flop / seconds;
    snprintf(name, sizeof name, "linear %lldx%lld to %lld", (long long)n, (long long)k,
             (long long)m);
    report(name, seconds, bytes, flop);
    snprintf(name, sizeof name, "linear %lldx%lld to %lld backward", (long long)n,
             (long long)k, (long long)m);
    report(name, time_operation(run_linear_backward, &c), 2 * bytes, 2 * flop);
    release_all(c.x, ROTATE), release_all(c.y, ROTATE), release_all(c.dy, ROTATE);
    Tensor rest[] = {c.dx, c.w, c.dw, c.b, c.db};
    release_all(rest, 5);
}

static void time_copy(int64_t n) {
    Case c = {0};
    for (int i = 0; i < ROTATE; i++) {
        c.x[i] = random_tensor(n, 64, 28, 28, (uint32_t)i);
        c.y[i] = random_tensor(n, 64, 28, 28, 10);
    }
    double seconds = time_operation(run_copy, &c);
    copy_ceiling = 2 * bytes_of(&c.x[0]) / seconds;
    report("copy", seconds, 2 * bytes_of(&c.x[0]), 0);
    release_all(c.x, ROTATE), release_all(c.y, ROTATE);
}

/* A convolution and the batch norm behind it. */
static void time_convolution(int64_t n, int64_t channels, int64_t side, int64_t m,
                             int64_t r, int stride) {
    Case c = {.conv = {stride, (int)r / 2, 1}};
    int64_t out = (side + 2 * (r / 2) - r) / stride + 1;
    for (int i = 0; i < ROTATE; i++) {
        c.x[i] = random_tensor(n, channels, side, side, (uint32_t)i);
        c.y[i] = random_tensor(n, m, out, out, 10);
        c.dy[i] = random_tensor(n, m, out, out, 20 + (uint32_t)i);
    }
    c.dx = random_tensor(n, channels, side, side, 30);
    c.w = tensor_4d(random_floats(m * channels * r * r, 40), m, channels, r, r);
    c.dw = tensor_4d(random_floats(m * channels * r * r, 41), m, channels, r, r);
    stop_unless(device->ops->parameters_changed(device, c.w.data, m * channels * r * r));
    double flop = 2.0 * (double)(n * m * out * out) * (double)(channels * r * r);
    double bytes =
        bytes_of(&c.x[0]) + bytes_of(&c.y[0]) + 4.0 * (double)(m * channels * r * r);
    char shape[32], name[64];
    snprintf(shape, sizeof shape, "%lldx%lldx%lld %lldx%lld/%d", (long long)n,
             (long long)channels, (long long)side, (long long)m, (long long)r, stride);
    struct {
        const char *name;
        Operation operation;
    } parts[] = {{"convolution", run_conv},
                 {"convolution data", run_conv_data},
                 {"convolution weights", run_conv_weights}};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s %s", parts[i].name, shape);
        report(name, time_operation(parts[i].operation, &c), bytes, flop);
    }
    Tensor rest[] = {c.dx, c.w, c.dw};
    release_all(c.x, ROTATE), release_all(rest, 3);

    for (int i = 0; i < ROTATE; i++)
        c.x[i] = random_tensor(n, m, out, out, 50 + (uint32_t)i);
    c.dx = random_tensor(n, m, out, out, 60);
    Tensor *vectors[] = {&c.w,    &c.b,           &c.dw,         &c.db,
                         &c.mean, &c.inverse_std, &c.batch_mean, &c.batch_variance};
    for (int i = 0; i < 8; i++)
        *vectors[i] = tensor_1d(random_floats(m, 70 + (uint32_t)i), m);
    double one = bytes_of(&c.x[0]);
    snprintf(name, sizeof name, "batch norm relu %lldx%lldx%lld", (long long)n,
             (long long)m, (long long)out);
    report(name, time_operation(run_norm, &c), 2 * one, 0);
    snprintf(name, sizeof name, "batch norm relu %lldx%lldx%lld backward", (long long)n,
             (long long)m, (long long)out);
    report(name, time_operation(run_norm_backward, &c), 4 * one, 0);
    release_all(c.x, ROTATE), release_all(c.y, ROTATE), release_all(c.dy, ROTATE);
    for (int i = 0; i < 8; i++)
        device->ops->release(device, vectors[i]->data);
    device->ops->release(device, c.dx.data);
}

static void *on_device(const void *host, size_t bytes) {
    void *out;
    stop_unless(device->ops->allocate(device, bytes, &out));
    stop_unless(device->ops->copy_in(device, out, host, bytes));
    return out;
}

static void time_flat(int64_t count) {
    enum { PIECE = 65536 };
    Case c = {.count = count, .piece_count = (int)((count + PIECE - 1) / PIECE)};
    for (int i = 0; i < ROTATE; i++)
        c.flat[i] = random_floats(count, (uint32_t)i);
    c.moment1 = random_floats(count, 5);
    c.moment2 = random_floats(count, 6);
    c.gradient = random_floats(count, 7);
    c.other1 = random_floats(count, 5);
    c.other2 = random_floats(count, 6);
    StepValues values = {.lr = 1e-3f, .correction1 = 0.5f, .correction2_sqrt = 0.5f};
    StepVerdict verdict = {.gradient_scale = 1};
    OptimizerPiece *pieces = calloc((size_t)c.piece_count, sizeof *pieces);
    if (pieces == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory"));
    for (int i = 0; i < c.piece_count; i++)
        pieces[i] = (OptimizerPiece){
            (int64_t)i * PIECE,
            count - (int64_t)i * PIECE < PIECE ? count - (int64_t)i * PIECE : PIECE, 0.01f};
    c.values = on_device(&values, sizeof values);
    c.verdict = on_device(&verdict, sizeof verdict);
    c.pieces = on_device(pieces, (size_t)c.piece_count * sizeof *pieces);
    c.sums = on_device(pieces, (size_t)c.piece_count * sizeof *c.sums);
    double one = (double)count * sizeof(float);
    report("accumulate", time_operation(run_accumulate, &c), 3 * one, 0);
    report("sum of squares", time_operation(run_sum_squares, &c), one, 0);
    report("sgd with momentum", time_operation(run_sgd, &c), 5 * one, 0);
    report("adamw", time_operation(run_adamw, &c), 7 * one, 0);
    report("adamw out of place", time_operation(run_adamw_out_of_place, &c), 7 * one, 0);
    device->ops->release(device, c.other1);
    device->ops->release(device, c.other2);
    void *memory[] = {c.flat[0], c.flat[1],         c.flat[2],       c.flat[3],
                      c.moment1, c.moment2,         c.gradient,      (void *)c.values,
                      c.sums,    (void *)c.verdict, (void *)c.pieces};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        device->ops->release(device, memory[i]);
    free(pieces);
}

/* The sum of one rank's `shards` results of `length` floats each, as a step makes it. */
static void time_reduction(int shards, int64_t length) {
    Collective *alone, *collective;
    stop_unless(collective_alone_open(&alone));
    stop_unless(device->ops->open_collective(device, alone, &collective));
    Reduction *reduction;
    stop_unless(collective->ops->reduction_open(collective, REDUCTION_EXACT, shards, length,
                                                &reduction));
    uint8_t present[64];
    memset(present, 1, sizeof present);
    double seconds[ROUNDS_MAX];
    for (int i = 0; i < reduction->node_count; i++)
        stop_unless(device->ops->zero(device, 0, reduction->nodes[i].data,
                                      (size_t)length * sizeof(float)));
    for (int round = -1; round < rounds; round++) {
        stop_unless(device->ops->finish(device, 0));
        double start = clock_seconds();
        stop_unless(collective->ops->reduce(collective, reduction, present));
        stop_unless(device->ops->finish(device, 0));
        if (round >= 0) seconds[round] = clock_seconds() - start;
    }
    report("reduction of one rank", measure_median(seconds, rounds),
           (double)(reduction->node_count + 1) * (double)length * 4, 0);
    collective->ops->reduction_close(collective, reduction);
    if (collective != alone) collective->ops->close(collective);
    alone->ops->close(alone);
}

/* What a snapshot of `count` floats costs the work that goes on: AdamW passes with and without one. */
static json_t *time_snapshot(int64_t count) {
    size_t bytes = ((size_t)count * sizeof(float) + 4095) / 4096 * 4096;
    float *host = aligned_alloc(4096, bytes);
    if (host == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory"));
    memset(host, 0, bytes);
    stop_unless(device->ops->pin(device, host, bytes));
    float *source = random_floats(count, 1), *other = random_floats(count, 2);
    double with[ROUNDS_MAX], without[ROUNDS_MAX], copy[ROUNDS_MAX];
    enum { PASSES = 50 };
    for (int round = -1; round < rounds; round++)
        for (int snapshot = 0; snapshot < 2; snapshot++) {
            stop_unless(device->ops->finish(device, 0));
            double start = clock_seconds();
            if (snapshot)
                stop_unless(device->ops->fetch(device, host, source,
                                               (size_t)count * sizeof(float)));
            for (int i = 0; i < PASSES; i++)
                stop_unless(device->ops->accumulate(device, 0, other, source, count));
            stop_unless(device->ops->finish(device, 0));
            double seconds = clock_seconds() - start;
            stop_unless(device->ops->fetch_finish(device));
            if (round < 0) continue;
            (snapshot ? with : without)[round] = seconds;
            if (snapshot) {
                start = clock_seconds();
                stop_unless(device->ops->fetch(device, host, source,
                                               (size_t)count * sizeof(float)));
                stop_unless(device->ops->fetch_finish(device));
                copy[round] = clock_seconds() - start;
            }
        }
    double w = measure_median(with, rounds), wo = measure_median(without, rounds),
           cp = measure_median(copy, rounds);
    fprintf(stderr,
            "snapshot of %.0f MB: %.2f ms alone; %d passes %.2f ms without, %.2f ms with "
            "it: stall %.3f of the copy\n",
            (double)count * 4e-6, 1e3 * cp, PASSES, 1e3 * wo, 1e3 * w, (w - wo) / cp);
    device->ops->unpin(device, host);
    device->ops->release(device, source);
    device->ops->release(device, other);
    free(host);
    return json_pack("{s:f, s:f, s:f, s:f}", "megabytes", (double)count * 4e-6, "copy_ms",
                     1e3 * cp, "stall_ms", 1e3 * (w - wo), "stall_of_copy", (w - wo) / cp);
}

int main(int argc, char **argv) {
    const char *precisions[] = {"fp32", "tf32", "bf16"};
    BackendOptions options = {.workers = 1, .precision = PRECISION_BF16 + 1};
    for (int i = 0; argc >= 3 && i < 3; i++)
        if (strcmp(argv[2], precisions[i]) == 0) options.precision = (Precision)i;
    if (argc == 4) rounds = atoi(argv[3]);
    if (argc < 3 || options.precision > PRECISION_BF16 || rounds < 1 ||
        rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: %s DEVICE fp32|tf32|bf16 [ROUNDS]\n", argv[0]);
        return 2;
    }
    stop_unless(backend_open(argv[1], &options, &device));
    bool small = device->ops->host_memory; /* a processor: smaller cases tell as much */
    int64_t n = small ? 16 : 256;
    results = json_array();
    time_copy(n);
    time_products(small ? 512 : 8192, small ? 512 : 8192, small ? 512 : 8192);
    time_products(n, 784, 256);
    time_convolution(n, 64, 28, 64, 3, 1);
    time_convolution(n, 256, 7, 512, 3, 2);
    time_convolution(n, 128, 14, 256, 1, 2);
    time_flat(small ? 1 << 22 : 1 << 26);
    /* where memory is the host's, one rank's sum is in place already, and there is nothing to fetch */
    if (!small) time_reduction(8, 1 << 24);
    json_t *snapshot = small ? json_null() : time_snapshot(1 << 26);
    json_t *answer =
        json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:o, s:o}", "bench", "device", "device",
                  device->kind, "precision", argv[2], "rounds", rounds, "copy_gb_s",
                  copy_ceiling / 1e9, "product_gflop_s", product_ceiling / 1e9,
                  "operations", results, "snapshot", snapshot);
    json_dumpf(answer, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(answer);
    device->ops->close(device);
    return 0;
}
