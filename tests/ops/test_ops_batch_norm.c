/* Batch norm with residual and relu on every device: against the reference, a worked example, and
 * finite differences. */
#include "tests/ops/ops.h"

typedef struct {
    int rank;
    int64_t n, c, h, w;
    bool residual, relu;
} Case;

static const Case cases[] = {
    {4, 2, 3, 4, 4, false, false},    {4, 4, 16, 8, 8, false, true},
    {4, 3, 17, 5, 7, true, true},     {4, 16, 64, 4, 4, true, false},
    {4, 2, 1, 1, 1, false, false},    {2, 8, 10, 1, 1, false, true},
    {2, 5, 33, 1, 1, true, true},     {4, 1, 8, 3, 3, true, true},
    {4, 32, 32, 16, 16, false, true}, {4, 4, 6, 14, 14, true, true},
};
enum { CASES = sizeof cases / sizeof *cases };

/* Statistics of up to 8192 values; a device may sum in float, in blocks. Elements near zero of relu
 * are compared with the largest. Two samples alone leave dx as a difference of nearly equal
 * numbers: see case 4, whose inputs differ by order one, with gradients near zero. */
static const double TOLERANCE = 2e-5;

typedef struct {
    Backend *backend;
    Case at;
    Tensor gamma, beta, residual;
    BatchNorm norm;
    Tensor x, y, dy, mean, inverse_std, batch_mean, batch_variance;
    Tensor dx, dgamma, dbeta, dresidual;
} Prepared;

static Tensor shape_of(const Case *c) {
    return c->rank == 4 ? tensor_4d(NULL, c->n, c->c, c->h, c->w)
                        : tensor_2d(NULL, c->n, c->c);
}

/* A mean far from zero against a deviation of one: a one-pass variance would show. */
static float *shifted(float *x, int64_t count, float by) {
    for (int64_t i = 0; i < count; i++)
        x[i] += by;
    return x;
}

static void prepare(Prepared *p, Backend *backend, const Case *c) {
    *p = (Prepared){.backend = backend, .at = *c};
    Tensor shape = shape_of(c), channel = tensor_1d(NULL, c->c);
    int64_t count = tensor_elements(&shape);
    p->gamma = ops_canonical_of(backend, channel, shifted(ops_random(c->c, 2), c->c, 1.5f));
    p->beta = ops_canonical_of(backend, channel, ops_random(c->c, 3));
    p->x = ops_activation_of(backend, shape, shifted(ops_random(count, 1), count, 8.0f));
    p->dy = ops_activation_of(backend, shape, ops_random(count, 4));
    p->y = ops_activation(backend, shape);
    p->dx = ops_activation(backend, shape);
    if (c->residual) {
        p->residual = ops_activation_of(backend, shape, ops_random(count, 5));
        p->dresidual = ops_activation(backend, shape);
    }
    Tensor *channels[] = {&p->mean,           &p->inverse_std, &p->batch_mean,
                          &p->batch_variance, &p->dgamma,      &p->dbeta};
    for (int i = 0; i < 6; i++)
        *channels[i] = ops_canonical(backend, channel);
    p->norm = (BatchNorm){.gamma = &p->gamma,
                          .beta = &p->beta,
                          .residual = c->residual ? &p->residual : NULL,
                          .relu = c->relu,
                          .epsilon = 1e-5f};
}

static Status launch(void *prepared, int worker) {
    Prepared *p = prepared;
    const BackendOps *ops = p->backend->ops;
    TRY(ops->batch_norm_forward(p->backend, worker, &p->norm, &p->y, &p->x, &p->mean,
                                &p->inverse_std, &p->batch_mean, &p->batch_variance));
    TRY(ops->batch_norm_backward(p->backend, worker, &p->norm, &p->dx, &p->dgamma,
                                 &p->dbeta, p->at.residual ? &p->dresidual : NULL, &p->dy,
                                 &p->y, &p->x, &p->mean, &p->inverse_std));
    return ops->finish(p->backend, worker);
}

static void compare(const Prepared *got, const Prepared *want, bool bits) {
    const Tensor *outputs[][2] = {{&got->y, &want->y},
                                  {&got->mean, &want->mean},
                                  {&got->inverse_std, &want->inverse_std},
                                  {&got->batch_mean, &want->batch_mean},
                                  {&got->batch_variance, &want->batch_variance},
                                  {&got->dx, &want->dx},
                                  {&got->dgamma, &want->dgamma},
                                  {&got->dbeta, &want->dbeta},
                                  {&got->dresidual, &want->dresidual}};
    const char *names[] = {"y",  "mean",   "inverse_std", "batch_mean", "batch_variance",
                           "dx", "dgamma", "dbeta",       "dresidual"};
    for (int i = 0; i < (got->at.residual ? 9 : 8); i++) {
        int64_t count = tensor_elements(outputs[i][0]);
        const float *a = ops_get(got->backend, outputs[i][0]);
        const float *b = ops_get(want->backend, outputs[i][1]);
        if (bits)
            ops_assert_bits(names[i], a, b, count);
        else
            ops_assert_near(names[i], a, b, count, TOLERANCE);
    }
}

/* Where relu's argument is within rounding of zero, devices may differ in [y > 0] and so in a whole
 * dy: the comparison takes one forward result for both. */
static void batch_norm_agrees_with_the_reference(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared got, want;
        prepare(&got, backend, &cases[i]);
        prepare(&want, ops_oracle, &cases[i]);
        assert_ok(launch(&got, 0));
        assert_ok(launch(&want, 0));
        Tensor y =
            ops_activation_of(ops_oracle, shape_of(&cases[i]), ops_get(backend, &got.y));
        assert_ok(ops_oracle->ops->batch_norm_backward(
            ops_oracle, 0, &want.norm, &want.dx, &want.dgamma, &want.dbeta,
            cases[i].residual ? &want.dresidual : NULL, &want.dy, &y, &want.x, &want.mean,
            &want.inverse_std));
        compare(&got, &want, false);
        ops_release_all(NULL);
    }
}

static void batch_norm_has_equal_bits_for_workers_at_once_and_again(void **state) {
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

static void batch_norm_gives_the_numbers_of_a_worked_example(void **state) {
    Backend *backend = *state;
    const Case c = {4, 2, 1, 1, 2, false, true};
    Prepared p;
    prepare(&p, backend, &c);
    p.norm.epsilon = 0;
    const float x[] = {1, 3, 5, 7}, gamma[] = {2}, beta[] = {1};
    ops_put(backend, &p.x, x);
    ops_put(backend, &p.gamma, gamma);
    ops_put(backend, &p.beta, beta);
    assert_ok(launch(&p, 0));
    float root5 = sqrtf(5.0f); /* mean 4, variance 5, unbiased 20/3 */
    const float mean[] = {4}, variance[] = {20.0f / 3}, inverse[] = {1 / root5};
    const float y[] = {0, 1 - 2 / root5, 1 + 2 / root5, 1 + 6 / root5};
    ops_assert_near("mean", ops_get(backend, &p.mean), mean, 1, 1e-6);
    ops_assert_near("batch_mean", ops_get(backend, &p.batch_mean), mean, 1, 1e-6);
    ops_assert_near("batch_variance", ops_get(backend, &p.batch_variance), variance, 1,
                    1e-6);
    ops_assert_near("inverse_std", ops_get(backend, &p.inverse_std), inverse, 1, 1e-6);
    ops_assert_near("y", ops_get(backend, &p.y), y, 4, 1e-6);
}

static void inference_uses_the_running_statistics_and_may_work_in_place(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared got, want;
        prepare(&got, backend, &cases[i]);
        prepare(&want, ops_oracle, &cases[i]);
        int64_t c = cases[i].c, count = tensor_elements(&got.x);
        float *mean = shifted(ops_random(c, 6), c, 8.0f);
        float *variance = shifted(ops_random(c, 7), c, 1.25f);
        Prepared *both[] = {&got, &want};
        for (int k = 0; k < 2; k++) {
            Prepared *p = both[k];
            ops_put(p->backend, &p->mean, mean);
            ops_put(p->backend, &p->batch_variance, variance);
            assert_ok(p->backend->ops->batch_norm_inference(
                p->backend, 0, &p->norm, &p->y, &p->x, &p->mean, &p->batch_variance));
        }
        const float *apart = ops_get(backend, &got.y);
        ops_assert_near("y", apart, ops_get(ops_oracle, &want.y), count, 1e-6);
        /* the definition, worked out here for the first element */
        double value = ((double)ops_get(backend, &got.x)[0] - (double)mean[0]) /
                           sqrt((double)variance[0] + 1e-5) *
                           (double)ops_get(backend, &got.gamma)[0] +
                       (double)ops_get(backend, &got.beta)[0];
        if (cases[i].residual) value += (double)ops_get(backend, &got.residual)[0];
        if (cases[i].relu && value < 0) value = 0;
        assert_true(fabs((double)apart[0] - value) < 1e-5);

        assert_ok(backend->ops->batch_norm_inference(backend, 0, &got.norm, &got.x, &got.x,
                                                     &got.mean, &got.batch_variance));
        ops_assert_bits("y in place", ops_get(backend, &got.x), apart, count);
        ops_release_all(NULL);
    }
}

static void backward_may_write_dx_over_dy(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared p;
        prepare(&p, backend, &cases[i]);
        assert_ok(launch(&p, 0));
        const float *apart = ops_get(backend, &p.dx);
        assert_ok(backend->ops->batch_norm_backward(
            backend, 0, &p.norm, &p.dy, &p.dgamma, &p.dbeta,
            cases[i].residual ? &p.dresidual : NULL, &p.dy, &p.y, &p.x, &p.mean,
            &p.inverse_std));
        ops_assert_bits("dx over dy", ops_get(backend, &p.dy), apart,
                        tensor_elements(&p.dy));
        ops_release_all(NULL);
    }
}

static void a_channel_of_one_value_has_variance_0_and_gives_beta(void **state) {
    const Case c = {2, 1, 4, 1, 1, false, false};
    Prepared p;
    prepare(&p, *state, &c);
    Backend *backend = p.backend;
    assert_ok(backend->ops->batch_norm_forward(backend, 0, &p.norm, &p.y, &p.x, &p.mean,
                                               &p.inverse_std, &p.batch_mean,
                                               &p.batch_variance));
    ops_assert_bits("y", ops_get(backend, &p.y), ops_get(backend, p.norm.beta), 4);
    ops_assert_bits("batch mean", ops_get(backend, &p.batch_mean), ops_get(backend, &p.x),
                    4);
    const float zero[4] = {0};
    ops_assert_bits("batch variance", ops_get(backend, &p.batch_variance), zero, 4);
}

/* ---- finite differences */

typedef struct {
    Prepared p;
    float *x, *gamma, *beta, *residual, *dy;
} Scalar;

static double value(void *context) {
    Scalar *s = context;
    Backend *backend = s->p.backend;
    ops_put(backend, &s->p.x, s->x);
    ops_put(backend, &s->p.gamma, s->gamma);
    ops_put(backend, &s->p.beta, s->beta);
    if (s->p.at.residual) ops_put(backend, &s->p.residual, s->residual);
    assert_ok(backend->ops->batch_norm_forward(backend, 0, &s->p.norm, &s->p.y, &s->p.x,
                                               &s->p.mean, &s->p.inverse_std,
                                               &s->p.batch_mean, &s->p.batch_variance));
    return ops_dot(ops_get(backend, &s->p.y), s->dy, tensor_elements(&s->p.y));
}

/* Truncation is of order h² and rounding of order 2^-24·Σ|y·dy| / h: both near 1e-4 at h = 0.02.
 * Relu's kink would need a step away from it, so the residual keeps all arguments positive or
 * clearly negative there. */
static void gradients_of_batch_norm_are_those_of_finite_differences(void **state) {
    Backend *backend = *state;
    const Case small[] = {{4, 2, 3, 3, 2, false, false},
                          {4, 2, 3, 3, 2, true, true},
                          {2, 7, 5, 1, 1, false, false},
                          {2, 7, 5, 1, 1, true, true}};
    for (int i = 0; i < 4; i++) {
        Scalar s;
        prepare(&s.p, backend, &small[i]);
        int64_t count = tensor_elements(&s.p.x), c = small[i].c;
        s.x = ops_random(count, 1);
        s.gamma = shifted(ops_random(c, 2), c, 1.5f);
        s.beta = ops_random(c, 3);
        s.residual = ops_random(count, 5);
        for (int64_t k = 0; k < count; k++) /* |gamma·x̂ + beta| stays below 9 */
            s.residual[k] += k % 3 == 0 ? -10.0f : 10.0f;
        s.dy = ops_random(count, 4);
        value(&s);
        assert_ok(launch(&s.p, 0));
        const float *dx = ops_get(backend, &s.p.dx),
                    *dgamma = ops_get(backend, &s.p.dgamma);
        const float *dbeta = ops_get(backend, &s.p.dbeta);
        ops_assert_gradient("dx", value, &s, s.x, dx, count, 0.02f, 2e-3);
        ops_assert_gradient("dgamma", value, &s, s.gamma, dgamma, c, 0.02f, 1e-3);
        ops_assert_gradient("dbeta", value, &s, s.beta, dbeta, c, 0.02f, 1e-3);
        if (small[i].residual)
            ops_assert_gradient("dresidual", value, &s, s.residual,
                                ops_get(backend, &s.p.dresidual), count, 0.02f, 1e-3);
        ops_release_all(NULL);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(batch_norm_agrees_with_the_reference),
        OPS_TEST(batch_norm_has_equal_bits_for_workers_at_once_and_again),
        OPS_TEST(batch_norm_gives_the_numbers_of_a_worked_example),
        OPS_TEST(inference_uses_the_running_statistics_and_may_work_in_place),
        OPS_TEST(backward_may_write_dx_over_dy),
        OPS_TEST(a_channel_of_one_value_has_variance_0_and_gives_beta),
        OPS_TEST(gradients_of_batch_norm_are_those_of_finite_differences),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
