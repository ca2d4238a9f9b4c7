/* Pooling of the CUDA device: the reference's bits, since every window is added in its order. */
#include "tests/gpu_double/cuda_ops.h"

static const Pool2d pools[] = {{2, 2, 0}, {3, 2, 1}, {3, 1, 1},
                               {5, 3, 2}, {1, 1, 0}, {15, 4, 7}};
enum { POOLS = sizeof pools / sizeof *pools };

static int64_t side_of(const Pool2d *pool, int64_t side) {
    return (side + 2 * pool->padding - pool->kernel) / pool->stride + 1;
}

/* The output's shape; false where the window is larger than the image. */
static bool pooled(const Pool2d *pool, Tensor x, Tensor *y) {
    for (int side = 2; side < 4; side++)
        if (x.shape[side] + 2 * pool->padding < pool->kernel) return false;
    *y = tensor_4d(NULL, x.shape[0], x.shape[1], side_of(pool, x.shape[2]),
                   side_of(pool, x.shape[3]));
    return true;
}

/* Few values: windows have ties. */
static float *with_ties(int64_t count, uint32_t name) {
    float *x = ops_random(count, name);
    for (int64_t i = 0; i < count; i++)
        x[i] = floorf(4 * x[i]) / 4;
    return x;
}

static void maxima_and_their_gradients_have_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    int done = 0;
    for (int s = 0; s < IMAGE_SHAPES; s++)
        for (int p = 0; p < POOLS; p++) {
            Tensor shape = image_shape(s), out;
            if (!pooled(&pools[p], shape, &out)) continue;
            int64_t count = tensor_elements(&out);
            Pair x = pair_of(backend, shape, with_ties(tensor_elements(&shape), 1));
            Pair y = pair_poisoned(backend, out), dx = pair_poisoned(backend, shape);
            Pair dy = pair_of(backend, out, short_random(count, 2));
            uint8_t *there = ops_memory(backend, (size_t)count);
            uint8_t *here = ops_memory(ops_oracle, (size_t)count);
            assert_ok(ops_oracle->ops->max_pool_forward(ops_oracle, 0, &pools[p],
                                                        &y.reference, here, &x.reference));
            assert_ok(backend->ops->max_pool_forward(backend, 0, &pools[p], &y.device,
                                                     there, &x.device));
            assert_like("y", backend, y, 0);
            assert_ok(ops_oracle->ops->max_pool_backward(
                ops_oracle, 0, &pools[p], &dx.reference, &dy.reference, here));
            assert_ok(backend->ops->max_pool_backward(backend, 0, &pools[p], &dx.device,
                                                      &dy.device, there));
            assert_like("dx", backend, dx, 0);
            done++;
            ops_release_to(0);
        }
    assert_true(done > IMAGE_SHAPES * 2);
}

static void a_nan_wins_a_window_and_minus_infinity_can(void **state) {
    Backend *backend = *state;
    const Pool2d pool = {2, 2, 0};
    const float x[] = {1, NAN, -INFINITY, -INFINITY, 3, 2, -INFINITY, -INFINITY};
    Tensor from = ops_activation_of(backend, tensor_4d(NULL, 1, 1, 2, 4), x);
    Tensor to = ops_activation(backend, tensor_4d(NULL, 1, 1, 1, 2));
    uint8_t choice[2] = {9, 9}, *device = ops_memory(backend, sizeof choice);
    assert_ok(backend->ops->max_pool_forward(backend, 0, &pool, &to, device, &from));
    ops_fetched(backend, choice, device, sizeof choice);
    const float *y = ops_get(backend, &to);
    assert_true(isnan(y[0]) && y[1] == -INFINITY);
    assert_int_equal(choice[0], 1);
    assert_int_equal(choice[1], 0);
}

static void windows_that_no_maximum_can_come_from_are_refused(void **state) {
    Backend *backend = *state;
    Tensor x = ops_activation(backend, tensor_4d(NULL, 1, 1, 20, 20));
    Tensor y = ops_activation(backend, tensor_4d(NULL, 1, 1, 23, 23));
    uint8_t *choice = ops_memory(backend, 23 * 23);
    const Pool2d padded = {2, 1, 2}, large = {16, 1, 9};
    assert_fails(backend->ops->max_pool_forward(backend, 0, &padded, &y, choice, &x),
                 STATUS_USAGE, "padding 2");
    assert_fails(backend->ops->max_pool_backward(backend, 0, &padded, &x, &y, choice),
                 STATUS_USAGE, "padding 2");
    assert_fails(backend->ops->max_pool_forward(backend, 0, &large, &y, choice, &x),
                 STATUS_UNSUPPORTED, "kernel 16");
}

static void means_and_their_gradients_have_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < IMAGE_SHAPES; s++)
        for (int p = 0; p < POOLS; p++) {
            Tensor shape = image_shape(s), out;
            if (!pooled(&pools[p], shape, &out)) continue;
            Pair x = pair_of(backend, shape, short_random(tensor_elements(&shape), 1));
            Pair dy = pair_of(backend, out, short_random(tensor_elements(&out), 2));
            Pair y = pair_poisoned(backend, out), dx = pair_poisoned(backend, shape);
            assert_ok(ops_oracle->ops->avg_pool_forward(ops_oracle, 0, &pools[p],
                                                        &y.reference, &x.reference));
            assert_ok(backend->ops->avg_pool_forward(backend, 0, &pools[p], &y.device,
                                                     &x.device));
            assert_like("y", backend, y, 0);
            assert_ok(ops_oracle->ops->avg_pool_backward(ops_oracle, 0, &pools[p],
                                                         &dx.reference, &dy.reference));
            assert_ok(backend->ops->avg_pool_backward(backend, 0, &pools[p], &dx.device,
                                                      &dy.device));
            assert_like("dx", backend, dx, 0);
            ops_release_to(0);
        }
}

/* Rows in the device's own type, and canonical as logits are. */
static void means_of_planes_have_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < 2 * IMAGE_SHAPES; s++) {
        Tensor shape = image_shape(s / 2);
        Tensor rows = tensor_2d(NULL, shape.shape[0], shape.shape[1]);
        bool canonical = s % 2 != 0;
        const float *host = short_random(tensor_elements(&rows), 2);
        Pair x = pair_of(backend, shape, short_random(tensor_elements(&shape), 1));
        Pair y = canonical ? canonical_pair_poisoned(backend, rows)
                           : pair_poisoned(backend, rows);
        Pair dy = canonical ? canonical_pair_of(backend, rows, host)
                            : pair_of(backend, rows, host);
        Pair dx = pair_poisoned(backend, shape);
        assert_ok(ops_oracle->ops->global_pool_forward(ops_oracle, 0, &y.reference,
                                                       &x.reference));
        assert_ok(backend->ops->global_pool_forward(backend, 0, &y.device, &x.device));
        assert_like("y", backend, y, 0);
        assert_ok(ops_oracle->ops->global_pool_backward(ops_oracle, 0, &dx.reference,
                                                        &dy.reference));
        assert_ok(backend->ops->global_pool_backward(backend, 0, &dx.device, &dy.device));
        assert_like("dx", backend, dx, 0);
        ops_release_to(0);
    }
}

/* More lines of pixels, and more images, than a grid has lines. */
static void pools_reach_every_image(void **state) {
    Backend *backend = *state;
    const Pool2d pool = {2, 1, 0};
    Tensor shape = tensor_4d(NULL, 35000, 1, 3, 2), out = tensor_4d(NULL, 35000, 1, 2, 1);
    Pair x = pair_of(backend, shape, with_ties(tensor_elements(&shape), 1));
    Pair dy = pair_of(backend, out, short_random(tensor_elements(&out), 2));
    Pair y = pair_poisoned(backend, out), dx = pair_poisoned(backend, shape);
    uint8_t *there = ops_memory(backend, 70000), *here = ops_memory(ops_oracle, 70000);
    assert_ok(ops_oracle->ops->max_pool_forward(ops_oracle, 0, &pool, &y.reference, here,
                                                &x.reference));
    assert_ok(
        backend->ops->max_pool_forward(backend, 0, &pool, &y.device, there, &x.device));
    assert_like("y", backend, y, 0);
    assert_ok(ops_oracle->ops->max_pool_backward(ops_oracle, 0, &pool, &dx.reference,
                                                 &dy.reference, here));
    assert_ok(
        backend->ops->max_pool_backward(backend, 0, &pool, &dx.device, &dy.device, there));
    assert_like("dx", backend, dx, 0);
    assert_ok(ops_oracle->ops->avg_pool_forward(ops_oracle, 0, &pool, &y.reference,
                                                &x.reference));
    assert_ok(backend->ops->avg_pool_forward(backend, 0, &pool, &y.device, &x.device));
    assert_like("mean", backend, y, 0);
    assert_ok(ops_oracle->ops->avg_pool_backward(ops_oracle, 0, &pool, &dx.reference,
                                                 &dy.reference));
    assert_ok(backend->ops->avg_pool_backward(backend, 0, &pool, &dx.device, &dy.device));
    assert_like("the mean's dx", backend, dx, 0);

    Tensor many = tensor_4d(NULL, 70000, 1, 1, 2), rows = tensor_2d(NULL, 70000, 1);
    Pair planes = pair_of(backend, many, short_random(140000, 3));
    Pair means = pair_poisoned(backend, rows), back = pair_poisoned(backend, many);
    assert_ok(ops_oracle->ops->global_pool_forward(ops_oracle, 0, &means.reference,
                                                   &planes.reference));
    assert_ok(backend->ops->global_pool_forward(backend, 0, &means.device, &planes.device));
    assert_like("means", backend, means, 0);
    ops_put(ops_oracle, &means.reference, ops_get(backend, &means.device));
    assert_ok(ops_oracle->ops->global_pool_backward(ops_oracle, 0, &back.reference,
                                                    &means.reference));
    assert_ok(backend->ops->global_pool_backward(backend, 0, &back.device, &means.device));
    assert_like("the means' dx", backend, back, 0);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(maxima_and_their_gradients_have_the_bits_of_the_reference),
        OPS_TEST(a_nan_wins_a_window_and_minus_infinity_can),
        OPS_TEST(windows_that_no_maximum_can_come_from_are_refused),
        OPS_TEST(means_and_their_gradients_have_the_bits_of_the_reference),
        OPS_TEST(means_of_planes_have_the_bits_of_the_reference),
        OPS_TEST(pools_reach_every_image),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
