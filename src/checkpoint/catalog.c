/* Lists the checkpoints of a run directory and says which of them count.
 *
 * Invariants
 *  1. Order is generation, then step, both from the name; times are never looked at.
 *  2. A name must agree with the file's own user block, or the file is rejected.
 *  3. A file of generation g counts only up to the lowest step that any later generation restored
 *     from: what a zombie writes after its successor began never counts.
 *  4. An owner record that is damaged limits nothing: it must not hide valid work. What earlier records
 *     said stands in each later one, too, so that it outlives them. */
#include "src/checkpoint/catalog.h"

#include "src/checkpoint/directory.h"
#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void catalog_name(int64_t generation, int64_t step, char name[CATALOG_NAME]) {
    snprintf(name, CATALOG_NAME, "g%04lld-step-%012lld.h5", (long long)generation,
             (long long)step);
}

int catalog_newest_first(const void *a, const void *b) {
    const CatalogItem *first = a, *second = b;
    if (first->generation != second->generation)
        return first->generation < second->generation ? 1 : -1;
    return first->step < second->step ? 1 : first->step > second->step ? -1 : 0;
}

/* A reason is always told beside the name: the reader's text need not repeat it. */
const char *catalog_reason(const char *name, const char *text) {
    size_t length = strlen(name);
    return strncmp(text, name, length) == 0 && strncmp(text + length, ": ", 2) == 0
               ? text + length + 2
               : text;
}

static void reject(CatalogItem *item, Status code, const char *reason) {
    item->verdict = CHECKPOINT_REJECTED;
    item->code = code;
    snprintf(item->reason, sizeof item->reason, "%.255s",
             catalog_reason(item->name, reason));
}

/* The record of a generation, or NULL when there is no readable one. */
static const OwnerRecord *record_of(const OwnerRecord *records, int count,
                                    int64_t generation) {
    for (int i = 0; i < count; i++)
        if (records[i].generation == generation && records[i].readable) return &records[i];
    return NULL;
}

/* A launch keeps the file it restored from under its own generation: then the block is an older
 * one's, and the record must know it. */
static bool is_kept_file(const CatalogItem *item, const OwnerRecord *record) {
    if (record == NULL) return item->block.generation < item->generation;
    return !record->fresh && record->restored_step == item->step &&
           digest_equal(record->restored_digest, item->block.state_digest);
}

static void apply_limit(CatalogItem *item, OwnerLimit limit) {
    if (limit.generation <= item->generation || item->step <= limit.step) return;
    item->verdict = CHECKPOINT_SUPERSEDED;
    if (limit.step < 0)
        snprintf(item->reason, sizeof item->reason, "generation %lld started afresh",
                 (long long)limit.generation);
    else
        snprintf(item->reason, sizeof item->reason,
                 "generation %lld went on from step %lld", (long long)limit.generation,
                 (long long)limit.step);
}

static void apply_limits(CatalogItem *item, const OwnerRecord *records, int count) {
    for (int i = 0; i < count; i++) {
        const OwnerRecord *later = &records[i];
        if (!later->readable) continue;
        for (int j = 0; j < later->limit_count; j++)
            apply_limit(item, later->limits[j]);
        apply_limit(item, (OwnerLimit){later->generation, later->restored_step});
    }
}

void catalog_limit(const Catalog *catalog, CatalogItem *item) {
    apply_limits(item, catalog->records, catalog->record_count);
}

static Status look_at(int directory, CatalogItem *item) {
    struct stat about;
    if (fstatat(directory, item->name, &about, AT_SYMLINK_NOFOLLOW) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "%s", strerror(errno));
    if (S_ISLNK(about.st_mode))
        return FAIL(STATUS_CORRUPT, NULL, "a symbolic link, which is never followed");
    if (!S_ISREG(about.st_mode)) return FAIL(STATUS_CORRUPT, NULL, "not a regular file");
    return checkpoint_read_user_block(directory, item->name, &item->block);
}

static void judge(int directory, CatalogItem *item, const OwnerRecord *records, int count) {
    Status read = look_at(directory, item);
    if (read == STATUS_IO) /* perhaps the way was bad and not the file: once more */
        read = look_at(directory, item);
    if (read != STATUS_OK) {
        reject(item, read, status_failure()->what);
        return;
    }
    const OwnerRecord *own = record_of(records, count, item->generation);
    if (item->block.step != item->step ||
        (item->block.generation != item->generation && !is_kept_file(item, own))) {
        char reason[sizeof item->reason];
        snprintf(
            reason, sizeof reason,
            "its name says generation %lld step %lld, the file generation %lld step %lld",
            (long long)item->generation, (long long)item->step,
            (long long)item->block.generation, (long long)item->block.step);
        reject(item, STATUS_CORRUPT, reason);
        return;
    }
    apply_limits(item, records, count);
}

static int newest_record_first(const void *a, const void *b) {
    const OwnerRecord *first = a, *second = b;
    return (first->generation < second->generation) -
           (first->generation > second->generation);
}

/* A launch that began afresh, told by its own record or by a later one. */
static void note_fresh(const OwnerRecord *record, Catalog *out) {
    if (!record->readable) return;
    if (record->fresh && record->generation > out->fresh_generation)
        out->fresh_generation = record->generation;
    for (int i = 0; i < record->limit_count; i++)
        if (record->limits[i].step < 0 &&
            record->limits[i].generation > out->fresh_generation)
            out->fresh_generation = record->limits[i].generation;
}

Status catalog_open_at(int directory, Catalog *out) {
    *out = (Catalog){.directory = -1};
    Listing listing;
    TRY(listing_read(directory, &listing));
    size_t room = (size_t)listing.count + 1; /* never zero bytes */
    OwnerRecord *records = calloc(room, sizeof *records);
    CatalogItem *items = calloc(room, sizeof *items);
    if (records == NULL || items == NULL) {
        free(records);
        free(items);
        listing_free(&listing);
        return FAIL(STATUS_MEMORY, NULL, "no memory to list %d names", listing.count);
    }
    int record_count = 0;
    bool starved = false; /* a record unread for want of memory may limit something */
    for (int i = 0; i < listing.count; i++) {
        const Listed *name = &listing.names[i];
        if (name->kind == LISTED_OWNER) {
            OwnerRecord *record = &records[record_count++];
            owner_read(directory, name->generation, record);
            starved |= record->starved;
            note_fresh(record, out);
        } else if (name->kind == LISTED_CHECKPOINT) {
            CatalogItem *item = &items[out->count++];
            memcpy(item->name, name->name, CATALOG_NAME);
            item->generation = name->generation;
            item->step = name->step;
        }
    }
    if (starved) {
        free(records);
        free(items);
        listing_free(&listing);
        *out = (Catalog){.directory = -1};
        return FAIL(STATUS_MEMORY, NULL, "no memory to read the owner records");
    }
    qsort(items, (size_t)out->count, sizeof *items, catalog_newest_first);
    for (int i = 0; i < out->count; i++) {
        char mark[CATALOG_NAME + 16];
        snprintf(mark, sizeof mark, "%s.rejected", items[i].name);
        items[i].marked = listing_has(&listing, mark);
        snprintf(mark, sizeof mark, "%s.pinned", items[i].name);
        items[i].pinned = listing_has(&listing, mark);
        judge(directory, &items[i], records, record_count);
    }
    out->newest_generation = listing_newest_owner(&listing);
    qsort(records, (size_t)record_count, sizeof *records, newest_record_first);
    out->items = items;
    out->records = records;
    out->record_count = record_count;
    out->directory = directory;
    listing_free(&listing);
    return STATUS_OK;
}

Status catalog_open(const char *run_dir, Catalog *out) {
    *out = (Catalog){.directory = -1};
    int directory;
    TRY(directory_open(run_dir, &directory));
    if (directory < 0) return STATUS_OK;
    Status listed = catalog_open_at(directory, out);
    if (listed != STATUS_OK) close(directory);
    return listed;
}

void catalog_close(Catalog *catalog) {
    free(catalog->items);
    free(catalog->records);
    if (catalog->directory >= 0) close(catalog->directory);
    *catalog = (Catalog){.directory = -1};
}

bool catalog_has_any(const Catalog *catalog) {
    return catalog->count > 0;
}

bool catalog_is_newer_format(const CatalogItem *item) {
    return item->verdict == CHECKPOINT_REJECTED && item->code == STATUS_USAGE;
}
