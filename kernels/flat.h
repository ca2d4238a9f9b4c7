/* Passes over canonical memory that both CPU devices use: loops over element.h that the compiler
 * vectorises at the baseline, so that "cpu" and "reference" give the same bits.
 *
 * All but flat_sum_squares work on each element alone: a range may be split anywhere, between any
 * threads, without a bit of difference. Arguments and meanings are those of src/backend.h. */
#pragma once

#include "src/backend.h"

/* y += x. */
void flat_accumulate(float *y, const float *x, int64_t count);

/* y = (1 − rate)·from + rate·scale·x; y may be from. */
void flat_blend(float *y, const float *from, const float *x, int64_t count, float rate,
                float scale);

/* Sum of squares in double: 16 running sums (element i goes to i mod 16) added in a fixed tree.
 * Splitting the range changes the last bits: give the same chunks always. */
double flat_sum_squares(const float *x, int64_t count);

/* What BackendOps.judge writes. */
void flat_judge(const double *sums, int64_t chunks, double clip_norm, const float *metrics,
                StepVerdict *verdict);

/* One piece of a pass, whatever the verdict says. Out of place it writes past the caches, since nobody
 * reads so much again soon, and is ordered before whatever the thread writes after the call. */
void flat_sgd(const OptimizerPass *pass, const OptimizerPiece *piece);
void flat_adam(const OptimizerPass *pass,
               const OptimizerPiece *piece); /* Adam, or AdamW where pass->decoupled */

/* y may be x. */
void flat_relu(float *y, const float *x, int64_t count);
/* dx may be dy. */
void flat_relu_gradient(float *dx, const float *dy, const float *y, int64_t count);
/* y = a + b; may be either. */
void flat_add(float *y, const float *a, const float *b, int64_t count);

/* Inverted dropout of `rows` samples of `columns` elements each, canonical. y may be x. */
void flat_dropout(Rng rng, uint32_t first_sample, float rate, float *y, const float *x,
                  int64_t rows, int64_t columns);
