/* What happens between two steps: evaluate, update the best, save. */
#include "src/train/trainer_parts.h"

#include "src/train/plans.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAST_SAVE_TRIES = 3 };

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

/* The fields of the user block that the trainer knows. */
static void fill_block(const Trainer *self, UserBlock *block) {
    const Setup *base = &self->base;
    const Config *config = base->config;
    memset(block, 0, sizeof *block);
    snprintf(block->run, sizeof block->run, "%s", config->run.name);
    block->generation = self->owner.generation;
    block->step = *base->scalars.step;
    block->epoch = *base->scalars.epoch;
    if (*base->scalars.evaluated_step >= 0)
        snprintf(block->metrics, sizeof block->metrics,
                 "{\"evaluated_step\":%lld,\"loss\":%.9g,\"accuracy\":%.9g,\"best_"
                 "accuracy\":%.9g}",
                 (long long)*base->scalars.evaluated_step, *base->scalars.evaluated_loss,
                 *base->scalars.evaluated_accuracy, *base->scalars.best_accuracy);
    else
        snprintf(block->metrics, sizeof block->metrics, "{}");
    snprintf(block->device_kind, sizeof block->device_kind, "%s", base->backend->kind);
    snprintf(block->author, sizeof block->author, "%s", config->run.author);
    snprintf(block->note, sizeof block->note, "%s", config->run.note);
}

/* What the devices told of their ways since the last save goes into its lineage. Collective. */
static Status note_plans(Trainer *self) {
    Setup *base = &self->base;
    char *plans = NULL;
    Status status = STATUS_OK;
    if (!base->backend->ops->host_memory) /* which has one way only */
        status = plans_gather(base->backend, base->collective, &plans);
    if (status == STATUS_COMM) return status;
    if (plans != NULL) status = lineage_note_plans(self->lineage, plans);
    free(plans);
    if (!trainer_is_first(self)) return STATUS_OK;
    if (status != STATUS_OK)
        LOG_W("%s: this checkpoint does not tell how the device computes",
              status_failure()->what);
    self->text.lineage = lineage_text(self->lineage);
    return STATUS_OK;
}

/* No later save makes up for this one. */
static Status report_unsaved(const SaverEvent *event, const char *why) {
    Failure cause = event->failure;
    return FAIL(
        cause.code, cause.fix,
        "step %lld (%s) is the launch's last, and its state is not saved (a relaunch "
        "goes on from the newest checkpoint): %.1500s",
        (long long)event->step, why, cause.what);
}

Status boundary_fetch_state(Trainer *self) {
    Setup *base = &self->base;
    if (base->backend->ops->host_memory) return STATUS_OK;
    Status mine = residence_fetch(base->state, base->backend);
    if (mine == STATUS_OK) mine = residence_fetched(base->state, base->backend);
    return trainer_agree(self, mine);
}

/* Saves the state of this boundary. A save that fails is said and counted; training goes on, and the
 * saver turns too many in a row into a failure. The launch's last save is tried again, and then its
 * failure is the launch's: nobody may be told "finished" or "stopped" of a state that is lost. */
static Status save(Trainer *self, const char *why, bool last) {
    UserBlock block;
    fill_block(self, &block);
    TRY(note_plans(self));
    if (trainer_is_first(self) && journal_sync(self->journal) != STATUS_OK)
        LOG_W("%s (%s)", status_failure()->what, status_failure()->fix);
    fault_point("save");
    TRY(boundary_fetch_state(self));
    SaverEvent event;
    for (int tries_left = last ? LAST_SAVE_TRIES : 1; tries_left > 0; tries_left--) {
        TRY(saver_begin(self->saver, &block));
        TRY(saver_finish(self->saver));
        TRY(saver_poll(self->saver, &event));
        if (event.status == STATUS_OK) break;
    }
    if (last && event.status != STATUS_OK) return report_unsaved(&event, why);
    if (event.finished && event.status == STATUS_OK) {
        self->saved_step = event.step;
        snprintf(self->saved_name, sizeof self->saved_name, "%s", event.name);
    }
    if (event.finished && event.status == STATUS_OK && trainer_is_first(self)) {
        LOG_I("saved step %lld (%s): %s, %.1f MiB in %.2f s", (long long)event.step, why,
              event.name, (double)event.bytes / 1048576.0, event.seconds);
        trainer_note(journal_event, self->journal,
                     json_pack("{s:s, s:I, s:s, s:s, s:I, s:f}", "event", "save", "step",
                               (json_int_t)event.step, "file", event.name, "why", why,
                               "bytes", (json_int_t)event.bytes, "seconds", event.seconds));
        mirror_offer(self->mirror, event.name);
    }
    fault_point("after_commit");
    return STATUS_OK;
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
    if (*at->step == self->saved_step)
        return NULL; /* restored from, or saved, right here */
    if ((bits & CONTROL_STOP) != 0) return "stop";
    if ((bits & CONTROL_SAVE) != 0) return "asked for";
    if (*at->step == *at->total_steps) return "end";
    if (*at->position == 0 && *at->step > 0 && config->checkpoint.every_epoch)
        return "epoch";
    int64_t every = config->checkpoint.every_steps;
    if (every > 0 && *at->step > 0 && *at->step % every == 0) return "interval";
    return NULL;
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
    if (evaluated && self->saved_step == *at->step) self->saved_step = -1;
    const char *why = save_reason(self, bits);
    /* repeated after a restore: only with this does the launch own a file of its restore point */
    if (why == NULL && evaluated && self->launch_steps == 0) why = "evaluation";
    bool last = (bits & CONTROL_STOP) != 0 || *at->step == *at->total_steps;
    if (why != NULL) TRY(save(self, why, last));
    *stopped = (bits & CONTROL_STOP) != 0;
    return STATUS_OK;
}
