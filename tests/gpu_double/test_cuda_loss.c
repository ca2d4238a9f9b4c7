/* The loss of the CUDA device against the reference: with few classes its bits, with many its numbers. */
#include "tests/gpu_double/cuda_ops.h"

enum { FEW = 64 }; /* classes up to which a row is added in the reference's order */

typedef struct {
    float metrics[METRICS];
    const float *dlogits;
} Loss;

static Loss loss_of(Backend *backend, const float *logits, const int32_t *labels,
                    int64_t rows, int64_t classes, float smoothing, bool gradient) {
    Tensor x = ops_canonical_of(backend, tensor_2d(NULL, rows, classes), logits);
    Tensor dx = ops_canonical(backend, tensor_2d(NULL, rows, classes));
    float *metrics = ops_memory(backend, METRICS * sizeof *metrics);
    const int32_t *there = ops_placed(backend, labels, (size_t)rows * sizeof *labels);
    assert_ok(backend->ops->softmax_cross_entropy(backend, 0, smoothing, 0.125f, metrics,
                                                  gradient ? &dx : NULL, &x, there));
    Loss loss = {.dlogits = ops_get(backend, &dx)};
    ops_fetched(backend, loss.metrics, metrics, sizeof loss.metrics);
    return loss;
}

static int32_t *labels_of(int64_t rows, int64_t classes) {
    int32_t *labels = (int32_t *)ops_host(rows);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = (int32_t)((i * 37 + 5) % classes);
    return labels;
}

static void loss_and_gradient_are_those_of_the_reference(void **state) {
    Backend *backend = *state;
    const int64_t shapes[][2] = {{1, 1},  {1, 2},   {32, 10},  {300, 10},
                                 {5, 64}, {64, 65}, {3, 1000}, {2, 5000}};
    const float smoothings[] = {0, 0.1f, 1};
    for (int i = 0; i < 8; i++)
        for (int s = 0; s < 3; s++) {
            int64_t rows = shapes[i][0], classes = shapes[i][1], count = rows * classes;
            float *logits = ops_random(count, 1);
            for (int64_t k = 0; k < count; k++)
                logits[k] *= 6;
            const int32_t *labels = labels_of(rows, classes);
            Loss want =
                loss_of(ops_oracle, logits, labels, rows, classes, smoothings[s], true);
            Loss got = loss_of(backend, logits, labels, rows, classes, smoothings[s], true);
            /* a double sum in another order, rounded once */
            ops_assert_near("loss", got.metrics, want.metrics, 1, 1.2e-7);
            ops_assert_bits("counts", got.metrics + 1, want.metrics + 1, METRICS - 1);
            if (classes <= FEW)
                ops_assert_bits("dlogits", got.dlogits, want.dlogits, count);
            else
                ops_assert_near("dlogits", got.dlogits, want.dlogits, count, 2.4e-7);
            Loss alone =
                loss_of(backend, logits, labels, rows, classes, smoothings[s], false);
            ops_assert_bits("without a gradient", alone.metrics, got.metrics, METRICS);
            ops_release_to(0);
        }
}

/* Equal logits: the place of a label is its index. */
static void ties_are_the_lower_indexs(void **state) {
    Backend *backend = *state;
    const int64_t classes[] = {10, 100};
    for (int i = 0; i < 2; i++) {
        const float *logits = ops_host(12 * classes[i]);
        int32_t labels[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0};
        Loss loss = loss_of(backend, logits, labels, 12, classes[i], 0, true);
        assert_true(loss.metrics[METRIC_CORRECT] == 3 && loss.metrics[METRIC_TOP5] == 7 &&
                    loss.metrics[METRIC_COUNT] == 12);
    }
}

/* Neither may read outside of the row, and the step's verdict must refuse. */
static void a_label_that_is_no_class_and_a_nan_make_the_loss_nan(void **state) {
    Backend *backend = *state;
    const int64_t classes[] = {10, 100};
    for (int i = 0; i < 2; i++)
        for (int32_t wrong = 0; wrong < 3; wrong++) {
            float *logits = ops_random(2 * classes[i], 1);
            int32_t labels[2] = {1, 2};
            if (wrong == 0) labels[0] = -1;
            if (wrong == 1) labels[1] = (int32_t)classes[i];
            if (wrong == 2) logits[3] = NAN;
            Loss loss = loss_of(backend, logits, labels, 2, classes[i], 0, true);
            assert_true(isnan(loss.metrics[METRIC_LOSS]));
        }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(loss_and_gradient_are_those_of_the_reference),
        OPS_TEST(ties_are_the_lower_indexs),
        OPS_TEST(a_label_that_is_no_class_and_a_nan_make_the_loss_nan),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
