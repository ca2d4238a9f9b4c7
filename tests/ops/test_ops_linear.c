/* Linear layers on every device: against the reference, a worked example, and finite differences. */
#include "tests/ops/ops.h"

typedef struct {
    int64_t n, k, m;
} Case;

static const Case cases[] = {{1, 1, 1},     {2, 3, 5},    {32, 784, 256},
                             {32, 256, 10}, {7, 17, 33},  {1, 400, 120},
                             {5, 64, 1},    {64, 1, 100}, {16, 512, 1000}};
enum { CASES = sizeof cases / sizeof *cases };

/* Up to 1000 products of magnitude one summed in float in the device's order: as a convolution. */
static const double TOLERANCE = 1e-5;

typedef struct {
    Backend *backend;
    Case at;
    Tensor x, w, b, y, dy, dx, dw, db;
} Prepared;

static Prepared prepare(Backend *backend, const Case *c) {
    Prepared p = {.backend = backend, .at = *c};
    Tensor x = tensor_2d(NULL, c->n, c->k), w = tensor_2d(NULL, c->m, c->k);
    Tensor y = tensor_2d(NULL, c->n, c->m), b = tensor_1d(NULL, c->m);
    p.x = ops_activation_of(backend, x, ops_random(c->n * c->k, 1));
    p.w = ops_canonical_of(backend, w, ops_random(c->m * c->k, 2));
    p.b = ops_canonical_of(backend, b, ops_random(c->m, 3));
    p.y = ops_activation(backend, y);
    p.dy = ops_activation_of(backend, y, ops_random(c->n * c->m, 4));
    p.dx = ops_activation(backend, x);
    p.dw = ops_canonical(backend, w);
    p.db = ops_canonical(backend, b);
    return p;
}

static Status launch(void *prepared, int worker) {
    Prepared *p = prepared;
    const BackendOps *ops = p->backend->ops;
    TRY(ops->linear_forward(p->backend, worker, &p->y, &p->x, &p->w, &p->b));
    TRY(ops->linear_backward(p->backend, worker, &p->dx, &p->dw, &p->db, &p->dy, &p->x,
                             &p->w));
    return ops->finish(p->backend, worker);
}

static void compare(const Prepared *got, const Prepared *want, bool bits) {
    const Tensor *outputs[][2] = {{&got->y, &want->y},
                                  {&got->dx, &want->dx},
                                  {&got->dw, &want->dw},
                                  {&got->db, &want->db}};
    const char *names[] = {"y", "dx", "dw", "db"};
    for (int i = 0; i < 4; i++) {
        int64_t count = tensor_elements(outputs[i][0]);
        const float *a = ops_get(got->backend, outputs[i][0]);
        const float *b = ops_get(want->backend, outputs[i][1]);
        if (bits)
            ops_assert_bits(names[i], a, b, count);
        else
            ops_assert_near(names[i], a, b, count, TOLERANCE);
    }
}

static void linear_agrees_with_the_reference(void **state) {
    for (int i = 0; i < CASES; i++) {
        Prepared got = prepare(*state, &cases[i]), want = prepare(ops_oracle, &cases[i]);
        assert_ok(launch(&got, 0));
        assert_ok(launch(&want, 0));
        compare(&got, &want, false);
        ops_release_all(NULL);
    }
}

static void linear_has_equal_bits_for_workers_at_once_and_again(void **state) {
    for (int i = 0; i < CASES; i++) {
        Prepared alone = prepare(*state, &cases[i]);
        assert_ok(launch(&alone, 0));
        Prepared first = prepare(*state, &cases[i]), second = prepare(*state, &cases[i]);
        ops_run_together(launch, (void *const[]){&first, &second});
        compare(&first, &alone, true);
        compare(&second, &alone, true);
        ops_release_all(NULL);
    }
}

static void linear_gives_the_numbers_of_a_worked_example(void **state) {
    Backend *backend = *state;
    const float x[] = {1, 2, -1, 0.5f}, w[] = {3, 4, 5, 6, 7, 8}, b[] = {0.5f, -0.5f, 0};
    const float y_want[] = {11.5f, 16.5f, 23, -0.5f, -2.5f, -3};
    const float dy[] = {1, 0, 2, 0, -1, 1};
    const float dx_want[] = {17, 20, 2, 2};
    const float dw_want[] = {1, 2, 1, -0.5f, 1, 4.5f};
    const float db_want[] = {1, -1, 3};
    Tensor tx = ops_activation_of(backend, tensor_2d(NULL, 2, 2), x);
    Tensor tw = ops_canonical_of(backend, tensor_2d(NULL, 3, 2), w);
    Tensor tb = ops_canonical_of(backend, tensor_1d(NULL, 3), b);
    Tensor tdy = ops_activation_of(backend, tensor_2d(NULL, 2, 3), dy);
    Tensor y = ops_activation(backend, tensor_2d(NULL, 2, 3));
    Tensor dx = ops_activation(backend, tensor_2d(NULL, 2, 2));
    Tensor dw = ops_canonical(backend, tensor_2d(NULL, 3, 2));
    Tensor db = ops_canonical(backend, tensor_1d(NULL, 3));
    assert_ok(backend->ops->linear_forward(backend, 0, &y, &tx, &tw, &tb));
    assert_ok(backend->ops->linear_backward(backend, 0, &dx, &dw, &db, &tdy, &tx, &tw));
    ops_assert_near("y", ops_get(backend, &y), y_want, 6, 1e-6);
    ops_assert_near("dx", ops_get(backend, &dx), dx_want, 4, 1e-6);
    ops_assert_near("dw", ops_get(backend, &dw), dw_want, 6, 1e-6);
    ops_assert_near("db", ops_get(backend, &db), db_want, 3, 1e-6);

    const float plain[] = {11, 17, 23, -1, -2, -3};
    assert_ok(backend->ops->linear_forward(backend, 1, &y, &tx, &tw, NULL));
    ops_assert_near("y without bias", ops_get(backend, &y), plain, 6, 1e-6);
}

static void each_gradient_of_a_linear_layer_can_be_left_out(void **state) {
    Backend *backend = *state;
    Prepared all = prepare(backend, &cases[4]);
    assert_ok(launch(&all, 0));
    for (int only = 0; only < 3; only++) {
        Prepared p = prepare(backend, &cases[4]);
        assert_ok(backend->ops->linear_backward(
            backend, 0, only == 0 ? &p.dx : NULL, only == 1 ? &p.dw : NULL,
            only == 2 ? &p.db : NULL, &p.dy, &p.x, &p.w));
        const Tensor *got[] = {&p.dx, &p.dw, &p.db}, *want[] = {&all.dx, &all.dw, &all.db};
        ops_assert_bits("gradient alone", ops_get(backend, got[only]),
                        ops_get(backend, want[only]), tensor_elements(got[only]));
    }
}

typedef struct {
    Prepared p;
    float *x, *w, *b, *dy;
} Scalar;

static double value(void *context) {
    Scalar *s = context;
    Backend *backend = s->p.backend;
    ops_put(backend, &s->p.x, s->x);
    ops_put(backend, &s->p.w, s->w);
    ops_put(backend, &s->p.b, s->b);
    assert_ok(backend->ops->linear_forward(backend, 0, &s->p.y, &s->p.x, &s->p.w, &s->p.b));
    return ops_dot(ops_get(backend, &s->p.y), s->dy, tensor_elements(&s->p.y));
}

static void gradients_of_a_linear_layer_are_those_of_finite_differences(void **state) {
    Backend *backend = *state;
    Scalar s = {.p = prepare(backend, &cases[4])};
    Case at = cases[4];
    s.x = ops_random(at.n * at.k, 1);
    s.w = ops_random(at.m * at.k, 2);
    s.b = ops_random(at.m, 3);
    s.dy = ops_random(at.n * at.m, 4);
    assert_ok(launch(&s.p, 0));
    const float *dx = ops_get(backend, &s.p.dx), *dw = ops_get(backend, &s.p.dw);
    const float *db = ops_get(backend, &s.p.db);
    ops_assert_gradient("dx", value, &s, s.x, dx, at.n * at.k, 0.5f, 1e-5);
    ops_assert_gradient("dw", value, &s, s.w, dw, at.m * at.k, 0.5f, 1e-5);
    ops_assert_gradient("db", value, &s, s.b, db, at.m, 0.5f, 1e-5);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(linear_agrees_with_the_reference),
        OPS_TEST(linear_has_equal_bits_for_workers_at_once_and_again),
        OPS_TEST(linear_gives_the_numbers_of_a_worked_example),
        OPS_TEST(each_gradient_of_a_linear_layer_can_be_left_out),
        OPS_TEST(gradients_of_a_linear_layer_are_those_of_finite_differences),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
