/* Downloads the checkpoint that a launch asked a store for, next to where it will be needed. */
#include "src/checkpoint/restore_store.h"

#include "src/checkpoint/directory.h"
#include "src/checkpoint/object_store.h"
#include "src/core/clock.h"
#include "src/core/file.h"
#include "src/core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where the download goes: its directory, and the name in it. */
static Status choose_file(const char *run_dir, bool read_only, int64_t step,
                          char temp[NAME_MAX + 1], RestoreDownload *out) {
    char directory[sizeof out->path], own[CATALOG_NAME];
    /* of generation 1: whichever launch owns the directory next, it is older and swept away */
    catalog_name(1, step, own);
    TRY(file_temporary_name(own, temp));
    if (read_only) {
        const char *above = getenv("TMPDIR");
        if (above == NULL || above[0] == '\0' || strlen(above) > 32) above = "/tmp";
        snprintf(out->folder, sizeof out->folder, "%s/rekindle-XXXXXX", above);
        if (mkdtemp(out->folder) == NULL) {
            out->folder[0] = '\0';
            return FAIL(STATUS_IO, "set TMPDIR to a directory with room",
                        "cannot make a folder in %s: %s", above, strerror(errno));
        }
        snprintf(directory, sizeof directory, "%s", out->folder);
    } else {
        char whole[PATH_MAX];
        snprintf(directory, sizeof directory, "%.900s/checkpoints", run_dir);
        int opened;
        TRY(directory_make(run_dir, &opened));
        close(opened);
        if (realpath(directory, whole) == NULL ||
            strlen(whole) + NAME_MAX >= sizeof out->path)
            return FAIL(STATUS_USAGE, "use a shorter run.dir",
                        "cannot use the directory %s", directory);
        snprintf(directory, sizeof directory, "%.1023s", whole);
    }
    int length = snprintf(out->path, sizeof out->path, "%s/%s", directory, temp);
    if (length < (int)sizeof out->path) return STATUS_OK;
    return FAIL(STATUS_USAGE, "use a shorter run.dir", "the path of run.dir is too long");
}

static Status fetch(const ObjectPlace *place, const char *name, const char *run_dir,
                    bool read_only, RestoreDownload *out) {
    char temp[NAME_MAX + 1], url[OBJECT_URL];
    UserBlock block;
    double start = clock_seconds();
    object_url(place, name, url);
    TRY(object_read_user_block(place, name, &block));
    TRY(choose_file(run_dir, read_only, block.step, temp, out));
    char *slash = strrchr(out->path, '/');
    *slash = '\0';
    int directory = open(out->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *slash = '/';
    if (directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open the directory of %s: %s",
                    out->path, strerror(errno));
    Status status = object_fetch(place, name, directory, temp, &block);
    close(directory);
    TRY(status);
    snprintf(out->name, sizeof out->name, "%.63s", name);
    LOG_I("downloaded and verified %s: %.1f MiB in %.2f s", url,
          (double)block.bytes / 1048576.0, clock_seconds() - start);
    return STATUS_OK;
}

/* What to do with an item of the store: it can be used, or why not. `failed`: how its bytes failed after
 * the user block was right; STATUS_OK: not tried yet. STATUS_OK here: pass on to the next. */
static Status pass_over(const CatalogItem *item, Status failed) {
    char reason[sizeof item->reason];
    bool rejected = item->verdict != CHECKPOINT_VALID;
    if (!rejected && failed != STATUS_CORRUPT && failed != STATUS_NO_CHECKPOINT)
        return failed;
    snprintf(reason, sizeof reason, "%.255s",
             rejected ? item->reason : status_failure()->what);
    if (rejected && item->code == STATUS_USAGE)
        return FAIL(STATUS_USAGE, "use the newer Rekindle, or name an older checkpoint",
                    "%s: %s", item->name, reason);
    LOG_W("checkpoint %s of the store is damaged and is passed over: %s", item->name,
          reason);
    return STATUS_OK;
}

static Status none_usable(const char *url, int count) {
    return FAIL(STATUS_NO_CHECKPOINT, "rekindle checkpoints ls tells what is there",
                "%.300s holds %d checkpoint(s), none that can be used", url, count);
}

static Status fetch_newest(const ObjectPlace *place, const char *url, const char *run_dir,
                           bool read_only, RestoreDownload *out) {
    Catalog catalog;
    TRY(object_catalog(place, &catalog));
    Status status = STATUS_OK;
    bool done = false;
    for (int i = 0; i < catalog.count && status == STATUS_OK && !done; i++) {
        const CatalogItem *item = &catalog.items[i];
        if (item->verdict == CHECKPOINT_VALID)
            status = fetch(place, item->name, run_dir, read_only, out);
        done = item->verdict == CHECKPOINT_VALID && status == STATUS_OK;
        if (done) break;
        status = pass_over(item, status);
        if (status == STATUS_OK) restore_store_drop(out);
    }
    if (status == STATUS_OK && !done) status = none_usable(url, catalog.count);
    catalog_close(&catalog);
    return status;
}

Status restore_store_fetch(const char *url, const char *run_dir, bool read_only,
                           RestoreDownload *out) {
    *out = (RestoreDownload){.path = ""};
    ObjectPlace place;
    Status status = object_place_open(url, NULL, &place);
    if (status == STATUS_OK)
        status = place.name[0] != '\0' ? fetch(&place, place.name, run_dir, read_only, out)
                                       : fetch_newest(&place, url, run_dir, read_only, out);
    object_place_close(&place);
    if (status == STATUS_OK) return STATUS_OK;
    restore_store_drop(out);
    if (status != STATUS_CORRUPT) return status;
    Failure cause = *status_failure();
    return FAIL(STATUS_NO_CHECKPOINT, "name another checkpoint",
                "the checkpoint that was asked for cannot be used: %.1200s", cause.what);
}

void restore_store_drop(RestoreDownload *download) {
    if (download->path[0] != '\0') unlink(download->path);
    if (download->folder[0] != '\0') rmdir(download->folder);
    *download = (RestoreDownload){.path = ""};
}

/* ---- a mirror */

static Status copy_newest(const ObjectPlace *place, const char *url, int directory,
                          const Catalog *catalog) {
    for (int i = 0; i < catalog->count; i++) {
        const CatalogItem *item = &catalog->items[i];
        ObjectCopy copy;
        double start = clock_seconds();
        Status status = STATUS_OK;
        if (item->verdict == CHECKPOINT_VALID)
            status = object_copy_in(place, item->name, directory, item->name, &copy);
        if (item->verdict != CHECKPOINT_VALID || status != STATUS_OK) {
            TRY(pass_over(item, status));
            continue;
        }
        LOG_I("the run directory is empty: downloaded and verified %s from %s, %.1f MiB in "
              "%.2f s",
              item->name, url, (double)copy.block.bytes / 1048576.0,
              clock_seconds() - start);
        return STATUS_OK;
    }
    return none_usable(url, catalog->count);
}

static Status fill(const ObjectPlace *place, const char *url, const char *run_dir,
                   const Catalog *catalog) {
    int directory;
    TRY(directory_make(run_dir, &directory));
    Status status = copy_newest(place, url, directory, catalog);
    close(directory);
    return status;
}

/* A store that cannot be asked may hold the run: beginning anew would hide that. */
static Status nothing_known(const char *url) {
    Failure cause = *status_failure();
    return FAIL(
        cause.code, "mend that, or begin without it: resume: none, or no checkpoint.mirror",
        "the run directory is empty, and what %.300s holds cannot be told: %.1200s (%s)",
        url, cause.what, cause.fix);
}

Status restore_store_fill(const char *url, const char *run_dir, RestoreMirror *out) {
    *out = (RestoreMirror){.count = 0};
    ObjectPlace place;
    TRY(object_prefix_open(url, NULL, &place));
    Catalog catalog;
    Status status = object_catalog(&place, &catalog);
    if (status != STATUS_OK) {
        status = nothing_known(url);
    } else {
        out->count = catalog.count;
        out->newest_generation = catalog.newest_generation;
        if (catalog.count > 0) status = fill(&place, url, run_dir, &catalog);
        catalog_close(&catalog);
    }
    object_place_close(&place);
    return status;
}

Status restore_store_look(const char *url, RestoreMirror *out) {
    *out = (RestoreMirror){.count = 0};
    ObjectPlace place;
    TRY(object_prefix_open(url, NULL, &place));
    Status status = object_count(&place, &out->count, &out->newest_generation);
    object_place_close(&place);
    return status;
}

Status restore_store_check(const char *url) {
    ObjectPlace place;
    TRY(object_prefix_open(url, NULL, &place));
    object_place_close(&place);
    return STATUS_OK;
}
