/* Flat passes on every device: optimizers against PyTorch's formulas in double, and that it does not
 * matter where a range is split. */
#include "tests/ops/ops.h"

enum { COUNT = 16 * 67 };

static float *device_of(Backend *backend, const float *host, int64_t count) {
    float *device = ops_memory(backend, (size_t)count * sizeof *host);
    assert_ok(backend->ops->copy_in(backend, device, host, (size_t)count * sizeof *host));
    return device;
}

static float *host_of(Backend *backend, const float *device, int64_t count) {
    float *host = ops_host(count);
    assert_ok(backend->ops->finish(backend, 0));
    assert_ok(backend->ops->finish(backend, 1));
    assert_ok(backend->ops->copy_out(backend, host, device, (size_t)count * sizeof *host));
    return host;
}

static void accumulation_adds_each_element(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1), *y = ops_random(COUNT, 2);
    float *dx = device_of(backend, x, COUNT), *dy = device_of(backend, y, COUNT);
    assert_ok(backend->ops->accumulate(backend, 0, dy, dx, COUNT));
    float *want = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        want[i] = y[i] + x[i];
    ops_assert_bits("y", host_of(backend, dy, COUNT), want, COUNT);
}

/* Two roundings against none. */
static void blending_moves_running_statistics(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1), *y = ops_random(COUNT, 2);
    float *dx = device_of(backend, x, COUNT), *dy = device_of(backend, y, COUNT);
    assert_ok(backend->ops->blend(backend, 0, dy, dx, COUNT, 0.1f, 0.25f));
    float *want = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        want[i] = (float)(0.9 * (double)y[i] + 0.1 * 0.25 * (double)x[i]);
    ops_assert_near("y", host_of(backend, dy, COUNT), want, COUNT, 2e-7);
}

static void the_sum_of_squares_is_that_of_double_arithmetic(void **state) {
    Backend *backend = *state;
    for (int64_t count = 0; count <= COUNT; count += 16 * 11) {
        const float *x = ops_random(COUNT, 1);
        double want = ops_dot(x, x, count), got = -1, again = -2;
        float *device = device_of(backend, x, COUNT);
        assert_ok(backend->ops->sum_squares(backend, 0, device, count, &got));
        assert_ok(backend->ops->sum_squares(backend, 1, device, count, &again));
        assert_true(fabs(got - want) <= 1e-13 * want);
        assert_memory_equal(&got, &again, sizeof got);
    }
}

static void the_sum_of_squares_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1);
    double got, want;
    assert_ok(
        backend->ops->sum_squares(backend, 0, device_of(backend, x, COUNT), COUNT, &got));
    assert_ok(ops_oracle->ops->sum_squares(ops_oracle, 0, device_of(ops_oracle, x, COUNT),
                                           COUNT, &want));
    assert_memory_equal(&got, &want, sizeof got);
}

static void
the_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite(void **state) {
    Backend *backend = *state;
    float x[32] = {0};
    double got;
    for (int i = 0; i < 32; i++)
        x[i] = 1e38f;
    assert_ok(backend->ops->sum_squares(backend, 0, device_of(backend, x, 32), 32, &got));
    assert_true(fabs(got / (32 * (double)1e38f * (double)1e38f) - 1) < 1e-14);
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int at = 0; at < 32; at += 31) {
            memset(x, 0, sizeof x);
            x[at] = wrong[k];
            assert_ok(
                backend->ops->sum_squares(backend, 0, device_of(backend, x, 32), 32, &got));
            assert_true(!isfinite(got));
        }
}

/* ---- optimizers */

typedef struct {
    const char *name;
    bool adam, has_momentum;
    OptimizerPass pass; /* rates; the pointers are set by the run */
} Case;

static const Case cases[] = {
    {"sgd", false, false, {.lr = 0.1f, .gradient_scale = 1}},
    {"sgd, decay, clipped",
     false,
     false,
     {.lr = 0.1f, .gradient_scale = 0.37f, .weight_decay = 0.01f}},
    {"momentum",
     false,
     true,
     {.lr = 0.1f, .gradient_scale = 1, .weight_decay = 5e-4f, .momentum = 0.9f}},
    {"nesterov",
     false,
     true,
     {.lr = 0.1f, .gradient_scale = 0.5f, .momentum = 0.9f, .nesterov = true}},
    {"adam",
     true,
     true,
     {.lr = 1e-2f, .gradient_scale = 1, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8f}},
    {"adam, decay",
     true,
     true,
     {.lr = 1e-2f,
      .gradient_scale = 0.5f,
      .weight_decay = 0.1f,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .epsilon = 1e-6f}},
    {"adamw",
     true,
     true,
     {.lr = 1e-2f,
      .gradient_scale = 1,
      .weight_decay = 0.1f,
      .beta1 = 0.8,
      .beta2 = 0.99,
      .epsilon = 1e-8f,
      .decoupled = true}},
};
enum { CASES = sizeof cases / sizeof *cases, STEPS = 5 };

typedef struct {
    float *w, *m, *v; /* host */
} Result;

static Status step_of(Backend *backend, const Case *c, const OptimizerPass *pass,
                      int worker) {
    return c->adam ? backend->ops->adam(backend, worker, pass)
                   : backend->ops->sgd(backend, worker, pass);
}

static OptimizerPass part_of(const OptimizerPass *pass, int64_t first, int64_t end) {
    OptimizerPass part = *pass;
    part.w += first;
    part.g += first;
    if (part.m != NULL) part.m += first;
    if (part.v != NULL) part.v += first;
    part.count = end - first;
    return part;
}

/* STEPS steps of one optimizer; with `split`, each in two passes by two workers. */
static Result run(Backend *backend, const Case *c, int64_t split) {
    const float *zero = ops_host(COUNT);
    OptimizerPass pass = c->pass;
    pass.w = device_of(backend, ops_random(COUNT, 1), COUNT);
    pass.m = c->has_momentum ? device_of(backend, zero, COUNT) : NULL;
    pass.v = c->adam ? device_of(backend, zero, COUNT) : NULL;
    pass.count = COUNT;
    for (int step = 1; step <= STEPS; step++) {
        pass.g = device_of(backend, ops_random(COUNT, 10 + (uint32_t)step), COUNT);
        pass.correction1 = (float)(1 - pow(pass.beta1, step));
        pass.correction2_sqrt = (float)sqrt(1 - pow(pass.beta2, step));
        OptimizerPass low = part_of(&pass, 0, split), high = part_of(&pass, split, COUNT);
        assert_ok(step_of(backend, c, &high, 1));
        assert_ok(step_of(backend, c, &low, 0));
        assert_ok(backend->ops->finish(backend, 0));
        assert_ok(backend->ops->finish(backend, 1));
    }
    Result result = {.w = host_of(backend, pass.w, COUNT)};
    if (c->has_momentum) result.m = host_of(backend, pass.m, COUNT);
    if (c->adam) result.v = host_of(backend, pass.v, COUNT);
    return result;
}

/* One parameter's STEPS steps as PyTorch's documentation writes them, in double. */
static double trained(const Case *c, int64_t at, const float *w0, float *const g[STEPS],
                      double *second_moment) {
    const OptimizerPass *p = &c->pass;
    double w = (double)w0[at], m = 0, v = 0, lr = (double)p->lr;
    double decay = (double)p->weight_decay, mu = (double)p->momentum;
    for (int step = 1; step <= STEPS; step++) {
        double gradient = (double)g[step - 1][at] * (double)p->gradient_scale;
        if (p->decoupled)
            w -= lr * decay * w;
        else
            gradient += decay * w;
        if (c->adam) {
            m = p->beta1 * m + (1 - p->beta1) * gradient;
            v = p->beta2 * v + (1 - p->beta2) * gradient * gradient;
            double m_hat = m / (1 - pow(p->beta1, step)),
                   v_hat = v / (1 - pow(p->beta2, step));
            w -= lr * m_hat / (sqrt(v_hat) + (double)p->epsilon);
        } else if (c->has_momentum) {
            m = step == 1 ? gradient
                          : mu * m + gradient; /* the buffer starts as the gradient */
            w -= lr * (p->nesterov ? gradient + mu * m : m);
        } else {
            w -= lr * gradient;
        }
    }
    *second_moment = v;
    return w;
}

/* A dozen roundings of 2^-24 a step, and Adam's quotient near small gradients: 2e-6 of the largest
 * parameter, a ten-thousandth of what the steps moved it. */
static void optimizers_follow_the_formulas_of_pytorch(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result got = run(*state, &cases[i], 0);
        const float *w0 = ops_random(COUNT, 1);
        float *g[STEPS], *want = ops_host(COUNT), *want_v = ops_host(COUNT);
        for (uint32_t step = 1; step <= STEPS; step++)
            g[step - 1] = ops_random(COUNT, 10 + step);
        for (int64_t k = 0; k < COUNT; k++) {
            double v;
            want[k] = (float)trained(&cases[i], k, w0, g, &v);
            want_v[k] = (float)v;
        }
        ops_assert_near(cases[i].name, got.w, want, COUNT, 2e-6);
        if (cases[i].adam) ops_assert_near("v", got.v, want_v, COUNT, 2e-6);
        ops_release_all(NULL);
    }
}

static void optimizers_do_not_care_where_a_range_is_split(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result whole = run(*state, &cases[i], 0);
        for (int64_t split = 16; split < COUNT; split += 16 * 13) {
            Result parts = run(*state, &cases[i], split);
            ops_assert_bits(cases[i].name, parts.w, whole.w, COUNT);
            if (whole.m != NULL) ops_assert_bits(cases[i].name, parts.m, whole.m, COUNT);
            if (whole.v != NULL) ops_assert_bits(cases[i].name, parts.v, whole.v, COUNT);
        }
        ops_release_all(NULL);
    }
}

static void optimizers_have_the_bits_of_the_reference(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result got = run(*state, &cases[i], 16), want = run(ops_oracle, &cases[i], 0);
        ops_assert_bits(cases[i].name, got.w, want.w, COUNT);
        ops_release_all(NULL);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(accumulation_adds_each_element),
        OPS_TEST(blending_moves_running_statistics),
        OPS_TEST(the_sum_of_squares_is_that_of_double_arithmetic),
        OPS_TEST(the_sum_of_squares_has_the_bits_of_the_reference),
        OPS_TEST(the_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite),
        OPS_TEST(optimizers_follow_the_formulas_of_pytorch),
        OPS_TEST(optimizers_do_not_care_where_a_range_is_split),
        OPS_TEST(optimizers_have_the_bits_of_the_reference),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
