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

/* What becomes of a state. */
typedef enum { DURABLE, HELD, TARGETS } Target;

/* The texts that it holds belong to a plan. */
typedef struct {
    CheckpointPlan *plan;
    Digest texts;
} Planned;

struct Saver {
    Collective *collective;
    const Owner *owner; /* rank 0 only */
    const State *registry;
    const CheckpointText *text; /* of ranks that write */
    Planned planned[TARGETS];
    SaverOptions options;
    Task *task;       /* NULL: in the foreground */
    int failures;     /* in a row; the same on every rank */
    int commits;      /* of this launch; rank 0's count */
    bool cannot_hold; /* this rank could not, the last time, and has said so */
    StateReport *reports;
    Phase phase;
    SaverEvent ended; /* for the next poll */
    /* of the save in flight; while the thread is at work, its own */
    Target target;
    const State *state;
    UserBlock block;
    double begun; /* clock_seconds() */
    StateReport report;
    CheckpointWriting *writing; /* ranks that write, as all below */
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

/* A plan holds the texts: one that has changed, even in length, is another plan. What is held is not packed:
 * it is there for speed. */
static Status plan_file(Saver *saver, Target target) {
    Planned *planned = &saver->planned[target];
    Digest texts = digest_of_texts(saver->text);
    if (planned->plan != NULL && digest_equal(planned->texts, texts)) return STATUS_OK;
    CheckpointPlan *plan;
    int level = target == HELD ? 0 : saver->options.level;
    TRY(checkpoint_plan(saver->registry, saver->text, level, &plan));
    checkpoint_plan_destroy(planned->plan);
    *planned = (Planned){plan, texts};
    return STATUS_OK;
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
            mine = plan_file(saver, DURABLE);
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
    *out = saver;
    return options->background ? start_thread(saver) : STATUS_OK;
}

void saver_close(Saver *saver) {
    if (saver == NULL) return;
    task_close(saver->task);
    checkpoint_write_discard(saver->writing);
    destroy_plans(saver);
    free(saver->reports);
    free(saver);
}

/* ---- what the thread does */

static void keep_failure(Saver *saver, Status outcome) {
    saver->outcome = outcome;
    if (outcome != STATUS_OK) saver->failure = *status_failure();
}

/* Whether this rank puts the state into a file. */
static bool writes_file(const Saver *saver) {
    const LocalPlace *place = saver->options.place;
    if (saver->target == HELD) return place != NULL && place->fds[LOCAL_LAUNCH] >= 0;
    return saver->collective->rank == 0;
}

static int directory_of(const Saver *saver) {
    return saver->target == HELD ? saver->options.place->fds[LOCAL_LAUNCH]
                                 : saver->owner->directory;
}

static void describe_saved(Saver *saver) {
    const Owner *owner = saver->owner;
    UserBlock *block = &saver->block;
    block->generation = owner->generation;
    snprintf(block->parent, sizeof block->parent, "%s", owner->restored_from);
    block->parent_digest = owner->restored_digest;
}

static Status make_room(const Saver *saver) {
    size_t needed = 1 << 20; /* about what the metadata take */
    for (int i = 0; i < ARENA_COUNT; i++)
        needed += saver->registry->arenas[i].bytes;
    return local_make_room(saver->options.place, needed);
}

static Status write_values(Saver *saver, int *not_finite) {
    UserBlock *block = &saver->block;
    if (saver->target == HELD) {
        TRY(make_room(saver));
        block->generation = saver->options.place->generation;
    } else {
        TRY(owner_check(saver->owner));
        describe_saved(saver);
    }
    TRY(plan_file(saver, saver->target));
    block->ranks = saver->collective->size;
    catalog_name(block->generation, block->step, saver->event.name);
    return checkpoint_write_begin(saver->planned[saver->target].plan, saver->state,
                                  directory_of(saver), saver->event.name, &saver->writing,
                                  &saver->report.digest, not_finite);
}

/* Who writes digests what it writes, in one pass; the others, and who could not write, digest alone. */
static void persist(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    int not_finite = -1;
    bool writes = writes_file(saver);
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
    TRY(checkpoint_read_user_block(directory_of(saver), name, &there));
    if (!digest_equal(there.state_digest, saver->report.digest))
        return FAIL(STATUS_EXISTS, "move that file away",
                    "%s exists already and holds another state", name);
    *block = there;
    /* the save that named it may have failed to sync its name */
    return file_sync_directory(directory_of(saver), name);
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
    Status owned = saver->target == DURABLE ? owner_check(saver->owner) : STATUS_OK;
    if (owned != STATUS_OK) {
        checkpoint_write_discard(writing);
        return owned;
    }
    Status written = checkpoint_write_commit(writing, block);
    if (written == STATUS_EXISTS)
        written = accept_existing(saver, event->name, block);
    else if (written == STATUS_OK && saver->target == DURABLE)
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
    keep_failure(saver, saver->target == HELD ? name_file(saver) : commit_and_prune(saver));
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

/* What a host could not hold is told by its own rank, once in a row. */
static void tell_unheld(Saver *saver) {
    if (!writes_file(saver)) return;
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
    saver->report.failed = !writes_file(saver) || saver->outcome != STATUS_OK;
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
    if (saver->target == DURABLE && saver->reports[0].failed != 0) return end_save(saver);
    saver->phase = COMMITTING;
    if (saver->writing != NULL) task_begin(saver->task, commit, saver);
    return STATUS_OK;
}

uint32_t saver_bits(const Saver *saver) {
    bool works = saver->phase != IDLE && !task_is_over(saver->task);
    return works ? CONTROL_SAVING : 0;
}

Status saver_advance(Saver *saver, uint32_t bits) {
    if (saver->phase == IDLE || (bits & CONTROL_SAVING) != 0) return STATUS_OK;
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
    saver->phase = PERSISTING;
    task_begin(saver->task, persist, saver);
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
