/* The harness of operation tests: each test runs on every device by name, and is compared with the
 * reference device, with finite differences, or with numbers worked out in the test.
 *
 * A test is a cmocka function whose *state is the Backend under test; ops_main runs all tests once
 * a device and says aloud when a device is not here. Memory got from ops_* is freed after each
 * test. Every tensor starts as NaN, padding included, so that an output that an operation does not
 * write, or a sum that starts from what was there, is seen. */
#pragma once

#include "tests/support/test.h"

#include "src/backend.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every device that backend_open may know here. */
static const char *const ops_devices[] = {"reference", "cpu"};

enum { OPS_WORKERS = 2, OPS_ALLOCATIONS = 512 };

static Backend *ops_oracle; /* a reference device of its own */

/* ---- memory, freed after each test */

static struct {
    Backend *backend; /* NULL: host memory */
    void *memory;
} ops_allocated[OPS_ALLOCATIONS];
static int ops_allocated_count;

static inline void ops_remember(Backend *backend, void *memory) {
    assert_true(ops_allocated_count < OPS_ALLOCATIONS);
    ops_allocated[ops_allocated_count].backend = backend;
    ops_allocated[ops_allocated_count++].memory = memory;
}

/* Frees what was allocated since ops_allocated_count was `mark`. */
static inline void ops_release_to(int mark) {
    while (ops_allocated_count > mark) {
        Backend *backend = ops_allocated[--ops_allocated_count].backend;
        void *memory = ops_allocated[ops_allocated_count].memory;
        if (backend == NULL)
            free(memory);
        else
            backend->ops->release(backend, memory);
    }
}

static inline int ops_release_all(void **state) {
    (void)state;
    ops_release_to(0);
    return 0;
}

/* Host floats, zeroed. */
static inline float *ops_host(int64_t count) {
    float *memory = calloc((size_t)count + 1, sizeof *memory);
    assert_non_null(memory);
    ops_remember(NULL, memory);
    return memory;
}

/* Host floats, uniform in [-1, 1): the same for the same name in every test run. */
static inline float *ops_random(int64_t count, uint32_t name) {
    float *x = ops_host(count);
    Rng rng = rng_at(20240607, RNG_TEST, 0, 0);
    for (int64_t i = 0; i < count; i++)
        x[i] = 2.0f * rng_uniform(rng, name, (uint32_t)i) - 1.0f;
    return x;
}

/* Device memory of `bytes`, every byte 0xff: NaN as floats. */
static inline void *ops_memory(Backend *backend, size_t bytes) {
    void *device;
    assert_ok(backend->ops->allocate(backend, bytes, &device));
    ops_remember(backend, device);
    void *fill = malloc(bytes + 1);
    assert_non_null(fill);
    memset(fill, 0xff, bytes);
    assert_ok(backend->ops->copy_in(backend, device, fill, bytes));
    free(fill);
    return device;
}

/* A structure or array of the host's in device memory, and back. */
static inline void *ops_placed(Backend *backend, const void *host, size_t bytes) {
    void *device = ops_memory(backend, bytes);
    assert_ok(backend->ops->copy_in(backend, device, host, bytes));
    return device;
}

static inline void ops_fetched(Backend *backend, void *host, const void *device,
                               size_t bytes) {
    for (int worker = 0; worker < backend->workers; worker++)
        assert_ok(backend->ops->finish(backend, worker));
    assert_ok(backend->ops->copy_out(backend, host, device, bytes));
}

static inline const StepValues *ops_step(Backend *backend, uint32_t step) {
    StepValues values = {.step = step};
    return ops_placed(backend, &values, sizeof values);
}

/* The pass reads where it writes. */
static inline OptimizerPass ops_in_place(OptimizerPass pass) {
    pass.w_from = pass.w;
    pass.m_from = pass.m;
    pass.v_from = pass.v;
    return pass;
}

/* ---- tensors */

/* An activation in the layout that the device chooses. */
static inline Tensor ops_activation(Backend *backend, Tensor shape) {
    size_t bytes = backend->ops->layout(backend, &shape);
    shape.data = ops_memory(backend, bytes);
    return shape;
}

/* A parameter, gradient or network input: canonical. */
static inline Tensor ops_canonical(Backend *backend, Tensor shape) {
    shape.layout = 0;
    shape.data = ops_memory(backend, (size_t)tensor_elements(&shape) * sizeof(float));
    return shape;
}

static inline void ops_put(Backend *backend, Tensor *tensor, const float *host) {
    size_t bytes = (size_t)tensor_elements(tensor) * sizeof(float);
    if (tensor->layout == 0) {
        assert_ok(backend->ops->copy_in(backend, tensor->data, host, bytes));
    } else {
        Tensor staged = ops_canonical(backend, *tensor);
        assert_ok(backend->ops->copy_in(backend, staged.data, host, bytes));
        assert_ok(backend->ops->reorder(backend, 0, tensor, &staged));
        assert_ok(backend->ops->finish(backend, 0));
    }
    assert_ok(
        backend->ops->parameters_changed(backend, tensor->data, tensor_elements(tensor)));
}

/* The tensor's values on the host, canonical. */
static inline float *ops_get(Backend *backend, const Tensor *tensor) {
    int64_t count = tensor_elements(tensor);
    float *host = ops_host(count);
    for (int worker = 0; worker < backend->workers; worker++)
        assert_ok(backend->ops->finish(backend, worker));
    Tensor staged = *tensor;
    if (tensor->layout != 0) {
        staged = ops_canonical(backend, *tensor);
        assert_ok(backend->ops->reorder(backend, 0, &staged, tensor));
        assert_ok(backend->ops->finish(backend, 0));
    }
    assert_ok(
        backend->ops->copy_out(backend, host, staged.data, (size_t)count * sizeof(float)));
    return host;
}

static inline Tensor ops_activation_of(Backend *backend, Tensor shape, const float *host) {
    Tensor tensor = ops_activation(backend, shape);
    ops_put(backend, &tensor, host);
    return tensor;
}

static inline Tensor ops_canonical_of(Backend *backend, Tensor shape, const float *host) {
    Tensor tensor = ops_canonical(backend, shape);
    ops_put(backend, &tensor, host);
    return tensor;
}

/* ---- comparisons */

/* |got − want| ≤ tolerance · max|want|: errors of sums are in proportion to their terms, not to a
 * result in which the terms cancel. Tolerance 0 asks for equal values. */
static inline void ops_assert_near(const char *what, const float *got, const float *want,
                                   int64_t count, double tolerance) {
    double largest = 0.0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * largest))
            fail_msg("%s[%lld] is %.9g, not %.9g (largest %.9g)", what, (long long)i,
                     (double)got[i], (double)want[i], largest);
}

static inline void ops_assert_bits(const char *what, const float *got, const float *want,
                                   int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s[%lld] is %a, not %a", what, (long long)i, (double)got[i],
                     (double)want[i]);
}

/* Σ a·b in double: the scalar whose gradient is what finite differences measure. */
static inline double ops_dot(const float *a, const float *b, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Central differences of `scalar` with respect to up to 40 elements of x (all of a small x), against
 * the gradient dx. `h` is the step; the error allowed is tolerance · (1 + max|dx|). */
static inline void ops_assert_gradient(const char *what, double (*scalar)(void *context),
                                       void *context, float *x, const float *dx,
                                       int64_t count, float h, double tolerance) {
    int mark = ops_allocated_count;
    double largest = 1.0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)dx[i]));
    int64_t stride = count <= 40 ? 1 : count / 40;
    for (int64_t i = 0; i < count; i += stride) {
        float old = x[i], up = old + h, down = old - h;
        x[i] = up;
        double above = scalar(context);
        x[i] = down;
        double below = scalar(context);
        x[i] = old;
        ops_release_to(mark);
        double slope = (above - below) / ((double)up - (double)down);
        if (!(fabs(slope - (double)dx[i]) <= tolerance * largest))
            fail_msg("%s[%lld] is %.9g, finite differences say %.9g", what, (long long)i,
                     (double)dx[i], slope);
    }
}

/* ---- two workers at once */

typedef Status (*OpsLaunch)(void *prepared, int worker);

typedef struct {
    OpsLaunch launch;
    void *prepared;
    int worker;
    Status status;
    Failure failure;
} OpsThread;

static inline void *ops_thread(void *argument) {
    OpsThread *thread = argument;
    for (int round = 0; round < 4 && thread->status == STATUS_OK; round++)
        thread->status = thread->launch(thread->prepared, thread->worker);
    if (thread->status != STATUS_OK) thread->failure = *status_failure();
    return NULL;
}

/* Runs launch(prepared[w], w) for every worker at the same time, a few times over. */
static inline void ops_run_together(OpsLaunch launch, void *const prepared[OPS_WORKERS]) {
    OpsThread threads[OPS_WORKERS];
    pthread_t ids[OPS_WORKERS];
    for (int w = 0; w < OPS_WORKERS; w++) {
        threads[w] = (OpsThread){.launch = launch, .prepared = prepared[w], .worker = w};
        assert_int_equal(pthread_create(&ids[w], NULL, ops_thread, &threads[w]), 0);
    }
    for (int w = 0; w < OPS_WORKERS; w++)
        pthread_join(ids[w], NULL);
    for (int w = 0; w < OPS_WORKERS; w++)
        if (threads[w].status != STATUS_OK) fail_msg("worker: %s", threads[w].failure.what);
}

/* ---- running */

typedef struct {
    const char *name;
    CMUnitTestFunction function;
} OpsTest;

#define OPS_TEST(function) \
    { #function, function }

static inline int ops_main(const OpsTest *tests, size_t count) {
    int failed = 0;
    BackendOptions one = {.workers = 1}, several = {.workers = OPS_WORKERS};
    if (backend_open("reference", &one, &ops_oracle) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    for (size_t d = 0; d < sizeof ops_devices / sizeof *ops_devices; d++) {
        Backend *backend;
        if (backend_open(ops_devices[d], &several, &backend) != STATUS_OK) {
            print_message("SKIPPED: all tests on device \"%s\": %s\n", ops_devices[d],
                          status_failure()->what);
            continue;
        }
        struct CMUnitTest *run = calloc(count, sizeof *run);
        if (run == NULL) return 1;
        for (size_t i = 0; i < count; i++)
            run[i] = (struct CMUnitTest){.name = tests[i].name,
                                         .test_func = tests[i].function,
                                         .teardown_func = ops_release_all,
                                         .initial_state = backend};
        failed += _cmocka_run_group_tests(ops_devices[d], run, count, NULL, NULL);
        free(run);
        backend->ops->close(backend);
    }
    ops_oracle->ops->close(ops_oracle);
    return failed;
}
