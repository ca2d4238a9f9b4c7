/* What ledger.jsonl holds: a line for each launch, restore, save, upload and end, with where the time went. The
 * table of fields is in ARCHITECTURE.md. Every line names its generation and how many seconds of the launch
 * had passed (`at`): that is what src/train/history.c reckons with. */
#include "src/train/trainer_parts.h"

#include "src/core/clock.h"

/* Writes a line of this launch: `more` (its own; NULL: no memory) goes behind what all lines have. */
static void note(Trainer *self, const char *event, int64_t step, json_t *more) {
    char time_text[CLOCK_UTC_TEXT];
    clock_utc(time_text);
    json_t *line =
        json_pack("{s:s, s:I, s:I, s:s, s:f}", "event", event, "step", (json_int_t)step,
                  "generation", (json_int_t)self->owner.generation, "time", time_text, "at",
                  clock_seconds() - self->opened);
    if (line != NULL && (more == NULL || json_object_update(line, more) != 0)) {
        json_decref(line);
        line = NULL;
    }
    json_decref(more);
    trainer_note(journal_event, self->journal, line);
}

json_t *ledger_describe_launch(const Trainer *self, int64_t generation) {
    const Setup *base = &self->base;
    char time_text[CLOCK_UTC_TEXT];
    clock_utc(time_text);
    return json_pack("{s:I, s:i, s:i, s:s, s:s, s:I, s:s, s:s}", "generation",
                     (json_int_t)generation, "ranks", base->collective->size, "hosts",
                     base->collective->hosts, "device_kind", base->backend->kind,
                     "restored_from", base->restored.name, "restored_step",
                     (json_int_t)base->restored.block.step, "started_at", time_text,
                     "version", REKINDLE_VERSION);
}

void ledger_note_start(Trainer *self) {
    const RestoreResult *restored = &self->base.restored;
    if (!trainer_is_first(self)) return;
    note(self, "launch", *self->base.scalars.step,
         json_pack("{s:o, s:f, s:f, s:f}", "launch",
                   ledger_describe_launch(self, self->owner.generation), "seconds",
                   clock_seconds() - self->opened, "setup", self->set_up - self->opened,
                   "restore", restored->restored ? restored->seconds : 0.0));
    if (!restored->restored) return;
    note(self, "restore", restored->block.step,
         json_pack("{s:s, s:I, s:b, s:f, s:f, s:i}", "file", restored->name, "bytes",
                   (json_int_t)restored->block.bytes, "held", restored->held, "seconds",
                   restored->seconds, "moving", restored->moving, "passed_over",
                   restored->passed_over_count));
}

void ledger_note_save(Trainer *self, const SaverEvent *event, double cost) {
    bool good = event->status == STATUS_OK;
    self->spent.saves += good;
    self->spent.failed += !good;
    self->spent.stall += self->saving.stall;
    self->spent.cost += cost;
    if (!trainer_is_first(self)) return;
    note(self, "save", event->step,
         json_pack("{s:b, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "ok", good,
                   "file", event->name, "why", self->saving.why, "bytes",
                   (json_int_t)event->bytes, "begun",
                   self->timetable.save.begun - self->opened, "seconds", event->seconds,
                   "persist", event->persist, "commit", event->commit, "stall",
                   self->saving.stall, "cost", cost, "deferred", self->saving.deferrals));
}

void ledger_note_hold(Trainer *self, const SaverEvent *event) {
    if (!trainer_is_first(self)) return;
    note(self, "hold", event->step,
         json_pack("{s:b, s:s, s:s, s:i, s:i, s:I, s:f, s:f, s:f}", "ok", event->hosts > 0,
                   "file", event->name, "dir", self->base.config->checkpoint.local.dir,
                   "hosts", event->hosts, "of", self->base.collective->hosts, "bytes",
                   (json_int_t)event->bytes, "seconds", event->seconds, "persist",
                   event->persist, "commit", event->commit));
}

void ledger_note_mirror(Trainer *self, const MirrorEvent *event) {
    if (!trainer_is_first(self)) return;
    note(self, "mirror", event->step,
         json_pack("{s:b, s:s, s:I, s:f}", "ok", event->status == STATUS_OK, "file",
                   event->name, "bytes", (json_int_t)event->bytes, "seconds",
                   event->seconds));
}

/* Why the launch ends: of a failure its text. */
static json_t *describe_end(const Trainer *self, Status status) {
    if (status == STATUS_OK) return json_pack("{}");
    if (status == STATUS_STOPPED)
        return json_pack("{s:s}", "why", self->out_of_time ? "time limit" : "asked for");
    json_t *what = json_string(status_failure()->what);
    if (what == NULL)
        what = json_string("no text that can be written down"); /* a strange path */
    return json_pack("{s:i, s:o}", "exit", status_exit_code(status), "what", what);
}

void ledger_note_end(Trainer *self, Status status) {
    if (self->journal == NULL) return; /* another rank, or it never came so far */
    Failure failure = *status_failure();
    double now = clock_seconds();
    double trained = self->ended > 0 ? self->ended - self->started : 0;
    json_t *line = describe_end(self, status);
    json_t *totals = json_pack(
        "{s:f, s:f, s:f, s:f, s:f, s:I, s:i, s:i, s:i, s:f}", "seconds", now - self->opened,
        "training", trained - self->spent.evaluating - self->spent.stall, "evaluating",
        self->spent.evaluating, "stall", self->spent.stall, "cost", self->spent.cost,
        "steps", (json_int_t)self->launch_steps, "saves", self->spent.saves, "failed",
        self->spent.failed, "deferred", self->spent.deferred, "interval",
        timetable_period(&self->timetable, now));
    if (line != NULL && (totals == NULL || json_object_update(line, totals) != 0)) {
        json_decref(line);
        line = NULL;
    }
    json_decref(totals);
    note(self,
         status == STATUS_OK        ? "end"
         : status == STATUS_STOPPED ? "stop"
                                    : "fault",
         *self->base.scalars.step, line);
    status_adopt(&failure); /* what could not be written down hides nothing */
}
