/* What an owner may delete, and when.
 *
 * Invariants
 *  1. The newest valid file of the own generation always stays; without one nothing is deleted.
 *  2. Of the own generation only valid files beyond `keep_last` go.
 *  3. Other generations' files go only if they are older than ours: all once we committed twice, and
 *     before that those beyond the newest `keep_last`, so that launches which are killed again and
 *     again do not fill the disk. Of several names for one state only the newest counts.
 *  4. What was rejected or marked stays: it is evidence, and only people may throw it away.
 *  5. What is pinned stays, whatever it is; the best one and each keep_every steps one stay, of any
 *     generation, as long as they count. */
#include "src/checkpoint/catalog.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COMMITS_BEFORE_OLDER_GO = 2 };

static Status delete_name(int directory, const char *name) {
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot delete %s: %s", name,
                strerror(errno));
}

/* Records of launches long over. What they limit stands in our own record, for a zombie of any of them may
 * still wake and write; one that does not stand there stays. */
static Status delete_older_records(const Owner *owner) {
    Listing listing;
    OwnerRecord ours, older;
    owner_read(owner->directory, owner->generation, &ours);
    if (!ours.readable) return STATUS_OK;
    TRY(listing_read(owner->directory, &listing));
    Status result = STATUS_OK;
    for (int i = 0; i < listing.count && result == STATUS_OK; i++) {
        const Listed *name = &listing.names[i];
        bool record = name->kind == LISTED_OWNER || name->kind == LISTED_BEAT ||
                      name->kind == LISTED_END;
        if (!record || name->generation >= owner->generation) continue;
        bool needless = true; /* whether it lives is asked of the newest owner alone */
        if (name->kind == LISTED_OWNER) {
            owner_read(owner->directory, name->generation, &older);
            needless = older.readable ? owner_implies(&ours, &older) : !older.io_failed;
        }
        if (needless) result = delete_name(owner->directory, name->name);
    }
    listing_free(&listing);
    return result;
}

/* ---- choosing */

Retention catalog_retention(const Config *config) {
    Retention retention = {.keep_last = (int)config->checkpoint.keep_last,
                           .keep_every = config->checkpoint.keep_every};
    const char *metric = config->checkpoint.keep_best.metric;
    const char *mode = config->checkpoint.keep_best.mode;
    if (strcmp(metric, "none") != 0)
        snprintf(retention.best_metric, sizeof retention.best_metric, "%s", metric);
    retention.best_is_least = strcmp(mode, "min") == 0 ||
                              (strcmp(mode, "auto") == 0 && strcmp(metric, "loss") == 0);
    return retention;
}

static bool counts(const CatalogItem *item) {
    return item->verdict == CHECKPOINT_VALID && !item->marked;
}

/* The metric of the item's own state: an evaluation of an earlier step says nothing about it. */
static bool metric_of(const CatalogItem *item, const char *metric, double *value) {
    json_t *metrics = json_loads(item->block.metrics, JSON_REJECT_DUPLICATES, NULL);
    const json_t *number = json_object_get(metrics, metric);
    const json_t *step = json_object_get(metrics, "evaluated_step");
    bool own = json_is_number(number) && json_is_integer(step) &&
               json_integer_value(step) == item->step;
    if (own) *value = json_number_value(number);
    json_decref(metrics);
    return own;
}

/* The best one, of equals the earliest step's, and of its names the newest; -1: none was evaluated. */
static int find_best(const Catalog *catalog, int64_t generation,
                     const Retention *retention) {
    int best = -1;
    double best_value = 0, value;
    for (int i = 0; i < catalog->count && retention->best_metric[0] != '\0'; i++) {
        const CatalogItem *item = &catalog->items[i];
        if (item->generation > generation || !counts(item) ||
            !metric_of(item, retention->best_metric, &value))
            continue;
        if (retention->best_is_least) value = -value;
        if (best < 0 || value > best_value ||
            (value == best_value && item->step < catalog->items[best].step)) {
            best = i;
            best_value = value;
        }
    }
    return best;
}

/* True when a newer name stands for the same state: a launch keeps what it restored under its own. */
static bool has_newer_name(const Catalog *catalog, int index) {
    const CatalogItem *item = &catalog->items[index];
    for (int i = 0; i < index; i++)
        if (catalog->items[i].step == item->step && counts(&catalog->items[i]) &&
            digest_equal(catalog->items[i].block.state_digest, item->block.state_digest))
            return true;
    return false;
}

int catalog_best(const Catalog *catalog, const Retention *retention) {
    return find_best(catalog, INT64_MAX, retention);
}

void catalog_choose(const Catalog *catalog, int64_t generation, const Retention *retention,
                    int commits, bool *goes, const char **why) {
    bool older_go = commits >= COMMITS_BEFORE_OLDER_GO;
    int keep = retention->keep_last < 1 ? 1 : retention->keep_last;
    int keep_older = older_go ? 0 : keep, own = 0, older = 0;
    int64_t own_generation = generation > 0 ? generation : INT64_MAX;
    int best = find_best(catalog, own_generation, retention);
    for (int i = 0; i < catalog->count; i++) {
        const CatalogItem *item = &catalog->items[i];
        bool ours = item->generation == own_generation;
        bool another_name = !ours && counts(item) && has_newer_name(catalog, i);
        bool every = retention->keep_every > 0 && item->step > 0 &&
                     item->step % retention->keep_every == 0;
        bool newest = commits == RETENTION_ALONE ? own + older < keep
                      : ours                     ? own < keep
                                                 : older < keep_older;
        goes[i] = false;
        if (item->generation > own_generation) /* owner_check would have told */
            why[i] = "newer";
        else if (catalog_is_newer_format(item))
            why[i] = "newer format";
        else if (item->verdict == CHECKPOINT_REJECTED || item->marked)
            why[i] = "evidence";
        else if (item->pinned)
            why[i] = "pinned";
        else if (i == best)
            why[i] = "best";
        else if (counts(item) && every && !another_name)
            why[i] = "keep_every";
        else if (newest && !another_name)
            why[i] = "keep_last";
        else
            goes[i] = true;
        own += ours && counts(item);
        older += !ours && counts(item) && !another_name;
    }
    if (generation > 0 ? own > 0 : older > 0) return;
    for (int i = 0; i < catalog->count; i++) {
        if (goes[i]) why[i] = "nothing newer is valid";
        goes[i] = false;
    }
}

/* ---- deleting */

static bool is_pinned(int directory, const char *name) {
    char pin[CATALOG_NAME + 16];
    snprintf(pin, sizeof pin, "%s.pinned", name);
    return faccessat(directory, pin, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A pin may come at any moment: so the file first takes a hidden name, and comes back when there is a pin
 * by then. Whoever pins looks for the file after the pin stands, and so knows. */
static Status delete_checkpoint(int directory, const char *name) {
    char temp[NAME_MAX + 1];
    if (is_pinned(directory, name)) return STATUS_OK;
    TRY(file_temporary_name(name, temp));
    if (renameat(directory, name, directory, temp) != 0)
        return delete_name(directory, name);
    if (is_pinned(directory, name)) return file_name_and_sync(directory, temp, name);
    return delete_name(directory, temp);
}

static Status prune(const Owner *owner, const Catalog *catalog, const Retention *retention,
                    int commits) {
    bool *goes = calloc((size_t)catalog->count + 1, sizeof *goes);
    const char **why = calloc((size_t)catalog->count + 1, sizeof *why);
    Status result = goes != NULL && why != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory to choose from %d files",
                               catalog->count);
    bool any_own = false;
    if (result == STATUS_OK)
        catalog_choose(catalog, owner->generation, retention, commits, goes, why);
    /* oldest first: whatever moment ends this, the newest are still there */
    for (int i = catalog->count - 1; i >= 0 && result == STATUS_OK; i--) {
        const CatalogItem *item = &catalog->items[i];
        any_own |= item->generation == owner->generation && counts(item);
        if (goes[i]) result = delete_checkpoint(owner->directory, item->name);
    }
    free(goes);
    free(why);
    if (result == STATUS_OK && any_own && commits >= COMMITS_BEFORE_OLDER_GO)
        result = delete_older_records(owner);
    return result;
}

Status catalog_prune(const Owner *owner, const Retention *retention, int commits) {
    TRY(owner_check(owner));
    int directory = openat(owner->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open the checkpoints of %s: %s",
                    owner->run_dir, strerror(errno));
    Catalog catalog;
    Status result = catalog_open_at(directory, &catalog);
    if (result != STATUS_OK) {
        close(directory);
        return result;
    }
    result = prune(owner, &catalog, retention, commits);
    catalog_close(&catalog);
    return result;
}

/* ---- pins and marks */

/* NAME.pinned, of the name of a checkpoint only. */
static Status pin_name(const char *name, char pin[CATALOG_NAME + 16]) {
    Listed listed;
    listing_tell(name, &listed);
    if (listed.kind != LISTED_CHECKPOINT)
        return FAIL(STATUS_USAGE, "name one as `rekindle checkpoints ls` shows it",
                    "%s is not the name of a run's checkpoint", name);
    snprintf(pin, CATALOG_NAME + 16, "%.63s.pinned", name);
    return STATUS_OK;
}

Status catalog_pin(int directory, const char *name) {
    char pin[CATALOG_NAME + 16];
    TRY(pin_name(name, pin));
    int fd;
    TRY(file_open(directory, pin, O_WRONLY | O_CREAT, &fd));
    close(fd);
    if (faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0) {
        unlinkat(directory, pin, 0);
        return FAIL(STATUS_USAGE, "pin another one: rekindle checkpoints ls DIR",
                    "%s is not there (any more)", name);
    }
    return file_sync_directory(directory, pin);
}

Status catalog_unpin(int directory, const char *name) {
    char pin[CATALOG_NAME + 16];
    TRY(pin_name(name, pin));
    TRY(delete_name(directory, pin));
    return file_sync_directory(directory, pin);
}

void catalog_mark_rejected(const Owner *owner, const char *name, const char *reason) {
    char mark[CATALOG_NAME + 16], text[512];
    snprintf(mark, sizeof mark, "%s.rejected", name);
    int length = snprintf(text, sizeof text, "%s\n", reason);
    if (length >= (int)sizeof text) length = (int)sizeof text - 1;
    int fd = openat(owner->directory, mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return; /* an earlier launch said it already, or there is no room: no matter */
    if (file_write_at(fd, text, (size_t)length, 0) != 0)
        unlinkat(owner->directory, mark, 0);
    close(fd);
}

void catalog_sweep(const Owner *owner) {
    Listing listing;
    if (listing_read(owner->directory, &listing) != STATUS_OK) return;
    for (int i = 0; i < listing.count; i++) {
        const Listed *name = &listing.names[i];
        /* we have none yet; of our generation there may be those of takers that lost against us */
        if (name->kind == LISTED_TEMPORARY && name->generation <= owner->generation)
            unlinkat(owner->directory, name->name, 0);
    }
    listing_free(&listing);
}
