/* The phases of a save. The thread works, the ranks meet in saver_advance, and whatever they meet about
 * is decided by all in the same way. */
#include "src/checkpoint/saver_parts.h"

#include "src/core/clock.h"
#include "src/core/log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

/* ---- opening */

/* Two: the one that is written and the one that must not go before it. */
static void warn_if_no_room(const Saver *saver) {
    struct statvfs about;
    if (fstatvfs(saver->owner->directory, &about) != 0) return;
    double room = (double)about.f_bavail * (double)about.f_frsize, needed = 0;
    for (int i = 0; i < ARENA_COUNT; i++)
        needed += (double)saver->registry->arenas[i].bytes;
    needed = 2 * (needed + (1 << 20)); /* and about a mebibyte of metadata */
    if (room < needed)
        LOG_W("%s has %.1f MiB free, but two checkpoints need about %.1f MiB: free some "
              "space, "
              "lower checkpoint.keep_last, or use another run.dir",
              saver->owner->run_dir, room / (1 << 20), needed / (1 << 20));
}

static void destroy_plans(Saver *saver) {
    for (int i = 0; i < TARGETS; i++)
        checkpoint_plan_destroy(saver->planned[i].plan);
}

/* All ranks work in the background, or none. */
static Status start_thread(Saver *saver) {
    uint32_t failed = 0;
    if (task_open(&saver->task) != STATUS_OK) {
        LOG_W("%s (%s): training waits for each save", status_failure()->what,
              status_failure()->fix);
        failed = 1;
    }
    TRY(saver->collective->ops->control(saver->collective, &failed));
    if (failed == 0) return STATUS_OK;
    task_close(saver->task);
    saver->task = NULL;
    return STATUS_OK;
}

static Status open_share(Saver *saver) {
    const SaverOptions *options = &saver->options;
    int ranks = saver->collective->size;
    int writers = options->writers < ranks ? options->writers : ranks;
    assert(options->level == 0 || options->writers <= 1);
    if (writers <= 1) return STATUS_OK;
    return share_open(saver->collective, saver->registry, options->run_dir, writers,
                      &saver->share);
}

Status saver_open(Collective *collective, const Owner *owner, const State *state,
                  const CheckpointText *text, const SaverOptions *options, Saver **out) {
    *out = NULL;
    Saver *saver = calloc(1, sizeof *saver);
    StateReport *reports = calloc((size_t)collective->size, sizeof *reports);
    Status mine = STATUS_OK;
    if (saver == NULL || reports == NULL) {
        mine = FAIL(STATUS_MEMORY, NULL, "no memory for the saver");
    } else {
        *saver = (Saver){.collective = collective,
                         .owner = owner,
                         .registry = state,
                         .text = text,
                         .options = *options};
        if (collective->rank == 0) {
            warn_if_no_room(saver);
            mine = saver_plan_file(saver, DURABLE);
        }
    }
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome != STATUS_OK) {
        if (saver != NULL) destroy_plans(saver);
        free(saver);
        free(reports);
        return outcome;
    }
    saver->reports = reports;
    outcome = open_share(saver);
    if (outcome == STATUS_OK && options->background) outcome = start_thread(saver);
    if (outcome != STATUS_OK) {
        saver_close(saver);
        return outcome;
    }
    *out = saver;
    return STATUS_OK;
}

void saver_close(Saver *saver) {
    if (saver == NULL) return;
    task_close(saver->task);
    checkpoint_write_discard(saver->writing);
    share_close(saver->share);
    destroy_plans(saver);
    free(saver->reports);
    free(saver);
}

/* ---- where the ranks meet */

/* The failure that is one too many, and why it ends the run. */
static Status end_the_run(const Saver *saver, const Failure *newest) {
    Failure failure = *newest;
    snprintf(
        failure.what, sizeof failure.what,
        "step %lld was not saved, failure %d of %d in a row (checkpoint.max_failures): "
        "%.1500s",
        (long long)saver->event.step, saver->failures, saver->options.max_failures,
        newest->what);
    return status_adopt(&failure);
}

/* The save is over, on every rank. Collective: rank 0's event reaches all. */
static Status end_save(Saver *saver) {
    Collective *collective = saver->collective;
    saver->phase = IDLE;
    saver->state = NULL;
    if (saver->outcome != STATUS_OK) status_adopt(&saver->failure);
    Status outcome = collective->ops->agree(collective, saver->outcome);
    if (outcome == STATUS_COMM || outcome == STATUS_LOST_OWNER) return outcome;
    Failure failure = *status_failure();
    SaverEvent *event = &saver->event;
    TRY(collective->ops->broadcast(collective, event, sizeof *event, 0));
    event->finished = true;
    event->status = outcome;
    if (outcome != STATUS_OK) event->failure = failure;
    saver->ended = *event;
    saver->failures = outcome == STATUS_OK ? 0 : saver->failures + 1;
    for (int i = 0; i < saver->complaint_count; i++)
        LOG_W("%s (%s)", saver->complaints[i].what, saver->complaints[i].fix);
    if (outcome == STATUS_OK) return STATUS_OK;
    if (saver->failures >= saver->options.max_failures) return end_the_run(saver, &failure);
    if (collective->rank == 0)
        LOG_W("step %lld was not saved (failure %d of %d in a row, earlier checkpoints "
              "stay): %s%s%s; %s",
              (long long)event->step, saver->failures, saver->options.max_failures,
              saver_is_shared(saver) ? failure.who : "", saver_is_shared(saver) ? ": " : "",
              failure.what, failure.fix);
    return STATUS_OK;
}

/* What a host could not hold is told by its own rank, once in a row. */
static void tell_unheld(Saver *saver) {
    if (!saver_writes_file(saver)) return;
    if (saver->outcome != STATUS_OK && !saver->cannot_hold)
        LOG_W("step %lld is not held in %s (said once, until one is held again); training "
              "and saving go on: %s (%s)",
              (long long)saver->event.step, saver->options.place->path, saver->failure.what,
              saver->failure.fix);
    else if (saver->outcome == STATUS_OK && saver->cannot_hold)
        LOG_I("step %lld is held in %s again", (long long)saver->event.step,
              saver->options.place->path);
    saver->cannot_hold = saver->outcome != STATUS_OK;
}

/* The same, of a state that was to be held: each host's outcome counts for itself. Collective: the event of the
 * lowest rank that holds it reaches all. */
static Status end_hold(Saver *saver) {
    Collective *collective = saver->collective;
    SaverEvent *event = &saver->event;
    saver->phase = IDLE;
    saver->state = NULL;
    tell_unheld(saver);
    saver->report.failed = !saver_writes_file(saver) || saver->outcome != STATUS_OK;
    TRY(collective->ops->gather(collective, &saver->report, sizeof saver->report,
                                saver->reports));
    int root = -1;
    for (int rank = collective->size - 1; rank >= 0; rank--)
        if (saver->reports[rank].failed == 0) {
            event->hosts++;
            root = rank;
        }
    int hosts = event->hosts;
    TRY(collective->ops->broadcast(collective, event, sizeof *event, root < 0 ? 0 : root));
    event->hosts = hosts;
    event->finished = event->held = true;
    if (root < 0)
        event->status = FAIL(STATUS_IO, "see what the ranks said of it",
                             "no host holds step %lld", (long long)event->step);
    saver->ended = *event;
    return STATUS_OK;
}

/* Rank 0 has made a file for the writers, or could not. */
static Status end_creating(Saver *saver) {
    TRY(share_announce(saver->share));
    saver->phase = PERSISTING;
    task_begin(saver->task, saver_persist, saver);
    return STATUS_OK;
}

/* The file is whole, unless a writer has failed: then rank 0 throws it away. */
static Status end_sharing(Saver *saver, bool *whole) {
    *whole = true;
    for (int rank = 0; saver_is_shared(saver) && rank < saver->collective->size; rank++)
        if (saver->reports[rank].failed != 0) *whole = false;
    return saver_is_shared(saver) && *whole ? share_collect(saver->share, saver->writing)
                                            : STATUS_OK;
}

/* All have digested their state. */
static Status end_persisting(Saver *saver) {
    Status judged = examination_judge(saver->collective, saver->state, saver->event.step,
                                      &saver->report, saver->reports);
    if (judged != STATUS_OK) {
        saver_discard(saver);
        saver->phase = IDLE;
        return judged;
    }
    if (saver->target == DURABLE && saver->reports[0].failed != 0) return end_save(saver);
    bool whole;
    TRY(end_sharing(saver, &whole));
    saver->phase = COMMITTING;
    if (saver->writing != NULL)
        task_begin(saver->task, whole ? saver_commit : saver_discard, saver);
    return STATUS_OK;
}

uint32_t saver_bits(const Saver *saver) {
    bool works = saver->phase != IDLE && !task_is_over(saver->task);
    return works ? CONTROL_SAVING : 0;
}

Status saver_advance(Saver *saver, uint32_t bits) {
    if (saver->phase == IDLE || (bits & CONTROL_SAVING) != 0) return STATUS_OK;
    if (saver->phase == CREATING) return end_creating(saver);
    if (saver->phase == PERSISTING) return end_persisting(saver);
    return saver->target == HELD ? end_hold(saver) : end_save(saver);
}

static Status begin(Saver *saver, Target target, const State *state,
                    const UserBlock *what) {
    assert(saver->phase == IDLE);
    saver->target = target;
    saver->state = state;
    saver->block = *what;
    saver->begun = clock_seconds();
    saver->outcome = STATUS_OK;
    saver->complaint_count = 0;
    memset(&saver->report, 0, sizeof saver->report); /* padding too: they travel */
    memset(&saver->event, 0, sizeof saver->event);
    saver->event.step = what->step;
    saver->phase = saver_is_shared(saver) ? CREATING : PERSISTING;
    if (saver->phase == PERSISTING)
        task_begin(saver->task, saver_persist, saver);
    else if (saver->collective->rank == 0)
        task_begin(saver->task, saver_create, saver);
    return saver->task == NULL ? saver_finish(saver) : STATUS_OK;
}

Status saver_begin(Saver *saver, const State *state, const UserBlock *what) {
    return begin(saver, DURABLE, state, what);
}

Status saver_hold(Saver *saver, const State *state, const UserBlock *what) {
    return begin(saver, HELD, state, what);
}

bool saver_is_busy(const Saver *saver) {
    return saver->phase != IDLE;
}

bool saver_is_reading(const Saver *saver) {
    return saver->phase == CREATING || saver->phase == PERSISTING;
}

void saver_poll(Saver *saver, SaverEvent *event) {
    *event = saver->ended;
    memset(&saver->ended, 0, sizeof saver->ended);
}

/* Asleep between two looks: who waited in a collective would take a core from the threads at work. */
static Status await_all(Saver *saver) {
    static const struct timespec moment = {0, 500000};
    uint32_t bits;
    for (;;) {
        bits = saver_bits(saver);
        TRY(saver->collective->ops->control(saver->collective, &bits));
        if ((bits & CONTROL_SAVING) == 0) return STATUS_OK;
        nanosleep(&moment, NULL);
    }
}

Status saver_await_file(Saver *saver) {
    if (saver->phase != CREATING) return STATUS_OK;
    TRY(await_all(saver));
    return saver_advance(saver, 0);
}

void saver_await_reading(Saver *saver) {
    assert(saver->phase != CREATING);
    if (saver->phase == PERSISTING) task_wait(saver->task);
}

Status saver_finish(Saver *saver) {
    while (saver != NULL && saver->phase != IDLE) {
        if (saver->task != NULL) TRY(await_all(saver));
        TRY(saver_advance(saver, 0));
    }
    return STATUS_OK;
}
