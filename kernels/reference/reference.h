/* The reference device: every operation of src/backend.h in plain loops over canonical memory, to
 * be read beside the formulas. It is the oracle that tests/ops compares other devices with, and a
 * whole device of its own ("device: reference"), slow and deterministic.
 *
 * Every sum but those of pooling gradients runs in double, in the order of the loops as written, and
 * is rounded once: what differs from another device beyond that is the other's float error. */
#pragma once

#include "src/backend.h"

Status reference_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                                const Tensor *x, const Tensor *w, const Tensor *b);
Status reference_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                                 Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                                 const Tensor *w);

Status reference_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                                const Tensor *w, const Tensor *b);
Status reference_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw,
                                 Tensor *db, const Tensor *dy, const Tensor *x,
                                 const Tensor *w);

Status reference_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm,
                                    Tensor *y, const Tensor *x, Tensor *mean,
                                    Tensor *inverse_std, Tensor *batch_mean,
                                    Tensor *batch_variance);
Status reference_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm,
                                      Tensor *y, const Tensor *x,
                                      const Tensor *running_mean,
                                      const Tensor *running_variance);
Status reference_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm,
                                     Tensor *dx, Tensor *dgamma, Tensor *dbeta,
                                     Tensor *dresidual, const Tensor *dy, const Tensor *y,
                                     const Tensor *x, const Tensor *mean,
                                     const Tensor *inverse_std);

Status reference_max_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                                  uint8_t *choice, const Tensor *x);
Status reference_max_pool_backward(Backend *self, int worker, const Pool2d *pool,
                                   Tensor *dx, const Tensor *dy, const uint8_t *choice);
Status reference_avg_pool_forward(Backend *self, int worker, const Pool2d *pool, Tensor *y,
                                  const Tensor *x);
Status reference_avg_pool_backward(Backend *self, int worker, const Pool2d *pool,
                                   Tensor *dx, const Tensor *dy);
Status reference_global_pool_forward(Backend *self, int worker, Tensor *y, const Tensor *x);
Status reference_global_pool_backward(Backend *self, int worker, Tensor *dx,
                                      const Tensor *dy);
