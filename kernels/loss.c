/* Softmax cross-entropy in the stable form: with top = max x and total = Σ e^(x − top),
 *   loss = log total + Σ target · (top − x),   p = e^(x − top) / total,   dx = scale · (p − target).
 * Exponentials are float, in vectors; every sum is double and in index order, so the sums' own
 * rounding is below that of the float logits. */
#include "kernels/loss.h"

#include "kernels/element.h"

#include <assert.h>
#include <string.h>

enum {
    BLOCK = 64
}; /* exponentials at a time: small enough for the stack and the first cache */

static float row_top(const float *x, int64_t classes) {
    float top = x[0];
    for (int64_t j = 1; j < classes; j++)
        top = x[j] > top ? x[j] : top;
    return top;
}

static double row_total(const float *x, int64_t classes, float top) {
    double total = 0.0;
    for (int64_t first = 0; first < classes; first += BLOCK) {
        float e[BLOCK];
        int64_t count = classes - first < BLOCK ? classes - first : BLOCK;
        for (int64_t j = 0; j < count; j++)
            e[j] = element_exp(x[first + j] - top);
        for (int64_t j = 0; j < count; j++)
            total += (double)e[j];
    }
    return total;
}

/* How many classes are larger than the label's (a tie: those before it). A NaN counts as larger,
 * so that a diverged model is not called right. */
static int64_t row_place(const float *x, int64_t classes, int64_t label) {
    int64_t place = 0;
    for (int64_t j = 0; j < classes; j++)
        place += !(x[j] < x[label] || (x[j] == x[label] && j >= label));
    return place;
}

void loss_softmax_cross_entropy(float smoothing, float scale, float *metrics,
                                float *dlogits, const float *logits, const int32_t *labels,
                                int64_t rows, int64_t classes) {
    double uniform = (double)smoothing / (double)classes;
    double loss = 0.0;
    int64_t correct = 0, top5 = 0;
    for (int64_t row = 0; row < rows; row++) {
        const float *x = logits + row * classes;
        int64_t label = labels[row];
        assert(label >= 0 && label < classes);
        float top = row_top(x, classes);
        double total = row_total(x, classes, top);

        double row_loss = element_log64(total) +
                          (1.0 - (double)smoothing) * ((double)top - (double)x[label]);
        if (smoothing > 0.0f)
            for (int64_t j = 0; j < classes; j++)
                row_loss += uniform * ((double)top - (double)x[j]);
        loss += row_loss;
        int64_t place = row_place(x, classes, label);
        correct += place < 1;
        top5 += place < 5;

        if (dlogits == NULL) continue;
        float *dx = dlogits + row * classes;
        float sum = (float)total, low = (float)uniform;
        float high = (float)(1.0 - (double)smoothing + uniform);
        for (int64_t j = 0; j < classes; j++)
            dx[j] = scale * (element_exp(x[j] - top) / sum - low);
        dx[label] = scale * (element_exp(x[label] - top) / sum - high);
    }
    memset(metrics, 0, METRICS * sizeof *metrics);
    metrics[METRIC_LOSS] = (float)loss;
    metrics[METRIC_CORRECT] = (float)correct;
    metrics[METRIC_TOP5] = (float)top5;
    metrics[METRIC_COUNT] = (float)rows;
}
