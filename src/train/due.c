/* The reasons, the more pressing first. */
#include "src/train/due.h"

#include "src/collective.h"

#include <stddef.h>
#include <string.h>

/* Of exactly this state. */
static const char *pressing_reason(const Config *config, const DueState *at) {
    if ((at->bits & CONTROL_TIME_LIMIT) != 0) return "time limit";
    if ((at->bits & CONTROL_STOP) != 0) return "stop";
    if (at->step == at->total_steps) return "end";
    if (at->better && config->checkpoint.on_better) return "better";
    if (at->position == 0 && at->step > 0 && config->checkpoint.every_epoch) return "epoch";
    return NULL;
}

/* Of this state, or of one soon after. */
static const char *patient_reason(const Config *config, const DueState *at) {
    int64_t every = config->checkpoint.every_steps;
    if ((at->bits & CONTROL_SAVE) != 0) return "asked for";
    if (every > 0 && at->step > 0 && at->step % every == 0) return "interval";
    if ((at->bits & CONTROL_DUE) != 0)
        return config->checkpoint.every_minutes > 0 ? "minutes" : "auto";
    return at->busy ? NULL : at->deferred;
}

Due due_decide(const Config *config, const DueState *at) {
    Due due = {NULL, false};
    if (at->step == at->taken_step && !at->evaluated) return due;
    due.why = pressing_reason(config, at);
    if (due.why != NULL) return due;
    due.why = patient_reason(config, at);
    /* repeated after a restore: only with this does the launch own a file of its restore point */
    if (due.why == NULL && at->evaluated && at->first) due.why = "evaluation";
    /* the next fault may take that memory along */
    if (due.why == NULL && at->held && at->first) due.why = "held";
    /* where the best is kept, a state that was evaluated gets its own file, with its own metrics */
    bool judged = at->evaluated && strcmp(config->checkpoint.keep_best.metric, "none") != 0;
    due.later = due.why != NULL && at->busy && !judged;
    return due;
}
