/* What happens between two steps: evaluate, update the best, save. */
#include "src/train/trainer_parts.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REASON_INTERVAL "interval"
#define REASON_ASKED    "asked for"

bool boundary_evaluation_is_due(const Trainer *self) {
    const Scalars *at = &self->base.scalars;
    int64_t every = self->base.config->train.evaluate_every_steps;
    if (self->base.data.validation.count == 0 || *at->step == 0 ||
        *at->evaluated_step == *at->step)
        return false;
    if (*at->step == *at->total_steps) return true;
    return every > 0 ? *at->step % every == 0 : *at->position == 0;
}

static Status evaluate(Trainer *self, uint32_t *bits) {
    Scalars *at = &self->base.scalars;
    Evaluation evaluation;
    uint32_t asked = 0;
    bool stopped;
    double begin = clock_seconds();
    TRY(evaluator_run(self->evaluator, &self->requests, &asked, &stopped, &evaluation));
    *bits |= asked;
    if (stopped) return STATUS_OK; /* evaluated_step stays behind: the resume repeats it */
    *at->evaluated_step = *at->step;
    *at->evaluated_loss = evaluation.loss;
    *at->evaluated_accuracy = evaluation.accuracy;
    bool better = *at->best_step < 0 || evaluation.accuracy > *at->best_accuracy;
    if (better) {
        *at->best_accuracy = evaluation.accuracy;
        *at->best_step = *at->step;
    }
    if (!trainer_is_first(self)) return STATUS_OK;
    LOG_I("evaluation at step %lld: loss %.4f, accuracy %.4f, top-5 %.4f (%lld samples, "
          "%.2f s)%s",
          (long long)*at->step, evaluation.loss, evaluation.accuracy, evaluation.top5,
          (long long)evaluation.samples, clock_seconds() - begin,
          better ? ", the best so far" : "");
    trainer_note(journal_metric, self->journal,
                 json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I}", "kind", "evaluation",
                           "step", (json_int_t)*at->step, "epoch", (json_int_t)*at->epoch,
                           "loss", evaluation.loss, "accuracy", evaluation.accuracy, "top5",
                           evaluation.top5, "best_accuracy", *at->best_accuracy,
                           "best_step", (json_int_t)*at->best_step));
    return STATUS_OK;
}

Status boundary_fetch_state(Trainer *self) {
    Setup *base = &self->base;
    if (base->backend->ops->host_memory) return STATUS_OK;
    Status mine = residence_fetch(base->state, base->backend);
    if (mine == STATUS_OK) mine = residence_fetched(base->state, base->backend);
    return trainer_agree(self, mine);
}

void boundary_report_mirror(Trainer *self) {
    MirrorEvent event;
    while (mirror_poll(self->mirror, &event)) {
        bool good = event.status == STATUS_OK;
        if (good)
            LOG_I("mirrored %s: %.1f MiB in %.2f s%s", event.name,
                  (double)event.bytes / 1048576.0, event.seconds,
                  event.was_there ? " (it was there already)" : "");
        else
            LOG_W("%s was not mirrored (failure %d), training goes on%s: %s; %s",
                  event.name, ++self->mirror_failures,
                  event.off ? " without the mirror" : "", event.failure.what,
                  event.failure.fix);
        trainer_note(journal_event, self->journal,
                     json_pack("{s:s, s:I, s:s, s:b, s:I, s:f}", "event", "mirror", "step",
                               (json_int_t)event.step, "file", event.name, "ok", good,
                               "bytes", (json_int_t)event.bytes, "seconds", event.seconds));
    }
}

void boundary_finish_mirror(Trainer *self) {
    if (self->mirror == NULL) return;
    bool whole = mirror_finish(self->mirror, self->base.config->checkpoint.mirror_patience);
    boundary_report_mirror(self);
    if (!whole)
        LOG_W(
            "the mirror has not got the last checkpoint in %g s; rekindle checkpoints copy "
            "%s %s goes on with it",
            self->base.config->checkpoint.mirror_patience, self->base.config->run.dir,
            self->base.config->checkpoint.mirror);
    MirrorCounts counts = mirror_counts(self->mirror);
    LOG_I("mirror: %d sent, %d failed, %d passed over for newer ones", counts.sent,
          counts.failed, counts.replaced);
}

/* Why a save is due here; NULL when none is. */
static const char *save_reason(const Trainer *self, uint32_t bits) {
    const Scalars *at = &self->base.scalars;
    const Config *config = self->base.config;
    if (*at->step == self->taken_step)
        return NULL; /* restored from, or taken, right here */
    if ((bits & CONTROL_STOP) != 0) return "stop";
    if ((bits & CONTROL_SAVE) != 0) return REASON_ASKED;
    if (*at->step == *at->total_steps) return "end";
    if (*at->position == 0 && *at->step > 0 && config->checkpoint.every_epoch)
        return "epoch";
    int64_t every = config->checkpoint.every_steps;
    if (every > 0 && *at->step > 0 && *at->step % every == 0) return REASON_INTERVAL;
    return saving_is_busy(self) ? NULL : self->deferred;
}

/* A save for the time's sake serves as well a few steps later. The others are of this very state. */
static bool may_be_later(const char *why) {
    return strcmp(why, REASON_INTERVAL) == 0 || strcmp(why, REASON_ASKED) == 0;
}

/* One is in flight: this one waits for it without holding up the training. */
static void defer(Trainer *self, const char *why) {
    self->deferred = why;
    self->deferrals++;
    LOG_D("the save of step %lld (%s) waits for the one in flight",
          (long long)*self->base.scalars.step, why);
}

bool boundary_is_due(const Trainer *self, uint32_t bits) {
    return (bits & CONTROL_STOP) != 0 || boundary_evaluation_is_due(self) ||
           save_reason(self, bits) != NULL;
}

Status boundary_pass(Trainer *self, uint32_t bits, bool *stopped) {
    const Scalars *at = &self->base.scalars;
    bool evaluated = false;
    boundary_report_mirror(self);
    if (boundary_evaluation_is_due(self) && (bits & CONTROL_STOP) == 0) {
        TRY(evaluate(self, &bits));
        evaluated = *at->evaluated_step == *at->step;
    }
    /* the file of this very step, if there is one, is from before the evaluation */
    if (evaluated && self->taken_step == *at->step) self->taken_step = -1;
    const char *why = save_reason(self, bits);
    /* repeated after a restore: only with this does the launch own a file of its restore point */
    if (why == NULL && evaluated && self->launch_steps == 0) why = "evaluation";
    bool last = (bits & CONTROL_STOP) != 0 || *at->step == *at->total_steps;
    if (why != NULL && saving_is_busy(self) && !last && !evaluated && may_be_later(why))
        defer(self, why);
    else if (why != NULL)
        TRY(saving_begin(self, why, last));
    *stopped = (bits & CONTROL_STOP) != 0;
    return STATUS_OK;
}
