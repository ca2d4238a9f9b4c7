/* The loops behind flat.h. Options that are the same for all elements are decided outside of the
 * loops, by inlined bodies with constant flags. */
#include "kernels/flat.h"

#include "kernels/element.h"
#include "kernels/uniforms.h"
#include "src/core/tree.h"

#include <assert.h>
#include <math.h>

void flat_accumulate(float *restrict y, const float *restrict x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] += x[i];
}

void flat_blend(float *restrict y, const float *restrict x, int64_t count, float rate,
                float scale) {
    float keep = 1.0f - rate, take = rate * scale;
    for (int64_t i = 0; i < count; i++)
        y[i] = element_blend(y[i], x[i], keep, take);
}

double flat_sum_squares(const float *x, int64_t count) {
    enum { LANES = 16 };
    double sums[LANES] = {0};
    int64_t whole = count - count % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int64_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)x[i + lane] * (double)x[i + lane]; /* exact product */
    for (int64_t i = whole; i < count; i++)
        sums[i - whole] += (double)x[i] * (double)x[i];
    for (int64_t width = LANES / 2; width > 0; width /= 2)
        for (int64_t lane = 0; lane < width; lane++)
            sums[lane] += sums[lane + width];
    return sums[0];
}

/* The tree over all chunks: added in the same order by every device. */
static double tree_sum(const double *values, int first, int end) {
    if (end - first == 1) return values[first];
    int split = tree_split(first, end);
    return tree_sum(values, first, split) + tree_sum(values, split, end);
}

void flat_judge(const double *sums, int64_t chunks, double clip_norm, const float *metrics,
                StepVerdict *verdict) {
    double norm = chunks > 0 ? __builtin_sqrt(tree_sum(sums, 0, (int)chunks)) : 0;
    float loss = metrics[METRIC_LOSS];
    bool clips = clip_norm > 0 && norm > clip_norm;
    bool finite = norm - norm == 0 && loss - loss == 0;
    *verdict = (StepVerdict){
        .norm = norm,
        .loss = loss,
        .correct = metrics[METRIC_CORRECT],
        .gradient_scale = clips ? (float)(clip_norm / (norm + 1e-6)) : 1.0f,
        .refused = !finite,
    };
}

static inline void sgd_loop(const OptimizerPass *pass, const OptimizerPiece *piece,
                            bool momentum, bool nesterov) {
    float *restrict w = pass->w + piece->first;
    float *restrict m = momentum ? pass->m + piece->first : NULL;
    const float *restrict g = pass->g + piece->first;
    float scale = pass->verdict->gradient_scale, decay = piece->weight_decay;
    float lr = pass->values->lr, mu = pass->momentum;
    for (int64_t i = 0; i < piece->count; i++) {
        float step = element_decayed(g[i], scale, decay, w[i]);
        if (momentum) {
            float moved = element_momentum(m[i], step, mu);
            m[i] = moved;
            step = nesterov ? element_momentum(moved, step, mu) : moved;
        }
        w[i] = element_descend(w[i], step, lr);
    }
}

void flat_sgd(const OptimizerPass *pass, const OptimizerPiece *piece) {
    if (pass->m == NULL)
        sgd_loop(pass, piece, false, false);
    else if (pass->nesterov)
        sgd_loop(pass, piece, true, true);
    else
        sgd_loop(pass, piece, true, false);
}

static inline void adam_loop(const OptimizerPass *pass, const OptimizerPiece *piece,
                             bool decoupled) {
    float *restrict w = pass->w + piece->first;
    float *restrict m = pass->m + piece->first;
    float *restrict v = pass->v + piece->first;
    const float *restrict g = pass->g + piece->first;
    const StepValues *values = pass->values;
    float scale = pass->verdict->gradient_scale, epsilon = pass->epsilon;
    float decay = decoupled ? 0.0f : piece->weight_decay;
    float shrink = (float)(1.0 - (double)values->lr * (double)piece->weight_decay);
    float beta1 = (float)pass->beta1, rest1 = (float)(1.0 - pass->beta1);
    float beta2 = (float)pass->beta2, rest2 = (float)(1.0 - pass->beta2);
    float step_size = values->lr / values->correction1;
    float correction2_sqrt = values->correction2_sqrt;
    for (int64_t i = 0; i < piece->count; i++) {
        float old = decoupled ? w[i] * shrink : w[i];
        float gradient = element_decayed(g[i], scale, decay, w[i]);
        m[i] = element_moment1(m[i], gradient, beta1, rest1);
        v[i] = element_moment2(v[i], gradient, beta2, rest2);
        w[i] = element_adam(old, m[i], v[i], step_size, correction2_sqrt, epsilon);
    }
}

void flat_adam(const OptimizerPass *pass, const OptimizerPiece *piece) {
    assert(pass->m != NULL && pass->v != NULL);
    if (pass->decoupled)
        adam_loop(pass, piece, true);
    else
        adam_loop(pass, piece, false);
}

void flat_relu(float *y, const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] = element_relu(x[i]);
}

void flat_relu_gradient(float *dx, const float *dy, const float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        dx[i] = element_relu_gradient(dy[i], y[i]);
}

void flat_add(float *y, const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

void flat_dropout(Rng rng, uint32_t first_sample, float rate, float *y, const float *x,
                  int64_t rows, int64_t columns) {
    float keep = 1.0f - rate;
    for (int64_t row = 0; row < rows; row++) {
        uint32_t sample = first_sample + (uint32_t)row;
        const float *from = x + row * columns;
        float *to = y + row * columns;
        for (int64_t e = 0; e < columns; e += UNIFORMS_GROUP) {
            float uniform[UNIFORMS_GROUP];
            uniforms_group(rng, sample, (uint32_t)(e / UNIFORMS_GROUP), uniform);
            int64_t count = columns - e < UNIFORMS_GROUP ? columns - e : UNIFORMS_GROUP;
#pragma GCC ivdep /* y may be x */
            for (int64_t i = 0; i < count; i++)
                to[e + i] = element_dropout(from[e + i], uniform[i], rate, keep);
        }
    }
}
