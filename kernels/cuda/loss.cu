/* Softmax cross-entropy in the stable form of kernels/loss.c: with top = max x, total = Σ e^(x − top),
 *   loss = log total + Σ target · (top − x),   p = e^(x − top) / total,   dx = scale · (p − target).
 * A few classes are one thread's row, in the CPU's order and so with its bits; of many, a block adds a row
 * in an order of its own. Sums are in double. A second kernel adds the rows. */
#include "launch.h"

#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/element.h"

#include <assert.h>

enum { THREADS = 256, FEW = 64 /* classes of a row that one thread takes */ };

typedef struct {
    int64_t rows, classes;
    double smoothing, uniform; /* uniform = smoothing / classes */
    float scale;
    const float *logits;
    const int32_t *labels;
    float *dlogits;  /* or NULL */
    double *losses;  /* of the rows, */
    int32_t *places; /* and how many classes are larger than the label's */
} Loss;

/* A tie: those before the label. A NaN counts as larger, so that a diverged model is not called right. */
DEVICE bool is_larger(float other, int64_t index, float labelled, int64_t label) {
    return !(other < labelled || (other == labelled && index >= label));
}

/* What does not name a class gives NaN, which refuses the step. */
DEVICE bool is_class(const Loss &l, int64_t label) {
    return label >= 0 && label < l.classes;
}

DEVICE void store_row(const Loss &l, int64_t row, float top, double total, float labelled,
                      double spread, int64_t place, bool known) {
    double loss =
        element_log64(total) + (1.0 - l.smoothing) * ((double)top - (double)labelled);
    if (l.smoothing > 0.0) loss += l.uniform * spread;
    l.losses[row] = known ? loss : element_from_bits64(0x7ff8000000000000u);
    l.places[row] = (int32_t)place;
}

DEVICE float gradient(const Loss &l, float x, float top, float total, bool labelled) {
    float target = labelled ? (float)(1.0 - l.smoothing + l.uniform) : (float)l.uniform;
    return l.scale * (element_exp(x - top) / total - target);
}

KERNEL void few_classes_kernel(Loss l) {
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= l.rows) return;
    const float *x = l.logits + row * l.classes;
    const int64_t label = l.labels[row];
    const bool known = is_class(l, label);
    const float labelled = known ? x[label] : 0.0f;
    float top = x[0];
    for (int64_t j = 1; j < l.classes; j++)
        top = x[j] > top ? x[j] : top;
    double total = 0.0, spread = 0.0;
    int64_t place = 0;
    for (int64_t j = 0; j < l.classes; j++) {
        total += (double)element_exp(x[j] - top);
        spread += (double)top - (double)x[j];
        place += is_larger(x[j], j, labelled, label);
    }
    store_row(l, row, top, total, labelled, spread, place, known);
    if (l.dlogits == nullptr) return;
    for (int64_t j = 0; j < l.classes; j++)
        l.dlogits[row * l.classes + j] = gradient(l, x[j], top, (float)total, j == label);
}

/* The largest of the block's, on every thread. */
DEVICE float block_top(float mine, float *all) {
    all[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x < BLOCK_SUM_COLUMNS) {
        for (int other = (int)threadIdx.x; other < THREADS; other += BLOCK_SUM_COLUMNS)
            mine = all[other] > mine ? all[other] : mine;
        all[threadIdx.x] = mine;
    }
    __syncthreads();
    for (int other = 0; other < BLOCK_SUM_COLUMNS; other++)
        mine = all[other] > mine ? all[other] : mine;
    return mine;
}

KERNEL void many_classes_kernel(Loss l) {
    SHARED(float, tops, THREADS);
    SHARED(double, all, 3 * THREADS);
    const int64_t row = blockIdx.x;
    const float *x = l.logits + row * l.classes;
    const int64_t label = l.labels[row];
    const bool known = is_class(l, label);
    const float labelled = known ? x[label] : 0.0f;
    float top = element_from_bits(0xff800000u); /* −infinity */
    for (int64_t j = threadIdx.x; j < l.classes; j += THREADS)
        top = x[j] > top ? x[j] : top;
    top = block_top(top, tops);

    double sums[3] = {0.0, 0.0, 0.0}; /* total, spread, place */
    for (int64_t j = threadIdx.x; j < l.classes; j += THREADS) {
        sums[0] += (double)element_exp(x[j] - top);
        sums[1] += (double)top - (double)x[j];
        sums[2] += is_larger(x[j], j, labelled, label) ? 1.0 : 0.0;
    }
    block_sum(sums, all);
    if (threadIdx.x == 0)
        store_row(l, row, top, sums[0], labelled, sums[1], (int64_t)sums[2], known);
    if (l.dlogits == nullptr) return;
    for (int64_t j = threadIdx.x; j < l.classes; j += THREADS)
        l.dlogits[row * l.classes + j] = gradient(l, x[j], top, (float)sums[0], j == label);
}

KERNEL void rows_kernel(Loss l, float *metrics) {
    SHARED(double, all, 3 * THREADS);
    double sums[3] = {0.0, 0.0, 0.0}; /* loss, correct, among the five largest */
    for (int64_t row = threadIdx.x; row < l.rows; row += THREADS) {
        sums[0] += l.losses[row];
        sums[1] += l.places[row] < 1 ? 1.0 : 0.0;
        sums[2] += l.places[row] < 5 ? 1.0 : 0.0;
    }
    block_sum(sums, all);
    if (threadIdx.x >= METRICS) return;
    float metric = 0.0f;
    if (threadIdx.x == METRIC_LOSS) metric = (float)sums[0];
    if (threadIdx.x == METRIC_CORRECT) metric = (float)sums[1];
    if (threadIdx.x == METRIC_TOP5) metric = (float)sums[2];
    if (threadIdx.x == METRIC_COUNT) metric = (float)l.rows;
    metrics[threadIdx.x] = metric;
}

Status cuda_softmax_cross_entropy(Backend *self, int worker, float smoothing, float scale,
                                  float *metrics, Tensor *dlogits, const Tensor *logits,
                                  const int32_t *labels) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    int64_t rows = logits->shape[0], classes = logits->shape[1];
    assert(logits->layout == LAYOUT_CANONICAL && logits->rank == 2);
    assert(dlogits == NULL || dlogits->layout == LAYOUT_CANONICAL);
    void *workspace;
    TRY(cuda_workspace(cuda, (size_t)rows * (sizeof(double) + sizeof(int32_t)),
                       &workspace));
    double *losses = static_cast<double *>(workspace);
    Loss loss = {rows,
                 classes,
                 (double)smoothing,
                 (double)smoothing / (double)classes,
                 scale,
                 logits->data,
                 labels,
                 dlogits == NULL ? nullptr : dlogits->data,
                 losses,
                 reinterpret_cast<int32_t *>(losses + rows)};
    if (rows > 0 && classes <= FEW)
        TRY(LAUNCH(cuda->work, (rows + THREADS - 1) / THREADS, 1, THREADS,
                   few_classes_kernel, loss));
    else if (rows > 0)
        TRY(LAUNCH(cuda->work, rows, 1, THREADS, many_classes_kernel, loss));
    return LAUNCH(cuda->work, 1, 1, THREADS, rows_kernel, loss, metrics);
}
