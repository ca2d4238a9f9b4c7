/* The loops behind flat.h. Options that are the same for all elements are decided outside of the
 * loops, by inlined bodies with constant flags. */
#include "kernels/flat.h"

#include "kernels/element.h"
#include "kernels/uniforms.h"
#include "src/core/tree.h"

#include <assert.h>
#include <immintrin.h>
#include <math.h>

void flat_accumulate(float *restrict y, const float *restrict x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] += x[i];
}

void flat_blend(float *y, const float *from, const float *x, int64_t count, float rate,
                float scale) {
    float keep = 1.0f - rate, take = rate * scale;
#pragma GCC ivdep /* y may be from */
    for (int64_t i = 0; i < count; i++)
        y[i] = element_blend(from[i], x[i], keep, take);
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

/* ---- optimizers: one body, in which the kind is a constant */

#define INLINED static inline __attribute__((always_inline))

typedef enum { SGD, SGD_MOMENTUM, SGD_NESTEROV, ADAM, ADAMW } Kind;

/* What is the same for all parameters of a piece. */
typedef struct {
    float scale, decay, shrink, lr, momentum;
    float beta1, rest1, beta2, rest2, epsilon, step_size, correction2_sqrt;
} Factors;

/* Where a stretch of a piece is read and written. */
typedef struct {
    const float *w_from, *m_from, *v_from, *g;
    float *w, *m, *v;
} Stretch;

INLINED Factors factors_of(Kind kind, const OptimizerPass *pass,
                           const OptimizerPiece *piece) {
    const StepValues *values = pass->values;
    Factors f = {.scale = pass->verdict->gradient_scale,
                 .decay = kind == ADAMW ? 0.0f : piece->weight_decay,
                 .lr = values->lr,
                 .momentum = pass->momentum};
    if (kind < ADAM) return f;
    f.shrink = (float)(1.0 - (double)values->lr * (double)piece->weight_decay);
    f.beta1 = (float)pass->beta1, f.rest1 = (float)(1.0 - pass->beta1);
    f.beta2 = (float)pass->beta2, f.rest2 = (float)(1.0 - pass->beta2);
    f.epsilon = pass->epsilon;
    f.step_size = values->lr / values->correction1;
    f.correction2_sqrt = values->correction2_sqrt;
    return f;
}

INLINED void update(Kind kind, Factors f, Stretch at, int64_t count) {
#pragma GCC ivdep /* what is written may be what is read */
    for (int64_t i = 0; i < count; i++) {
        float w = at.w_from[i], step = element_decayed(at.g[i], f.scale, f.decay, w);
        if (kind >= ADAM) {
            float m = element_moment1(at.m_from[i], step, f.beta1, f.rest1);
            float v = element_moment2(at.v_from[i], step, f.beta2, f.rest2);
            at.m[i] = m;
            at.v[i] = v;
            at.w[i] = element_adam(kind == ADAMW ? w * f.shrink : w, m, v, f.step_size,
                                   f.correction2_sqrt, f.epsilon);
            continue;
        }
        if (kind != SGD) {
            float moved = element_momentum(at.m_from[i], step, f.momentum);
            at.m[i] = moved;
            step = kind == SGD_NESTEROV ? element_momentum(moved, step, f.momentum) : moved;
        }
        at.w[i] = element_descend(w, step, f.lr);
    }
}

/* Past the caches: lines that are written whole need not be read before. */
INLINED void stream(float *to, const float *from, int64_t count) {
    for (int64_t i = 0; i < count; i += 8)
        _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
}

/* Floats: so few that a processor computes the next stretch while it stores this one. */
enum { STRETCH = 64 };

/* [first, first + count) of a piece out of place. */
INLINED void update_away(Kind kind, Factors f, Stretch at, int64_t first, int64_t count) {
    _Alignas(64) float w[STRETCH], m[STRETCH], v[STRETCH];
    Stretch here = {.w_from = at.w_from + first, .g = at.g + first, .w = w};
    if (kind != SGD) here.m_from = at.m_from + first, here.m = m;
    if (kind >= ADAM) here.v_from = at.v_from + first, here.v = v;
    update(kind, f, here, count);
    stream(at.w + first, w, count);
    if (kind != SGD) stream(at.m + first, m, count);
    if (kind >= ADAM) stream(at.v + first, v, count);
}

INLINED void update_all_away(Kind kind, Factors f, Stretch at, int64_t count) {
    int64_t whole = count - count % STRETCH;
    for (int64_t first = 0; first < whole; first += STRETCH)
        update_away(kind, f, at, first, STRETCH);
    if (whole < count) update_away(kind, f, at, whole, count - whole);
    _mm_sfence(); /* whoever is told of this call's end sees what it wrote */
}

INLINED void pass_over(Kind kind, const OptimizerPass *pass, const OptimizerPiece *piece) {
    Stretch at = {.w_from = pass->w_from + piece->first,
                  .g = pass->g + piece->first,
                  .w = pass->w + piece->first};
    if (kind != SGD) at.m_from = pass->m_from + piece->first, at.m = pass->m + piece->first;
    if (kind >= ADAM)
        at.v_from = pass->v_from + piece->first, at.v = pass->v + piece->first;
    Factors factors = factors_of(kind, pass, piece);
    if (at.w == at.w_from && at.m == at.m_from && at.v == at.v_from)
        update(kind, factors, at, piece->count);
    else
        update_all_away(kind, factors, at, piece->count);
}

void flat_sgd(const OptimizerPass *pass, const OptimizerPiece *piece) {
    assert((pass->m == NULL) == (pass->m_from == NULL));
    if (pass->m == NULL)
        pass_over(SGD, pass, piece);
    else if (pass->nesterov)
        pass_over(SGD_NESTEROV, pass, piece);
    else
        pass_over(SGD_MOMENTUM, pass, piece);
}

void flat_adam(const OptimizerPass *pass, const OptimizerPiece *piece) {
    assert(pass->m != NULL && pass->v != NULL);
    assert(pass->m_from != NULL && pass->v_from != NULL);
    if (pass->decoupled)
        pass_over(ADAMW, pass, piece);
    else
        pass_over(ADAM, pass, piece);
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
