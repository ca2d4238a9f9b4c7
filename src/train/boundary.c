/* What happens between two steps: evaluate, update the best, save. */
#include "src/train/trainer_parts.h"

#include "src/train/due.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool boundary_evaluation_is_due(const Trainer *self) {
    const Scalars *at = &self->base.scalars;
    int64_t every = self->base.config->train.evaluate_every_steps;
    if (self->base.data.validation.count == 0 || *at->step == 0 ||
        *at->evaluated_step == *at->step)
        return false;
    if (*at->step == *at->total_steps) return true;
    return every > 0 ? *at->step % every == 0 : *at->position == 0;
}

static Status evaluate(Trainer *self, uint32_t *bits, bool *better) {
    Scalars *at = &self->base.scalars;
    Evaluation evaluation;
    uint32_t asked = 0;
    bool stopped;
    double begin = clock_seconds();
    TRY(evaluator_run(self->evaluator, &self->requests, &asked, &stopped, &evaluation));
    self->spent.evaluating += clock_seconds() - begin;
    *bits |= asked;
    if (stopped) return STATUS_OK; /* evaluated_step stays behind: the resume repeats it */
    *at->evaluated_step = *at->step;
    *at->evaluated_loss = evaluation.loss;
    *at->evaluated_accuracy = evaluation.accuracy;
    *better = *at->best_step < 0 || evaluation.accuracy > *at->best_accuracy;
    if (*better) {
        *at->best_accuracy = evaluation.accuracy;
        *at->best_step = *at->step;
    }
    if (!trainer_is_first(self)) return STATUS_OK;
    LOG_I("evaluation at step %lld: loss %.4f, accuracy %.4f, top-5 %.4f (%lld samples, "
          "%.2f s)%s",
          (long long)*at->step, evaluation.loss, evaluation.accuracy, evaluation.top5,
          (long long)evaluation.samples, clock_seconds() - begin,
          *better ? ", the best so far" : "");
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
        ledger_note_mirror(self, &event);
    }
}

void boundary_finish_mirror(Trainer *self) {
    if (self->mirror == NULL) return;
    double patience = timetable_left(&self->timetable, clock_seconds(),
                                     self->base.config->checkpoint.mirror_patience);
    bool whole = mirror_finish(self->mirror, patience);
    boundary_report_mirror(self);
    if (!whole)
        LOG_W(
            "the mirror has not got the last checkpoint in %g s; rekindle checkpoints copy "
            "%s %s goes on with it",
            patience, self->base.config->run.dir, self->base.config->checkpoint.mirror);
    MirrorCounts counts = mirror_counts(self->mirror);
    LOG_I("mirror: %d sent, %d failed, %d passed over for newer ones", counts.sent,
          counts.failed, counts.replaced);
}

/* What this boundary knows, before or after its evaluation. */
static DueState due_state(const Trainer *self, uint32_t bits, bool evaluated, bool better) {
    const Scalars *at = &self->base.scalars;
    return (DueState){.step = *at->step,
                      .position = *at->position,
                      .total_steps = *at->total_steps,
                      .taken_step = self->taken_step,
                      .bits = bits,
                      .first = self->launch_steps == 0,
                      .held = self->base.restored.held,
                      .evaluated = evaluated,
                      .better = better,
                      .busy = saving_is_busy(self),
                      .deferred = self->deferred};
}

/* One is in flight: this one waits for it without holding up the training. */
static void defer(Trainer *self, const char *why) {
    self->deferred = why;
    self->deferrals++;
    self->spent.deferred++;
    LOG_D("the save of step %lld (%s) waits for the one in flight",
          (long long)*self->base.scalars.step, why);
}

bool boundary_is_due(const Trainer *self, uint32_t bits) {
    const DueState at = due_state(self, bits, false, false);
    return (bits & CONTROL_STOP) != 0 || boundary_evaluation_is_due(self) ||
           due_decide(self->base.config, &at).why != NULL ||
           (holding_is_due(self) && !saving_is_busy(self));
}

Status boundary_pass(Trainer *self, uint32_t bits, bool *stopped) {
    const Scalars *at = &self->base.scalars;
    bool evaluated = false, better = false;
    boundary_report_mirror(self);
    if (boundary_evaluation_is_due(self) && (bits & CONTROL_STOP) == 0) {
        TRY(evaluate(self, &bits, &better));
        evaluated = *at->evaluated_step == *at->step;
    }
    const DueState state = due_state(self, bits, evaluated, better);
    Due due = due_decide(self->base.config, &state);
    bool last = (bits & CONTROL_STOP) != 0 || *at->step == *at->total_steps;
    if (due.why != NULL && due.later)
        defer(self, due.why);
    else if (due.why != NULL)
        TRY(saving_begin(self, due.why, last));
    else if (holding_is_due(self) && saving_is_busy(self))
        holding_skip(self);
    else if (holding_is_due(self))
        TRY(saving_hold(self));
    *stopped = (bits & CONTROL_STOP) != 0;
    self->out_of_time = (bits & CONTROL_TIME_LIMIT) != 0;
    return STATUS_OK;
}
