/* Moves checkpoints between a directory and an object store, proving each where it arrives. */
#include "src/checkpoint/object_store.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char FIX[] = "it was not written by Rekindle, or not wholly";

static bool names_a_file(const char *part) {
    size_t length = strlen(part);
    return length > 3 && length <= NAME_MAX && strcmp(part + length - 3, ".h5") == 0;
}

Status object_place_open(const char *url, const StoreOptions *options, ObjectPlace *out) {
    *out = (ObjectPlace){.store = NULL};
    StoreUrl parsed;
    TRY(store_url_parse(url, &parsed));
    memcpy(out->bucket, parsed.bucket, sizeof out->bucket);
    char *slash = strrchr(parsed.key, '/');
    char *last = slash == NULL ? parsed.key : slash + 1;
    if (names_a_file(last)) {
        snprintf(out->name, sizeof out->name, "%.255s", last);
        *(slash == NULL ? last : slash) = '\0';
    }
    memcpy(out->prefix, parsed.key, sizeof out->prefix);
    return store_open(out->bucket, options, &out->store);
}

Status object_prefix_open(const char *url, const StoreOptions *options, ObjectPlace *out) {
    TRY(object_place_open(url, options, out));
    if (out->name[0] == '\0') return STATUS_OK;
    object_place_close(out);
    return FAIL(STATUS_USAGE, "name what stands before it: s3://BUCKET/PREFIX",
                "%.300s is not a prefix", url);
}

void object_place_close(ObjectPlace *place) {
    store_close(place->store);
    place->store = NULL;
}

void object_url(const ObjectPlace *place, const char *name, char text[OBJECT_URL]) {
    snprintf(text, OBJECT_URL, "s3://%s/%s%s%s", place->bucket, place->prefix,
             place->prefix[0] != '\0' && name[0] != '\0' ? "/" : "", name);
}

/* ---- reading the commit record */

static Status not_there(const ObjectPlace *place, const char *name) {
    char url[OBJECT_URL];
    object_url(place, name, url);
    return FAIL(STATUS_NO_CHECKPOINT, "rekindle checkpoints ls s3://… tells what is there",
                "there is no %.900s", url);
}

static Status find(const ObjectPlace *place, const char *name, char key[STORE_KEY],
                   StoreObject *object) {
    TRY(store_url_join(place->prefix, name, key));
    TRY(store_head(place->store, key, object));
    return object->exists ? STATUS_OK : not_there(place, name);
}

static Status read_text(const ObjectPlace *place, const char *name, const char *key,
                        const StoreObject *object, char text[CHECKPOINT_USER_BLOCK]) {
    if (object->bytes < CHECKPOINT_USER_BLOCK)
        return FAIL(STATUS_CORRUPT, FIX, "%s ends at offset %lld, inside its user block",
                    name, (long long)object->bytes);
    return store_read(place->store, key, object, 0, text, CHECKPOINT_USER_BLOCK);
}

static Status decode(const char *name, const StoreObject *object,
                     const char text[CHECKPOINT_USER_BLOCK], UserBlock *out) {
    TRY(userblock_decode(text, name, out));
    if (object->bytes != out->bytes)
        return FAIL(STATUS_CORRUPT, FIX, "%s is %lld bytes long, but was written with %lld",
                    name, (long long)object->bytes, (long long)out->bytes);
    return STATUS_OK;
}

static Status read_block(const ObjectPlace *place, const char *name, const char *key,
                         const StoreObject *object, UserBlock *out) {
    char text[CHECKPOINT_USER_BLOCK];
    TRY(read_text(place, name, key, object, text));
    return decode(name, object, text, out);
}

Status object_read_user_block(const ObjectPlace *place, const char *name, UserBlock *out) {
    char key[STORE_KEY];
    StoreObject object;
    TRY(find(place, name, key, &object));
    return read_block(place, name, key, &object, out);
}

/* ---- listing */

typedef struct {
    CatalogItem *items;
    int count, capacity;
    int64_t newest_generation;
} Found;

static Status note(void *context, const StoreListed *listed) {
    Found *found = context;
    Listed name;
    if (strlen(listed->name) > NAME_MAX) return STATUS_OK;
    listing_tell(listed->name, &name);
    bool counts = name.kind == LISTED_CHECKPOINT || name.kind == LISTED_OWNER;
    if (counts && name.generation > found->newest_generation)
        found->newest_generation = name.generation;
    if (name.kind != LISTED_CHECKPOINT) return STATUS_OK;
    if (found->count == found->capacity) {
        int capacity = found->capacity == 0 ? 16 : 2 * found->capacity;
        CatalogItem *items = realloc(found->items, (size_t)capacity * sizeof *items);
        if (items == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory to list %d checkpoints", capacity);
        found->items = items;
        found->capacity = capacity;
    }
    CatalogItem *item = &found->items[found->count++];
    *item = (CatalogItem){.generation = name.generation, .step = name.step};
    memcpy(item->name, name.name, sizeof item->name);
    return STATUS_OK;
}

static void reject(CatalogItem *item, Status code) {
    item->verdict = CHECKPOINT_REJECTED;
    item->code = code;
    snprintf(item->reason, sizeof item->reason, "%.255s",
             catalog_reason(item->name, status_failure()->what));
}

static Status check_name(const CatalogItem *item) {
    /* a kept file's own block says an older generation */
    if (item->block.step == item->step && item->block.generation <= item->generation)
        return STATUS_OK;
    return FAIL(
        STATUS_CORRUPT, FIX,
        "its name says generation %lld step %lld, the object generation %lld step %lld",
        (long long)item->generation, (long long)item->step,
        (long long)item->block.generation, (long long)item->block.step);
}

/* Damage is the item's; a store that does not answer is everybody's. */
static Status judge(const ObjectPlace *place, CatalogItem *item) {
    char key[STORE_KEY], text[CHECKPOINT_USER_BLOCK];
    StoreObject object;
    Status status = find(place, item->name, key, &object);
    bool there = status == STATUS_OK;
    if (there) status = read_text(place, item->name, key, &object, text);
    if (status != STATUS_OK && status != STATUS_CORRUPT && status != STATUS_NO_CHECKPOINT)
        return status;
    if (status == STATUS_OK) status = decode(item->name, &object, text, &item->block);
    if (status == STATUS_OK) status = check_name(item);
    if (status != STATUS_OK) reject(item, status);
    return STATUS_OK;
}

Status object_catalog(const ObjectPlace *place, Catalog *out) {
    *out = (Catalog){.directory = -1};
    Found found = {.items = NULL};
    Status status = store_list(place->store, place->prefix, note, &found);
    if (found.count > 0)
        qsort(found.items, (size_t)found.count, sizeof *found.items, catalog_newest_first);
    for (int i = 0; i < found.count && status == STATUS_OK; i++)
        status = judge(place, &found.items[i]);
    if (status != STATUS_OK) {
        free(found.items);
        return status;
    }
    out->items = found.items;
    out->count = found.count;
    out->newest_generation = found.newest_generation;
    return STATUS_OK;
}

Status object_count(const ObjectPlace *place, int *count, int64_t *newest_generation) {
    Found found = {.items = NULL};
    Status status = store_list(place->store, place->prefix, note, &found);
    free(found.items);
    *count = found.count;
    *newest_generation = found.newest_generation;
    return status;
}

/* ---- who sends */

enum { RECORD_MAX = 1 << 16 };

/* An answer that was lost makes our own record look like another's. */
static Status is_ours(const ObjectPlace *place, const char *name, const char *text) {
    char key[STORE_KEY], there[RECORD_MAX];
    StoreObject object;
    size_t length = strlen(text);
    TRY(find(place, name, key, &object));
    bool same = object.bytes == (int64_t)length && length <= sizeof there;
    if (same) TRY(store_read(place->store, key, &object, 0, there, length));
    if (same && memcmp(there, text, length) == 0) return STATUS_OK;
    return FAIL(STATUS_EXISTS, "use another prefix", "%s is there already", name);
}

static Status put_text(const ObjectPlace *place, const char *name, const char *text) {
    char key[STORE_KEY];
    StoreUpload report;
    size_t length = strlen(text);
    TRY(store_url_join(place->prefix, name, key));
    int fd = memfd_create("rekindle", MFD_CLOEXEC);
    if (fd < 0 || file_write_at(fd, text, length, 0) != 0) {
        int error = errno;
        if (fd >= 0) close(fd);
        return FAIL(STATUS_MEMORY, NULL, "no memory for the owner record: %s",
                    strerror(error));
    }
    Status status = store_upload(place->store, key, fd, (int64_t)length, &report);
    close(fd);
    return status == STATUS_EXISTS ? is_ours(place, name, text) : status;
}

Status object_claim(const ObjectPlace *place, int64_t generation) {
    OwnerRecord self;
    char name[CATALOG_NAME];
    owner_describe_self(&self);
    self.generation = generation;
    owner_name(generation, "", name);
    char *text = owner_format(&self);
    if (text == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the owner record");
    Status status = put_text(place, name, text);
    free(text);
    return status;
}

Status object_delete(const ObjectPlace *place, const char *name) {
    char key[STORE_KEY];
    TRY(store_url_join(place->prefix, name, key));
    return store_delete(place->store, key);
}

/* ---- from the store */

static Status check_room(int directory, int64_t bytes) {
    struct statvfs room;
    if (fstatvfs(directory, &room) != 0 ||
        (int64_t)(room.f_bavail * room.f_frsize / 1024) >= bytes / 1024)
        return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(ENOSPC), "there is no room for %lld bytes",
                (long long)bytes);
}

/* The file's own digests decide, whatever the store said. */
static Status prove(const ObjectPlace *place, const char *name, int directory,
                    const char *as, UserBlock *out) {
    Status status = checkpoint_verify(directory, as, out);
    if (status != STATUS_CORRUPT) return status;
    char url[OBJECT_URL], reason[512];
    object_url(place, name, url);
    snprintf(reason, sizeof reason, "%.511s", catalog_reason(as, status_failure()->what));
    return FAIL(STATUS_CORRUPT, "use another checkpoint", "%.900s: %s", url, reason);
}

static Status download(const ObjectPlace *place, const char *name, int fd) {
    char key[STORE_KEY];
    StoreObject object;
    UserBlock block;
    TRY(find(place, name, key, &object));
    /* what does not look like a checkpoint is not worth its transfer */
    TRY(read_block(place, name, key, &object, &block));
    TRY(check_room(fd, object.bytes));
    return store_download(place->store, key, &object, fd);
}

Status object_fetch(const ObjectPlace *place, const char *name, int directory,
                    const char *as, UserBlock *out) {
    int fd =
        openat(directory, as, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return FAIL(errno == EEXIST ? STATUS_EXISTS : STATUS_IO, file_fix_for(errno),
                    "cannot create %s: %s", as, strerror(errno));
    Status status = download(place, name, fd);
    if (close(fd) != 0 && status == STATUS_OK)
        status = FAIL(STATUS_IO, file_fix_for(errno), "cannot close %s: %s", as,
                      strerror(errno));
    if (status == STATUS_OK) status = prove(place, name, directory, as, out);
    if (status == STATUS_OK) return STATUS_OK;
    unlinkat(directory, as, 0);
    return status;
}

static Status is_same(const UserBlock *here, const UserBlock *there, const char *where) {
    if (here->step == there->step && digest_equal(here->state_digest, there->state_digest))
        return STATUS_OK;
    return FAIL(STATUS_EXISTS, "move it away, or copy to another place",
                "%.900s exists with another state (step %lld) and is never replaced", where,
                (long long)there->step);
}

static Status compare_local(const ObjectPlace *place, const char *name, int directory,
                            const char *as, ObjectCopy *out) {
    UserBlock here;
    TRY(checkpoint_read_user_block(directory, as, &here));
    TRY(object_read_user_block(place, name, &out->block));
    TRY(is_same(&out->block, &here, as));
    TRY(checkpoint_verify(directory, as,
                          &here)); /* it is called a copy only if it is whole */
    out->was_there = true;
    return STATUS_OK;
}

static Status sync_file(int directory, const char *name) {
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0) close(fd);
    return synced ? STATUS_OK
                  : FAIL(STATUS_IO, file_fix_for(error), "cannot sync %s: %s", name,
                         strerror(error));
}

Status object_copy_in(const ObjectPlace *place, const char *name, int directory,
                      const char *as, ObjectCopy *out) {
    *out = (ObjectCopy){.was_there = false};
    char temp[NAME_MAX + 1];
    if (faccessat(directory, as, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return compare_local(place, name, directory, as, out);
    TRY(file_temporary_name(as, temp));
    TRY(object_fetch(place, name, directory, temp, &out->block));
    Status status = sync_file(directory, temp);
    if (status == STATUS_OK) status = file_name_and_sync(directory, temp, as);
    if (status != STATUS_OK) unlinkat(directory, temp, 0);
    return status == STATUS_EXISTS ? compare_local(place, name, directory, as, out)
                                   : status;
}

/* ---- to the store */

static Status compare_stored(const ObjectPlace *place, const char *as,
                             const ObjectCopy *copy) {
    UserBlock there;
    char url[OBJECT_URL];
    object_url(place, as, url);
    Status read = object_read_user_block(place, as, &there);
    if (read == STATUS_CORRUPT) {
        char reason[300];
        snprintf(reason, sizeof reason, "%.299s",
                 catalog_reason(as, status_failure()->what));
        return FAIL(STATUS_EXISTS, "delete it there, or copy to another prefix",
                    "%.900s exists, is damaged, and is never replaced: %s", url, reason);
    }
    TRY(read);
    return is_same(&copy->block, &there, url);
}

Status object_copy_out(const ObjectPlace *place, int directory, const char *name,
                       const char *as, ObjectCopy *out) {
    *out = (ObjectCopy){.was_there = false};
    char key[STORE_KEY];
    int fd;
    TRY(store_url_join(place->prefix, as, key));
    TRY(checkpoint_verify(directory, name, &out->block));
    UserBlock opened;
    TRY(userblock_open(directory, name, &fd, &opened));
    Status status = store_upload(place->store, key, fd, opened.bytes, &out->upload);
    close(fd);
    if (status != STATUS_EXISTS) return status;
    status = compare_stored(place, as, out);
    out->was_there = status == STATUS_OK;
    return status;
}
