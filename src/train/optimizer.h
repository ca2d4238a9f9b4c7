/* The optimizer: moments in the state, clipping by a norm with one fixed order, and one pass over the
 * flat arenas. Sources: PyTorch's SGD, Adam (Kingma & Ba, 2015) and AdamW (Loshchilov & Hutter, 2019),
 * whose numbers a parity test compares. */
#pragma once

#include "src/backend.h"
#include "src/core/config.h"
#include "src/state/state.h"
#include "src/train/workers.h"

typedef struct Optimizer Optimizer;

/* Declares the moments that the configured kind needs: one for each parameter, in the same order, so
 * that they lie at the parameter's own offset. Call it after the model has declared its parameters and
 * before state_allocate. */
Status optimizer_declare(const Config *config, State *state);

/* Memory: *out is the caller's; all arguments outlive it. The state is allocated. */
Status optimizer_open(const Config *config, State *state, Backend *backend,
                      Workers *workers, Optimizer **out);
void optimizer_close(Optimizer *optimizer); /* NULL is allowed */

/* What changes with step `step` (0-based) and learning rate `lr`. */
StepValues optimizer_values(const Config *config, int64_t step, double lr);

/* Gives the work that judges the summed gradient: its Euclidean norm, from sums of squares over fixed
 * chunks of the canonical order added in the tree over chunks, and with it the clipping. `metrics`:
 * the batch's sums. All pointers are device memory. Ranks: local; the same on each */
Status optimizer_judge(Optimizer *optimizer, const float *gradient, const float *metrics,
                       StepVerdict *verdict);

/* Gives the work of one pass over the parameters, as values and verdict (device memory) say. `target` NULL: in
 * place; else the new values go to these arenas, and from here on the parameters are there. */
Status optimizer_apply(Optimizer *optimizer, const float *gradient,
                       const StepValues *values, const StepVerdict *verdict,
                       const Arena *target);
