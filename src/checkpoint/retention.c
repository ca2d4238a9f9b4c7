/* What an owner may delete, and when.
 *
 * Invariants
 *  1. The newest valid file of the own generation always stays; without one nothing is deleted.
 *  2. Of the own generation only valid files beyond `keep_last` go.
 *  3. Other generations' files go only if they are older than ours: all once we committed twice, and
 *     before that those beyond the newest `keep_last`, so that launches which are killed again and
 *     again do not fill the disk.
 *  4. What was rejected or marked stays: it is evidence, and only people may throw it away. */
#include "src/checkpoint/catalog.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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

static Status prune(const Owner *owner, const Catalog *catalog, int keep_last,
                    int commits) {
    bool older_go = commits >= COMMITS_BEFORE_OLDER_GO;
    int keep = keep_last < 1 ? 1 : keep_last, keep_older = older_go ? 0 : keep;
    int own = 0, older = 0;
    /* the first item beyond what is kept, of ours and of older generations */
    int own_end = catalog->count, older_end = catalog->count;
    for (int i = 0; i < catalog->count; i++) {
        const CatalogItem *item = &catalog->items[i];
        if (item->generation > owner->generation)
            continue; /* owner_check would have told */
        bool ours = item->generation == owner->generation;
        if (!ours && older == keep_older && older_end == catalog->count) older_end = i;
        if (item->verdict != CHECKPOINT_VALID || item->marked) continue;
        if (ours && ++own == keep) own_end = i + 1;
        older += !ours;
    }
    if (own == 0) return STATUS_OK;
    /* oldest first: whatever moment ends this, the newest are still there */
    for (int i = catalog->count - 1; i >= 0; i--) {
        const CatalogItem *item = &catalog->items[i];
        if (item->verdict == CHECKPOINT_REJECTED || item->marked) continue;
        if (i >= (item->generation == owner->generation ? own_end : older_end))
            TRY(delete_name(owner->directory, item->name));
    }
    return older_go ? delete_older_records(owner) : STATUS_OK;
}

Status catalog_prune(const Owner *owner, int keep_last, int commits) {
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
    result = prune(owner, &catalog, keep_last, commits);
    catalog_close(&catalog);
    return result;
}

void catalog_mark_rejected(const Owner *owner, const char *name, const char *reason) {
    char mark[CATALOG_NAME + 16], text[512];
    snprintf(mark, sizeof mark, "%s.rejected", name);
    int length = snprintf(text, sizeof text, "%s\n", reason);
    if (length >= (int)sizeof text) length = (int)sizeof text - 1;
    int fd = openat(owner->directory, mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
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
