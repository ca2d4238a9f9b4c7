/* Convolution on every device: against the reference over many shapes, against numbers worked out by
 * hand, and its gradients against finite differences. */
#include "tests/ops/ops.h"

typedef struct {
    int64_t n, c, h, w, m, r, s;
    Conv2d conv;
    bool bias;
    bool canonical_x; /* as the network's input is; it gets no dx */
} Case;

static const Case cases[] = {
    {2, 3, 8, 8, 4, 3, 3, {1, 1, 1}, true, false},
    {2, 3, 32, 32, 16, 3, 3, {1, 1, 1}, false, true}, /* resnet20's first */
    {4, 16, 16, 16, 32, 3, 3, {2, 1, 1}, false, false},
    {4, 16, 16, 16, 32, 1, 1, {2, 0, 1}, false, false}, /* its shortcut */
    {3, 1, 28, 28, 6, 5, 5, {1, 2, 1}, true, true},     /* lenet */
    {3, 6, 14, 14, 16, 5, 5, {1, 0, 1}, true, false},
    {1, 1, 1, 1, 1, 1, 1, {1, 0, 1}, true, false},
    {1, 3, 5, 7, 5, 3, 3, {2, 1, 1}, true, false}, /* odd everywhere */
    {2,
     3,
     6,
     5,
     7,
     2,
     3,
     {3, 2, 1},
     true,
     false}, /* rows and columns that no window reaches */
    {5, 17, 9, 4, 33, 3, 1, {1, 1, 1}, false, false}, /* just past a block of channels */
    {2, 8, 7, 7, 8, 3, 3, {1, 1, 8}, true, false},    /* depthwise */
    {2, 6, 5, 5, 4, 3, 3, {1, 1, 2}, true, false},    /* groups, not a block each */
    {2, 32, 6, 6, 32, 3, 3, {1, 1, 2}, false, false},
    {2, 3, 19, 19, 8, 7, 7, {2, 3, 1}, false, true}, /* resnet18's first, smaller */
    {16, 64, 4, 4, 64, 3, 3, {1, 1, 1}, false, false},
    {3, 129, 5, 4, 130, 3, 1, {2, 1, 1}, true, false}, /* many channels, few pixels */
};
enum { CASES = sizeof cases / sizeof *cases };

/* Sums of up to 600 products of magnitude one in float, in a device's own order, against one
 * rounding of a double sum: a few hundred times 2^-24 of the largest at the very worst. The
 * weight gradient sums over N·H·W: up to 2048 terms here. */
static const double TOLERANCE = 1e-5;

/* One case with its data on one device, ready to run again and again. */
typedef struct {
    Backend *backend;
    Case at;
    Tensor x, w, b, y, dy, dx, dw, db;
} Prepared;

static Prepared prepare(Backend *backend, const Case *c) {
    Prepared p = {.backend = backend, .at = *c};
    int64_t rows = (c->h + 2 * c->conv.padding - c->r) / c->conv.stride + 1;
    int64_t cols = (c->w + 2 * c->conv.padding - c->s) / c->conv.stride + 1;
    Tensor x = tensor_4d(NULL, c->n, c->c, c->h, c->w);
    Tensor w = tensor_4d(NULL, c->m, c->c / c->conv.groups, c->r, c->s);
    Tensor y = tensor_4d(NULL, c->n, c->m, rows, cols);
    const float *host_x = ops_random(tensor_elements(&x), 1);
    p.x = c->canonical_x ? ops_canonical_of(backend, x, host_x)
                         : ops_activation_of(backend, x, host_x);
    p.w = ops_canonical_of(backend, w, ops_random(tensor_elements(&w), 2));
    p.b = ops_canonical_of(backend, tensor_1d(NULL, c->m), ops_random(c->m, 3));
    p.y = ops_activation(backend, y);
    p.dy = ops_activation_of(backend, y, ops_random(tensor_elements(&y), 4));
    p.dx = ops_activation(backend, x);
    p.dw = ops_canonical(backend, w);
    p.db = ops_canonical(backend, tensor_1d(NULL, c->m));
    return p;
}

static Status launch(void *prepared, int worker) {
    Prepared *p = prepared;
    const BackendOps *ops = p->backend->ops;
    TRY(ops->conv2d_forward(p->backend, worker, &p->at.conv, &p->y, &p->x, &p->w,
                            p->at.bias ? &p->b : NULL));
    TRY(ops->conv2d_backward(p->backend, worker, &p->at.conv,
                             p->at.canonical_x ? NULL : &p->dx, &p->dw,
                             p->at.bias ? &p->db : NULL, &p->dy, &p->x, &p->w));
    return ops->finish(p->backend, worker);
}

typedef void (*Comparison)(const char *what, const float *got, const float *want,
                           int64_t count);

static void compare_near(const char *what, const float *got, const float *want,
                         int64_t count) {
    ops_assert_near(what, got, want, count, TOLERANCE);
}

static void compare(const char *label, Comparison comparison, Prepared *got,
                    Prepared *want) {
    const struct {
        const char *name;
        Tensor *got, *want;
        bool there;
    } outputs[] = {{"y", &got->y, &want->y, true},
                   {"dx", &got->dx, &want->dx, !got->at.canonical_x},
                   {"dw", &got->dw, &want->dw, true},
                   {"db", &got->db, &want->db, got->at.bias}};
    for (int i = 0; i < 4; i++) {
        if (!outputs[i].there) continue;
        char what[64];
        snprintf(what, sizeof what, "%s: %s", label, outputs[i].name);
        comparison(what, ops_get(got->backend, outputs[i].got),
                   ops_get(want->backend, outputs[i].want),
                   tensor_elements(outputs[i].got));
    }
}

static void convolution_agrees_with_the_reference(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared got = prepare(backend, &cases[i]), want = prepare(ops_oracle, &cases[i]);
        assert_ok(launch(&got, 0));
        assert_ok(launch(&want, 0));
        char label[32];
        snprintf(label, sizeof label, "case %d", i);
        compare(label, compare_near, &got, &want);
        ops_release_all(NULL);
    }
}

static void each_gradient_of_a_convolution_can_be_left_out(void **state) {
    Backend *backend = *state;
    const Case *c = &cases[0];
    Prepared all = prepare(backend, c);
    assert_ok(launch(&all, 0));
    for (int only = 0; only < 3; only++) {
        Prepared p = prepare(backend, c);
        assert_ok(backend->ops->conv2d_backward(
            backend, 0, &c->conv, only == 0 ? &p.dx : NULL, only == 1 ? &p.dw : NULL,
            only == 2 ? &p.db : NULL, &p.dy, &p.x, &p.w));
        Tensor *got[] = {&p.dx, &p.dw, &p.db}, *want[] = {&all.dx, &all.dw, &all.db};
        ops_assert_bits("gradient alone", ops_get(backend, got[only]),
                        ops_get(backend, want[only]), tensor_elements(got[only]));
    }
}

static void convolution_has_equal_bits_for_workers_at_once_and_again(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i += 2) {
        Prepared alone = prepare(backend, &cases[i]);
        assert_ok(launch(&alone, 0));
        Prepared first = prepare(backend, &cases[i]), second = prepare(backend, &cases[i]);
        ops_run_together(launch, (void *const[]){&first, &second});
        compare("worker 0", ops_assert_bits, &first, &alone);
        compare("worker 1", ops_assert_bits, &second, &alone);
        ops_release_all(NULL);
    }
}

static void convolution_gives_the_numbers_of_a_worked_example(void **state) {
    Backend *backend = *state;
    const float x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const float w[] = {1, 2, 3, 4};
    const float b[] = {0.5f};
    const float want[] = {37.5f, 47.5f, 67.5f, 77.5f};
    Tensor dx = ops_activation_of(backend, tensor_4d(NULL, 1, 1, 3, 3), x);
    Tensor dw = ops_canonical_of(backend, tensor_4d(NULL, 1, 1, 2, 2), w);
    Tensor db = ops_canonical_of(backend, tensor_1d(NULL, 1), b);
    Tensor y = ops_activation(backend, tensor_4d(NULL, 1, 1, 2, 2));
    Conv2d conv = {1, 0, 1};
    assert_ok(backend->ops->conv2d_forward(backend, 0, &conv, &y, &dx, &dw, &db));
    ops_assert_near("y", ops_get(backend, &y), want, 4, 1e-6);
}

/* One 1 in x and one in w: y is 1 at the one place that the definition names, per group. */
static void a_single_tap_lands_where_stride_padding_and_groups_say(void **state) {
    Backend *backend = *state;
    const Conv2d conv = {2, 1, 2};
    float x[1 * 4 * 6 * 6] = {0}, w[6 * 2 * 3 * 3] = {0}, want[1 * 6 * 3 * 3] = {0};
    x[(3 * 6 + 4) * 6 + 1] = 1; /* channel 3: the second of group 1, h = 4, w = 1 */
    w[((5 * 2 + 1) * 3 + 1) * 3 + 0] =
        1;                         /* filter 5 of group 1, its channel 1, r = 1, s = 0 */
    want[(5 * 3 + 2) * 3 + 1] = 1; /* 4 = 2·i + 1 − 1, 1 = 2·j + 0 − 1 */
    Tensor tx = ops_activation_of(backend, tensor_4d(NULL, 1, 4, 6, 6), x);
    Tensor tw = ops_canonical_of(backend, tensor_4d(NULL, 6, 2, 3, 3), w);
    Tensor y = ops_activation(backend, tensor_4d(NULL, 1, 6, 3, 3));
    assert_ok(backend->ops->conv2d_forward(backend, 0, &conv, &y, &tx, &tw, NULL));
    ops_assert_near("y", ops_get(backend, &y), want, 54, 0);
}

/* Weights that changed in place are seen after parameters_changed. */
static void new_weights_are_used_once_announced(void **state) {
    Backend *backend = *state;
    Prepared got = prepare(backend, &cases[2]), want = prepare(ops_oracle, &cases[2]);
    assert_ok(launch(&got, 0));
    const float *fresh = ops_random(tensor_elements(&got.w), 77);
    ops_put(backend, &got.w, fresh);
    ops_put(ops_oracle, &want.w, fresh);
    assert_ok(launch(&got, 0));
    assert_ok(launch(&want, 0));
    compare("after the change", compare_near, &got, &want);
}

/* ---- finite differences: exact for an operation linear in each argument, so a large step */

typedef struct {
    Backend *backend;
    Prepared p;
    float *x, *w, *b, *dy;
} Scalar;

static double value(void *context) {
    Scalar *s = context;
    ops_put(s->backend, &s->p.x, s->x);
    ops_put(s->backend, &s->p.w, s->w);
    ops_put(s->backend, &s->p.b, s->b);
    assert_ok(s->backend->ops->conv2d_forward(s->backend, 0, &s->p.at.conv, &s->p.y,
                                              &s->p.x, &s->p.w, &s->p.b));
    return ops_dot(ops_get(s->backend, &s->p.y), s->dy, tensor_elements(&s->p.y));
}

static void gradients_of_a_convolution_are_those_of_finite_differences(void **state) {
    Backend *backend = *state;
    const int small[] = {0, 6, 7, 8, 10, 11};
    for (int i = 0; i < 6; i++) {
        Scalar s = {.backend = backend, .p = prepare(backend, &cases[small[i]])};
        s.x = ops_random(tensor_elements(&s.p.x), 1);
        s.w = ops_random(tensor_elements(&s.p.w), 2);
        s.b = ops_random(s.p.at.m, 3);
        s.dy = ops_random(tensor_elements(&s.p.y), 4);
        assert_ok(launch(&s.p, 0));
        const float *dx = ops_get(backend, &s.p.dx), *dw = ops_get(backend, &s.p.dw);
        const float *db = ops_get(backend, &s.p.db);
        ops_assert_gradient("dx", value, &s, s.x, dx, tensor_elements(&s.p.x), 0.5f, 1e-5);
        ops_assert_gradient("dw", value, &s, s.w, dw, tensor_elements(&s.p.w), 0.5f, 1e-5);
        ops_assert_gradient("db", value, &s, s.b, db, s.p.at.m, 0.5f, 1e-5);
        ops_release_all(NULL);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(convolution_agrees_with_the_reference),
        OPS_TEST(each_gradient_of_a_convolution_can_be_left_out),
        OPS_TEST(convolution_has_equal_bits_for_workers_at_once_and_again),
        OPS_TEST(convolution_gives_the_numbers_of_a_worked_example),
        OPS_TEST(a_single_tap_lands_where_stride_padding_and_groups_say),
        OPS_TEST(new_weights_are_used_once_announced),
        OPS_TEST(gradients_of_a_convolution_are_those_of_finite_differences),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
