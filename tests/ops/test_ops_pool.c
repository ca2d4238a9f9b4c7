/* Pooling on every device: against the reference, worked examples, and finite differences. */
#include "tests/ops/ops.h"

typedef struct {
    int64_t n, c, h, w;
    Pool2d pool;
} Case;

static const Case cases[] = {
    {2, 6, 28, 28, {2, 2, 0}},  {1, 16, 10, 10, {2, 2, 0}}, {3, 17, 9, 7, {3, 2, 1}},
    {2, 64, 16, 16, {3, 2, 1}}, {1, 1, 1, 1, {1, 1, 0}},    {2, 5, 8, 11, {3, 1, 1}},
    {1, 3, 7, 7, {2, 3, 0}},    {1, 8, 16, 17, {15, 1, 7}}, {2, 4, 5, 5, {5, 5, 2}},
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    Backend *backend;
    Case at;
    Tensor x, y, dy, dx, average, average_dx, mean, mean_dx;
    uint8_t *choice;
} Prepared;

static void prepare(Prepared *p, Backend *backend, const Case *c) {
    *p = (Prepared){.backend = backend, .at = *c};
    int64_t rows = (c->h + 2 * c->pool.padding - c->pool.kernel) / c->pool.stride + 1;
    int64_t cols = (c->w + 2 * c->pool.padding - c->pool.kernel) / c->pool.stride + 1;
    Tensor x = tensor_4d(NULL, c->n, c->c, c->h, c->w);
    Tensor y = tensor_4d(NULL, c->n, c->c, rows, cols);
    float *host = ops_random(tensor_elements(&x), 1);
    for (int64_t i = 0; i < tensor_elements(&x); i++) /* quarters: ties are common */
        host[i] = (float)(int)(host[i] * 16) / 4;
    p->x = ops_activation_of(backend, x, host);
    p->dy = ops_activation_of(backend, y, ops_random(tensor_elements(&y), 2));
    p->y = ops_activation(backend, y);
    p->average = ops_activation(backend, y);
    p->dx = ops_activation(backend, x);
    p->average_dx = ops_activation(backend, x);
    p->mean_dx = ops_activation(backend, x);
    p->mean = ops_activation(backend, tensor_2d(NULL, c->n, c->c));
    Tensor as_chosen = y;
    p->choice =
        ops_memory(backend, backend->ops->layout(backend, &as_chosen) / sizeof(float));
}

static Status launch(void *prepared, int worker) {
    Prepared *p = prepared;
    Backend *backend = p->backend;
    const BackendOps *ops = backend->ops;
    const Pool2d *pool = &p->at.pool;
    TRY(ops->max_pool_forward(backend, worker, pool, &p->y, p->choice, &p->x));
    TRY(ops->max_pool_backward(backend, worker, pool, &p->dx, &p->dy, p->choice));
    TRY(ops->avg_pool_forward(backend, worker, pool, &p->average, &p->x));
    TRY(ops->avg_pool_backward(backend, worker, pool, &p->average_dx, &p->dy));
    TRY(ops->global_pool_forward(backend, worker, &p->mean, &p->x));
    TRY(ops->global_pool_backward(backend, worker, &p->mean_dx, &p->mean));
    return ops->finish(backend, worker);
}

/* Max pooling moves values: no error at all; its gradient adds up to kernel² of them in float. Means
 * add up to 272 values of magnitude 4 in float. */
static void compare(const Prepared *got, const Prepared *want, bool bits) {
    const struct {
        const char *name;
        const Tensor *got, *want;
        double tolerance;
    } outputs[] = {{"max", &got->y, &want->y, 0},
                   {"max dx", &got->dx, &want->dx, 2e-6},
                   {"average", &got->average, &want->average, 2e-6},
                   {"average dx", &got->average_dx, &want->average_dx, 2e-6},
                   {"mean", &got->mean, &want->mean, 5e-6},
                   {"mean dx", &got->mean_dx, &want->mean_dx, 5e-6}};
    for (int i = 0; i < 6; i++) {
        int64_t count = tensor_elements(outputs[i].got);
        const float *a = ops_get(got->backend, outputs[i].got);
        const float *b = ops_get(want->backend, outputs[i].want);
        if (bits)
            ops_assert_bits(outputs[i].name, a, b, count);
        else
            ops_assert_near(outputs[i].name, a, b, count, outputs[i].tolerance);
    }
}

static void pooling_agrees_with_the_reference(void **state) {
    for (int i = 0; i < CASES; i++) {
        Prepared got, want;
        prepare(&got, *state, &cases[i]);
        prepare(&want, ops_oracle, &cases[i]);
        assert_ok(launch(&got, 0));
        assert_ok(launch(&want, 0));
        compare(&got, &want, false);
        ops_release_all(NULL);
    }
}

static void pooling_has_equal_bits_for_workers_at_once_and_again(void **state) {
    for (int i = 0; i < CASES; i++) {
        Prepared alone, first, second;
        prepare(&alone, *state, &cases[i]);
        prepare(&first, *state, &cases[i]);
        prepare(&second, *state, &cases[i]);
        assert_ok(launch(&alone, 0));
        ops_run_together(launch, (void *const[]){&first, &second});
        compare(&first, &alone, true);
        compare(&second, &alone, true);
        ops_release_all(NULL);
    }
}

/* 3 × 3 input, kernel 2, stride 1, padding 1: negative values must win against the padding. */
static void max_pooling_ignores_padding_and_takes_the_first_of_equals(void **state) {
    Backend *backend = *state;
    const Case c = {1, 1, 3, 3, {2, 1, 1}};
    const float x[] = {-1, -1, -2, -1, -1, -3, -4, -5, -6};
    const float want[] = {-1, -1, -1, -2, -1, -1, -1, -2, -1, -1, -1, -3, -4, -4, -5, -6};
    Prepared p;
    prepare(&p, backend, &c);
    ops_put(backend, &p.x, x);
    float ones[16];
    for (int i = 0; i < 16; i++)
        ones[i] = 1;
    ops_put(backend, &p.dy, ones);
    assert_ok(launch(&p, 0));
    ops_assert_near("y", ops_get(backend, &p.y), want, 16, 0);
    /* ties go to the first in window order: upper left before right before below */
    const float dx[] = {4, 2, 2, 2, 1, 1, 2, 1, 1};
    ops_assert_near("dx", ops_get(backend, &p.dx), dx, 9, 0);
}

static void max_pooling_lets_a_nan_through(void **state) {
    Backend *backend = *state;
    const Case c = {1, 1, 2, 2, {2, 2, 0}};
    for (int at = 0; at < 4; at++) {
        float x[] = {1, 2, 3, 4};
        x[at] = NAN;
        Prepared p;
        prepare(&p, backend, &c);
        ops_put(backend, &p.x, x);
        assert_ok(launch(&p, 0));
        assert_true(isnan(ops_get(backend, &p.y)[0]));
    }
}

static void average_pooling_counts_the_padding(void **state) {
    Backend *backend = *state;
    const Case c = {1, 1, 2, 2, {3, 1, 1}};
    const float x[] = {1, 2, 3, 4};
    float want[4], gradient[4];
    const float dy[] = {9, 18, 27, 36};
    for (int i = 0; i < 4; i++)
        want[i] = 10.0f / 9,
        gradient[i] = 10; /* every window holds all four, and five zeros */
    Prepared p;
    prepare(&p, backend, &c);
    ops_put(backend, &p.x, x);
    ops_put(backend, &p.dy, dy);
    assert_ok(launch(&p, 0));
    ops_assert_near("y", ops_get(backend, &p.average), want, 4, 1e-6);
    ops_assert_near("dx", ops_get(backend, &p.average_dx), gradient, 4, 1e-6);
}

static void global_pooling_is_the_mean_of_each_plane(void **state) {
    Backend *backend = *state;
    const Case c = {2, 2, 1, 3, {1, 1, 0}};
    const float x[] = {1, 2, 3, 4, 5, 9, -1, 0, 1, 10, 20, 30};
    const float want[] = {2, 6, 0, 20};
    const float dx[] = {2.0f / 3, 2.0f / 3, 2.0f / 3, 2,         2,         2,
                        0,        0,        0,        20.0f / 3, 20.0f / 3, 20.0f / 3};
    Prepared p;
    prepare(&p, backend, &c);
    ops_put(backend, &p.x, x);
    assert_ok(launch(&p, 0));
    ops_assert_near("mean", ops_get(backend, &p.mean), want, 4, 1e-6);
    ops_assert_near("dx", ops_get(backend, &p.mean_dx), dx, 12, 1e-6);
}

static void windows_in_padding_only_are_refused(void **state) {
    Backend *backend = *state;
    const Case c = {1, 1, 4, 4, {2, 1, 1}};
    Prepared p;
    prepare(&p, backend, &c);
    const Pool2d outside = {2, 1, 2};
    Tensor y = ops_activation(backend, tensor_4d(NULL, 1, 1, 7, 7));
    uint8_t *choice = ops_memory(backend, 4096);
    assert_int_not_equal(
        backend->ops->max_pool_forward(backend, 0, &outside, &y, choice, &p.x), STATUS_OK);
    assert_non_null(strstr(status_failure()->what, "padding"));
}

/* ---- finite differences: pooling is linear while no maximum changes */

typedef struct {
    Prepared p;
    float *x, *dy, *dmean;
    int which;
} Scalar;

static double value(void *context) {
    Scalar *s = context;
    Backend *backend = s->p.backend;
    ops_put(backend, &s->p.x, s->x);
    assert_ok(launch(&s->p, 0));
    const Tensor *y = s->which == 0 ? &s->p.y : s->which == 1 ? &s->p.average : &s->p.mean;
    return ops_dot(ops_get(backend, y), s->which == 2 ? s->dmean : s->dy,
                   tensor_elements(y));
}

static void gradients_of_pooling_are_those_of_finite_differences(void **state) {
    Backend *backend = *state;
    const int small[] = {2, 5, 6, 8};
    for (int i = 0; i < 4; i++)
        for (int which = 0; which < 3; which++) {
            Scalar s = {.which = which};
            prepare(&s.p, backend, &cases[small[i]]);
            int64_t count = tensor_elements(&s.p.x), means = tensor_elements(&s.p.mean);
            s.x = ops_host(count);
            for (int64_t k = 0; k < count; k++) /* all different by at least 0.01 */
                s.x[k] = (float)(k * 7919 % 10007) / 100;
            s.dy = ops_random(tensor_elements(&s.p.dy), 2);
            s.dmean = ops_random(means, 3);
            value(&s);
            ops_put(backend, &s.p.mean, s.dmean);
            assert_ok(
                backend->ops->global_pool_backward(backend, 0, &s.p.mean_dx, &s.p.mean));
            const Tensor *dx = which == 0   ? &s.p.dx
                               : which == 1 ? &s.p.average_dx
                                            : &s.p.mean_dx;
            const float *gradient = ops_get(backend, dx);
            float h = which == 0 ? 0.004f : 1.0f; /* below half of the least difference */
            double tolerance = which == 0 ? 2e-2 : 1e-3; /* 2^-24·100 / h of rounding */
            ops_assert_gradient("dx", value, &s, s.x, gradient, count, h, tolerance);
            ops_release_all(NULL);
        }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(pooling_agrees_with_the_reference),
        OPS_TEST(pooling_has_equal_bits_for_workers_at_once_and_again),
        OPS_TEST(max_pooling_ignores_padding_and_takes_the_first_of_equals),
        OPS_TEST(max_pooling_lets_a_nan_through),
        OPS_TEST(average_pooling_counts_the_padding),
        OPS_TEST(global_pooling_is_the_mean_of_each_plane),
        OPS_TEST(windows_in_padding_only_are_refused),
        OPS_TEST(gradients_of_pooling_are_those_of_finite_differences),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
