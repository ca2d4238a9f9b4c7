/* Evaluation: sharded like training, with sums in one fixed order, so that its numbers (and with them
 * the best metric in the state) are the same at any rank count. */
#pragma once

#include "src/collective.h"
#include "src/core/config.h"
#include "src/model/execution.h"
#include "src/train/requests.h"
#include "src/train/workers.h"

typedef struct Evaluator Evaluator;

typedef struct {
    double loss, accuracy, top5;
    int64_t samples;
} Evaluation;

/* `options` describes the pass: samples, batch, shards and this rank's range of them. Ranks: local
 * Memory: *out is the caller's; all arguments outlive it */
Status evaluator_open(const Graph *graph, const State *state, Backend *backend,
                      Workers *workers, Collective *collective,
                      const LoaderOptions *options, Evaluator **out);
void evaluator_close(Evaluator *evaluator); /* NULL is allowed */

/* One pass. `requests` gives this rank's pending control bits and is polled at each batch; when any
 * rank asks for a stop the pass ends early: *stopped is true then, *out undefined, and *bits has what
 * was asked. Collective. */
Status evaluator_run(Evaluator *evaluator, Requests *requests, uint32_t *bits,
                     bool *stopped, Evaluation *out);
