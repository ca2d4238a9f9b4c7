/* Who owns a run directory.
 *
 *   (no record) --owner_take--> OWNED --owner_release--> ENDED
 *                                 |
 *                                 '--a successor's owner_take--> LOST (owner_check says so)
 *
 * Invariants
 *  1. A generation has one owner: its record appears by a publication that never replaces.
 *  2. A taker that finds a higher generation after its own publication has lost, whatever it saw
 *     before: the record between may have been pruned while the taker slept.
 *  3. An owner's generation is never empty once it restored: the restored file is kept under it, unless
 *     that step will be saved anew (OwnerClaim); until then the older generation's file counts.
 *  4. A record stands only where its restore point was the newest there was: whoever slept between
 *     restore and record withdraws. Else one stale record would set aside all that others saved. */
#include "src/checkpoint/owner.h"

#include "src/checkpoint/directory.h"
#include "src/checkpoint/listing.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAKE_ATTEMPTS = 64, COPY_BYTES = 1 << 20 };

/* ---- keeping the restored file */

static Status copy_file(int from_directory, const char *from, int directory,
                        const char *name) {
    char temp[NAME_MAX + 1];
    TRY(file_temporary_name(name, temp));
    bool created = false;
    int in = -1, out = -1;
    char *buffer = NULL;
    const char *step = "find memory to copy";
    buffer = malloc(COPY_BYTES);
    if (buffer == NULL) goto failed;
    step = "open";
    struct stat about;
    /* the path of a file elsewhere was resolved when it was chosen: there is no link left in its name */
    in = openat(from_directory, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0 || fstat(in, &about) != 0) goto failed;
    step = "create a copy of";
    out =
        openat(directory, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (out < 0) goto failed;
    created = true;
    step = "copy";
    for (off_t at = 0; at < about.st_size;) {
        size_t count = about.st_size - at < COPY_BYTES ? (size_t)(about.st_size - at)
                                                       : (size_t)COPY_BYTES;
        if (file_read_at(in, buffer, count, at) != 0 ||
            file_write_at(out, buffer, count, at) != 0)
            goto failed;
        at += (off_t)count;
    }
    step = "sync a copy of";
    if (fsync(out) != 0) goto failed;
    step = "close a copy of";
    int closed = close(out);
    out = -1;
    if (closed != 0) goto failed;
    close(in);
    free(buffer);
    Status named = file_name_and_sync(directory, temp, name);
    if (named != STATUS_OK) unlinkat(directory, temp, 0);
    return named;

failed:;
    int error = errno;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    if (created) unlinkat(directory, temp, 0);
    free(buffer);
    return FAIL(STATUS_IO, file_fix_for(error), "cannot %s %s: %s", step, from,
                strerror(error));
}

static Status keep_restored(const Owner *owner, const char *restored_path) {
    bool elsewhere = restored_path[0] != '\0';
    int from_directory = elsewhere ? AT_FDCWD : owner->directory;
    const char *from = elsewhere ? restored_path : owner->restored_from;
    char name[CATALOG_NAME];
    catalog_name(owner->generation, owner->restored_step, name);
    if (linkat(from_directory, from, owner->directory, name, 0) != 0 &&
        !file_is_same(from_directory, from, owner->directory, name))
        return copy_file(from_directory, from, owner->directory, name);
    return file_sync_directory(owner->directory, name);
}

/* ---- taking */

static Status refuse(const OwnerRecord *live, const char *run_dir, const char *why) {
    char fix[sizeof((Failure *)NULL)->fix];
    snprintf(fix, sizeof fix,
             "stop that launch first, or use another run.dir; if it is surely dead, set "
             "REKINDLE_OWNER_DEAD=%lld for one launch",
             (long long)live->generation);
    return FAIL(STATUS_USAGE, fix, "%.400s has an owner, launch %lld: %s", run_dir,
                (long long)live->generation, why);
}

typedef enum { RECORD_UNKNOWN, RECORD_OURS, RECORD_ANOTHERS } Whose;

static Whose whose_record(const Owner *owner, const OwnerRecord *self) {
    OwnerRecord there;
    owner_read(owner->directory, owner->generation, &there);
    if (!there.readable) return RECORD_UNKNOWN;
    bool same = there.pid == self->pid && there.pid_start == self->pid_start &&
                strcmp(there.host, self->host) == 0;
    return same ? RECORD_OURS : RECORD_ANOTHERS;
}

/* Gives up a generation in which nothing was written: a record that stays would set aside what others
 * saved after our restore point, and a kept file would sort before it. */
static void withdraw(const Owner *owner) {
    char name[CATALOG_NAME];
    if (owner->restored_from[0] != '\0') {
        catalog_name(owner->generation, owner->restored_step, name);
        unlinkat(owner->directory, name, 0);
    }
    owner_name(owner->generation, "", name);
    unlinkat(owner->directory, name, 0);
}

/* Has anybody written since the restore looked, or removed what it chose? own: the generation of our
 * record, 0 while there is none. STATUS_EXISTS: there is an owner newer than `judged`, of whom it is
 * not known yet whether he lives. */
static Status check_claim(const Owner *owner, const OwnerClaim *claim, int64_t judged,
                          int64_t own) {
    const CatalogSeen *seen = &claim->seen;
    if (!seen->looked) return STATUS_OK;
    Listing listing;
    TRY(listing_read(owner->directory, &listing));
    char news[CATALOG_NAME + 16] = "";
    int64_t newest = 0;
    for (int i = 0; i < listing.count; i++) {
        const Listed *name = &listing.names[i];
        bool newer_file =
            name->kind == LISTED_CHECKPOINT &&
            (name->generation > seen->generation ||
             (name->generation == seen->generation && name->step > seen->step));
        bool others = name->kind == LISTED_OWNER && name->generation != own;
        if (others && name->generation > newest) newest = name->generation;
        if (newer_file || (others && name->generation > seen->owner_generation))
            snprintf(news, sizeof news, "%.63s is new", name->name);
    }
    bool inside = claim->restored_from[0] != '\0' && claim->restored_path[0] == '\0';
    if (inside && !listing_has(&listing, claim->restored_from))
        snprintf(news, sizeof news, "%.63s is gone", claim->restored_from);
    listing_free(&listing);
    if (newest > judged) return STATUS_EXISTS;
    if (news[0] == '\0') return STATUS_OK;
    return FAIL(STATUS_LOST_OWNER, "launch again: the run goes on from what is there now",
                "another launch worked in %.400s while this one read it: %s",
                owner->run_dir, news);
}

static void describe_launch(const Owner *owner, const OwnerClaim *claim,
                            OwnerRecord *self) {
    owner_describe_self(self);
    self->generation = owner->generation;
    self->fresh = claim->restored_from[0] == '\0';
    if (self->fresh) return;
    memcpy(self->restored_from, claim->restored_from, sizeof self->restored_from);
    self->restored_step = claim->restored_step;
    self->restored_digest = claim->restored_digest;
}

static int by_generation(const void *a, const void *b) {
    const Listed *first = a, *second = b;
    return (first->generation > second->generation) -
           (first->generation < second->generation);
}

/* What every record that is there limits goes into ours, so that retention may delete them. */
static Status inherit_limits(const Owner *owner, const Listing *listing,
                             OwnerRecord *self) {
    qsort(listing->names, (size_t)listing->count, sizeof *listing->names, by_generation);
    for (int i = 0; i < listing->count; i++) {
        OwnerRecord older;
        if (listing->names[i].kind != LISTED_OWNER) continue;
        owner_read(owner->directory, listing->names[i].generation, &older);
        if (older.starved)
            return FAIL(STATUS_MEMORY, NULL,
                        "no memory to read the owner record of launch %lld",
                        (long long)older.generation);
        if (older.readable) owner_inherit(self, &older);
    }
    owner_settle_limits(self);
    return STATUS_OK;
}

/* Publishes the next generation's record. STATUS_EXISTS: another taker was faster. */
static Status publish_next(Owner *owner, const OwnerClaim *claim, double watch_s) {
    Listing listing;
    TRY(listing_read(owner->directory, &listing));
    int64_t newest = listing_newest_owner(&listing);
    /* also above files whose record is gone, or ours would mix with them */
    owner->generation = listing_newest_any(&listing) + 1;
    if (owner->generation <= claim->above_generation)
        owner->generation = claim->above_generation + 1;
    OwnerRecord self;
    describe_launch(owner, claim, &self);
    Status inherited = inherit_limits(owner, &listing, &self);
    listing_free(&listing);
    TRY(inherited);
    if (newest > 0) {
        OwnerRecord live;
        char why[320];
        owner_read(owner->directory, newest, &live);
        if (owner_lives(owner->directory, &live, watch_s, why, sizeof why)) {
            if (live.starved)
                return FAIL(STATUS_MEMORY, NULL,
                            "no memory to read the owner record of launch %lld",
                            (long long)newest);
            if (!live.io_failed) return refuse(&live, owner->run_dir, why);
            return FAIL(STATUS_IO, "check the disk, then launch again",
                        "cannot tell whether launch %lld of %.400s lives: %s",
                        (long long)newest, owner->run_dir, live.unreadable_why);
        }
    }
    TRY(check_claim(owner, claim, newest, 0));
    char *text = owner_format(&self), name[CATALOG_NAME];
    if (text == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the owner record");
    owner_name(owner->generation, "", name);
    Status published = file_publish(owner->directory, name, text, strlen(text));
    free(text);
    if (published != STATUS_OK) {
        Failure cause = *status_failure();
        /* a faster taker sweeps our temporary away; only the last step may have failed */
        Whose whose = whose_record(owner, &self);
        if (whose == RECORD_ANOTHERS) return STATUS_EXISTS;
        if (whose == RECORD_OURS) withdraw(owner);
        return status_adopt(&cause);
    }
    Status mine = owner_check(owner);
    if (mine == STATUS_LOST_OWNER) {
        withdraw(owner);
        return STATUS_EXISTS;
    }
    /* once more: from now on whoever held the directory before us finds that it has lost */
    if (mine == STATUS_OK) mine = check_claim(owner, claim, newest, owner->generation);
    if (mine == STATUS_OK) return STATUS_OK;
    Failure cause = *status_failure();
    withdraw(owner);
    return status_adopt(&cause);
}

Status owner_take(const char *run_dir, const OwnerClaim *claim, double watch_s,
                  Owner *out) {
    *out = (Owner){.directory = -1};
    if (strlen(run_dir) >= sizeof out->run_dir)
        return FAIL(STATUS_USAGE, "use a shorter run.dir",
                    "the run directory's path is too long");
    Owner owner = {.restored_step = -1};
    strcpy(owner.run_dir, run_dir);
    TRY(directory_make(run_dir, &owner.directory));

    Status taken = directory_check(run_dir, owner.directory);
    if (taken == STATUS_OK) taken = STATUS_EXISTS;
    for (int i = 0; i < TAKE_ATTEMPTS && taken == STATUS_EXISTS; i++)
        taken = publish_next(&owner, claim, watch_s);
    if (taken == STATUS_EXISTS)
        taken = FAIL(STATUS_USAGE, "relaunch only once", "%s: too many launches at once",
                     run_dir);
    if (taken != STATUS_OK) {
        close(owner.directory);
        return taken;
    }
    taken = owner_beat_start(owner.directory, owner.generation, &owner.beat);
    if (taken == STATUS_OK && claim->restored_from[0] != '\0') {
        memcpy(owner.restored_from, claim->restored_from, sizeof owner.restored_from);
        owner.restored_step = claim->restored_step;
        owner.restored_digest = claim->restored_digest;
        if (!claim->saved_anew) taken = keep_restored(&owner, claim->restored_path);
    }
    if (taken != STATUS_OK) {
        Failure first = *status_failure();
        withdraw(&owner);
        owner_release(&owner);
        return status_adopt(&first);
    }
    *out = owner;
    return STATUS_OK;
}

/* ---- holding */

Status owner_check(const Owner *owner) {
    static const char fix[] = "this launch must end: the run goes on in the other one";
    Listing listing;
    TRY(listing_read(owner->directory, &listing));
    int64_t newest = listing_newest_owner(&listing);
    listing_free(&listing);
    /* a network file system may list old names for a while; asking for the next one by name does
     * reach the server */
    char next[CATALOG_NAME];
    owner_name(owner->generation + 1, "", next);
    if (newest <= owner->generation &&
        faccessat(owner->directory, next, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        newest = owner->generation + 1;

    if (newest > owner->generation) {
        OwnerRecord successor;
        owner_read(owner->directory, newest, &successor);
        return FAIL(
            STATUS_LOST_OWNER, fix,
            "%.300s belongs to launch %lld now (process %lld on %s); we are launch %lld",
            owner->run_dir, (long long)newest, (long long)successor.pid,
            successor.readable ? successor.host : "a host unknown",
            (long long)owner->generation);
    }
    if (newest < owner->generation)
        return FAIL(STATUS_LOST_OWNER, fix,
                    "the owner record of this launch (%lld) is gone from %.300s",
                    (long long)owner->generation, owner->run_dir);
    return STATUS_OK;
}

void owner_release(Owner *owner) {
    if (owner == NULL || owner->directory < 0) return;
    bool ours = owner->beat == NULL || owner_beat_is_ours(owner->beat);
    if (owner->beat != NULL) owner_beat_stop(owner->beat);
    owner->beat = NULL;
    char name[CATALOG_NAME];
    owner_name(owner->generation, ".end", name);
    int fd = -1;
    if (ours && file_open(owner->directory, name, O_WRONLY | O_CREAT, &fd) == STATUS_OK)
        close(fd);
    close(owner->directory);
    owner->directory = -1;
}
