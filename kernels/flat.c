/* The loops behind flat.h. Options that are the same for all elements are decided outside of the
 * loops, by inlined bodies with constant flags. */
#include "kernels/flat.h"

#include "kernels/element.h"
#include "kernels/uniforms.h"

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

static inline void sgd_loop(const OptimizerPass *pass, bool momentum, bool nesterov) {
    float *restrict w = pass->w;
    float *restrict m = pass->m;
    const float *restrict g = pass->g;
    float scale = pass->gradient_scale, decay = pass->weight_decay, lr = pass->lr;
    float mu = pass->momentum;
    for (int64_t i = 0; i < pass->count; i++) {
        float step = element_decayed(g[i], scale, decay, w[i]);
        if (momentum) {
            float moved = element_momentum(m[i], step, mu);
            m[i] = moved;
            step = nesterov ? element_momentum(moved, step, mu) : moved;
        }
        w[i] = element_descend(w[i], step, lr);
    }
}

void flat_sgd(const OptimizerPass *pass) {
    if (pass->m == NULL)
        sgd_loop(pass, false, false);
    else if (pass->nesterov)
        sgd_loop(pass, true, true);
    else
        sgd_loop(pass, true, false);
}

static inline void adam_loop(const OptimizerPass *pass, bool decoupled) {
    float *restrict w = pass->w;
    float *restrict m = pass->m;
    float *restrict v = pass->v;
    const float *restrict g = pass->g;
    float scale = pass->gradient_scale, epsilon = pass->epsilon;
    float decay = decoupled ? 0.0f : pass->weight_decay;
    float shrink = (float)(1.0 - (double)pass->lr * (double)pass->weight_decay);
    float beta1 = (float)pass->beta1, rest1 = (float)(1.0 - pass->beta1);
    float beta2 = (float)pass->beta2, rest2 = (float)(1.0 - pass->beta2);
    float step_size = pass->lr / pass->correction1;
    float correction2_sqrt = pass->correction2_sqrt;
    for (int64_t i = 0; i < pass->count; i++) {
        float old = decoupled ? w[i] * shrink : w[i];
        float gradient = element_decayed(g[i], scale, decay, w[i]);
        m[i] = element_moment1(m[i], gradient, beta1, rest1);
        v[i] = element_moment2(v[i], gradient, beta2, rest2);
        w[i] = element_adam(old, m[i], v[i], step_size, correction2_sqrt, epsilon);
    }
}

void flat_adam(const OptimizerPass *pass) {
    assert(pass->m != NULL && pass->v != NULL);
    if (pass->decoupled)
        adam_loop(pass, true);
    else
        adam_loop(pass, false);
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
