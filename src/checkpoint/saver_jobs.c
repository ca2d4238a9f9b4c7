/* What a rank does for a save between two meetings: on its thread, or there and then. */
#include "src/checkpoint/saver_parts.h"

#include "src/core/clock.h"
#include "src/core/fault.h"
#include "src/core/file.h"

#include <stdio.h>
#include <string.h>

static Digest digest_of_texts(const CheckpointText *text) {
    const char *const all[] = {text->identity, text->config, text->lineage};
    Digest each[sizeof all / sizeof *all];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        each[i] = digest_of(all[i], strlen(all[i]));
    return digest_of(each, sizeof each);
}

Status saver_plan_file(Saver *saver, Target target) {
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

static void keep_failure(Saver *saver, Status outcome) {
    saver->outcome = outcome;
    if (outcome != STATUS_OK) saver->failure = *status_failure();
}

bool saver_writes_file(const Saver *saver) {
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

bool saver_is_shared(const Saver *saver) {
    return saver->share != NULL && saver->target == DURABLE;
}

static Status prepare_file(Saver *saver) {
    UserBlock *block = &saver->block;
    if (saver->target == HELD) {
        TRY(make_room(saver));
        block->generation = saver->options.place->generation;
    } else {
        TRY(owner_check(saver->owner));
        describe_saved(saver);
    }
    TRY(saver_plan_file(saver, saver->target));
    block->ranks = saver->collective->size;
    catalog_name(block->generation, block->step, saver->event.name);
    return STATUS_OK;
}

static Status write_values(Saver *saver, int *not_finite) {
    Digest *digest = &saver->report.digest;
    if (saver_is_shared(saver))
        return share_write(saver->share, saver->state, saver->writing, digest, not_finite);
    TRY(prepare_file(saver));
    return checkpoint_write_begin(saver->planned[saver->target].plan, saver->state,
                                  directory_of(saver), saver->event.name, &saver->writing,
                                  digest, not_finite);
}

void saver_discard(void *context) {
    Saver *saver = context;
    checkpoint_write_discard(saver->writing);
    saver->writing = NULL;
}

static Status create_file(Saver *saver) {
    TRY(prepare_file(saver));
    TRY(checkpoint_write_create(saver->planned[saver->target].plan, directory_of(saver),
                                saver->event.name, &saver->writing));
    return share_offer(saver->share, saver->writing);
}

void saver_create(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    keep_failure(saver, create_file(saver));
    if (saver->outcome != STATUS_OK) {
        saver_discard(saver);
        share_offer(saver->share, NULL);
    }
    saver->event.persist = clock_seconds() - start;
}

/* Who writes digests what it writes, in one pass; the others, and who could not write, digest alone. */
void saver_persist(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    int not_finite = -1;
    bool writes = saver_is_shared(saver) || saver_writes_file(saver);
    fault_point("persist");
    Status written = writes ? write_values(saver, &not_finite) : STATUS_OK;
    if (written != STATUS_OK) keep_failure(saver, written);
    if (written != STATUS_OK) saver_discard(saver);
    saver->report.failed = saver->outcome != STATUS_OK;
    if (!writes || written != STATUS_OK)
        saver->report.digest = state_examine(saver->state, &not_finite);
    saver->report.not_finite = not_finite;
    saver->event.persist += clock_seconds() - start;
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

void saver_commit(void *context) {
    Saver *saver = context;
    double start = clock_seconds();
    keep_failure(saver, saver->target == HELD ? name_file(saver) : commit_and_prune(saver));
    saver->event.commit = clock_seconds() - start;
}
