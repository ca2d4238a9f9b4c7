/* Rank 0's search for the checkpoint to go on from: what there is, what counts, and what is passed over. */
#include "src/checkpoint/restore_search.h"

#include "src/core/file.h"
#include "src/core/log.h"
#include "src/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Resume search_mode(const char *text) {
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

/* The same of a snapshot in memory, which gets no mark. */
static void pass_over_held(const RestoreHeld *held, Status why, const char *reason) {
    LOG_W("snapshot %s, held by rank %d on %s, %s and is passed over: %s", held->item.name,
          held->rank, held->host, why == STATUS_IO ? "cannot be read" : "is damaged",
          catalog_reason(held->item.name, reason));
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

Status search_begin(Search *search) {
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

Status search_look(const Search *search) {
    const RestoreRequest *request = search->request;
    if (request->accept != NULL) {
        const UserBlock *block = checkpoint_reader_block(search->reader);
        const char *identity = checkpoint_reader_text(search->reader, "identity");
        TRY(request->accept(request->context, block, identity == NULL ? "" : identity,
                            search->name));
    }
    return checkpoint_reader_match(search->reader, search->state, NULL);
}

Status search_open(Search *search, int directory, const char *name) {
    Status opened = checkpoint_reader_open(directory, name, &search->reader);
    if (opened != STATUS_IO) return opened;
    LOG_W("checkpoint %s is read once more: %s", name, status_failure()->what);
    return checkpoint_reader_open(directory, name, &search->reader);
}

static Status open_path(Search *search) {
    Status opened = search_open(search, search->path_directory, search->path_name);
    if (opened == STATUS_OK) {
        snprintf(search->name, sizeof search->name, "%.63s",
                 search->download.path[0] != '\0' ? search->download.name
                                                  : search->path_name);
        return search_look(search);
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

/* Every file here is damaged: the newest of the mirror that proves itself comes as a file from elsewhere, since
 * its name may be taken by what stays as evidence. */
static Status turn_to_mirror(Search *search) {
    const RestoreRequest *request = search->request;
    RestoreMirror there;
    LOG_W("nothing in %s can be used: %s is asked", request->run_dir, request->mirror);
    TRY(restore_store_look(request->mirror, &there));
    search->result->above_generation = there.newest_generation;
    search->stored = true;
    TRY(begin_path(search, request->mirror));
    return open_path(search);
}

/* What is wrong here stays the reason when the mirror does not help, unless it holds a newer format. */
static Status nothing_left_here(Search *search) {
    Status none = nothing_left(search);
    const char *mirror = search->request->mirror;
    bool asks = mirror != NULL && mirror[0] != '\0' && search->catalog.count > 0;
    if (none != STATUS_NO_CHECKPOINT || !asks) return none;
    Failure cause = *status_failure();
    Status turned = turn_to_mirror(search);
    if (turned == STATUS_OK || turned == STATUS_USAGE || turned == STATUS_MEMORY)
        return turned;
    LOG_W("the mirror does not help: %s (%s)", status_failure()->what,
          status_failure()->fix);
    return status_adopt(&cause);
}

/* It is the newest, and only another program can read it: an older one would lose what it holds. */
static Status newer_format(const char *reason) {
    return FAIL(STATUS_USAGE,
                "use the newer Rekindle, or name an older checkpoint: --resume PATH", "%s",
                reason);
}

/* Looks at the next item of the run directory. *found: it is opened. */
static Status try_item(Search *search, bool *found) {
    const CatalogItem *item = &search->catalog.items[search->next++];
    if (item->verdict == CHECKPOINT_SUPERSEDED) {
        LOG_I("checkpoint %s does not count: %s", item->name, item->reason);
        return STATUS_OK;
    }
    Status opened = item->code;
    if (item->verdict == CHECKPOINT_VALID)
        opened = search_open(search, search->catalog.directory, item->name);
    if (opened == STATUS_OK) {
        memcpy(search->name, item->name, sizeof search->name);
        *found = true;
        return search_look(search);
    }
    char reason[sizeof item->reason]; /* a copy: FAIL writes where status_failure reads */
    snprintf(reason, sizeof reason, "%.255s",
             item->verdict == CHECKPOINT_VALID ? status_failure()->what : item->reason);
    if (opened == STATUS_USAGE) return newer_format(reason);
    if (opened == STATUS_MEMORY) return opened;
    search->again = false;
    pass_over(search, item->name, opened, reason);
    return STATUS_OK;
}

/* The same of what is held; who holds it opens it. */
static Status try_held(Search *search, bool *found) {
    const RestoreHeld *held = &search->held.items[search->next_held++];
    const CatalogItem *item = &held->item;
    if (item->verdict == CHECKPOINT_SUPERSEDED) {
        LOG_I("snapshot %s, held by rank %d on %s, does not count: %s", item->name,
              held->rank, held->host, item->reason);
    } else if (catalog_is_newer_format(item)) {
        return newer_format(item->reason);
    } else if (item->verdict == CHECKPOINT_REJECTED) {
        search->again = false;
        pass_over_held(held, item->code, item->reason);
    } else {
        *found = true;
        search->pick.held = true;
        search->pick.rank = held->rank;
        memcpy(search->pick.host, held->host, sizeof search->pick.host);
        memcpy(search->pick.folder, held->folder, sizeof search->pick.folder);
        memcpy(search->pick.name, item->name, sizeof search->pick.name);
    }
    return STATUS_OK;
}

/* Of a state that is in both places, the file in the run directory comes first. */
static bool held_comes_first(const Search *search) {
    if (search->next_held == search->held.count) return false;
    if (search->next == search->catalog.count) return true;
    return catalog_newest_first(&search->held.items[search->next_held].item,
                                &search->catalog.items[search->next]) < 0;
}

Status search_choose(Search *search) {
    bool found = false;
    memset(&search->pick, 0, sizeof search->pick); /* padding too: it travels */
    if (search->resume == RESUME_PATH || search->stored) return open_path(search);
    while (!found && (search->next < search->catalog.count ||
                      search->next_held < search->held.count)) {
        if (held_comes_first(search))
            TRY(try_held(search, &found));
        else
            TRY(try_item(search, &found));
    }
    return found ? STATUS_OK : nothing_left_here(search);
}

Status search_after_failure(Search *search, Status why) {
    char reason[256];
    bool held = search->pick.held;
    bool path = search->resume == RESUME_PATH || search->stored;
    if (why == STATUS_IO && !search->again) {
        search->again = true;
        if (held)
            search->next_held--;
        else if (!path)
            search->next--;
        LOG_W("%s %s is read once more: %s", held ? "snapshot" : "checkpoint",
              held ? search->pick.name : search->name, status_failure()->what);
        return STATUS_OK;
    }
    search->again = false;
    snprintf(reason, sizeof reason, "%.255s", status_failure()->what);
    if (path)
        return FAIL(STATUS_NO_CHECKPOINT, "name another file, or use resume: auto",
                    "the checkpoint that was asked for cannot be used: %s", reason);
    if (held)
        pass_over_held(&search->held.items[search->next_held - 1], why, reason);
    else
        pass_over(search, search->name, why, reason);
    return STATUS_OK;
}

Status search_refuse_to_hide(const Search *search) {
    for (int i = 0; i < search->held.count; i++) {
        const RestoreHeld *held = &search->held.items[i];
        if (held->item.verdict == CHECKPOINT_VALID)
            return FAIL(STATUS_USAGE,
                        "use another run.dir for a fresh start, or resume: auto to go on",
                        "resume: none, but rank %d on %s holds %s of %.400s", held->rank,
                        held->host, held->item.name, search->request->run_dir);
    }
    return STATUS_OK;
}
