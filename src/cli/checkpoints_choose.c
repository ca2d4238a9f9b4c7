/* What an argument of `rekindle checkpoints` means: a file, a run directory, or an address in a store. */
#include "src/cli/checkpoints.h"

#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Status checkpoints_run_config(const char *run_dir, Config **out) {
    char path[PATH_MAX];
    int fd;
    *out = NULL;
    snprintf(path, sizeof path, "%s/config.yaml", run_dir);
    if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0) return STATUS_OK;
    TRY(file_open(AT_FDCWD, path, O_RDONLY, &fd)); /* it must be the run's own */
    close(fd);
    Config *config = calloc(1, sizeof *config);
    if (config == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for what %s says", path);
    Status status = config_load(path, NULL, 0, config);
    if (status == STATUS_OK)
        *out = config;
    else
        free(config);
    return status;
}

Status checkpoints_stored(const char *url, const StoreOptions *options, Catalog *out) {
    ObjectPlace place;
    Status status = object_prefix_open(url, options, &place);
    if (status == STATUS_OK) status = object_catalog(&place, out);
    object_place_close(&place);
    return status;
}

Status checkpoints_catalog(const char *path, Catalog *out) {
    char inside[PATH_MAX];
    struct stat about;
    *out = (Catalog){.directory = -1};
    if (store_url_is(path)) return checkpoints_stored(path, NULL, out);
    if (stat(path, &about) != 0)
        return FAIL(STATUS_USAGE, file_fix_for(errno), "cannot find %s: %s", path,
                    strerror(errno));
    if (!S_ISDIR(about.st_mode))
        return FAIL(STATUS_USAGE, "name a run directory", "%s is not a directory", path);
    snprintf(inside, sizeof inside, "%s/checkpoints", path);
    if (lstat(inside, &about) == 0) return catalog_open(path, out);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", path,
                    strerror(errno));
    Status listed = catalog_open_at(directory, out);
    if (listed != STATUS_OK) close(directory);
    return listed;
}

static Status none_valid(const char *path, int count) {
    return FAIL(STATUS_NO_CHECKPOINT, "rekindle checkpoints ls tells why",
                "%s holds %d checkpoint(s), none of them valid", path, count);
}

/* Of a catalogue the newest valid one. Something newer that only a newer program reads is not passed over: an
 * older file would be taken for the run's newest. */
static Status newest_of(const Catalog *catalog, const char *path, char name[NAME_MAX + 1]) {
    for (int i = 0; i < catalog->count; i++) {
        const CatalogItem *item = &catalog->items[i];
        if (catalog_is_newer_format(item))
            return FAIL(STATUS_USAGE, "use the newer Rekindle, or name an older checkpoint",
                        "%s", item->reason);
        if (item->verdict != CHECKPOINT_VALID) continue;
        strcpy(name, item->name);
        return STATUS_OK;
    }
    return none_valid(path, catalog->count);
}

static Status choose_newest(const char *path, ChosenCheckpoint *out) {
    Catalog catalog;
    TRY(checkpoints_catalog(path, &catalog));
    Status status = newest_of(&catalog, path, out->name);
    if (status == STATUS_OK) {
        out->directory = catalog.directory;
        catalog.directory = -1; /* it is the choice's now */
    }
    catalog_close(&catalog);
    return status;
}

/* ---- in a store */

Status checkpoints_download(const ObjectPlace *place, const char *name,
                            ChosenCheckpoint *out) {
    const char *above = getenv("TMPDIR");
    UserBlock block;
    *out = (ChosenCheckpoint){.directory = -1};
    snprintf(out->name, sizeof out->name, "%s", name);
    if (above == NULL || above[0] == '\0' || strlen(above) > 32) above = "/tmp";
    snprintf(out->folder, sizeof out->folder, "%s/rekindle-XXXXXX", above);
    if (mkdtemp(out->folder) == NULL) {
        out->folder[0] = '\0';
        return FAIL(STATUS_IO, "set TMPDIR to a directory with room",
                    "cannot make a folder in %s: %s", above, strerror(errno));
    }
    out->directory = open(out->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = out->directory >= 0
                        ? object_fetch(place, name, out->directory, out->name, &block)
                        : FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s",
                               out->folder, strerror(errno));
    if (status != STATUS_OK) checkpoints_release(out);
    return status;
}

/* The address's own name, or the newest valid one under its prefix. */
static Status choose_stored(const ObjectPlace *place, const char *url,
                            char name[NAME_MAX + 1]) {
    Catalog catalog;
    strcpy(name, place->name);
    if (name[0] != '\0') return STATUS_OK;
    TRY(object_catalog(place, &catalog));
    Status status = newest_of(&catalog, url, name);
    catalog_close(&catalog);
    return status;
}

static Status choose_url(const char *url, ChosenCheckpoint *out) {
    ObjectPlace place;
    char name[NAME_MAX + 1];
    Status status = object_place_open(url, NULL, &place);
    if (status == STATUS_OK) status = choose_stored(&place, url, name);
    if (status == STATUS_OK) status = checkpoints_download(&place, name, out);
    object_place_close(&place);
    return checkpoints_damaged(status);
}

Status checkpoints_show_stored(const char *url, char name[NAME_MAX + 1], UserBlock *out) {
    ObjectPlace place;
    Status status = object_place_open(url, NULL, &place);
    if (status == STATUS_OK) status = choose_stored(&place, url, name);
    if (status == STATUS_OK) status = object_read_user_block(&place, name, out);
    object_place_close(&place);
    return status;
}

/* ---- */

Status checkpoints_choose(const char *path, ChosenCheckpoint *out) {
    *out = (ChosenCheckpoint){.directory = -1};
    if (store_url_is(path)) return choose_url(path, out);
    char whole[PATH_MAX];
    struct stat about;
    if (realpath(path, whole) == NULL || stat(whole, &about) != 0)
        return FAIL(STATUS_USAGE, file_fix_for(errno), "cannot find %s: %s", path,
                    strerror(errno));
    if (S_ISDIR(about.st_mode)) return choose_newest(path, out);
    char *slash = strrchr(whole, '/');
    snprintf(out->name, sizeof out->name, "%.255s", slash + 1);
    slash[slash == whole ? 1 : 0] = '\0';
    out->directory = open(whole, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->directory >= 0) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot open the directory of %s: %s", path,
                strerror(errno));
}

void checkpoints_release(ChosenCheckpoint *chosen) {
    if (chosen->folder[0] != '\0') {
        if (chosen->directory >= 0) unlinkat(chosen->directory, chosen->name, 0);
        rmdir(chosen->folder);
        chosen->folder[0] = '\0';
    }
    if (chosen->directory >= 0) close(chosen->directory);
    chosen->directory = -1;
}

Status checkpoints_damaged(Status status) {
    if (status != STATUS_CORRUPT) return status;
    Failure failure = *status_failure();
    failure.code = STATUS_NO_CHECKPOINT;
    return status_adopt(&failure);
}
