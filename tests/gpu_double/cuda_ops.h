/* For tests of the CUDA device's operations against the reference device, in float and in bf16. Nothing
 * here or in the tests that use it knows what stands behind the seam: they run on a GPU as well.
 *
 * Inputs are numbers that bf16 holds exactly, so that both devices compute with the same ones; where the
 * device keeps bf16, the reference's result is rounded to it before the two are compared. */
#pragma once

#include "tests/ops/ops.h"

#include "kernels/cuda/cuda.h"

Status rekindle_cuda_open(const BackendOptions *options, Backend **out);

/* ---- bf16 on the host */

/* To nearest, ties to even. */
static inline float short_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return x;
    bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Uniform in [-1, 1), with the 8 bits of bf16. */
static inline float *short_random(int64_t count, uint32_t name) {
    float *x = ops_random(count, name);
    for (int64_t i = 0; i < count; i++)
        x[i] = short_of(x[i]);
    return x;
}

/* ---- the same tensor on both devices */

typedef struct {
    Tensor device, reference;
} Pair;

static inline Pair pair_of(Backend *backend, Tensor shape, const float *host) {
    return (Pair){ops_activation_of(backend, shape, host),
                  ops_activation_of(ops_oracle, shape, host)};
}

static inline Pair canonical_pair_of(Backend *backend, Tensor shape, const float *host) {
    return (Pair){ops_canonical_of(backend, shape, host),
                  ops_canonical_of(ops_oracle, shape, host)};
}

/* Outputs: NaN until they are written. */
static inline Pair pair_poisoned(Backend *backend, Tensor shape) {
    return (Pair){ops_activation(backend, shape), ops_activation(ops_oracle, shape)};
}

static inline Pair canonical_pair_poisoned(Backend *backend, Tensor shape) {
    return (Pair){ops_canonical(backend, shape), ops_canonical(ops_oracle, shape)};
}

/* `pair.device` against `pair.reference`. Tolerance 0: the same bits, after rounding where the device has
 * bf16. Else in proportion to the largest element, and one unit of bf16 more. */
static inline void assert_like(const char *what, Backend *backend, Pair pair,
                               double tolerance) {
    int64_t count = tensor_elements(&pair.reference);
    float *expected = ops_get(ops_oracle, &pair.reference);
    bool half = cuda_is_bf16(&pair.device);
    for (int64_t i = 0; i < count && half; i++)
        expected[i] = short_of(expected[i]);
    const float *got = ops_get(backend, &pair.device);
    if (tolerance > 0)
        ops_assert_near(what, got, expected, count,
                        half ? tolerance + 1.0 / 128 : tolerance);
    else
        ops_assert_bits(what, got, expected, count);
}

/* ---- shapes that batches of images and rows have, and odd ones */

static const int64_t image_shapes[][4] = {
    {1, 1, 1, 1},  {3, 1, 28, 28}, {2, 3, 7, 7},   {2, 5, 4, 3},   {1, 10, 7, 7},
    {4, 16, 9, 5}, {2, 64, 7, 7},  {1, 136, 3, 3}, {2, 257, 2, 2}, {2, 8, 28, 28},
};
enum { IMAGE_SHAPES = sizeof image_shapes / sizeof *image_shapes };

static const int64_t row_shapes[][2] = {
    {1, 1}, {1, 64}, {7, 3}, {32, 10}, {5, 80}, {128, 5}, {3, 1000}, {2, 257},
};
enum { ROW_SHAPES = sizeof row_shapes / sizeof *row_shapes };

static inline Tensor image_shape(int index) {
    const int64_t *s = image_shapes[index];
    return tensor_4d(NULL, s[0], s[1], s[2], s[3]);
}

enum { ALL_SHAPES = IMAGE_SHAPES + ROW_SHAPES };
static inline Tensor any_shape(int index) {
    if (index < IMAGE_SHAPES) return image_shape(index);
    const int64_t *s = row_shapes[index - IMAGE_SHAPES];
    return tensor_2d(NULL, s[0], s[1]);
}

/* The shared workspace, every byte 0xff: what an operation leaves there must not matter. */
static inline void scribble_workspace(Backend *backend) {
    size_t bytes = cuda_of(backend)->workspace_bytes;
    if (bytes == 0) return;
    void *fill = malloc(bytes);
    assert_non_null(fill);
    memset(fill, 0xff, bytes);
    assert_ok(backend->ops->copy_in(backend, cuda_of(backend)->workspace, fill, bytes));
    free(fill);
}

/* ---- running: each test in each precision, on a device that is opened for it */

static inline int cuda_ops_open(void **state) {
    const Precision *precision = *state;
    BackendOptions options = {.workers = 1, .precision = *precision, .patience_s = 60};
    Backend *backend;
    if (rekindle_cuda_open(&options, &backend) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    *state = backend;
    return 0;
}

static inline int cuda_ops_close(void **state) {
    Backend *backend = *state;
    ops_release_to(0);
    backend->ops->close(backend);
    return 0;
}

/* Exit code 77 (skipped) where there is no device. */
static inline int cuda_ops_main(const OpsTest *tests, size_t count) {
    static Precision precisions[] = {PRECISION_FP32, PRECISION_TF32, PRECISION_BF16};
    static const char *const names[] = {"cuda fp32", "cuda tf32", "cuda bf16"};
    enum { PRECISIONS = sizeof precisions / sizeof *precisions };
    BackendOptions one = {.workers = 1, .patience_s = 60};
    Backend *probe;
    if (rekindle_cuda_open(&one, &probe) != STATUS_OK) {
        status_print(status_failure());
        return status_failure()->code == STATUS_UNSUPPORTED ? 77 : 1;
    }
    probe->ops->close(probe);
    if (backend_open("reference", &one, &ops_oracle) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    int failed = 0;
    struct CMUnitTest *run = calloc(count, sizeof *run);
    for (int p = 0; p < PRECISIONS && run != NULL; p++) {
        for (size_t i = 0; i < count; i++)
            run[i] = (struct CMUnitTest){.name = tests[i].name,
                                         .test_func = tests[i].function,
                                         .setup_func = cuda_ops_open,
                                         .teardown_func = cuda_ops_close,
                                         .initial_state = &precisions[p]};
        failed += _cmocka_run_group_tests(names[p], run, count, NULL, NULL);
    }
    failed += run == NULL;
    free(run);
    ops_oracle->ops->close(ops_oracle);
    return failed;
}
