/* The loop of a run: gradient, exact reduction, optimizer; at a boundary evaluate, save, stop.
 *
 * The order at each step is the same on every rank, and every branch is taken by agreement: local work,
 * then the control word (which also tells whether some rank failed), then the collective. */
#include "src/train/trainer.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/log.h"
#include "src/train/progress.h"
#include "src/train/trainer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* This rank's part of a step, up to the point where it needs the others. */
static Status compute_gradient(Trainer *self, const Batch **batch) {
    Setup *base = &self->base;
    fault_point("data");
    TRY(loader_next(self->loader, batch, NULL));
    fault_point("gradient");
    int64_t number = *base->scalars.step;
    return step_gradient(self->step, *batch, *base->scalars.seed, number,
                         schedule_rate(base->config, self->horizon, number));
}

/* The step's work is given: the run stands behind it, and learns later what came of it. */
static void advance(Trainer *self, int64_t samples) {
    const Setup *base = &self->base;
    const Scalars *at = &base->scalars;
    int64_t ended = 0;
    *at->step += 1;
    *at->position += samples;
    if (*at->position >= base->data.train.count) {
        ended = *at->position;
        *at->position = 0;
        *at->epoch += 1;
    }
    self->given[self->given_count++] = (GivenStep){
        .step = *at->step, .epoch = *at->epoch, .position = *at->position, .ended = ended};
}

static void report_step(Trainer *self, const GivenStep *at, const StepResult *result) {
    const Setup *base = &self->base;
    if (!trainer_is_first(self)) return;
    ProgressReport report = {
        .epoch = at->epoch + (at->position > 0),
        .epochs = base->config->train.epochs,
        .step = at->step,
        .total_steps = *base->scalars.total_steps,
        .loss = result->loss,
        .accuracy = result->accuracy,
        .lr = result->lr,
        .launch_steps = self->launch_steps,
        .samples = self->launch_samples,
        .saved_step = self->saved_step,
    };
    progress_show(&report);
    int64_t every = base->config->log.every_steps;
    if (every > 0 && at->step % every == 0)
        trainer_note(
            journal_metric, self->journal,
            json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "kind", "train", "step",
                      (json_int_t)at->step, "epoch", (json_int_t)report.epoch, "loss",
                      result->loss, "accuracy", result->accuracy, "lr", result->lr,
                      "gradient_norm", result->norm, "samples_per_second",
                      (double)self->launch_samples / (clock_seconds() - self->started)));
}

/* What the oldest given step came to: every rank does the same with the same numbers. */
static Status collect_step(Trainer *self) {
    const Scalars *at = &self->base.scalars;
    StepResult result;
    TRY(step_collect(self->step, &result));
    snapshot_arrived(self->snapshot); /* if it was on its way: all fetches are over */
    const GivenStep step = self->given[0];
    self->given_count--;
    memmove(self->given, self->given + 1, (size_t)self->given_count * sizeof *self->given);
    *at->epoch_loss += result.loss_sum;
    *at->epoch_correct += result.correct;
    if (step.ended > 0) {
        *at->last_epoch_loss = *at->epoch_loss / (double)step.ended;
        *at->epoch_loss = *at->epoch_correct = 0;
    }
    self->launch_steps++;
    self->launch_samples += result.samples;
    if (self->launch_steps == 1 && trainer_is_first(self)) trainer_print_memory(self);
    report_step(self, &step, &result);
    return STATUS_OK;
}

/* A device that works behind the host has one step to do while the one before is collected, unless the
 * boundary needs to know: the scalars of a state that is evaluated or saved are complete. */
static Status collect_steps(Trainer *self, uint32_t bits) {
    const Setup *base = &self->base;
    const Scalars *at = &base->scalars;
    bool all = base->backend->ops->host_memory || boundary_is_due(self, bits) ||
               *at->position == 0 || *at->step == *at->total_steps;
    while (self->given_count > (all ? 0 : 1))
        TRY(collect_step(self));
    return STATUS_OK;
}

/* A rank has failed before its part of the step was given. What the others were given may wait for it on
 * their devices for ever, and with it all that is to be closed: then one says why and all leave. */
static Status leave(Trainer *self, Status mine) {
    Collective *collective = self->base.collective;
    Status failure = trainer_agree(self, mine);
    if (failure == STATUS_COMM || !step_leaves_work(self->step)) return failure;
    if (trainer_is_first(self)) status_print(status_failure());
    TRY(collective->ops->barrier(collective)); /* the text is out */
    collective->ops->abort(collective, status_exit_code(failure));
    return failure;
}

/* One step. *bits: what any rank asked for. */
static Status run_step(Trainer *self, uint32_t *bits) {
    Setup *base = &self->base;
    Collective *collective = base->collective;
    const Batch *batch = NULL;
    Status mine = compute_gradient(self, &batch);
    *bits = requests_take(&self->requests) | saver_bits(self->saver) |
            (mine != STATUS_OK ? CONTROL_FAILED : 0u);
    TRY(collective->ops->control(collective, bits));
    requests_heard(&self->requests, *bits);
    if ((*bits & CONTROL_FAILED) != 0) return leave(self, mine);
    TRY(saving_advance(self, *bits));
    fault_point("reduce");
    TRY(step_reduce(self->step));
    fault_point("optimizer");
    Arena *target;
    TRY(saving_target(self, &target));
    Status updated = step_update(self->step, target);
    if (updated == STATUS_OK) {
        advance(self, batch->count);
        updated = collect_steps(self, *bits);
    }
    if (updated == STATUS_NOT_FINITE)
        return updated; /* the same numbers everywhere: all return */
    if (updated !=
        STATUS_OK) { /* a rank that fails alone here cannot wait for the others */
        status_print(status_failure());
        collective->ops->abort(collective, status_exit_code(updated));
    }
    return STATUS_OK;
}

static Status run(Trainer *self) {
    Scalars *at = &self->base.scalars;
    bool stopped = false;
    progress_open(self->base.config->log.progress, !trainer_is_first(self),
                  self->base.config->log.every_steps);
    self->started = clock_seconds();
    TRY(boundary_pass(self, 0, &stopped)); /* an evaluation that a stop cut short */
    while (*at->step < *at->total_steps && !stopped) {
        fault_set_step(*at->step + 1);
        log_set_step(*at->step + 1);
        uint32_t bits;
        double begin = clock_seconds();
        TRY(run_step(self, &bits));
        timetable_saw_step(&self->timetable, clock_seconds() - begin);
        TRY(boundary_pass(self, bits, &stopped));
    }
    bool complete = *at->step == *at->total_steps && !boundary_evaluation_is_due(self);
    return complete ? STATUS_OK : STATUS_STOPPED;
}

/* A failure of the run is none of the save in flight: all ranks have heard of it, and finish that. */
static Status end_saving(Trainer *self, Status status) {
    Failure failure = *status_failure();
    Status finished = saving_finish(self);
    if (status == STATUS_OK || finished == STATUS_COMM) return finished;
    status_adopt(&failure);
    return status;
}

static Status fill_outcome(Trainer *self, TrainOutcome *outcome) {
    const Scalars *at = &self->base.scalars;
    TRY(boundary_fetch_state(self));
    outcome->step = *at->step;
    outcome->total_steps = *at->total_steps;
    outcome->evaluation.loss = *at->evaluated_loss;
    outcome->evaluation.accuracy = *at->evaluated_accuracy;
    outcome->best_accuracy = *at->best_accuracy;
    outcome->best_step = *at->best_step;
    outcome->state_digest = state_digest(self->base.state);
    snprintf(outcome->checkpoint, sizeof outcome->checkpoint, "%s", self->saved_name);
    return STATUS_OK;
}

Status train_run(const Config *config, Collective *collective, uint32_t (*take_bits)(void),
                 TrainOutcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    Trainer *self = calloc(1, sizeof *self);
    Status mine =
        self != NULL ? STATUS_OK : FAIL(STATUS_MEMORY, NULL, "no memory for the trainer");
    Status status = collective->ops->agree(collective, mine);
    if (status != STATUS_OK) {
        free(self);
        return status;
    }
    self->requests.take = take_bits;
    self->opened = clock_seconds();
    status = setup_open(config, collective, false, &self->base);
    self->set_up = clock_seconds();
    if (status == STATUS_OK) status = trainer_start(self);
    if (status == STATUS_OK) status = run(self);
    if (status != STATUS_COMM) status = end_saving(self, status);
    self->ended = clock_seconds();
    if (status == STATUS_OK || status == STATUS_STOPPED) {
        Status filled = fill_outcome(self, outcome);
        if (filled != STATUS_OK) status = filled;
        boundary_finish_mirror(self);
        if (filled == STATUS_OK) holding_finish(self);
    }
    ledger_note_end(self, status);
    if (status == STATUS_COMM) return status; /* nothing but an abort may follow */
    if (status == STATUS_STOPPED)
        FAIL(STATUS_STOPPED, "launch the same command again to go on",
             "stopped at step %lld of %lld with the state saved%s%s",
             (long long)outcome->step, (long long)outcome->total_steps,
             boundary_evaluation_is_due(self) ? ", its evaluation pending" : "",
             self->out_of_time ? ", since this launch's time ends" : "");
    trainer_stop(self);
    free(self);
    return status;
}

Status train_evaluate(const Config *config, Collective *collective,
                      uint32_t (*take_bits)(void), TrainOutcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    Setup base;
    Evaluator *evaluator = NULL;
    Requests requests = {.take = take_bits};
    Status status = setup_open(config, collective, true, &base);
    if (status == STATUS_OK && !base.restored.restored)
        status = FAIL(STATUS_NO_CHECKPOINT, "name a checkpoint with --from",
                      "there is nothing to evaluate in %s", config->run.dir);
    if (status == STATUS_OK) {
        LoaderOptions options = setup_loader(&base, false);
        Status mine = residence_upload(base.state, base.backend);
        if (mine == STATUS_OK)
            mine = evaluator_open(base.graph, base.state, base.backend, base.workers,
                                  base.collective, &options, &evaluator);
        status = collective->ops->agree(collective, mine);
    }
    uint32_t bits;
    bool stopped = false;
    if (status == STATUS_OK)
        status = evaluator_run(evaluator, &requests, &bits, &stopped, &outcome->evaluation);
    if (status == STATUS_OK && stopped)
        status = FAIL(STATUS_STOPPED, "launch it again", "the evaluation was stopped");
    if (status == STATUS_OK) {
        outcome->step = *base.scalars.step;
        outcome->total_steps = *base.scalars.total_steps;
        outcome->state_digest = base.restored.block.state_digest;
        snprintf(outcome->checkpoint, sizeof outcome->checkpoint, "%s", base.restored.name);
    }
    evaluator_close(evaluator);
    setup_close(&base);
    return status;
}
