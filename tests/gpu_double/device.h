/* For tests of the CUDA device over the double: a device of the test's own, opened and closed per test, and
 * a close that demands that nothing is left behind. */
#pragma once

#include "tests/gpu_double/cuda_ops.h"
#include "tests/gpu_double/double.h"

/* Sets or, with NULL, takes away one variable of the double, which then reads them anew. */
static inline void double_set(const char *name, const char *value) {
    if (value != NULL)
        setenv(name, value, 1);
    else
        unsetenv(name);
    double_reset();
}

static inline Backend *device_open(Precision precision) {
    BackendOptions options = {.workers = 1, .precision = precision, .patience_s = 20.0};
    Backend *backend;
    assert_ok(rekindle_cuda_open(&options, &backend));
    return backend;
}

static inline void device_close(Backend *backend) {
    ops_release_all(NULL);
    backend->ops->close(backend);
    assert_int_equal(double_leaks(), 0);
}
