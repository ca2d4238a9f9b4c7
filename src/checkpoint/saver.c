/* The phases of a save. The thread works, the ranks meet in saver_advance, and whatever they meet about
 * is decided by all in the same way. */
#include "src/checkpoint/saver.h"

#include "src/checkpoint/examination.h"
#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/file.h"
#include "src/core/log.h"
#include "src/core/task.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

typedef enum { IDLE, PERSISTING, COMMITTING } Phase;

struct Saver {
    Collective *collective;
    const Owner *owner; /* rank 0 only */
    const State *registry;
    const CheckpointText *text; /* rank 0 only, as all below that is about it */
    CheckpointPlan *plan;
    Digest planned; /* of the texts that the plan holds */
    SaverOptions options;
    Task *task;   /* NULL: in the foreground */
    int failures; /* in a row; the same on every rank */
    int commits;  /* of this launch; rank 0's count */
    StateReport *reports;
    Phase phase;
    SaverEvent ended; /* for the next poll */
    /* of the save in flight; while the thread is at work, its own */
    const State *state;
    UserBlock block;
    double begun; /* clock_seconds() */
    StateReport report;
    CheckpointWriting *writing; /* rank 0, as all below */
    SaverEvent event;
    Status outcome;
    Failure failure;
    Failure complaints[2]; /* of what does not make the save fail: said when it is over */
    int complaint_count;
};

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

static Digest digest_of_texts(const CheckpointText *text) {
    const char *const all[] = {text->identity, text->config, text->lineage};
    Digest each[sizeof all / sizeof *all];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        each[i] = digest_of(all[i], strlen(all[i]));
    return digest_of(each, sizeof each);
}

/* A plan holds the texts: one that has changed, even in length, is another plan. */
static Status plan_file(Saver *saver) {
    Digest texts = digest_of_texts(saver->text);
    if (saver->plan != NULL && digest_equal(saver->planned, texts)) return STATUS_OK;
    CheckpointPlan *plan;
    TRY(checkpoint_plan(saver->registry, saver->text, saver->options.level, &plan));
    checkpoint_plan_destroy(saver->plan);
    saver->plan = plan;
    saver->planned = texts;
    return STATUS_OK;
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
            mine = plan_file(saver);
        }
    }
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome != STATUS_OK) {
        if (saver != NULL) checkpoint_plan_destroy(saver->plan);
        free(saver);
        free(reports);
        return outcome;
    }
    saver->reports = reports;
    *out = saver;
    return options->background ? start_thread(saver) : STATUS_OK;
}

void saver_close(Saver *saver) {
    if (saver == NULL) return;
    task_close(saver->task);
    checkpoint_write_discard(saver->writing);
    checkpoint_plan_destroy(saver->plan);
    free(saver->reports);
    free(saver);
}

/* ---- what the thread does */

static void keep_failure(Saver *saver, Status outcome) {
    saver->outcome = outcome;
    if (outcome != STATUS_OK) saver->failure = *status_failure();
}

static Status write_values(Saver *saver, int *not_finite) {
    const Owner *owner = saver->owner;
    TRY(owner_check(owner));
    TRY(plan_file(saver));
    UserBlock *block = &saver->block;
    block->generation = owner->generation;
    block->ranks = saver->collective->size;
    snprintf(block->parent, sizeof block->parent, "%s", owner->restored_from);
    block->parent_digest = owner->restored_digest;
    catalog_name(block->generation, block->step, saver->event.name);
    return checkpoint_write_begin(saver->plan, saver->state, owner->directory,
                                  saver->event.name, &saver->writing, &saver->report.digest,
                                  not_finite);
}

/* Rank 0 digests what it writes, in one pass; the others, and who could not write, digest alone. */
static void persist(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    int not_finite = -1;
    bool writes = saver->collective->rank == 0;
    fault_point("persist");
    keep_failure(saver, writes ? write_values(saver, &not_finite) : STATUS_OK);
    saver->report.failed = saver->outcome != STATUS_OK;
    if (!writes || saver->outcome != STATUS_OK)
        saver->report.digest = state_examine(saver->state, &not_finite);
    saver->report.not_finite = not_finite;
    saver->event.persist = clock_seconds() - start;
}

/* The same step may be saved twice: at an epoch's end and at a stop, or right after a restore. */
static Status accept_existing(const Saver *saver, const char *name, UserBlock *block) {
    UserBlock there;
    TRY(checkpoint_read_user_block(saver->owner->directory, name, &there));
    if (!digest_equal(there.state_digest, saver->report.digest))
        return FAIL(STATUS_EXISTS, "move that file away",
                    "%s exists already and holds another state", name);
    *block = there;
    /* the save that named it may have failed to sync its name */
    return file_sync_directory(saver->owner->directory, name);
}

static void complain(Saver *saver, Status status) {
    if (status != STATUS_OK)
        saver->complaints[saver->complaint_count++] = *status_failure();
}

static Status name_file(Saver *saver) {
    SaverEvent *event = &saver->event;
    UserBlock *block = &saver->block;
    CheckpointWriting *writing = saver->writing;
    saver->writing = NULL;
    Status owned = owner_check(saver->owner);
    if (owned != STATUS_OK) {
        checkpoint_write_discard(writing);
        return owned;
    }
    Status written = checkpoint_write_commit(writing, block);
    if (written == STATUS_EXISTS)
        written = accept_existing(saver, event->name, block);
    else if (written == STATUS_OK)
        saver->commits++;
    TRY(written);
    event->bytes = block->bytes;
    event->state_digest = block->state_digest;
    event->seconds = clock_seconds() - saver->begun;
    return STATUS_OK;
}

static Status commit_and_prune(Saver *saver) {
    const SaverOptions *options = &saver->options;
    if (options->before_commit != NULL)
        complain(saver, options->before_commit(options->context));
    TRY(name_file(saver));
    Status pruned = catalog_prune(saver->owner, &options->keep, saver->commits);
    if (pruned == STATUS_LOST_OWNER) return pruned;
    complain(saver, pruned);
    return STATUS_OK;
}

static void commit(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    keep_failure(saver, commit_and_prune(saver));
    saver->event.commit = clock_seconds() - start;
}

/* ---- where the ranks meet */

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
    if (saver->failures >= saver->options.max_failures) return status_adopt(&failure);
    if (collective->rank == 0)
        LOG_W("step %lld was not saved (failure %d of %d in a row, earlier checkpoints "
              "stay): %s; %s",
              (long long)event->step, saver->failures, saver->options.max_failures,
              failure.what, failure.fix);
    return STATUS_OK;
}

/* All have digested their state. */
static Status end_persisting(Saver *saver) {
    Status judged = examination_judge(saver->collective, saver->state, saver->event.step,
                                      &saver->report, saver->reports);
    if (judged != STATUS_OK) {
        checkpoint_write_discard(saver->writing);
        saver->writing = NULL;
        saver->phase = IDLE;
        return judged;
    }
    if (saver->reports[0].failed != 0) return end_save(saver);
    saver->phase = COMMITTING;
    if (saver->collective->rank == 0) task_begin(saver->task, commit, saver);
    return STATUS_OK;
}

uint32_t saver_bits(const Saver *saver) {
    bool works = saver->phase != IDLE && !task_is_over(saver->task);
    return works ? CONTROL_SAVING : 0;
}

Status saver_advance(Saver *saver, uint32_t bits) {
    if (saver->phase == IDLE || (bits & CONTROL_SAVING) != 0) return STATUS_OK;
    return saver->phase == PERSISTING ? end_persisting(saver) : end_save(saver);
}

Status saver_begin(Saver *saver, const State *state, const UserBlock *what) {
    assert(saver->phase == IDLE);
    saver->state = state;
    saver->block = *what;
    saver->begun = clock_seconds();
    saver->outcome = STATUS_OK;
    saver->complaint_count = 0;
    memset(&saver->report, 0, sizeof saver->report); /* padding too: they travel */
    memset(&saver->event, 0, sizeof saver->event);
    saver->event.step = what->step;
    saver->phase = PERSISTING;
    task_begin(saver->task, persist, saver);
    return saver->task == NULL ? saver_finish(saver) : STATUS_OK;
}

bool saver_is_busy(const Saver *saver) {
    return saver->phase != IDLE;
}

bool saver_is_reading(const Saver *saver) {
    return saver->phase == PERSISTING;
}

void saver_await_reading(Saver *saver) {
    if (saver->phase == PERSISTING) task_wait(saver->task);
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

Status saver_finish(Saver *saver) {
    while (saver != NULL && saver->phase != IDLE) {
        if (saver->task != NULL) TRY(await_all(saver));
        TRY(saver_advance(saver, 0));
    }
    return STATUS_OK;
}
