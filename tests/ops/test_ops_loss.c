/* Softmax cross-entropy on every device, against its definition in long double and against finite
 * differences. */
#include "tests/ops/ops.h"

typedef struct {
    float metrics[METRICS];
    const float *dlogits;
} Loss;

static Loss loss_of(Backend *backend, const float *logits, const int32_t *labels,
                    int64_t rows, int64_t classes, float smoothing, float scale) {
    Tensor x = ops_canonical_of(backend, tensor_2d(NULL, rows, classes), logits);
    Tensor dx = ops_canonical(backend, tensor_2d(NULL, rows, classes));
    float *metrics = ops_memory(backend, METRICS * sizeof *metrics);
    size_t bytes = (size_t)rows * sizeof *labels;
    int32_t *device_labels = ops_memory(backend, bytes);
    assert_ok(backend->ops->copy_in(backend, device_labels, labels, bytes));
    assert_ok(backend->ops->softmax_cross_entropy(backend, 0, smoothing, scale, metrics,
                                                  &dx, &x, device_labels));
    Loss loss = {.dlogits = ops_get(backend, &dx)};
    assert_ok(backend->ops->copy_out(backend, loss.metrics, metrics, sizeof loss.metrics));
    return loss;
}

/* The definition, as it stands; logits are small enough for it. */
static double defined(const float *logits, const int32_t *labels, int64_t rows,
                      int64_t classes, float smoothing, float scale, float *dlogits) {
    long double loss = 0;
    for (int64_t n = 0; n < rows; n++) {
        long double total = 0;
        for (int64_t j = 0; j < classes; j++)
            total += expl((long double)logits[n * classes + j]);
        for (int64_t j = 0; j < classes; j++) {
            long double p = expl((long double)logits[n * classes + j]) / total;
            long double target = (long double)smoothing / (long double)classes;
            if (labels[n] == j) target += 1 - (long double)smoothing;
            loss -= target * logl(p);
            dlogits[n * classes + j] = (float)((long double)scale * (p - target));
        }
    }
    return (double)loss;
}

static int32_t *labels_of(int64_t rows, int64_t classes) {
    int32_t *labels = (int32_t *)ops_host(rows);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = (int32_t)((i * 37 + 5) % classes);
    return labels;
}

/* Exponentials are within 2 ulp, the loss is summed over rows: 1e-6 of the largest. */
static void loss_and_gradient_are_those_of_the_definition(void **state) {
    const int64_t shapes[][2] = {{1, 1}, {1, 2}, {32, 10}, {5, 100}, {3, 1000}, {64, 65}};
    const float smoothings[] = {0, 0.1f, 1};
    for (int i = 0; i < 6; i++)
        for (int s = 0; s < 3; s++) {
            int64_t rows = shapes[i][0], classes = shapes[i][1], count = rows * classes;
            float *logits = ops_random(count, 1), *want = ops_host(count);
            for (int64_t k = 0; k < count; k++)
                logits[k] *= 6;
            const int32_t *labels = labels_of(rows, classes);
            Loss got = loss_of(*state, logits, labels, rows, classes, smoothings[s], 0.25f);
            double loss =
                defined(logits, labels, rows, classes, smoothings[s], 0.25f, want);
            assert_true(fabs((double)got.metrics[METRIC_LOSS] - loss) <= 1e-6 * (1 + loss));
            for (int64_t k = 0; k < count; k++)
                assert_true(fabs((double)got.dlogits[k] - (double)want[k]) <= 1e-6 * 0.25);
            assert_true(got.metrics[METRIC_COUNT] == (float)rows);
            for (int m = METRIC_COUNT + 1; m < METRICS; m++)
                assert_true(got.metrics[m] == 0);
            ops_release_all(NULL);
        }
}

static void every_device_gives_the_loss_of_the_reference(void **state) {
    const float *logits = ops_random(640, 3);
    const int32_t *labels = labels_of(64, 10);
    Loss got = loss_of(*state, logits, labels, 64, 10, 0.1f, 1.0f / 64);
    Loss want = loss_of(ops_oracle, logits, labels, 64, 10, 0.1f, 1.0f / 64);
    ops_assert_near("metrics", got.metrics, want.metrics, METRICS, 1e-6);
    ops_assert_near("dlogits", got.dlogits, want.dlogits, 640, 1e-6);
}

static void a_label_is_counted_where_it_stands_among_the_largest(void **state) {
    const float logits[] = {
        7, 6, 5, 4, 3, 2, 1, /* label first: correct and in the top five */
        1, 2, 3, 4, 5, 6, 7, /* label third */
        7, 6, 5, 4, 3, 2, 1, /* label fifth: just in */
        7, 6, 5, 4, 3, 2, 1, /* label sixth: out */
        2, 2, 2, 2, 2, 2, 2, /* all equal, label 0: the lower index is the larger */
        2, 2, 2, 2, 2, 2, 2, /* all equal, label 4: fifth */
        2, 2, 2, 2, 2, 2, 2, /* all equal, label 5: out */
    };
    const int32_t labels[] = {0, 4, 4, 5, 0, 4, 5};
    Loss got = loss_of(*state, logits, labels, 7, 7, 0, 1);
    assert_true(got.metrics[METRIC_CORRECT] == 2);
    assert_true(got.metrics[METRIC_TOP5] == 5);
    assert_true(got.metrics[METRIC_COUNT] == 7);
}

static void fewer_than_five_classes_are_all_in_the_top_five(void **state) {
    const float logits[] = {1, 2, 3, 3, 2, 1};
    const int32_t labels[] = {0, 0};
    Loss got = loss_of(*state, logits, labels, 2, 3, 0, 1);
    assert_true(got.metrics[METRIC_CORRECT] == 1);
    assert_true(got.metrics[METRIC_TOP5] == 2);
}

static void huge_logits_neither_overflow_nor_lose_the_loss(void **state) {
    const float logits[] = {1e4f, 0, -1e4f, 1e4f, 0, -1e4f};
    const int32_t labels[] = {0, 1};
    Loss got = loss_of(*state, logits, labels, 2, 3, 0, 1);
    assert_true(got.metrics[METRIC_LOSS] == 1e4f);
    const float want[] = {0, 0, 0, 1, -1, 0};
    ops_assert_near("dlogits", got.dlogits, want, 6, 0);
}

static void a_nan_shows_in_the_loss_and_is_not_called_correct(void **state) {
    const float logits[] = {NAN, 1, 2, 3, 1, NAN};
    const int32_t labels[] = {2, 0};
    Loss got = loss_of(*state, logits, labels, 2, 3, 0, 1);
    assert_true(isnan(got.metrics[METRIC_LOSS]));
    assert_true(got.metrics[METRIC_CORRECT] == 0);
}

static void the_gradient_may_be_left_out(void **state) {
    Backend *backend = *state;
    const float *logits = ops_random(50, 1);
    const int32_t *labels = labels_of(5, 10);
    Loss with = loss_of(backend, logits, labels, 5, 10, 0.1f, 1);
    Tensor x = ops_canonical_of(backend, tensor_2d(NULL, 5, 10), logits);
    float *metrics = ops_memory(backend, sizeof with.metrics), host[METRICS];
    int32_t *device_labels = ops_memory(backend, 5 * sizeof *labels);
    assert_ok(backend->ops->copy_in(backend, device_labels, labels, 5 * sizeof *labels));
    assert_ok(backend->ops->softmax_cross_entropy(backend, 1, 0.1f, 1, metrics, NULL, &x,
                                                  device_labels));
    assert_ok(backend->ops->finish(backend, 1));
    assert_ok(backend->ops->copy_out(backend, host, metrics, sizeof host));
    ops_assert_bits("metrics", host, with.metrics, METRICS);
}

/* ---- finite differences of the loss itself: rounding 2^-24 · 12 / h, truncation h² */

typedef struct {
    Backend *backend;
    float *logits;
    const int32_t *labels;
} Scalar;

static double value(void *context) {
    Scalar *s = context;
    return (double)loss_of(s->backend, s->logits, s->labels, 4, 7, 0.1f, 1)
        .metrics[METRIC_LOSS];
}

static void the_gradient_is_that_of_finite_differences(void **state) {
    Scalar s = {.backend = *state, .logits = ops_random(28, 5), .labels = labels_of(4, 7)};
    const float *dx = loss_of(*state, s.logits, s.labels, 4, 7, 0.1f, 1).dlogits;
    ops_assert_gradient("dlogits", value, &s, s.logits, dx, 28, 0.02f, 2e-4);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(loss_and_gradient_are_those_of_the_definition),
        OPS_TEST(every_device_gives_the_loss_of_the_reference),
        OPS_TEST(a_label_is_counted_where_it_stands_among_the_largest),
        OPS_TEST(fewer_than_five_classes_are_all_in_the_top_five),
        OPS_TEST(huge_logits_neither_overflow_nor_lose_the_loss),
        OPS_TEST(a_nan_shows_in_the_loss_and_is_not_called_correct),
        OPS_TEST(the_gradient_may_be_left_out),
        OPS_TEST(the_gradient_is_that_of_finite_differences),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
