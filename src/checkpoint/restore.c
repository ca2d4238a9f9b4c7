/* Chooses the checkpoint to go on from, on rank 0, and walks back past what does not prove itself.
 * The bytes travel in restore_stream.c. */
#include "src/checkpoint/restore.h"

#include "src/checkpoint/restore_stream.h"
#include "src/core/clock.h"
#include "src/core/file.h"
#include "src/core/log.h"
#include "src/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { RESUME_AUTO, RESUME_NONE, RESUME_MUST, RESUME_PATH } Resume;

/* Rank 0's search. Elsewhere it stays empty. */
typedef struct {
    const RestoreRequest *request;
    RestoreResult *result;
    const State *state;
    Resume resume;
    Catalog catalog;
    int next;                 /* item to look at */
    bool again;               /* the candidate was given a second chance */
    int path_directory;       /* for RESUME_PATH */
    char path[PATH_MAX];      /* resolved */
    const char *path_name;    /* its last part, inside `path` */
    CheckpointReader *reader; /* the candidate, opened and proven as far as its metadata */
    char name[CATALOG_NAME];
    RestoreDownload download; /* what `path` is, when a store was asked */
} Search;

static Resume resume_mode(const char *text) {
    if (strcmp(text, "auto") == 0) return RESUME_AUTO;
    if (strcmp(text, "none") == 0) return RESUME_NONE;
    return strcmp(text, "must") == 0 ? RESUME_MUST : RESUME_PATH;
}

/* Remembers and reports a file that will not be used. */
static void pass_over(Search *search, const char *name, Status why, const char *reason) {
    reason = catalog_reason(name, reason);
    LOG_W("checkpoint %s %s and is passed over: %s", name,
          why == STATUS_IO ? "cannot be read" : "is damaged", reason);
    RestoreResult *result = search->result;
    size_t count = (size_t)result->passed_over_count + 1;
    RestorePassedOver *grown =
        realloc(result->passed_over, count * sizeof *result->passed_over);
    if (grown == NULL) return; /* it only loses its mark */
    result->passed_over = grown;
    RestorePassedOver *last = &grown[count - 1];
    snprintf(last->name, sizeof last->name, "%s", name);
    snprintf(last->reason, sizeof last->reason, "%.255s", reason);
    last->unread = why == STATUS_IO;
    result->passed_over_count = (int)count;
}

/* ---- choosing */

static Status begin_path(Search *search, const char *path) {
    const RestoreRequest *request = search->request;
    if (store_url_is(path)) {
        TRY(restore_store_fetch(path, request->run_dir, request->read_only,
                                &search->download));
        path = search->download.path;
    }
    if (realpath(path, search->path) == NULL)
        return FAIL(STATUS_NO_CHECKPOINT, "check --resume: rekindle checkpoints ls DIR",
                    "cannot find the checkpoint %s: %s", path, strerror(errno));
    char *slash = strrchr(search->path, '/');
    search->path_name = slash + 1;
    char directory[PATH_MAX];
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - search->path),
             search->path);
    search->path_directory =
        open(slash == search->path ? "/" : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (search->path_directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open the directory of %s: %s",
                    search->path, strerror(errno));
    return STATUS_OK;
}

/* Where the run is mirrored there may be names of generations that an empty directory never saw: ours must
 * be above them, or the newest work would look like old. */
static void look_at_mirror(const Search *search) {
    RestoreMirror there;
    Catalog catalog;
    if (catalog_open(search->request->run_dir, &catalog) != STATUS_OK) return;
    bool empty = catalog.count == 0 && catalog.newest_generation == 0;
    catalog_close(&catalog);
    if (!empty) return;
    if (restore_store_look(search->request->mirror, &there) == STATUS_OK)
        search->result->above_generation = there.newest_generation;
    else
        LOG_W("the mirror was not asked for its generations: %s (%s)",
              status_failure()->what, status_failure()->fix);
}

/* A fresh start is refused for what the mirror holds, as for what the directory holds. */
static Status begin_without_mirror(const Search *search) {
    const char *mirror = search->request->mirror;
    RestoreMirror there;
    if (restore_store_look(mirror, &there) != STATUS_OK) {
        LOG_W("what the mirror holds cannot be told: %s (%s)", status_failure()->what,
              status_failure()->fix);
        return STATUS_OK;
    }
    search->result->above_generation = there.newest_generation;
    if (there.count == 0) return STATUS_OK;
    return FAIL(STATUS_USAGE,
                "use another checkpoint.mirror for a fresh start, or resume: auto to go on",
                "resume: none, but %.300s holds %d checkpoint(s)", mirror, there.count);
}

/* The run directory is empty. */
static Status begin_with_mirror(Search *search) {
    const RestoreRequest *request = search->request;
    RestoreMirror there;
    if (search->resume == RESUME_NONE) return begin_without_mirror(search);
    if (request->read_only) {
        search->resume = RESUME_PATH;
        return begin_path(search, request->mirror);
    }
    TRY(restore_store_fill(request->mirror, request->run_dir, &there));
    search->result->above_generation = there.newest_generation;
    if (there.count == 0) return STATUS_OK;
    catalog_close(&search->catalog);
    return catalog_open(request->run_dir, &search->catalog);
}

static Status begin_search(Search *search) {
    const RestoreRequest *request = search->request;
    bool mirrored = request->mirror != NULL && request->mirror[0] != '\0';
    if (mirrored && !request->read_only) TRY(restore_store_check(request->mirror));
    if (search->resume == RESUME_PATH) {
        if (mirrored && !request->read_only) look_at_mirror(search);
        return begin_path(search, request->resume);
    }
    const Catalog *catalog = &search->catalog;
    TRY(catalog_open(request->run_dir, &search->catalog));
    if (mirrored && catalog->count == 0) TRY(begin_with_mirror(search));
    search->result->seen =
        (CatalogSeen){.looked = true, .owner_generation = catalog->newest_generation};
    if (catalog->count > 0) {
        search->result->seen.generation = catalog->items[0].generation;
        search->result->seen.step = catalog->items[0].step;
    }
    if (search->resume == RESUME_NONE && catalog_has_any(&search->catalog))
        return FAIL(
            STATUS_USAGE, "use another run.dir for a fresh start, or resume: auto to go on",
            "resume: none, but %s holds %d checkpoint(s), the newest %s",
            search->request->run_dir, search->catalog.count, search->catalog.items[0].name);
    return STATUS_OK;
}

/* The candidate must be of this run and hold exactly this state. Neither failure says that the file
 * is bad. */
static Status look_at_candidate(const Search *search) {
    const RestoreRequest *request = search->request;
    if (request->accept != NULL) {
        const UserBlock *block = checkpoint_reader_block(search->reader);
        const char *identity = checkpoint_reader_text(search->reader, "identity");
        TRY(request->accept(request->context, block, identity == NULL ? "" : identity,
                            search->name));
    }
    return checkpoint_reader_match(search->reader, search->state, NULL);
}

/* What cannot be read is asked for once more, from its name on: a network file system may have lost it for a
 * moment only. */
static Status open_candidate(Search *search, int directory, const char *name) {
    Status opened = checkpoint_reader_open(directory, name, &search->reader);
    if (opened != STATUS_IO) return opened;
    LOG_W("checkpoint %s is read once more: %s", name, status_failure()->what);
    return checkpoint_reader_open(directory, name, &search->reader);
}

static Status open_path(Search *search) {
    Status opened = open_candidate(search, search->path_directory, search->path_name);
    if (opened == STATUS_OK) {
        snprintf(search->name, sizeof search->name, "%.63s",
                 search->download.path[0] != '\0' ? search->download.name
                                                  : search->path_name);
        return look_at_candidate(search);
    }
    if (opened == STATUS_USAGE) return opened;
    Failure cause = *status_failure();
    return FAIL(STATUS_NO_CHECKPOINT, "name another file, or use resume: auto",
                "the checkpoint that was asked for cannot be used: %.700s", cause.what);
}

static Status nothing_left(const Search *search) {
    const Catalog *catalog = &search->catalog;
    const RestoreResult *result = search->result;
    const char *run_dir = search->request->run_dir;
    if (catalog->count == 0) {
        if (search->resume != RESUME_MUST) return STATUS_OK;
        return FAIL(STATUS_NO_CHECKPOINT, "check run.dir, or use resume: auto",
                    "resume: must, but %s holds no checkpoint", run_dir);
    }
    if (catalog->items[0].generation < catalog->fresh_generation &&
        search->resume == RESUME_AUTO) {
        LOG_W("%s holds only what a launch wrote after launch %lld had begun afresh: the "
              "run begins afresh again",
              run_dir, (long long)catalog->fresh_generation);
        return STATUS_OK;
    }
    bool damaged = result->passed_over_count > 0;
    return FAIL(
        STATUS_NO_CHECKPOINT,
        "restore one from a backup, name one with --resume PATH, or use another run.dir "
        "to start afresh",
        "%.200s holds %d checkpoint(s), but none can be used; %s: %s", run_dir,
        catalog->count, damaged ? result->passed_over[0].name : catalog->items[0].name,
        damaged ? result->passed_over[0].reason : catalog->items[0].reason);
}

/* Opens the next candidate; without one, and no failure, the run starts afresh. */
static Status choose(Search *search) {
    if (search->resume == RESUME_PATH) return open_path(search);
    for (; search->next < search->catalog.count; search->next++) {
        const CatalogItem *item = &search->catalog.items[search->next];
        if (item->verdict == CHECKPOINT_SUPERSEDED) {
            LOG_I("checkpoint %s does not count: %s", item->name, item->reason);
            continue;
        }
        Status opened = item->code;
        if (item->verdict == CHECKPOINT_VALID)
            opened = open_candidate(search, search->catalog.directory, item->name);
        if (opened == STATUS_OK) {
            memcpy(search->name, item->name, sizeof search->name);
            search->next++;
            return look_at_candidate(search);
        }
        char reason[sizeof item
                        ->reason]; /* a copy: FAIL writes where status_failure reads */
        snprintf(reason, sizeof reason, "%.255s",
                 item->verdict == CHECKPOINT_VALID ? status_failure()->what : item->reason);
        if (opened == STATUS_USAGE)
            return FAIL(
                STATUS_USAGE,
                "use the newer Rekindle, or name an older checkpoint: --resume PATH", "%s",
                reason);
        if (opened == STATUS_MEMORY) return opened;
        search->again = false;
        pass_over(search, item->name, opened, reason);
    }
    return nothing_left(search);
}

/* A candidate's bytes were bad, or could not be read: STATUS_OK when it, or an older one, may be tried. */
static Status after_failure(Search *search, Status why) {
    char reason[256];
    if (why == STATUS_IO && !search->again) {
        search->again = true;
        if (search->resume != RESUME_PATH) search->next--;
        LOG_W("checkpoint %s is read once more: %s", search->name, status_failure()->what);
        return STATUS_OK;
    }
    search->again = false;
    snprintf(reason, sizeof reason, "%.255s", status_failure()->what);
    if (search->resume == RESUME_PATH)
        return FAIL(STATUS_NO_CHECKPOINT, "name another file, or use resume: auto",
                    "the checkpoint that was asked for cannot be used: %s", reason);
    pass_over(search, search->name, why, reason);
    return STATUS_OK;
}

/* ---- the outcome, everywhere */

/* What rank 0 tells of its choice, before any tensor moves. */
typedef struct {
    bool restored;
    char name[CATALOG_NAME];
    char path[sizeof((RestoreResult *)NULL)->path];
    UserBlock block;
    size_t text_bytes[3]; /* identity, config, lineage, each with its zero */
} Choice;

static Choice describe_choice(const Search *search) {
    Choice choice;
    memset(&choice, 0, sizeof choice); /* padding too: it travels */
    if (search->reader == NULL) return choice;
    choice.restored = true;
    memcpy(choice.name, search->name, sizeof choice.name);
    choice.block = *checkpoint_reader_block(search->reader);
    if (search->download.path[0] != '\0') {
        snprintf(choice.path, sizeof choice.path, "%s", search->download.path);
    } else if (search->resume == RESUME_PATH) {
        char home[PATH_MAX], own[PATH_MAX];
        size_t length = (size_t)(search->path_name - search->path) - 1;
        snprintf(own, sizeof own, "%s/checkpoints", search->request->run_dir);
        bool inside = realpath(own, home) != NULL && strlen(home) == length &&
                      memcmp(home, search->path, length) == 0;
        if (!inside || strlen(search->path_name) >= sizeof choice.name)
            snprintf(choice.path, sizeof choice.path, "%.1023s", search->path);
    }
    return choice;
}

static Status share_text(Collective *collective, const Search *search, const char *which,
                         char **out) {
    const char *text =
        search->reader == NULL ? NULL : checkpoint_reader_text(search->reader, which);
    uint64_t bytes = text == NULL ? 1 : strlen(text) + 1;
    TRY(collective->ops->broadcast(collective, &bytes, sizeof bytes, 0));
    free(*out);
    *out = calloc(1, bytes);
    Status mine = *out != NULL ? STATUS_OK
                               : FAIL(STATUS_MEMORY, NULL,
                                      "no memory for a checkpoint's %s (%llu bytes)", which,
                                      (unsigned long long)bytes);
    TRY(collective->ops->agree(collective, mine));
    if (text != NULL) memcpy(*out, text, bytes);
    return collective->ops->broadcast(collective, *out, bytes, 0);
}

static Status share_choice(Collective *collective, const Search *search,
                           RestoreResult *result) {
    Choice choice = describe_choice(search);
    TRY(collective->ops->broadcast(collective, &choice, sizeof choice, 0));
    result->restored = choice.restored;
    memcpy(result->name, choice.name, sizeof result->name);
    memcpy(result->path, choice.path, sizeof result->path);
    result->block = choice.block;
    TRY(share_text(collective, search, "identity", &result->identity));
    TRY(share_text(collective, search, "config", &result->config));
    return share_text(collective, search, "lineage", &result->lineage);
}

/* One turn: choose, move, compare. *done when there is nothing more to try. */
static Status try_candidate(Collective *collective, Search *search, State *state,
                            RestoreResult *result, bool *done) {
    Status mine = collective->rank == 0 ? choose(search) : STATUS_OK;
    TRY(collective->ops->agree(collective, mine));
    TRY(share_choice(collective, search, result));
    *done = true;
    if (!result->restored) return STATUS_OK;
    bool file_failed = false;
    Status moved =
        restore_stream(collective, 0, search->reader, state, &result->block, &file_failed);
    if (moved == STATUS_OK || !file_failed) return moved;
    mine = collective->rank == 0 ? after_failure(search, moved) : STATUS_OK;
    *done = false;
    checkpoint_reader_close(search->reader);
    search->reader = NULL;
    return collective->ops->agree(collective, mine);
}

Status restore_newest(Collective *collective, const RestoreRequest *request, State *state,
                      RestoreResult *result) {
    *result = (RestoreResult){.restored = false};
    Search search = {
        .request = request,
        .result = result,
        .state = state,
        .resume = resume_mode(request->resume),
        .catalog.directory = -1,
        .path_directory = -1,
    };
    double start = clock_seconds();
    Status mine = collective->rank == 0 ? begin_search(&search) : STATUS_OK;
    Status outcome = collective->ops->agree(collective, mine);
    for (bool done = false; outcome == STATUS_OK && !done;)
        outcome = try_candidate(collective, &search, state, result, &done);
    checkpoint_reader_close(search.reader);
    if (search.path_directory >= 0) close(search.path_directory);
    catalog_close(&search.catalog);
    if (outcome == STATUS_OK && !request->read_only)
        result->download = search.download;
    else
        restore_store_drop(&search.download);
    result->seconds = clock_seconds() - start;
    return outcome;
}

void restore_result_free(RestoreResult *result) {
    free(result->identity);
    free(result->config);
    free(result->lineage);
    free(result->passed_over);
    restore_store_drop(&result->download);
    *result = (RestoreResult){.restored = false};
}

OwnerClaim restore_claim(const RestoreResult *result) {
    OwnerClaim claim = {.seen = result->seen,
                        .restored_step = -1,
                        .above_generation = result->above_generation};
    if (!result->restored) return claim;
    memcpy(claim.restored_from, result->name, sizeof claim.restored_from);
    memcpy(claim.restored_path, result->path, sizeof claim.restored_path);
    claim.restored_step = result->block.step;
    claim.restored_digest = result->block.state_digest;
    return claim;
}

void restore_mark_passed_over(const RestoreResult *result, const Owner *owner) {
    for (int i = 0; i < result->passed_over_count; i++)
        if (!result->passed_over[i].unread)
            catalog_mark_rejected(owner, result->passed_over[i].name,
                                  result->passed_over[i].reason);
}
