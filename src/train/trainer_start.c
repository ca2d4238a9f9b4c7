/* Opens a launch: takes the run directory, says what it stands on, and closes everything again. */
#include "src/train/trainer_parts.h"

#include "src/core/clock.h"
#include "src/core/file.h"
#include "src/core/json_reserve.h"
#include "src/core/log.h"
#include "src/model/model.h"
#include "src/train/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Writes an object as one line and frees it. NULL (no memory) is an error, too. */
static Status write_line(Status (*write)(Journal *, const char *), Journal *journal,
                         json_t *object) {
    char *text = object == NULL
                     ? NULL
                     : json_reserve_print(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (text == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for a line of the journal");
    Status status = write(journal, text);
    free(text);
    return status;
}

void trainer_note(Status (*write)(Journal *, const char *), Journal *journal,
                  json_t *object) {
    if (write_line(write, journal, object) != STATUS_OK)
        LOG_W("%s (%s)", status_failure()->what, status_failure()->fix);
}

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

static Status make_texts(Trainer *self, int64_t generation) {
    const RestoreResult *restored = &self->base.restored;
    TRY(config_to_yaml(self->base.config, &self->config_yaml));
    TRY(lineage_open(restored->restored ? restored->lineage : NULL, restored->name,
                     ledger_describe_launch(self, generation), &self->lineage));
    self->text = (CheckpointText){.identity = self->base.identity,
                                  .config = self->config_yaml,
                                  .lineage = lineage_text(self->lineage)};
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

/* Rank 0 takes the run directory for this launch. */
static Status own_directory(Trainer *self) {
    const RestoreResult *restored = &self->base.restored;
    OwnerClaim claim = restore_claim(restored);
    claim.saved_anew |= boundary_evaluation_is_due(self);
    TRY(owner_take(self->base.config->run.dir, &claim, OWNER_WATCH_S, &self->owner));
    self->owned = true;
    catalog_sweep(&self->owner);
    restore_mark_passed_over(restored, &self->owner);
    TRY(make_texts(self, self->owner.generation));
    TRY(write_config(self));
    /* who slept since must not cut the lines of its successor */
    TRY(owner_check(&self->owner));
    return journal_open(self->base.config->run.dir,
                        restored->restored ? restored->block.step : -1,
                        *self->base.scalars.evaluated_step, &self->journal);
}

static Status open_parts(Trainer *self) {
    Setup *base = &self->base;
    LoaderOptions evaluation = setup_loader(base, false);
    BackendMemory before, after;
    base->backend->ops->memory(base->backend, &before);
    if (evaluation.samples->count > 0)
        TRY(evaluator_open(base->graph, base->state, base->backend, base->workers,
                           base->collective, &evaluation, &self->evaluator));
    base->backend->ops->memory(base->backend, &after);
    self->evaluation_bytes = after.used - before.used;
    if (*base->scalars.step < *base->scalars.total_steps) {
        LoaderOptions training = setup_loader(base, true);
        TRY(loader_open(&training, &self->loader));
    }
    return STATUS_OK;
}

void trainer_print_memory(const Trainer *self) {
    const Setup *base = &self->base;
    const double mib = 1048576.0;
    BackendMemory memory;
    base->backend->ops->memory(base->backend, &memory);
    size_t state = 0, sums = step_sum_bytes(self->step), used = memory.used;
    for (int i = 0; i < ARENA_SCALAR; i++)
        state += base->state->arenas[i].bytes;
    if (base->backend->ops->host_memory) used += state + sums; /* not the backend's */
    size_t named = state + sums + self->evaluation_bytes;
    size_t rest = used > named ? used - named : 0;
    LOG_I("memory of a rank's device, MiB: parameters, moments and buffers %.1f, gradient "
          "sums %.1f, activations and workspace %.1f, evaluation %.1f",
          (double)state / mib, (double)sums / mib, (double)rest / mib,
          (double)self->evaluation_bytes / mib);
    LOG_I("%.1f MiB used in all, %.1f of %.1f MiB free", (double)used / mib,
          (double)memory.free / mib, (double)memory.total / mib);
}

static Status open_mirror(Trainer *self) {
    const Config *config = self->base.config;
    if (!trainer_is_first(self) || config->checkpoint.mirror[0] == '\0') return STATUS_OK;
    return mirror_open(config->checkpoint.mirror, &self->owner,
                       (int)config->checkpoint.keep_last, &self->mirror);
}

static Status sync_journal(void *context) {
    return journal_sync(context);
}

static Status open_saver(Trainer *self) {
    Setup *base = &self->base;
    const Config *config = base->config;
    bool first = trainer_is_first(self);
    SaverOptions options = {.level = checkpoint_level(config->checkpoint.compression),
                            .writers = (int)config->checkpoint.writers,
                            .run_dir = config->run.dir,
                            .max_failures = (int)config->checkpoint.max_failures,
                            .keep = catalog_retention(config),
                            .background = config->checkpoint.background,
                            .before_commit = first ? sync_journal : NULL,
                            .context = self->journal,
                            .place = &self->holding.place};
    return saver_open(base->collective, first ? &self->owner : NULL, base->state,
                      &self->text, &options, &self->saver);
}

/* Where what is saved stays meanwhile. Each rank decides by its own machine: no bit depends on it. */
static Status open_snapshot(Trainer *self) {
    Setup *base = &self->base;
    const Config *config = base->config;
    const Collective *collective = base->collective;
    const char *wish = config->checkpoint.memory;
    int ranks_here = (collective->size + collective->hosts - 1) / collective->hosts;
    bool demanded = strcmp(wish, "spare") == 0;
    bool spare =
        config->checkpoint.background &&
        (demanded || (strcmp(wish, "auto") == 0 &&
                      snapshot_spare_fits(base->state, base->backend, ranks_here)));
    Status opened =
        snapshot_open(base->state, base->backend, spare ? SNAPSHOT_SPARE : SNAPSHOT_OVERLAP,
                      &self->snapshot);
    if (opened != STATUS_MEMORY || !spare || demanded) return opened;
    return snapshot_open(base->state, base->backend, SNAPSHOT_OVERLAP, &self->snapshot);
}

/* Ranks must wait together for what some of them wait for (saving_target). Collective */
static Status note_overlaps(Trainer *self) {
    Collective *collective = self->base.collective;
    bool host_memory = self->base.backend->ops->host_memory;
    uint32_t any = host_memory && snapshot_spare_bytes(self->snapshot) == 0;
    TRY(collective->ops->control(collective, &any));
    self->overlaps = any != 0;
    return STATUS_OK;
}

static void print_saving(const Trainer *self) {
    size_t spare = snapshot_spare_bytes(self->snapshot);
    if (!self->base.config->checkpoint.background)
        LOG_I("training waits for each save");
    else if (!self->base.backend->ops->host_memory)
        LOG_I("saves run behind the training, from the host's copy of the state");
    else if (spare > 0)
        LOG_I("saves run behind the training, from a spare set of the state (%.1f MiB more "
              "a rank)",
              (double)spare / 1048576.0);
    else
        LOG_I(
            "saves run behind the training, from the state itself: the update of the next "
            "step waits until it is read");
}

/* Rank 0's clock. The other ranks' asks for nothing and is not asked. */
static void open_timetable(Trainer *self) {
    const Config *config = self->base.config;
    double bytes = 0, now = clock_seconds();
    for (int i = 0; i < ARENA_COUNT; i++)
        bytes += (double)self->base.state->arenas[i].bytes;
    History history;
    if (history_read(config->run.dir, &history) != STATUS_OK)
        LOG_W("%s: nothing is known of earlier launches", status_failure()->what);
    Interval interval;
    interval_open(&interval, config->checkpoint.interval_min,
                  config->checkpoint.interval_max, &history, bytes, now - self->opened);
    double ends = timetable_end(config, self->opened, getenv("SLURM_JOB_END_TIME"),
                                clock_unix() - (now - self->opened));
    timetable_open(&self->timetable, config, self->opened, now, ends, &interval);
    self->requests.timetable = &self->timetable;
}

static void print_clock(const Timetable *clock) {
    double now = clock_seconds(), left = clock->ends - now;
    const Interval *interval = &clock->interval;
    if (clock->automatic)
        LOG_I("saves about each %.3g s: one costs %.3g s, a recovery %.3g s, and earlier "
              "launches failed %d times in %.3g h",
              timetable_period(clock, now), interval->stall, interval->recovery,
              interval->history.failures, interval->history.exposure / 3600);
    if (!isfinite(left)) return;
    double reserve = timetable_reserve(clock);
    if (left > reserve)
        LOG_I("this launch's time ends in %.1f s: it stops some %.1f s before, to save",
              left, reserve);
    else
        LOG_W("this launch's time ends in %.1f s, and %.1f s are kept to save and leave "
              "(fault.end_margin): it stops after one step",
              left, reserve);
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
    print_saving(self);
    if (config->checkpoint.writers > 1 && base->collective->size > 1)
        LOG_I("%lld ranks write each checkpoint",
              config->checkpoint.writers < base->collective->size
                  ? (long long)config->checkpoint.writers
                  : (long long)base->collective->size);
    print_clock(&self->timetable);
    holding_print(self);
    if (self->mirror != NULL) LOG_I("mirrored to %s", config->checkpoint.mirror);
    int64_t smallest = config->train.batch / config->train.shards;
    if (model_has_batch_norm(base->graph) && smallest < 16)
        LOG_W("batch norm is computed per shard and a shard has %lld samples; below 16 its "
              "statistics are noisy: lower train.shards or raise train.batch if accuracy "
              "suffers",
              (long long)smallest);
    if (!base->restored.restored)
        LOG_I("fresh start, %lld steps to go", (long long)*base->scalars.total_steps);
    else if (base->restored.held)
        LOG_I(
            "restored %s, held by rank %d on %s: step %lld of %lld, in %.2f s; it is saved "
            "first of all",
            base->restored.name, base->restored.holder, base->restored.holder_host,
            (long long)*base->scalars.step, (long long)*base->scalars.total_steps,
            base->restored.seconds);
    else
        LOG_I("restored %s: step %lld of %lld, in %.2f s", base->restored.name,
              (long long)*base->scalars.step, (long long)*base->scalars.total_steps,
              base->restored.seconds);
}

Status trainer_start(Trainer *self) {
    Setup *base = &self->base;
    const Config *config = base->config;
    int64_t per_epoch =
        (base->data.train.count + config->train.batch - 1) / config->train.batch;
    self->horizon.steps_per_epoch = per_epoch;
    if (!base->restored.restored) start_fresh(self);
    self->horizon.total_steps = *base->scalars.total_steps;
    Status mine = residence_upload(base->state, base->backend);
    if (mine == STATUS_OK && trainer_is_first(self)) mine = own_directory(self);
    TRY(trainer_agree(self, mine));
    TRY(holding_open(self));
    TRY(step_open(base, &self->step));
    TRY(trainer_agree(self, open_parts(self)));
    TRY(trainer_agree(self, open_snapshot(self)));
    TRY(note_overlaps(self));
    TRY(open_saver(self));
    TRY(trainer_agree(self, open_mirror(self)));
    /* a file elsewhere that is saved anew here is not here yet */
    bool elsewhere = base->restored.held ||
                     (base->restored.path[0] != '\0' && boundary_evaluation_is_due(self));
    self->saved_step =
        base->restored.restored && !elsewhere ? base->restored.block.step : -1;
    self->taken_step = self->saved_step;
    if (!trainer_is_first(self)) return STATUS_OK;
    open_timetable(self);
    print_start(self);
    ledger_note_start(self);
    return STATUS_OK;
}

void trainer_stop(Trainer *self) {
    progress_close();
    mirror_close(self->mirror);
    loader_close(self->loader);
    saver_close(self->saver);
    snapshot_close(self->snapshot);
    holding_close(self);
    evaluator_close(self->evaluator);
    step_close(self->step);
    journal_close(self->journal);
    if (self->owned) owner_release(&self->owner);
    free(self->config_yaml);
    lineage_close(self->lineage);
    setup_close(&self->base);
}
