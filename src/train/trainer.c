/* The loop of a run: gradient, exact reduction, optimizer; at a boundary evaluate, save, stop.
 *
 * The order at each step is the same on every rank, and every branch is taken by agreement: local work,
 * then the control word (which also tells whether some rank failed), then the collective. */
#include "src/train/trainer.h"

#include "src/checkpoint/saver.h"
#include "src/core/fault.h"
#include "src/core/file.h"
#include "src/core/log.h"
#include "src/model/model.h"
#include "src/train/journal.h"
#include "src/train/progress.h"
#include "src/train/schedule.h"
#include "src/train/setup.h"
#include "src/train/step.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LAST_SAVE_TRIES = 3 };

typedef struct {
    Setup base;
    uint32_t (*take_bits)(void);
    Horizon horizon;
    Owner owner; /* rank 0 */
    bool owned;
    CheckpointText text;
    char *config_yaml, *lineage;
    Saver *saver;
    Journal *journal; /* rank 0 */
    Step *step;
    Evaluator *evaluator;
    Loader *loader;
    int64_t launch_steps, launch_samples, saved_step;
    char saved_name[64];
    double started;
} Trainer;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static bool is_first(const Trainer *self) {
    return self->base.collective->rank == 0;
}

static Status agree(Trainer *self, Status mine) {
    return self->base.collective->ops->agree(self->base.collective, mine);
}

/* Writes an object as one line and frees it. NULL (no memory) is an error, too. */
static Status write_line(Status (*write)(Journal *, const char *), Journal *journal,
                         json_t *object) {
    char *text =
        object == NULL ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (text == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for a line of the journal");
    Status status = write(journal, text);
    free(text);
    return status;
}

/* The journal is for people: a line that cannot be written is said, and training goes on. */
static void note(Status (*write)(Journal *, const char *), Journal *journal,
                 json_t *object) {
    if (write_line(write, journal, object) != STATUS_OK)
        LOG_W("%s (%s)", status_failure()->what, status_failure()->fix);
}

static void utc_now(char text[32]) {
    time_t seconds = time(NULL);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

/* ---- start */

static void start_fresh(Trainer *self) {
    const Config *config = self->base.config;
    Scalars *at = &self->base.scalars;
    int64_t per_epoch = self->horizon.steps_per_epoch;
    *at->seed = config->run.seed;
    *at->total_steps = config->train.epochs * per_epoch;
    if (config->train.max_steps > 0 && config->train.max_steps < *at->total_steps)
        *at->total_steps = config->train.max_steps;
    *at->evaluated_step = -1;
    *at->best_step = -1;
    graph_initialise(self->base.graph, config->run.seed);
}

/* This launch as an element of the lineage. */
static json_t *launch_object(const Trainer *self, int64_t generation) {
    const Setup *base = &self->base;
    char time_text[32];
    utc_now(time_text);
    return json_pack("{s:I, s:i, s:i, s:s, s:s, s:I, s:s, s:s}", "generation",
                     (json_int_t)generation, "ranks", base->collective->size, "hosts",
                     base->collective->hosts, "device_kind", base->backend->kind,
                     "restored_from", base->restored.name, "restored_step",
                     (json_int_t)base->restored.block.step, "started_at", time_text,
                     "version", REKINDLE_VERSION);
}

static Status make_texts(Trainer *self, int64_t generation) {
    const RestoreResult *restored = &self->base.restored;
    TRY(config_to_yaml(self->base.config, &self->config_yaml));
    json_t *lineage =
        restored->restored ? json_loads(restored->lineage, 0, NULL) : json_array();
    if (!json_is_array(lineage)) {
        json_decref(lineage);
        return FAIL(STATUS_CORRUPT, NULL, "the lineage in %s is not a list",
                    restored->name);
    }
    json_array_append_new(lineage, launch_object(self, generation));
    self->lineage = json_dumps(lineage, JSON_COMPACT);
    json_decref(lineage);
    if (self->lineage == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the lineage");
    self->text = (CheckpointText){.identity = self->base.identity,
                                  .config = self->config_yaml,
                                  .lineage = self->lineage};
    return STATUS_OK;
}

static Status write_config(const Trainer *self) {
    int directory = open(self->base.config->run.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open run.dir %s: %s",
                    self->base.config->run.dir, strerror(errno));
    file_sweep(directory, "config.yaml");
    Status status = file_replace(directory, "config.yaml", self->config_yaml,
                                 strlen(self->config_yaml));
    close(directory);
    return status;
}

/* At each boundary where one is configured, once. Due right after a restore: a stop cut it short. */
static bool evaluation_is_due(const Trainer *self) {
    const Scalars *at = &self->base.scalars;
    int64_t every = self->base.config->train.evaluate_every_steps;
    if (self->evaluator == NULL || *at->step == 0 || *at->evaluated_step == *at->step)
        return false;
    if (*at->step == *at->total_steps) return true;
    return every > 0 ? *at->step % every == 0 : *at->position == 0;
}

/* Rank 0 takes the run directory for this launch. */
static Status own_directory(Trainer *self) {
    const RestoreResult *restored = &self->base.restored;
    OwnerClaim claim = restore_claim(restored);
    claim.saved_anew = evaluation_is_due(self) && restored->path[0] == '\0';
    TRY(owner_take(self->base.config->run.dir, &claim, OWNER_WATCH_S, &self->owner));
    self->owned = true;
    catalog_sweep(&self->owner);
    restore_mark_passed_over(restored, &self->owner);
    TRY(make_texts(self, self->owner.generation));
    TRY(write_config(self));
    return journal_open(self->base.config->run.dir,
                        restored->restored ? restored->block.step : -1, &self->journal);
}

static Status open_parts(Trainer *self) {
    Setup *base = &self->base;
    LoaderOptions evaluation = setup_loader(base, false);
    if (evaluation.samples->count > 0)
        TRY(evaluator_open(base->graph, base->state, base->backend, base->workers,
                           base->collective, &evaluation, &self->evaluator));
    if (*base->scalars.step < *base->scalars.total_steps) {
        LoaderOptions training = setup_loader(base, true);
        TRY(loader_open(&training, &self->loader));
    }
    return STATUS_OK;
}

static void print_start(const Trainer *self) {
    const Setup *base = &self->base;
    const Config *config = base->config;
    double state_mib = 0, parameters = 0;
    for (int i = 0; i < ARENA_COUNT; i++)
        state_mib += (double)base->state->arenas[i].bytes / 1048576.0;
    for (int i = 0; i < base->state->count; i++)
        if (base->state->entries[i].arena == ARENA_PARAMETER)
            parameters += (double)base->state->entries[i].bytes / sizeof(float);
    LOG_I("run %s: %s with %.0f parameters, %lld training and %lld validation samples",
          config->run.name, config->model.arch, parameters,
          (long long)base->data.train.count, (long long)base->data.validation.count);
    LOG_I("%d rank%s on %d host%s, %d thread%s each, %lld shards, %s reduction, device: %s",
          base->collective->size, base->collective->size == 1 ? "" : "s",
          base->collective->hosts, base->collective->hosts == 1 ? "" : "s",
          workers_count(base->workers), workers_count(base->workers) == 1 ? "" : "s",
          (long long)config->train.shards, config->train.reduction, base->backend->kind);
    LOG_I("state %.1f MiB; run directory %s, generation %lld", state_mib, config->run.dir,
          (long long)self->owner.generation);
    int64_t smallest = config->train.batch / config->train.shards;
    if (model_has_batch_norm(base->graph) && smallest < 16)
        LOG_W("batch norm is computed per shard and a shard has %lld samples; below 16 its "
              "statistics are noisy: lower train.shards or raise train.batch if accuracy "
              "suffers",
              (long long)smallest);
    if (!base->restored.restored)
        LOG_I("fresh start, %lld steps to go", (long long)*base->scalars.total_steps);
    else
        LOG_I("restored %s: step %lld of %lld, in %.2f s", base->restored.name,
              (long long)*base->scalars.step, (long long)*base->scalars.total_steps,
              base->restored.seconds);
}

static Status start(Trainer *self) {
    Setup *base = &self->base;
    const Config *config = base->config;
    int64_t per_epoch =
        (base->data.train.count + config->train.batch - 1) / config->train.batch;
    self->horizon.steps_per_epoch = per_epoch;
    if (!base->restored.restored) start_fresh(self);
    self->horizon.total_steps = *base->scalars.total_steps;
    TRY(base->backend->ops->parameters_changed(
        base->backend, base->state->arenas[ARENA_PARAMETER].data,
        (int64_t)(base->state->arenas[ARENA_PARAMETER].bytes / sizeof(float))));
    TRY(agree(self, is_first(self) ? own_directory(self) : STATUS_OK));
    TRY(step_open(base, &self->step));
    TRY(agree(self, open_parts(self)));
    TRY(saver_open(base->collective, is_first(self) ? &self->owner : NULL, base->state,
                   &self->text, (int)config->checkpoint.keep_last,
                   (int)config->checkpoint.max_failures, &self->saver));
    self->saved_step = base->restored.restored ? base->restored.block.step : -1;
    if (!is_first(self)) return STATUS_OK;
    print_start(self);
    note(journal_event, self->journal,
         json_pack("{s:s, s:I, s:o}", "event", "launch", "step",
                   (json_int_t)*base->scalars.step, "launch",
                   launch_object(self, self->owner.generation)));
    if (base->restored.restored)
        note(journal_event, self->journal,
             json_pack("{s:s, s:I, s:s, s:f}", "event", "restore", "step",
                       (json_int_t)base->restored.block.step, "file", base->restored.name,
                       "seconds", base->restored.seconds));
    return STATUS_OK;
}

static void stop(Trainer *self) {
    progress_close();
    loader_close(self->loader);
    saver_close(self->saver);
    evaluator_close(self->evaluator);
    step_close(self->step);
    journal_close(self->journal);
    if (self->owned) owner_release(&self->owner);
    free(self->config_yaml);
    free(self->lineage);
    setup_close(&self->base);
}

/* ---- a step */

/* This rank's part of a step, up to the point where it needs the others. */
static Status compute_gradient(Trainer *self, const Batch **batch) {
    Setup *base = &self->base;
    fault_point("data");
    TRY(loader_next(self->loader, batch, NULL));
    fault_point("gradient");
    return step_gradient(self->step, *batch, *base->scalars.seed, *base->scalars.step);
}

/* After the reduction: every rank does the same with the same numbers. */
static Status update_state(Trainer *self, const Batch *batch, StepResult *result) {
    const Setup *base = &self->base;
    const Scalars *at = &base->scalars;
    double lr = schedule_rate(base->config, self->horizon, *at->step);
    TRY(step_update(self->step, *at->step, lr, result));
    *at->step += 1;
    *at->epoch_loss += result->loss_sum;
    *at->epoch_correct += result->correct;
    *at->position += batch->count;
    if (*at->position >= base->data.train.count) {
        *at->last_epoch_loss = *at->epoch_loss / (double)*at->position;
        *at->epoch_loss = *at->epoch_correct = 0;
        *at->position = 0;
        *at->epoch += 1;
    }
    return STATUS_OK;
}

/* One step. *bits: what any rank asked for. */
static Status run_step(Trainer *self, uint32_t *bits, StepResult *result) {
    Setup *base = &self->base;
    Collective *collective = base->collective;
    const Batch *batch = NULL;
    Status mine = compute_gradient(self, &batch);
    *bits = self->take_bits() | (mine != STATUS_OK ? CONTROL_FAILED : 0u);
    TRY(collective->ops->control(collective, bits));
    if ((*bits & CONTROL_FAILED) != 0) return agree(self, mine);
    fault_point("reduce");
    TRY(step_reduce(self->step));
    fault_point("optimizer");
    Status updated = update_state(self, batch, result);
    if (updated == STATUS_NOT_FINITE)
        return updated; /* the same numbers everywhere: all return */
    if (updated !=
        STATUS_OK) { /* a rank that fails alone here cannot wait for the others */
        status_print(status_failure());
        collective->ops->abort(collective, status_exit_code(updated));
    }
    self->launch_steps++;
    self->launch_samples += batch->count;
    return STATUS_OK;
}

static void report_step(Trainer *self, const StepResult *result) {
    const Setup *base = &self->base;
    const Scalars *at = &base->scalars;
    if (!is_first(self)) return;
    ProgressReport report = {
        .epoch = *at->epoch + (*at->position > 0),
        .epochs = base->config->train.epochs,
        .step = *at->step,
        .total_steps = *at->total_steps,
        .loss = result->loss,
        .accuracy = result->accuracy,
        .lr = result->lr,
        .launch_steps = self->launch_steps,
        .samples = self->launch_samples,
        .saved_step = self->saved_step,
    };
    progress_show(&report);
    int64_t every = base->config->log.every_steps;
    if (every > 0 && *at->step % every == 0)
        note(journal_metric, self->journal,
             json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "kind", "train", "step",
                       (json_int_t)*at->step, "epoch", (json_int_t)report.epoch, "loss",
                       result->loss, "accuracy", result->accuracy, "lr", result->lr,
                       "gradient_norm", result->norm, "samples_per_second",
                       (double)self->launch_samples / (now() - self->started)));
}

/* ---- a boundary */

static Status evaluate(Trainer *self, uint32_t *bits) {
    Scalars *at = &self->base.scalars;
    Evaluation evaluation;
    uint32_t asked = 0;
    bool stopped;
    double begin = now();
    TRY(evaluator_run(self->evaluator, self->take_bits, &asked, &stopped, &evaluation));
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
    if (!is_first(self)) return STATUS_OK;
    LOG_I("evaluation at step %lld: loss %.4f, accuracy %.4f, top-5 %.4f (%lld samples, "
          "%.2f s)%s",
          (long long)*at->step, evaluation.loss, evaluation.accuracy, evaluation.top5,
          (long long)evaluation.samples, now() - begin, better ? ", the best so far" : "");
    note(journal_metric, self->journal,
         json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I}", "kind", "evaluation", "step",
                   (json_int_t)*at->step, "epoch", (json_int_t)*at->epoch, "loss",
                   evaluation.loss, "accuracy", evaluation.accuracy, "top5",
                   evaluation.top5, "best_accuracy", *at->best_accuracy, "best_step",
                   (json_int_t)*at->best_step));
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

/* No later save makes up for this one. */
static Status report_unsaved(const SaverEvent *event, const char *why) {
    Failure cause = event->failure;
    return FAIL(
        cause.code, cause.fix,
        "step %lld (%s) is the launch's last, and its state is not saved (a relaunch "
        "goes on from the newest checkpoint): %.1500s",
        (long long)event->step, why, cause.what);
}

/* Saves the state of this boundary. A save that fails is said and counted; training goes on, and the
 * saver turns too many in a row into a failure. The launch's last save is tried again, and then its
 * failure is the launch's: nobody may be told "finished" or "stopped" of a state that is lost. */
static Status save(Trainer *self, const char *why, bool last) {
    UserBlock block;
    fill_block(self, &block);
    if (is_first(self)) {
        if (journal_sync(self->journal) != STATUS_OK)
            LOG_W("%s (%s)", status_failure()->what, status_failure()->fix);
    }
    fault_point("save");
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
    if (event.finished && event.status == STATUS_OK && is_first(self)) {
        LOG_I("saved step %lld (%s): %s, %.1f MiB in %.2f s", (long long)event.step, why,
              event.name, (double)event.bytes / 1048576.0, event.seconds);
        note(journal_event, self->journal,
             json_pack("{s:s, s:I, s:s, s:s, s:I, s:f}", "event", "save", "step",
                       (json_int_t)event.step, "file", event.name, "why", why, "bytes",
                       (json_int_t)event.bytes, "seconds", event.seconds));
    }
    fault_point("after_commit");
    return STATUS_OK;
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

/* Evaluate, update the best, save; *stopped when a stop was asked for and the state is safe. */
static Status pass_boundary(Trainer *self, uint32_t bits, bool *stopped) {
    if (evaluation_is_due(self) && (bits & CONTROL_STOP) == 0) {
        TRY(evaluate(self, &bits));
        /* the file of this very step, if there is one, is from before the evaluation */
        if (*self->base.scalars.evaluated_step == *self->base.scalars.step &&
            self->saved_step == *self->base.scalars.step)
            self->saved_step = -1;
    }
    const char *why = save_reason(self, bits);
    bool last = (bits & CONTROL_STOP) != 0 ||
                *self->base.scalars.step == *self->base.scalars.total_steps;
    if (why != NULL) TRY(save(self, why, last));
    *stopped = (bits & CONTROL_STOP) != 0;
    return STATUS_OK;
}

static Status run(Trainer *self) {
    Scalars *at = &self->base.scalars;
    bool stopped = false;
    progress_open(self->base.config->log.progress, !is_first(self),
                  self->base.config->log.every_steps);
    self->started = now();
    TRY(pass_boundary(self, 0, &stopped)); /* an evaluation that a stop cut short */
    while (*at->step < *at->total_steps) {
        fault_set_step(*at->step + 1);
        log_set_step(*at->step + 1);
        uint32_t bits;
        StepResult result;
        TRY(run_step(self, &bits, &result));
        report_step(self, &result);
        TRY(pass_boundary(self, bits, &stopped));
        if (stopped && *at->step < *at->total_steps) return STATUS_STOPPED;
    }
    return STATUS_OK;
}

static void fill_outcome(const Trainer *self, TrainOutcome *outcome) {
    const Scalars *at = &self->base.scalars;
    outcome->step = *at->step;
    outcome->total_steps = *at->total_steps;
    outcome->evaluation.loss = *at->evaluated_loss;
    outcome->evaluation.accuracy = *at->evaluated_accuracy;
    outcome->best_accuracy = *at->best_accuracy;
    outcome->best_step = *at->best_step;
    outcome->state_digest = state_digest(self->base.state);
    snprintf(outcome->checkpoint, sizeof outcome->checkpoint, "%s", self->saved_name);
}

Status train_run(const Config *config, Collective *collective, uint32_t (*take_bits)(void),
                 TrainOutcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    Trainer *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the trainer");
    self->take_bits = take_bits;
    Status status = setup_open(config, collective, false, &self->base);
    if (status == STATUS_OK) status = start(self);
    if (status == STATUS_OK) status = run(self);
    if (status == STATUS_OK || status == STATUS_STOPPED) fill_outcome(self, outcome);
    if (status == STATUS_STOPPED)
        FAIL(STATUS_STOPPED, "launch the same command again to go on",
             "stopped at step %lld of %lld with the state saved", (long long)outcome->step,
             (long long)outcome->total_steps);
    stop(self);
    free(self);
    return status;
}

Status train_evaluate(const Config *config, Collective *collective,
                      uint32_t (*take_bits)(void), TrainOutcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    Setup base;
    Evaluator *evaluator = NULL;
    Status status = setup_open(config, collective, true, &base);
    if (status == STATUS_OK && !base.restored.restored)
        status = FAIL(STATUS_NO_CHECKPOINT, "name a checkpoint with --from",
                      "there is nothing to evaluate in %s", config->run.dir);
    if (status == STATUS_OK) {
        LoaderOptions options = setup_loader(&base, false);
        status = collective->ops->agree(
            collective, evaluator_open(base.graph, base.state, base.backend, base.workers,
                                       collective, &options, &evaluator));
    }
    uint32_t bits;
    bool stopped = false;
    if (status == STATUS_OK)
        status = evaluator_run(evaluator, take_bits, &bits, &stopped, &outcome->evaluation);
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
