/* All operations of the CUDA device that add or choose, once each on the same inputs, with what they wrote in
 * one row of bytes: for tests that the bits do not depend on when and in which order blocks run. */
#pragma once

#include "tests/gpu_double/cuda_ops.h"

typedef struct {
    uint8_t *bytes;
    size_t count, room;
} Everything;

static inline void everything_add(Backend *backend, Everything *all, const void *device,
                                  size_t bytes) {
    if (all->count + bytes > all->room) {
        all->room = 2 * (all->count + bytes);
        all->bytes = realloc(all->bytes, all->room);
        assert_non_null(all->bytes);
    }
    ops_fetched(backend, all->bytes + all->count, device, bytes);
    all->count += bytes;
}

static inline void everything_add_tensor(Backend *backend, Everything *all,
                                         const Tensor *tensor) {
    size_t width = cuda_is_bf16(tensor) ? sizeof(uint16_t) : sizeof(float);
    everything_add(backend, all, tensor->data, (size_t)tensor_elements(tensor) * width);
}

/* Many rows and chunks, odd and even channels. */
static inline void everything_of_shape(Backend *backend, Everything *all, Tensor shape) {
    const BackendOps *ops = backend->ops;
    int64_t count = tensor_elements(&shape), channels = shape.shape[1];
    Tensor per = tensor_1d(NULL, channels);
    Tensor x = ops_activation_of(backend, shape, ops_random(count, 1));
    Tensor dy = ops_activation_of(backend, shape, ops_random(count, 2));
    Tensor gamma = ops_canonical_of(backend, per, ops_random(channels, 3));
    Tensor beta = ops_canonical_of(backend, per, ops_random(channels, 4));
    Tensor y = ops_activation(backend, shape), dx = ops_activation(backend, shape);
    Tensor residual = ops_activation_of(backend, shape, ops_random(count, 5));
    Tensor dresidual = ops_activation(backend, shape);
    Tensor saved[6];
    for (int i = 0; i < 6; i++)
        saved[i] = ops_canonical(backend, per);
    BatchNorm norm = {&gamma, &beta, &residual, true, 1e-5f};
    assert_ok(ops->batch_norm_forward(backend, 0, &norm, &y, &x, &saved[0], &saved[1],
                                      &saved[2], &saved[3]));
    assert_ok(ops->batch_norm_backward(backend, 0, &norm, &dx, &saved[4], &saved[5],
                                       &dresidual, &dy, &y, &x, &saved[0], &saved[1]));
    everything_add_tensor(backend, all, &y);
    everything_add_tensor(backend, all, &dx);
    everything_add_tensor(backend, all, &dresidual);
    for (int i = 0; i < 6; i++)
        everything_add_tensor(backend, all, &saved[i]);
    assert_ok(ops->dropout(backend, 0, rng_at(1, RNG_DROPOUT, 0, 0), ops_step(backend, 3),
                           0, 0.3f, &y, &x));
    everything_add_tensor(backend, all, &y);
    if (shape.rank != 4) return;

    const Pool2d pool = {3, 2, 1};
    Tensor out = tensor_4d(NULL, shape.shape[0], channels, (shape.shape[2] - 1) / 2 + 1,
                           (shape.shape[3] - 1) / 2 + 1);
    int64_t outs = tensor_elements(&out);
    Tensor pooled = ops_activation(backend, out);
    Tensor given = ops_activation_of(backend, out, ops_random(outs, 6));
    uint8_t *choice = ops_memory(backend, (size_t)outs);
    assert_ok(ops->max_pool_forward(backend, 0, &pool, &pooled, choice, &x));
    assert_ok(ops->max_pool_backward(backend, 0, &pool, &dx, &given, choice));
    everything_add_tensor(backend, all, &pooled);
    everything_add_tensor(backend, all, &dx);
    everything_add(backend, all, choice, (size_t)outs);
    assert_ok(ops->avg_pool_forward(backend, 0, &pool, &pooled, &x));
    assert_ok(ops->avg_pool_backward(backend, 0, &pool, &dx, &given));
    everything_add_tensor(backend, all, &pooled);
    everything_add_tensor(backend, all, &dx);
    Tensor means = ops_activation(backend, tensor_2d(NULL, shape.shape[0], channels));
    assert_ok(ops->global_pool_forward(backend, 0, &means, &x));
    everything_add_tensor(backend, all, &means);
    Tensor flat =
        ops_activation(backend, tensor_2d(NULL, shape.shape[0], count / shape.shape[0]));
    assert_ok(ops->reorder(backend, 0, &flat, &x));
    everything_add_tensor(backend, all, &flat);
}

static inline void everything_of_loss(Backend *backend, Everything *all, int64_t rows,
                                      int64_t classes) {
    int32_t *labels = (int32_t *)ops_host(rows);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = (int32_t)(i * 31 % classes);
    Tensor logits = ops_canonical_of(backend, tensor_2d(NULL, rows, classes),
                                     ops_random(rows * classes, 7));
    Tensor dlogits = ops_canonical(backend, logits);
    float *metrics = ops_memory(backend, METRICS * sizeof *metrics);
    assert_ok(backend->ops->softmax_cross_entropy(
        backend, 0, 0.1f, 0.5f, metrics, &dlogits, &logits,
        ops_placed(backend, labels, (size_t)rows * sizeof *labels)));
    everything_add(backend, all, metrics, METRICS * sizeof *metrics);
    everything_add_tensor(backend, all, &dlogits);
}

static inline void everything_of_a_step(Backend *backend, Everything *all) {
    enum { COUNT = 200000, CHUNK = 65536, CHUNKS = 4 };
    Tensor arena = tensor_1d(NULL, COUNT);
    Tensor g = ops_canonical_of(backend, arena, ops_random(COUNT, 8));
    Tensor w = ops_canonical_of(backend, arena, ops_random(COUNT, 9));
    Tensor m = ops_canonical_of(backend, arena, ops_random(COUNT, 10));
    double *sums = ops_memory(backend, CHUNKS * sizeof *sums);
    const float metrics[METRICS] = {1, 2};
    StepVerdict *verdict = ops_memory(backend, sizeof *verdict);
    const OptimizerPiece pieces[] = {{0, CHUNK, 0.1f}, {CHUNK, COUNT - CHUNK, 0}};
    StepValues values = {.lr = 0.1f};
    OptimizerPass pass = {.w = w.data,
                          .m = m.data,
                          .g = g.data,
                          .values = ops_placed(backend, &values, sizeof values),
                          .verdict = verdict,
                          .momentum = 0.9f};
    pass = ops_in_place(pass);
    assert_ok(backend->ops->sum_squares(backend, 0, g.data, COUNT, CHUNK, sums));
    assert_ok(backend->ops->judge(backend, 0, sums, CHUNKS, 1,
                                  ops_placed(backend, metrics, sizeof metrics), verdict));
    assert_ok(backend->ops->sgd(backend, 0, &pass,
                                ops_placed(backend, pieces, sizeof pieces), 2));
    everything_add(backend, all, sums, CHUNKS * sizeof *sums);
    everything_add(backend, all, verdict, sizeof *verdict);
    everything_add_tensor(backend, all, &w);
    everything_add_tensor(backend, all, &m);
}

/* The caller frees `bytes`. */
static inline Everything everything(Backend *backend) {
    Everything all = {0};
    const Tensor shapes[] = {tensor_4d(NULL, 8, 24, 28, 28), tensor_4d(NULL, 5, 3, 15, 13),
                             tensor_2d(NULL, 600, 10), tensor_2d(NULL, 33, 264)};
    for (int i = 0; i < 4; i++) {
        everything_of_shape(backend, &all, shapes[i]);
        ops_release_to(0);
    }
    everything_of_loss(backend, &all, 300, 10);
    everything_of_loss(backend, &all, 20, 777);
    everything_of_a_step(backend, &all);
    Tensor sums = ops_canonical(backend, tensor_1d(NULL, 24));
    Tensor x = ops_canonical_of(backend, tensor_2d(NULL, 5000, 24), ops_random(120000, 11));
    void *workspace = ops_memory(backend, cuda_column_sums_workspace(5000, 24));
    assert_ok(cuda_column_sums(cuda_of(backend)->work, sums.data, x.data, VENDOR_F32, 5000,
                               24, workspace));
    everything_add_tensor(backend, &all, &sums);
    ops_release_to(0);
    return all;
}

static inline void assert_same_everything(const Everything *got, const Everything *want) {
    assert_true(got->count == want->count);
    for (size_t i = 0; i < got->count; i++)
        if (got->bytes[i] != want->bytes[i])
            fail_msg("byte %zu of %zu differs", i, got->count);
}
