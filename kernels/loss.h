/* The loss, one row at a time: shared by both CPU devices. */
#pragma once

#include "src/backend.h"

/* BackendOps.softmax_cross_entropy over canonical host memory.
 *
 * Shapes:  logits, dlogits (rows, classes); labels (rows), each in [0, classes); metrics (METRICS)
 * Memory:  dlogits may be NULL; it may not be logits */
void loss_softmax_cross_entropy(float smoothing, float scale, float *metrics,
                                float *dlogits, const float *logits, const int32_t *labels,
                                int64_t rows, int64_t classes);
