/* Memory, layouts, relu, addition and dropout on every device. Elementwise results are the same bits
 * on all devices: tolerance 0. */
#include "tests/ops/ops.h"

static Tensor shapes(int i) {
    switch (i) {
    case 0:
        return tensor_4d(NULL, 2, 16, 8, 8);
    case 1:
        return tensor_4d(NULL, 3, 17, 5, 7); /* just past a block of channels */
    case 2:
        return tensor_4d(NULL, 1, 3, 1, 1);
    case 3:
        return tensor_4d(NULL, 5, 6, 14, 14);
    case 4:
        return tensor_2d(NULL, 7, 33);
    default:
        return tensor_2d(NULL, 1, 1);
    }
}
enum { SHAPES = 6 };

static void memory_is_aligned_and_keeps_what_was_copied_in(void **state) {
    Backend *backend = *state;
    const size_t sizes[] = {1, 4, 63, 64, 65, 4096, 100001};
    for (int i = 0; i < 7; i++) {
        void *device = ops_memory(backend, sizes[i]);
        assert_int_equal((uintptr_t)device % 64, 0);
        char *in = (char *)ops_host(100001 / 4 + 1),
             *out = (char *)ops_host(100001 / 4 + 1);
        for (size_t k = 0; k < sizes[i]; k++)
            in[k] = (char)(k * 31 + 7);
        assert_ok(backend->ops->copy_in(backend, device, in, sizes[i]));
        assert_ok(backend->ops->finish(backend, 0));
        assert_ok(backend->ops->copy_out(backend, out, device, sizes[i]));
        assert_memory_equal(in, out, sizes[i]);
    }
    backend->ops->release(backend, NULL);
}

static void a_device_says_what_it_is(void **state) {
    Backend *backend = *state;
    assert_true(backend->workers >= 1);
    assert_true(strlen(backend->kind) > 0);
    assert_memory_equal(backend->kind, backend->ops->name, strlen(backend->ops->name));
}

static void a_layout_depends_on_the_shape_alone_and_holds_all_elements(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < SHAPES; i++) {
        Tensor first = shapes(i), again = shapes(i);
        again.layout = 99;
        size_t bytes = backend->ops->layout(backend, &first);
        assert_int_equal(backend->ops->layout(backend, &again), bytes);
        assert_int_equal(first.layout, again.layout);
        assert_true(bytes >= (size_t)tensor_elements(&first) * sizeof(float));
        if (first.rank == 2) assert_int_equal(first.layout, 0);
    }
}

static void reordering_there_and_back_changes_nothing(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < SHAPES; i++) {
        Tensor shape = shapes(i);
        int64_t count = tensor_elements(&shape);
        const float *x = ops_random(count, 1);
        Tensor there = ops_activation_of(backend, shape, x);
        ops_assert_bits("x", ops_get(backend, &there), x, count);
    }
}

static void flattening_keeps_the_canonical_order(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < 4; i++) {
        Tensor shape = shapes(i);
        int64_t count = tensor_elements(&shape);
        const float *x = ops_random(count, 1);
        Tensor deep = ops_activation_of(backend, shape, x);
        Tensor flat = ops_activation(
            backend, tensor_2d(NULL, shape.shape[0], count / shape.shape[0]));
        assert_ok(backend->ops->reorder(backend, 0, &flat, &deep));
        ops_assert_bits("flat", ops_get(backend, &flat), x, count);
        Tensor back = ops_activation(backend, shape);
        assert_ok(backend->ops->reorder(backend, 0, &back, &flat));
        ops_assert_bits("back", ops_get(backend, &back), x, count);
    }
}

static void relu_keeps_what_is_positive_and_its_gradient_there(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < SHAPES; i++) {
        Tensor shape = shapes(i);
        int64_t count = tensor_elements(&shape);
        float *x = ops_random(count, 1), *dy = ops_random(count, 2);
        float *want = ops_host(count), *want_dx = ops_host(count);
        for (int64_t k = 0; k < count; k++) {
            if (k % 5 == 3) x[k] = 0;
            want[k] = x[k] > 0 ? x[k] : 0;
            want_dx[k] = x[k] > 0 ? dy[k] : 0;
        }
        Tensor tx = ops_activation_of(backend, shape, x),
               y = ops_activation(backend, shape);
        Tensor tdy = ops_activation_of(backend, shape, dy),
               dx = ops_activation(backend, shape);
        assert_ok(backend->ops->relu_forward(backend, 0, &y, &tx));
        assert_ok(backend->ops->relu_backward(backend, 0, &dx, &tdy, &y));
        ops_assert_near("y", ops_get(backend, &y), want, count, 0);
        ops_assert_near("dx", ops_get(backend, &dx), want_dx, count, 0);
        assert_ok(backend->ops->relu_forward(backend, 0, &tx, &tx));
        assert_ok(backend->ops->relu_backward(backend, 0, &tdy, &tdy, &y));
        ops_assert_near("y in place", ops_get(backend, &tx), want, count, 0);
        ops_assert_near("dx in place", ops_get(backend, &tdy), want_dx, count, 0);
        ops_release_all(NULL);
    }
}

static void relu_does_not_hide_a_nan(void **state) {
    Backend *backend = *state;
    const float x[] = {1, NAN, -1, INFINITY};
    Tensor y = ops_activation_of(backend, tensor_2d(NULL, 2, 2), x);
    assert_ok(backend->ops->relu_forward(backend, 0, &y, &y));
    const float *got = ops_get(backend, &y);
    assert_true(isnan(got[1]) && got[0] == 1 && got[2] == 0 && isinf(got[3]));
}

static void addition_is_exactly_rounded_and_may_be_in_place(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < SHAPES; i++) {
        Tensor shape = shapes(i);
        int64_t count = tensor_elements(&shape);
        const float *a = ops_random(count, 1), *b = ops_random(count, 2);
        float *want = ops_host(count);
        for (int64_t k = 0; k < count; k++)
            want[k] = a[k] + b[k];
        Tensor ta = ops_activation_of(backend, shape, a);
        Tensor tb = ops_activation_of(backend, shape, b),
               y = ops_activation(backend, shape);
        assert_ok(backend->ops->add(backend, 0, &y, &ta, &tb));
        ops_assert_bits("y", ops_get(backend, &y), want, count);
        assert_ok(backend->ops->add(backend, 0, &ta, &ta, &tb));
        ops_assert_bits("y over a", ops_get(backend, &ta), want, count);
        ops_release_all(NULL);
    }
}

enum { STEP = 17 };
static const Rng mask = {.seed = 42, .stream = RNG_DROPOUT | 3 << 8, .time = STEP};
static const Rng layer = {.seed = 42, .stream = RNG_DROPOUT | 3 << 8};

static void dropout_keeps_what_the_random_function_says(void **state) {
    Backend *backend = *state;
    const float rates[] = {0.1f, 0.5f, 0.9f};
    for (int i = 0; i < SHAPES; i++)
        for (int r = 0; r < 3; r++) {
            Tensor shape = shapes(i);
            int64_t count = tensor_elements(&shape), sample = count / shape.shape[0];
            const float *x = ops_random(count, 1);
            float *want = ops_host(count);
            for (int64_t k = 0; k < count; k++) {
                float u = rng_uniform(mask, 1000 + (uint32_t)(k / sample),
                                      (uint32_t)(k % sample));
                want[k] = u >= rates[r] ? x[k] / (1.0f - rates[r]) : 0;
            }
            Tensor tx = ops_activation_of(backend, shape, x),
                   y = ops_activation(backend, shape);
            assert_ok(backend->ops->dropout(backend, 0, layer, ops_step(backend, STEP),
                                            1000, rates[r], &y, &tx));
            ops_assert_near("y", ops_get(backend, &y), want, count, 0);
            assert_ok(backend->ops->dropout(backend, 1, layer, ops_step(backend, STEP),
                                            1000, rates[r], &tx, &tx));
            ops_assert_near("y in place", ops_get(backend, &tx), want, count, 0);
            ops_release_all(NULL);
        }
}

static void an_element_whose_number_equals_the_rate_is_kept(void **state) {
    Backend *backend = *state;
    const float x[] = {1, 1, 1, 1, 1, 1};
    float rate = rng_uniform(mask, 8, 2);
    Tensor y = ops_activation_of(backend, tensor_2d(NULL, 2, 3), x);
    assert_ok(
        backend->ops->dropout(backend, 0, layer, ops_step(backend, STEP), 7, rate, &y, &y));
    assert_true(ops_get(backend, &y)[5] > 1);
}

static void dropout_of_rate_zero_changes_nothing(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(33, 1);
    Tensor y = ops_activation_of(backend, tensor_2d(NULL, 3, 11), x);
    assert_ok(
        backend->ops->dropout(backend, 0, layer, ops_step(backend, STEP), 0, 0.0f, &y, &y));
    ops_assert_bits("y", ops_get(backend, &y), x, 33);
}

static void dropout_drops_its_rate_of_many(void **state) {
    Backend *backend = *state;
    enum { COUNT = 40000 };
    float *x = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        x[i] = 1;
    Tensor y = ops_activation_of(backend, tensor_2d(NULL, 40, COUNT / 40), x);
    assert_ok(
        backend->ops->dropout(backend, 0, layer, ops_step(backend, STEP), 0, 0.3f, &y, &y));
    const float *got = ops_get(backend, &y);
    int dropped = 0;
    for (int i = 0; i < COUNT; i++)
        dropped += got[i] == 0;
    assert_in_range(dropped, 12000 - 400,
                    12000 + 400); /* more than four standard deviations */
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(memory_is_aligned_and_keeps_what_was_copied_in),
        OPS_TEST(a_device_says_what_it_is),
        OPS_TEST(a_layout_depends_on_the_shape_alone_and_holds_all_elements),
        OPS_TEST(reordering_there_and_back_changes_nothing),
        OPS_TEST(flattening_keeps_the_canonical_order),
        OPS_TEST(relu_keeps_what_is_positive_and_its_gradient_there),
        OPS_TEST(relu_does_not_hide_a_nan),
        OPS_TEST(addition_is_exactly_rounded_and_may_be_in_place),
        OPS_TEST(dropout_keeps_what_the_random_function_says),
        OPS_TEST(an_element_whose_number_equals_the_rate_is_kept),
        OPS_TEST(dropout_of_rate_zero_changes_nothing),
        OPS_TEST(dropout_drops_its_rate_of_many),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
