/* Batch norm of the CUDA device against the reference, whose statistics are two passes in double. */
#include "tests/gpu_double/cuda_ops.h"

/* Statistics are double sums in another order, rounded once: a unit of float, twice. What is normalised
 * with them is off by that of x / std, which is at most about ten here. */
static const double STATISTICS = 3e-7, NORMALISED = 2e-6;

typedef struct {
    Pair x, dy, gamma, beta, residual, y, dx, dresidual;
    Pair mean, inverse_std, batch_mean, batch_variance, dgamma, dbeta;
} Case;

static Case case_of(Backend *backend, Tensor shape, float offset) {
    int64_t count = tensor_elements(&shape);
    Tensor channels = tensor_1d(NULL, shape.shape[1]);
    float *x = ops_random(count, 1), *gamma = ops_random(channels.shape[0], 2);
    for (int64_t i = 0; i < count; i++)
        x[i] = short_of(x[i] + offset);
    for (int64_t c = 0; c < channels.shape[0]; c++)
        gamma[c] += 1.5f;
    return (Case){
        .x = pair_of(backend, shape, x),
        .dy = pair_of(backend, shape, short_random(count, 3)),
        .residual = pair_of(backend, shape, short_random(count, 4)),
        .gamma = canonical_pair_of(backend, channels, gamma),
        .beta = canonical_pair_of(backend, channels, ops_random(channels.shape[0], 5)),
        .y = pair_poisoned(backend, shape),
        .dx = pair_poisoned(backend, shape),
        .dresidual = pair_poisoned(backend, shape),
        .mean = canonical_pair_poisoned(backend, channels),
        .inverse_std = canonical_pair_poisoned(backend, channels),
        .batch_mean = canonical_pair_poisoned(backend, channels),
        .batch_variance = canonical_pair_poisoned(backend, channels),
        .dgamma = canonical_pair_poisoned(backend, channels),
        .dbeta = canonical_pair_poisoned(backend, channels),
    };
}

typedef struct {
    BatchNorm device, reference;
} Norms;

static Norms norms_of(const Case *c, bool residual, bool relu) {
    return (Norms){{.gamma = &c->gamma.device,
                    .beta = &c->beta.device,
                    .residual = residual ? &c->residual.device : NULL,
                    .relu = relu,
                    .epsilon = 1e-5f},
                   {.gamma = &c->gamma.reference,
                    .beta = &c->beta.reference,
                    .residual = residual ? &c->residual.reference : NULL,
                    .relu = relu,
                    .epsilon = 1e-5f}};
}

static void forward_both(Backend *backend, Case *c, const Norms *norms) {
    assert_ok(ops_oracle->ops->batch_norm_forward(
        ops_oracle, 0, &norms->reference, &c->y.reference, &c->x.reference,
        &c->mean.reference, &c->inverse_std.reference, &c->batch_mean.reference,
        &c->batch_variance.reference));
    assert_ok(backend->ops->batch_norm_forward(
        backend, 0, &norms->device, &c->y.device, &c->x.device, &c->mean.device,
        &c->inverse_std.device, &c->batch_mean.device, &c->batch_variance.device));
}

static void training_is_near_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < 2 * ALL_SHAPES; s++) {
        Case c = case_of(backend, any_shape(s / 2), s % 3 == 0 ? 3.0f : 0.0f);
        Norms norms = norms_of(&c, s % 2 != 0, s % 4 < 2);
        forward_both(backend, &c, &norms);
        assert_like("mean", backend, c.mean, STATISTICS);
        assert_like("inverse_std", backend, c.inverse_std, STATISTICS);
        assert_like("batch_mean", backend, c.batch_mean, STATISTICS);
        assert_like("batch_variance", backend, c.batch_variance, STATISTICS);
        assert_like("y", backend, c.y, NORMALISED);

        /* backward from one and the same forward */
        ops_put(backend, &c.mean.device, ops_get(ops_oracle, &c.mean.reference));
        ops_put(backend, &c.inverse_std.device,
                ops_get(ops_oracle, &c.inverse_std.reference));
        ops_put(ops_oracle, &c.y.reference, ops_get(backend, &c.y.device));
        bool residual = norms.device.residual != NULL;
        assert_ok(ops_oracle->ops->batch_norm_backward(
            ops_oracle, 0, &norms.reference, &c.dx.reference, &c.dgamma.reference,
            &c.dbeta.reference, residual ? &c.dresidual.reference : NULL, &c.dy.reference,
            &c.y.reference, &c.x.reference, &c.mean.reference, &c.inverse_std.reference));
        assert_ok(backend->ops->batch_norm_backward(
            backend, 0, &norms.device, &c.dx.device, &c.dgamma.device, &c.dbeta.device,
            residual ? &c.dresidual.device : NULL, &c.dy.device, &c.y.device, &c.x.device,
            &c.mean.device, &c.inverse_std.device));
        assert_like("dgamma", backend, c.dgamma, STATISTICS);
        assert_like("dbeta", backend, c.dbeta, STATISTICS);
        assert_like("dx", backend, c.dx, NORMALISED);
        if (residual) assert_like("dresidual", backend, c.dresidual, 0);

        /* dx in dy's memory */
        assert_ok(backend->ops->batch_norm_backward(
            backend, 0, &norms.device, &c.dy.device, &c.dgamma.device, &c.dbeta.device,
            residual ? &c.dresidual.device : NULL, &c.dy.device, &c.y.device, &c.x.device,
            &c.mean.device, &c.inverse_std.device));
        int64_t count = tensor_elements(&c.dx.device);
        ops_assert_bits("dx in place", ops_get(backend, &c.dy.device),
                        ops_get(backend, &c.dx.device), count);
        ops_release_to(0);
    }
}

/* With statistics given, every element is element.h's: the same bits. */
static void inference_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < ALL_SHAPES; s++) {
        Case c = case_of(backend, any_shape(s), 1);
        Norms norms = norms_of(&c, s % 2 != 0, s % 3 != 0);
        Tensor channels = tensor_1d(NULL, c.x.device.shape[1]);
        float *variance = ops_random(channels.shape[0], 6);
        for (int64_t i = 0; i < channels.shape[0]; i++)
            variance[i] = variance[i] * variance[i] + 1e-3f;
        Pair mean = canonical_pair_of(backend, channels, ops_random(channels.shape[0], 7));
        Pair spread = canonical_pair_of(backend, channels, variance);
        assert_ok(ops_oracle->ops->batch_norm_inference(
            ops_oracle, 0, &norms.reference, &c.y.reference, &c.x.reference,
            &mean.reference, &spread.reference));
        assert_ok(backend->ops->batch_norm_inference(backend, 0, &norms.device, &c.y.device,
                                                     &c.x.device, &mean.device,
                                                     &spread.device));
        assert_like("y", backend, c.y, 0);
        assert_ok(backend->ops->batch_norm_inference(backend, 0, &norms.device, &c.x.device,
                                                     &c.x.device, &mean.device,
                                                     &spread.device));
        assert_like("y in place", backend, (Pair){c.x.device, c.y.reference}, 0);
        ops_release_to(0);
    }
}

/* Spread 1 around 8,192: a difference of means of squares in float would know no digit of it. Many rows,
 * so that there are many chunks. */
static void a_large_mean_costs_the_variance_no_digits(void **state) {
    Backend *backend = *state;
    if (cuda_of(backend)->precision == PRECISION_BF16)
        return; /* such numbers are not there */
    const Tensor shapes[] = {tensor_4d(NULL, 8, 8, 28, 28), tensor_4d(NULL, 9, 3, 28, 28)};
    for (int s = 0; s < 2; s++) {
        Case c = case_of(backend, shapes[s], 0);
        float *x = ops_random(tensor_elements(&shapes[s]), 8);
        for (int64_t i = 0; i < tensor_elements(&shapes[s]); i++)
            x[i] += 8192;
        x[0] = -1e6f; /* the first value is where the device measures from */
        ops_put(backend, &c.x.device, x);
        ops_put(ops_oracle, &c.x.reference, x);
        Norms norms = norms_of(&c, false, false);
        forward_both(backend, &c, &norms);
        assert_like("batch_variance", backend, c.batch_variance, STATISTICS);
        const float *got = ops_get(backend, &c.inverse_std.device);
        const float *want = ops_get(ops_oracle, &c.inverse_std.reference);
        for (int64_t i = 0; i < shapes[s].shape[1]; i++)
            assert_true(fabs((double)got[i] / (double)want[i] - 1) < STATISTICS);
    }
}

static void a_channel_of_one_value_becomes_beta(void **state) {
    Backend *backend = *state;
    const float x[] = {3, -7, 11}, beta[] = {0.5f, 0.25f, -2};
    Case c = case_of(backend, tensor_2d(NULL, 1, 3), 0);
    ops_put(backend, &c.x.device, x);
    ops_put(backend, &c.beta.device, beta);
    Norms norms = norms_of(&c, false, false);
    assert_ok(backend->ops->batch_norm_forward(
        backend, 0, &norms.device, &c.y.device, &c.x.device, &c.mean.device,
        &c.inverse_std.device, &c.batch_mean.device, &c.batch_variance.device));
    const float zeros[3] = {0};
    ops_assert_bits("y", ops_get(backend, &c.y.device), beta, 3);
    ops_assert_bits("mean", ops_get(backend, &c.batch_mean.device), x, 3);
    ops_assert_bits("variance", ops_get(backend, &c.batch_variance.device), zeros, 3);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(training_is_near_the_reference),
        OPS_TEST(inference_has_the_bits_of_the_reference),
        OPS_TEST(a_large_mean_costs_the_variance_no_digits),
        OPS_TEST(a_channel_of_one_value_becomes_beta),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
