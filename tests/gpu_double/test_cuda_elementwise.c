/* Elementwise operations of the CUDA device: the reference's bits, in any shape and in place. */
#include "tests/gpu_double/cuda_ops.h"

/* Zeros of both signs, numbers below the smallest normal one, and infinities, too. */
static float *with_edges(int64_t count, uint32_t name) {
    const float edges[] = {0.0f, -0.0f, INFINITY, -INFINITY, 0x1p-130f, -0x1p-130f};
    float *x = short_random(count, name);
    for (int64_t i = 0; i < 6 && i < count; i++)
        x[count - 1 - i] = edges[i];
    return x;
}

static void relu_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < ALL_SHAPES; s++) {
        Tensor shape = any_shape(s);
        int64_t count = tensor_elements(&shape);
        Pair x = pair_of(backend, shape, with_edges(count, 1));
        Pair dy = pair_of(backend, shape, short_random(count, 2));
        Pair y = pair_poisoned(backend, shape), dx = pair_poisoned(backend, shape);
        assert_ok(ops_oracle->ops->relu_forward(ops_oracle, 0, &y.reference, &x.reference));
        assert_ok(backend->ops->relu_forward(backend, 0, &y.device, &x.device));
        assert_like("y", backend, y, 0);
        assert_ok(backend->ops->relu_forward(backend, 0, &x.device, &x.device));
        assert_like("y in place", backend, (Pair){x.device, y.reference}, 0);
        assert_ok(ops_oracle->ops->relu_backward(ops_oracle, 0, &dx.reference,
                                                 &dy.reference, &y.reference));
        assert_ok(
            backend->ops->relu_backward(backend, 0, &dx.device, &dy.device, &y.device));
        assert_like("dx", backend, dx, 0);
        assert_ok(
            backend->ops->relu_backward(backend, 0, &dy.device, &dy.device, &y.device));
        assert_like("dx in place", backend, (Pair){dy.device, dx.reference}, 0);
        ops_release_to(0);
    }
}

static void a_nan_stays_one_through_relu(void **state) {
    Backend *backend = *state;
    const float x[12] = {1, NAN, -1, NAN};
    Tensor from = ops_activation_of(backend, tensor_2d(NULL, 1, 12), x);
    Tensor to = ops_activation(backend, tensor_2d(NULL, 1, 12));
    assert_ok(backend->ops->relu_forward(backend, 0, &to, &from));
    const float *y = ops_get(backend, &to);
    assert_true(y[0] == 1 && isnan(y[1]) && y[2] == 0 && isnan(y[3]) && y[4] == 0);
}

static void addition_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < ALL_SHAPES; s++) {
        Tensor shape = any_shape(s);
        int64_t count = tensor_elements(&shape);
        Pair a = pair_of(backend, shape, short_random(count, 1));
        Pair b = pair_of(backend, shape, short_random(count, 2));
        Pair y = pair_poisoned(backend, shape);
        assert_ok(
            ops_oracle->ops->add(ops_oracle, 0, &y.reference, &a.reference, &b.reference));
        assert_ok(backend->ops->add(backend, 0, &y.device, &a.device, &b.device));
        assert_like("y", backend, y, 0);
        assert_ok(backend->ops->add(backend, 0, &b.device, &a.device, &b.device));
        assert_like("y in place", backend, (Pair){b.device, y.reference}, 0);
        ops_release_to(0);
    }
}

/* Kept or not is decided by the number that src/core/rng.h gives the element, whatever its place in
 * memory is. */
static void dropout_draws_the_numbers_of_the_reference(void **state) {
    Backend *backend = *state;
    const float rates[] = {0.0f, 0.1f, 0.5f, 0.9f};
    for (int s = 0; s < ALL_SHAPES; s++) {
        Tensor shape = any_shape(s);
        int64_t count = tensor_elements(&shape);
        float rate = rates[s % 4];
        Rng rng = rng_at(0x9e3779b97f4a7c15u + (uint64_t)s, RNG_DROPOUT, (uint32_t)s, 0);
        const StepValues *there = ops_step(backend, 41), *here = ops_step(ops_oracle, 41);
        Pair x = pair_of(backend, shape, short_random(count, 1));
        Pair y = pair_poisoned(backend, shape);
        assert_ok(ops_oracle->ops->dropout(ops_oracle, 0, rng, here, 1000, rate,
                                           &y.reference, &x.reference));
        assert_ok(backend->ops->dropout(backend, 0, rng, there, 1000, rate, &y.device,
                                        &x.device));
        assert_like("y", backend, y, 0);
        assert_ok(backend->ops->dropout(backend, 0, rng, there, 1000, rate, &x.device,
                                        &x.device));
        assert_like("y in place", backend, (Pair){x.device, y.reference}, 0);
        ops_release_to(0);
    }
}

/* More samples than a grid has lines. */
static void dropout_reaches_every_sample(void **state) {
    Backend *backend = *state;
    enum { ROWS = 70000, COLUMNS = 3 };
    Tensor shape = tensor_2d(NULL, ROWS, COLUMNS);
    Rng rng = rng_at(5, RNG_DROPOUT, 2, 0);
    Pair x = pair_of(backend, shape, short_random(ROWS * COLUMNS, 1));
    Pair y = pair_poisoned(backend, shape);
    assert_ok(ops_oracle->ops->dropout(ops_oracle, 0, rng, ops_step(ops_oracle, 9), 0, 0.5f,
                                       &y.reference, &x.reference));
    assert_ok(backend->ops->dropout(backend, 0, rng, ops_step(backend, 9), 0, 0.5f,
                                    &y.device, &x.device));
    assert_like("y", backend, y, 0);
}

/* A step's number lies in device memory, so that a recorded step draws anew. */
static void dropout_draws_other_numbers_in_another_step(void **state) {
    Backend *backend = *state;
    enum { COUNT = 4096 };
    float *host = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        host[i] = 1;
    Tensor shape = tensor_2d(NULL, 4, COUNT / 4);
    Tensor x = ops_activation_of(backend, shape, host), y[2];
    for (uint32_t step = 0; step < 2; step++) {
        y[step] = ops_activation(backend, shape);
        assert_ok(backend->ops->dropout(backend, 0, rng_at(7, RNG_DROPOUT, 1, 0),
                                        ops_step(backend, step), 0, 0.5f, &y[step], &x));
    }
    const float *first = ops_get(backend, &y[0]), *second = ops_get(backend, &y[1]);
    int differ = 0;
    for (int i = 0; i < COUNT; i++)
        differ += (first[i] == 0) != (second[i] == 0);
    assert_true(differ > COUNT * 2 / 5 && differ < COUNT * 3 / 5);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(relu_has_the_bits_of_the_reference),
        OPS_TEST(a_nan_stays_one_through_relu),
        OPS_TEST(addition_has_the_bits_of_the_reference),
        OPS_TEST(dropout_draws_the_numbers_of_the_reference),
        OPS_TEST(dropout_reaches_every_sample),
        OPS_TEST(dropout_draws_other_numbers_in_another_step),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
