/* The arithmetic of one element, shared by every device: written once, so that reference, cpu and
 * cuda give the same bits wherever an operation is elementwise. C and C++ (a .cu file sets
 * ELEMENT_FUNCTION first). Fused multiply-adds are explicit; nothing else may be fused. */
#pragma once

#include "src/core/elementary.h"

/* max(x, 0); NaN stays NaN, so that a diverged run is seen. */
ELEMENT_FUNCTION float element_relu(float x) {
    return x <= 0.0f ? 0.0f : x;
}

/* dx of relu from its result y. */
ELEMENT_FUNCTION float element_relu_gradient(float dy, float y) {
    return y > 0.0f ? dy : 0.0f;
}

/* Inverted dropout: kept when uniform ≥ rate, then divided by keep = 1 − rate. */
ELEMENT_FUNCTION float element_dropout(float x, float uniform, float rate, float keep) {
    return uniform >= rate ? x / keep : 0.0f;
}

/* (1 − rate)·y + rate·scale·x, with keep = 1 − rate and take = rate·scale. */
ELEMENT_FUNCTION float element_blend(float y, float x, float keep, float take) {
    return __builtin_fmaf(take, x, keep * y);
}

/* ---- batch norm */

/* gamma · (x − mean) · inverse_std + beta. */
ELEMENT_FUNCTION float element_batch_norm(float x, float mean, float inverse_std,
                                          float gamma, float beta) {
    return __builtin_fmaf((x - mean) * inverse_std, gamma, beta);
}

/* dx = gamma·inverse_std · (dz − dbeta/n − x̂·dgamma/n), x̂ = (x − mean)·inverse_std. The caller
 * gives the means dbeta/n and dgamma/n. */
ELEMENT_FUNCTION float element_batch_norm_gradient(float dz, float x, float mean,
                                                   float inverse_std, float gamma,
                                                   float mean_dbeta, float mean_dgamma) {
    float normal = (x - mean) * inverse_std;
    return gamma * inverse_std * __builtin_fmaf(-normal, mean_dgamma, dz - mean_dbeta);
}

/* ---- optimizers: the new values of one parameter. g is already scaled and decayed. */

/* Weight decay as a penalty: g = scale·g + decay·w. */
ELEMENT_FUNCTION float element_decayed(float g, float scale, float decay, float w) {
    return __builtin_fmaf(decay, w, scale * g);
}

/* SGD's momentum: momentum·m + g. */
ELEMENT_FUNCTION float element_momentum(float m, float g, float momentum) {
    return __builtin_fmaf(momentum, m, g);
}

/* w − lr·step. */
ELEMENT_FUNCTION float element_descend(float w, float step, float lr) {
    return __builtin_fmaf(-lr, step, w);
}

/* Adam's moments: beta·m + (1 − beta)·g and beta·v + (1 − beta)·g². */
ELEMENT_FUNCTION float element_moment1(float m, float g, float beta, float one_minus_beta) {
    return __builtin_fmaf(beta, m, one_minus_beta * g);
}

ELEMENT_FUNCTION float element_moment2(float v, float g, float beta, float one_minus_beta) {
    return __builtin_fmaf(beta, v, one_minus_beta * g * g);
}

/* Adam: w − step_size · m / (√v / correction2_sqrt + epsilon), step_size = lr / correction1. */
ELEMENT_FUNCTION float element_adam(float w, float m, float v, float step_size,
                                    float correction2_sqrt, float epsilon) {
    float scale = __builtin_sqrtf(v) / correction2_sqrt + epsilon;
    return __builtin_fmaf(-step_size, m / scale, w);
}
