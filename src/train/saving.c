/* A save's way through the trainer: the snapshot is taken at a boundary, the saver works at it while steps
 * go on, and what came of it is told at a later one. */
#include "src/train/trainer_parts.h"

#include "src/train/plans.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAST_SAVE_TRIES = 3 };

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
    snprintf(block->parent, sizeof block->parent, "%s", base->restored.name);
    block->parent_digest = base->restored.block.state_digest;
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

/* ---- what came of it */

static void tell(Trainer *self, const SaverEvent *event) {
    if (self->saving.waiting_since > 0)
        self->saving.stall += clock_seconds() - self->saving.waiting_since;
    self->saving.waiting_since = 0;
    bool good = event->status == STATUS_OK;
    double cost =
        timetable_ended_save(&self->timetable, clock_seconds(), self->saving.stall, good);
    ledger_note_save(self, event, cost);
    if (!trainer_is_first(self)) return;
    const char *why = self->saving.why;
    if (good)
        LOG_I("saved step %lld (%s): %s, %.1f MiB in %.2f s", (long long)event->step, why,
              event->name, (double)event->bytes / 1048576.0, event->seconds);
    if (good) mirror_offer(self->mirror, event->name);
}

/* The same on every rank. */
static void conclude(Trainer *self, SaverEvent *event) {
    saver_poll(self->saver, event);
    if (!saver_is_reading(self->saver) && self->saving.begun) {
        snapshot_release(self->snapshot);
        self->saving.begun = false;
    }
    if (!event->finished) return;
    if (event->held) {
        holding_tell(self, event);
        fault_point("held");
        return;
    }
    tell(self, event);
    if (event->status != STATUS_OK) return;
    self->saved_step = event->step;
    snprintf(self->saved_name, sizeof self->saved_name, "%s", event->name);
    fault_point("after_commit");
}

/* ---- between two boundaries */

bool saving_is_busy(const Trainer *self) {
    return snapshot_is_taken(self->snapshot) || saver_is_busy(self->saver);
}

/* Hands the snapshot over as soon as all of it is there. */
static Status hand_over(Trainer *self) {
    if (self->saving.begun || !snapshot_is_whole(self->snapshot)) return STATUS_OK;
    self->saving.begun = true;
    const State *state = snapshot_state(self->snapshot);
    return self->saving.held ? saver_hold(self->saver, state, &self->saving.block)
                             : saver_begin(self->saver, state, &self->saving.block);
}

Status saving_advance(Trainer *self, uint32_t bits) {
    SaverEvent event;
    double start = clock_seconds();
    TRY(saver_advance(self->saver, bits));
    conclude(self, &event);
    TRY(hand_over(self));
    if (!event.finished) self->saving.stall += clock_seconds() - start;
    return STATUS_OK;
}

Status saving_target(Trainer *self, Arena **target) {
    *target = snapshot_target(self->snapshot);
    bool waits = *target == NULL && snapshot_is_in_the_way(self->snapshot);
    double start = clock_seconds();
    if (self->overlaps) TRY(saver_await_file(self->saver));
    if (waits) saver_await_reading(self->saver);
    if (self->overlaps) self->saving.stall += clock_seconds() - start;
    return STATUS_OK;
}

/* A device apart can fail here, on one rank alone: then no rank has a snapshot. */
static Status agree_apart(Trainer *self, Status mine) {
    if (self->base.backend->ops->host_memory) return mine;
    Status outcome = trainer_agree(self, mine);
    if (outcome == STATUS_OK) return STATUS_OK;
    Failure failure = *status_failure();
    snapshot_wait(self->snapshot); /* nothing may arrive in memory that is given back */
    snapshot_release(self->snapshot);
    return status_adopt(&failure);
}

static Status finish(Trainer *self, SaverEvent *event) {
    memset(event, 0, sizeof *event);
    if (!saving_is_busy(self)) return STATUS_OK;
    TRY(agree_apart(self, snapshot_wait(self->snapshot)));
    TRY(hand_over(self));
    TRY(saver_finish(self->saver));
    conclude(self, event);
    return STATUS_OK;
}

Status saving_finish(Trainer *self) {
    SaverEvent event;
    if (self->saver == NULL || self->snapshot == NULL) return STATUS_OK;
    return finish(self, &event);
}

/* ---- at a boundary */

static Status take(Trainer *self) {
    return agree_apart(self, snapshot_take(self->snapshot));
}

/* What the save is to be: of this state, for this reason. */
static Status prepare(Trainer *self, const char *why) {
    fill_block(self, &self->saving.block);
    TRY(note_plans(self));
    fault_point("save");
    self->saving.held = false;
    self->saving.why = why;
    self->saving.deferrals = self->deferrals;
    self->deferred = NULL;
    self->deferrals = 0;
    self->taken_step = *self->base.scalars.step;
    return STATUS_OK;
}

static Status save_behind(Trainer *self, double start) {
    double begun = clock_seconds();
    self->saving.waiting_since = 0;
    TRY(take(self));
    TRY(hand_over(self));
    self->saving.stall = clock_seconds() - start;
    timetable_began_save(&self->timetable, begun, self->saving.stall);
    return STATUS_OK;
}

static Status save_now(Trainer *self, double start, SaverEvent *event) {
    self->saving.waiting_since = start;
    self->saving.stall = 0;
    timetable_began_save(&self->timetable, clock_seconds(), 0);
    TRY(take(self));
    return finish(self, event);
}

Status saving_begin(Trainer *self, const char *why, bool last) {
    double start = clock_seconds();
    TRY(saving_finish(self));
    TRY(prepare(self, why));
    if (!last && self->base.config->checkpoint.background) return save_behind(self, start);
    SaverEvent event;
    for (int tries_left = last ? LAST_SAVE_TRIES : 1; tries_left > 0; tries_left--) {
        TRY(save_now(self, start, &event));
        if (event.status == STATUS_OK) return STATUS_OK;
    }
    return last ? report_unsaved(&event, why) : STATUS_OK;
}

Status saving_hold(Trainer *self) {
    fill_block(self, &self->saving.block);
    TRY(note_plans(self));
    TRY(holding_prepare(self));
    if (!self->holding.on) return STATUS_OK;
    self->saving.held = true;
    self->saving.waiting_since = 0;
    TRY(take(self));
    if (self->base.config->checkpoint.background) return hand_over(self);
    SaverEvent event;
    return finish(self, &event);
}
