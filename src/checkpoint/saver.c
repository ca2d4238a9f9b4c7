/* Saving in the foreground: compare the ranks, let rank 0 write, tell everyone how it went. */
#include "src/checkpoint/saver.h"

#include "src/core/clock.h"
#include "src/core/file.h"
#include "src/core/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* What a rank says of its state before a save. */
typedef struct {
    Digest digest;
    int64_t not_finite; /* index of the first entry that is not, or -1 */
} Report;

struct Saver {
    Collective *collective;
    const Owner *owner; /* rank 0 only */
    const State *state;
    const CheckpointText *text; /* rank 0 only, as all below that is about it */
    CheckpointPlan *plan;
    Digest planned; /* of the texts that the plan holds */
    SaverOptions options;
    int failures; /* in a row; the same on every rank */
    int commits;  /* of this launch; rank 0's count */
    Report *reports;
    SaverEvent event;
};

/* ---- opening */

/* Two: the one that is written and the one that must not go before it. */
static void warn_if_no_room(const Saver *saver) {
    struct statvfs about;
    if (fstatvfs(saver->owner->directory, &about) != 0) return;
    double room = (double)about.f_bavail * (double)about.f_frsize, needed = 0;
    for (int i = 0; i < ARENA_COUNT; i++)
        needed += (double)saver->state->arenas[i].bytes;
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
    TRY(checkpoint_plan(saver->state, saver->text, saver->options.level, &plan));
    checkpoint_plan_destroy(saver->plan);
    saver->plan = plan;
    saver->planned = texts;
    return STATUS_OK;
}

Status saver_open(Collective *collective, const Owner *owner, const State *state,
                  const CheckpointText *text, const SaverOptions *options, Saver **out) {
    *out = NULL;
    Saver *saver = calloc(1, sizeof *saver);
    Report *reports = calloc((size_t)collective->size, sizeof *reports);
    Status mine = STATUS_OK;
    if (saver == NULL || reports == NULL) {
        mine = FAIL(STATUS_MEMORY, NULL, "no memory for the saver");
    } else {
        *saver = (Saver){.collective = collective,
                         .owner = owner,
                         .state = state,
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
    return STATUS_OK;
}

void saver_close(Saver *saver) {
    if (saver == NULL) return;
    checkpoint_plan_destroy(saver->plan);
    free(saver->reports);
    free(saver);
}

/* ---- is the state fit to be saved? */

/* The digest that most ranks hold; of equals the one of the lowest rank. */
static Digest most_common(const Report *reports, int size) {
    int best = 0, best_votes = 0;
    for (int i = 0; i < size; i++) {
        int votes = 0;
        for (int j = 0; j < size; j++)
            votes += digest_equal(reports[i].digest, reports[j].digest);
        if (votes > best_votes) {
            best = i;
            best_votes = votes;
        }
    }
    return reports[best].digest;
}

/* "1, 3": the ranks that hold something else. */
static void name_outliers(const Report *reports, int size, Digest common, char *out,
                          size_t bytes) {
    size_t length = 0;
    out[0] = '\0';
    for (int i = 0; i < size; i++)
        if (!digest_equal(reports[i].digest, common) && length < bytes)
            length += (size_t)snprintf(out + length, bytes - length, "%s%d",
                                       length > 0 ? ", " : "", i);
}

/* The lowest entry that is not the same on all ranks. Collective. */
static Status find_difference(const Saver *saver, int *index) {
    Collective *collective = saver->collective;
    size_t count = (size_t)saver->state->count;
    Digest *own = calloc(count + 1, sizeof *own);
    Digest *all = calloc(count * (size_t)collective->size + 1, sizeof *all);
    Status mine = STATUS_OK;
    if (own == NULL || all == NULL)
        mine = FAIL(STATUS_MEMORY, NULL, "no memory to compare %zu entries", count);
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome == STATUS_OK) {
        for (size_t i = 0; i < count; i++)
            own[i] = state_entry_digest(saver->state, (int)i);
        outcome = collective->ops->gather(collective, own, count * sizeof *own, all);
    }
    *index = -1;
    for (size_t i = 0; outcome == STATUS_OK && i < count && *index < 0; i++)
        for (size_t rank = 1; rank < (size_t)collective->size; rank++)
            if (!digest_equal(all[rank * count + i], all[i])) *index = (int)i;
    free(own);
    free(all);
    return outcome;
}

/* Collective, so that all fail with one text. */
static Status report_divergence(const Saver *saver, int64_t step) {
    char ranks[200];
    int size = saver->collective->size, index;
    name_outliers(saver->reports, size, most_common(saver->reports, size), ranks,
                  sizeof ranks);
    TRY(find_difference(saver, &index));
    const char *path =
        index < 0 ? "none found on a second look" : saver->state->entries[index].path;
    Status mine = FAIL(
        STATUS_CORRUPT,
        "relaunch: the run goes on from the last checkpoint; if it happens again, test "
        "those machines' memory and devices",
        "ranks hold different states after step %lld, nothing was saved: rank(s) %s "
        "differ from the others; first entry: %s",
        (long long)step, ranks, path);
    return saver->collective->ops->agree(saver->collective, mine);
}

/* Collective; the same answer everywhere, since all see the same reports. */
static Status check_state(Saver *saver, int64_t step) {
    Collective *collective = saver->collective;
    Report own;
    memset(&own, 0, sizeof own);
    int index = -1;
    own.digest = state_examine(saver->state, &index);
    own.not_finite = index;
    TRY(collective->ops->gather(collective, &own, sizeof own, saver->reports));
    for (int rank = 1; rank < collective->size; rank++)
        if (!digest_equal(saver->reports[rank].digest, saver->reports[0].digest))
            return report_divergence(saver, step);
    if (own.not_finite < 0) return STATUS_OK;
    Status mine =
        FAIL(STATUS_NOT_FINITE,
             "lower optimizer.lr or set optimizer.clip_norm; what was saved before "
             "is still good",
             "entry %s is not finite after step %lld on any rank: nothing was saved",
             saver->state->entries[index].path, (long long)step);
    return collective->ops->agree(collective, mine);
}

/* ---- one save */

/* The same step may be saved twice: at an epoch's end and at a stop, or right after a restore. */
static Status accept_existing(const Saver *saver, const char *name, UserBlock *block) {
    UserBlock there;
    TRY(checkpoint_read_user_block(saver->owner->directory, name, &there));
    if (!digest_equal(there.state_digest, saver->reports[0].digest))
        return FAIL(STATUS_EXISTS, "move that file away",
                    "%s exists already and holds another state", name);
    *block = there;
    /* the save that named it may have failed to sync its name */
    return file_sync_directory(saver->owner->directory, name);
}

/* Rank 0's part. */
static Status write_one(Saver *saver, const UserBlock *what, SaverEvent *event) {
    const Owner *owner = saver->owner;
    TRY(owner_check(owner));
    TRY(plan_file(saver));
    UserBlock block = *what;
    block.generation = owner->generation;
    block.ranks = saver->collective->size;
    snprintf(block.parent, sizeof block.parent, "%s", owner->restored_from);
    block.parent_digest = owner->restored_digest;
    catalog_name(block.generation, block.step, event->name);
    Status written =
        checkpoint_write(saver->plan, saver->state, owner->directory, event->name, &block);
    if (written == STATUS_EXISTS)
        written = accept_existing(saver, event->name, &block);
    else if (written == STATUS_OK)
        saver->commits++;
    TRY(written);
    event->bytes = block.bytes;
    event->state_digest = block.state_digest;
    Status pruned = catalog_prune(owner, &saver->options.keep, saver->commits);
    if (pruned == STATUS_LOST_OWNER) return pruned;
    if (pruned != STATUS_OK)
        LOG_W("old checkpoints are still there: %s (%s)", status_failure()->what,
              status_failure()->fix);
    return STATUS_OK;
}

Status saver_begin(Saver *saver, const UserBlock *what) {
    Collective *collective = saver->collective;
    double start = clock_seconds();
    TRY(check_state(saver, what->step));
    SaverEvent event;
    memset(&event, 0, sizeof event); /* padding too: it travels */
    event.finished = true;
    event.step = what->step;
    Status mine = collective->rank == 0 ? write_one(saver, what, &event) : STATUS_OK;
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome == STATUS_COMM || outcome == STATUS_LOST_OWNER) return outcome;
    Failure failure = *status_failure();
    TRY(collective->ops->broadcast(collective, &event, sizeof event, 0));
    event.seconds = clock_seconds() - start;
    event.status = outcome;
    if (outcome != STATUS_OK) event.failure = failure;
    saver->event = event;
    saver->failures = outcome == STATUS_OK ? 0 : saver->failures + 1;
    if (outcome == STATUS_OK) return STATUS_OK;
    if (saver->failures >= saver->options.max_failures) return status_adopt(&failure);
    if (collective->rank == 0)
        LOG_W("step %lld was not saved (failure %d of %d in a row, earlier checkpoints "
              "stay): "
              "%s; %s",
              (long long)what->step, saver->failures, saver->options.max_failures,
              failure.what, failure.fix);
    return STATUS_OK;
}

Status saver_poll(Saver *saver, SaverEvent *event) {
    *event = saver->event;
    memset(&saver->event, 0, sizeof saver->event);
    return STATUS_OK;
}

Status saver_finish(Saver *saver) {
    (void)saver; /* nothing is ever in flight between two calls */
    return STATUS_OK;
}
