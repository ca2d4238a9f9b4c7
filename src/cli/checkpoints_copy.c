/* `rekindle checkpoints copy`: between a directory and an object store, each file verified on this side. */
#include "src/cli/checkpoints.h"

#include "src/checkpoint/directory.h"
#include "src/core/clock.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    bool as_json;
    json_t *all;
    int copied, there, missed;
} Copies;

static void print_done(const char *name, const char *where, const ObjectCopy *copy,
                       double seconds) {
    char size[32], digest[DIGEST_TEXT];
    checkpoints_size(copy->block.bytes, size);
    digest_print(copy->block.state_digest, digest);
    if (copy->was_there) {
        printf("there   %s  step %lld, state %s: the same is there already\n", name,
               (long long)copy->block.step, digest);
        return;
    }
    printf("copied  %s  step %lld, %s in %.2f s, state %s, to %s", name,
           (long long)copy->block.step, size, seconds, digest, where);
    if (copy->upload.parts_found > 0)
        printf(" (%d of %d parts were there already)", copy->upload.parts_found,
               copy->upload.parts);
    putchar('\n');
}

static void note_done(Copies *copies, const char *name, const char *where,
                      const ObjectCopy *copy, double seconds) {
    copies->copied += !copy->was_there;
    copies->there += copy->was_there;
    if (!copies->as_json) {
        print_done(name, where, copy, seconds);
        return;
    }
    char digest[DIGEST_TEXT];
    digest_print(copy->block.state_digest, digest);
    json_array_append_new(copies->all,
                          json_pack("{s:s, s:s, s:b, s:b, s:I, s:I, s:s, s:i, s:i, s:f}",
                                    "file", name, "to", where, "ok", 1, "was_there",
                                    copy->was_there, "step", (json_int_t)copy->block.step,
                                    "bytes", (json_int_t)copy->block.bytes, "state_digest",
                                    digest, "parts", copy->upload.parts, "parts_found",
                                    copy->upload.parts_found, "seconds", seconds));
}

/* What is damaged, or in the way, is said, and the others are copied all the same. */
static void note_missed(Copies *copies, const char *name, const char *reason) {
    copies->missed++;
    if (copies->as_json)
        json_array_append_new(copies->all,
                              json_pack("{s:s, s:b, s:s}", "file", name, "ok", 0, "reason",
                                        catalog_reason(name, reason)));
    else
        printf("MISSED  %s: %s\n", name, catalog_reason(name, reason));
}

/* The end of one: true for what concerns this file alone. */
static bool is_its_own(Status status) {
    return status == STATUS_CORRUPT || status == STATUS_EXISTS ||
           status == STATUS_NO_CHECKPOINT;
}

/* ---- to a store */

static Status copy_out(Copies *copies, const ObjectPlace *to, int directory,
                       const char *name, const char *as) {
    ObjectCopy copy;
    char url[OBJECT_URL];
    double start = clock_seconds();
    Status status = object_copy_out(to, directory, name, as, &copy);
    object_url(to, as, url);
    if (status == STATUS_OK) note_done(copies, name, url, &copy, clock_seconds() - start);
    if (!is_its_own(status)) return status;
    note_missed(copies, name, status_failure()->what);
    return STATUS_OK;
}

/* Newest first: whatever ends this, the most valuable one has gone. */
static Status copy_directory_out(Copies *copies, const ObjectPlace *to, const char *path) {
    Catalog catalog;
    TRY(checkpoints_catalog(path, &catalog));
    Status status = STATUS_OK;
    if (to->name[0] != '\0')
        status = FAIL(STATUS_USAGE, "name a prefix: s3://BUCKET/PREFIX",
                      "a directory cannot be copied to the one name %.255s", to->name);
    for (int i = 0; i < catalog.count && status == STATUS_OK; i++) {
        const CatalogItem *item = &catalog.items[i];
        if (item->verdict == CHECKPOINT_REJECTED)
            note_missed(copies, item->name, item->reason);
        else if (item->verdict == CHECKPOINT_VALID)
            status = copy_out(copies, to, catalog.directory, item->name, item->name);
    }
    catalog_close(&catalog);
    return status;
}

static Status copy_to_store(Copies *copies, const char *from, const char *url) {
    ObjectPlace to;
    struct stat about;
    Status status = object_place_open(url, NULL, &to);
    if (status == STATUS_OK && stat(from, &about) == 0 && S_ISDIR(about.st_mode)) {
        status = copy_directory_out(copies, &to, from);
    } else if (status == STATUS_OK) {
        ChosenCheckpoint chosen;
        status = checkpoints_choose(from, &chosen);
        if (status == STATUS_OK) {
            status = copy_out(copies, &to, chosen.directory, chosen.name,
                              to.name[0] != '\0' ? to.name : chosen.name);
            checkpoints_release(&chosen);
        }
    }
    object_place_close(&to);
    return status;
}

/* ---- from a store */

/* Where copies go on this side. */
typedef struct {
    int directory;
    char shown[PATH_MAX];
    char name[NAME_MAX + 1]; /* the file's; empty: as in the store */
} Target;

static bool is_directory(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

static Status open_target(const char *path, Target *out) {
    char inside[PATH_MAX];
    *out = (Target){.directory = -1};
    size_t length = strlen(path);
    if (length + sizeof "/checkpoints" > sizeof inside)
        return FAIL(STATUS_USAGE, "use a shorter path", "the path is too long");
    snprintf(inside, sizeof inside, "%s/checkpoints", path);
    const char *slash = strrchr(path, '/'), *last = slash == NULL ? path : slash + 1;
    if (is_directory(path)) {
        TRY(directory_open(path, &out->directory));
        strcpy(out->shown, out->directory >= 0 ? inside : path);
    } else if (length > 3 && strcmp(path + length - 3, ".h5") == 0 &&
               strlen(last) <= NAME_MAX) {
        strcpy(out->name, last);
        if (slash == NULL)
            strcpy(out->shown, ".");
        else
            snprintf(out->shown, sizeof out->shown, "%.*s", (int)(slash - path + 1), path);
    } else {
        strcpy(out->shown, inside);
        TRY(directory_make(path, &out->directory));
    }
    if (out->directory < 0)
        out->directory = open(out->shown, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->directory >= 0) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", out->shown,
                strerror(errno));
}

static Status copy_in(Copies *copies, const ObjectPlace *from, const char *name,
                      const Target *to) {
    ObjectCopy copy;
    double start = clock_seconds();
    const char *as = to->name[0] != '\0' ? to->name : name;
    Status status = object_copy_in(from, name, to->directory, as, &copy);
    if (status == STATUS_OK)
        note_done(copies, name, to->shown, &copy, clock_seconds() - start);
    if (!is_its_own(status)) return status;
    note_missed(copies, name, status_failure()->what);
    return STATUS_OK;
}

static Status copy_prefix_in(Copies *copies, const ObjectPlace *from, const Target *to) {
    Catalog catalog;
    if (to->name[0] != '\0')
        return FAIL(STATUS_USAGE, "name a directory",
                    "a whole prefix cannot be copied to the one file %.255s", to->name);
    TRY(object_catalog(from, &catalog));
    Status status = STATUS_OK;
    for (int i = 0; i < catalog.count && status == STATUS_OK; i++) {
        const CatalogItem *item = &catalog.items[i];
        if (item->verdict == CHECKPOINT_VALID)
            status = copy_in(copies, from, item->name, to);
        else
            note_missed(copies, item->name, item->reason);
    }
    catalog_close(&catalog);
    return status;
}

static Status copy_from_store(Copies *copies, const char *url, const char *path) {
    ObjectPlace from;
    Target to = {.directory = -1};
    Status status = object_place_open(url, NULL, &from);
    if (status == STATUS_OK) status = open_target(path, &to);
    if (status == STATUS_OK)
        status = from.name[0] != '\0' ? copy_in(copies, &from, from.name, &to)
                                      : copy_prefix_in(copies, &from, &to);
    if (to.directory >= 0) close(to.directory);
    object_place_close(&from);
    return status;
}

/* ---- */

Status checkpoints_copy(const CheckpointsArguments *arguments, bool *missed) {
    const char *from = arguments->paths[0], *to = arguments->paths[1];
    Copies copies = {.as_json = arguments->json, .all = json_array()};
    Status status;
    if (store_url_is(from) == store_url_is(to))
        status =
            FAIL(STATUS_USAGE, "write one of them as s3://BUCKET/PREFIX",
                 "copy goes between this machine and a store; %.300s and %.300s are on "
                 "the same side",
                 from, to);
    else if (store_url_is(to))
        status = copy_to_store(&copies, from, to);
    else
        status = copy_from_store(&copies, from, to);
    if (status == STATUS_OK && copies.copied + copies.there + copies.missed == 0)
        status =
            FAIL(STATUS_NO_CHECKPOINT, "check the path", "no checkpoints in %.300s", from);
    *missed = copies.missed > 0;
    if (copies.as_json && json_array_size(copies.all) > 0)
        checkpoints_print_json(copies.all);
    else
        json_decref(copies.all);
    if (!copies.as_json && status == STATUS_OK)
        printf("%d copied, %d there already, %d missed\n", copies.copied, copies.there,
               copies.missed);
    return status;
}
