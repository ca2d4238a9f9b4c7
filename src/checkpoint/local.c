/* The place of a run's snapshots in a host's memory: made, listed, kept small and removed. */
#include "src/checkpoint/local.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/owner.h"
#include "src/core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char RUN_FILE[] = "run";

enum { OPEN_ATTEMPTS = 16 };

/* ---- names */

static void folder_name(int64_t generation, Digest record, char out[LOCAL_FOLDER]) {
    snprintf(out, LOCAL_FOLDER, "g%04lld-%016llx", (long long)generation,
             (unsigned long long)record.high);
}

/* The generation of a launch's folder; 0 for any other name. */
static int64_t generation_of(const char *folder) {
    long long generation;
    unsigned long long record;
    char again[LOCAL_FOLDER];
    if (sscanf(folder, "g%lld-%llx", &generation, &record) != 2 || generation < 1) return 0;
    folder_name(generation, (Digest){record, 0}, again);
    return strcmp(again, folder) == 0 ? generation : 0;
}

static Status describe_path(const char *run_dir, LocalRun *out) {
    char real[PATH_MAX];
    if (realpath(run_dir, real) == NULL)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot resolve run.dir %s: %s",
                    run_dir, strerror(errno));
    digest_print(digest_of(real, strlen(real)), out->key);
    snprintf(out->run_path, sizeof out->run_path, "%.511s", real);
    return STATUS_OK;
}

Status local_describe_owner(const Owner *owner, LocalRun *out) {
    OwnerRecord record;
    memset(out, 0, sizeof *out); /* padding too: it travels */
    owner_read(owner->directory, owner->generation, &record);
    if (!record.readable)
        return FAIL(STATUS_IO, "check the run directory's disk",
                    "the owner record of this launch cannot be read back: %s",
                    record.unreadable_why);
    folder_name(record.generation, record.digest, out->folders[out->count++]);
    return describe_path(owner->run_dir, out);
}

Status local_describe(const char *run_dir, const Catalog *catalog, LocalRun *out) {
    memset(out, 0, sizeof *out); /* padding too: it travels */
    if (catalog->directory < 0) return STATUS_OK;
    TRY(describe_path(run_dir, out));
    for (int i = 0; i < catalog->record_count && out->count < LOCAL_FOLDERS; i++)
        if (catalog->records[i].readable)
            folder_name(catalog->records[i].generation, catalog->records[i].digest,
                        out->folders[out->count++]);
    return STATUS_OK;
}

/* ---- opening */

/* DIR, DIR/rekindle-UID, KEY in it, a launch's folder in that. */
enum { LEVELS = 4 };

typedef struct {
    int fds[LEVELS]; /* -1 where one is not there */
    char path[1024]; /* as far as it was looked at */
} Way;

/* Whether an open directory belongs to this user alone. */
static Status check_ours(int directory, const char *path) {
    struct stat about;
    if (fstat(directory, &about) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot look at %s: %s", path,
                    strerror(errno));
    if (about.st_uid == geteuid() && (about.st_mode & 077) == 0) return STATUS_OK;
    return FAIL(STATUS_IO,
                "have it removed, or set checkpoint.local.dir to another directory",
                "%s belongs to user %u with mode %03o: snapshots are held only where "
                "nobody else can read or write",
                path, about.st_uid, about.st_mode & 0777);
}

static void close_way(Way *way) {
    for (int i = 0; i < LEVELS; i++) {
        if (way->fds[i] >= 0) close(way->fds[i]);
        way->fds[i] = -1;
    }
}

/* Goes one level down. Where that is not there (any more), its descriptor stays -1. */
static Status descend(Way *way, int level, const char *name, bool make) {
    int above = way->fds[level - 1];
    size_t length = strlen(way->path);
    snprintf(way->path + length, sizeof way->path - length, "/%s", name);
    if (make && mkdirat(above, name, 0700) != 0 && errno != EEXIST && errno != ENOENT)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot make %s: %s", way->path,
                    strerror(errno));
    int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return STATUS_OK;
    if (fd < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", way->path,
                    strerror(errno));
    way->fds[level] = fd;
    return check_ours(fd, way->path);
}

static void user_folder(char out[32]) {
    snprintf(out, 32, "rekindle-%u", geteuid());
}

/* As far down as there is something. *whole: to the end. */
static Status open_way(const char *dir, const char *key, const char *folder, bool make,
                       Way *way, bool *whole) {
    char user[32];
    user_folder(user);
    const char *const names[LEVELS] = {NULL, user, key, folder};
    *way = (Way){.fds = {-1, -1, -1, -1}};
    *whole = false;
    snprintf(way->path, sizeof way->path, "%s", dir);
    way->fds[0] = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (way->fds[0] < 0)
        return FAIL(STATUS_IO, "set checkpoint.local.dir to a directory of every host",
                    "cannot open %s: %s", dir, strerror(errno));
    Status status = STATUS_OK;
    for (int i = 1; i < LEVELS && status == STATUS_OK && way->fds[i - 1] >= 0; i++)
        status = descend(way, i, names[i], make);
    *whole = status == STATUS_OK && way->fds[LEVELS - 1] >= 0;
    if (status != STATUS_OK) close_way(way);
    return status;
}

Status local_open_folder(const char *dir, const LocalRun *run, const char *folder, int *out,
                         char *path, size_t path_bytes) {
    Way way;
    bool whole;
    *out = -1;
    TRY(open_way(dir, run->key, folder, false, &way, &whole));
    snprintf(path, path_bytes, "%s", way.path);
    if (whole) {
        *out = way.fds[LEVELS - 1];
        way.fds[LEVELS - 1] = -1;
    }
    close_way(&way);
    return whole ? STATUS_OK : FAIL(STATUS_IO, file_fix_for(ENOENT), "%s is gone", path);
}

/* ---- listing */

static void look_at(int directory, LocalFile *file) {
    struct stat about;
    UserBlock block;
    Status read;
    if (fstatat(directory, file->name, &about, AT_SYMLINK_NOFOLLOW) != 0)
        read = FAIL(STATUS_IO, NULL, "%s", strerror(errno));
    else if (!S_ISREG(about.st_mode))
        read = FAIL(STATUS_CORRUPT, NULL, "not a regular file");
    else
        read = checkpoint_read_user_block(directory, file->name, &block);
    if (read == STATUS_OK &&
        (block.generation != file->generation || block.step != file->step))
        read = FAIL(STATUS_CORRUPT, NULL, "it holds generation %lld step %lld",
                    (long long)block.generation, (long long)block.step);
    file->code = read;
    if (read == STATUS_OK)
        file->state_digest = block.state_digest;
    else
        snprintf(file->reason, sizeof file->reason, "%.159s",
                 catalog_reason(file->name, status_failure()->what));
}

static int by_step_down(const void *a, const void *b) {
    const Listed *first = a, *second = b;
    return (first->step < second->step) - (first->step > second->step);
}

/* Files of one launch, newest first. */
static Status list_folder(int directory, const char *folder, LocalFile *files, int *count) {
    Listing listing;
    TRY(listing_read(directory, &listing));
    qsort(listing.names, (size_t)listing.count, sizeof *listing.names, by_step_down);
    for (int i = 0; i < listing.count && *count < LOCAL_FILES; i++) {
        const Listed *name = &listing.names[i];
        if (name->kind != LISTED_CHECKPOINT || name->generation != generation_of(folder))
            continue;
        LocalFile *file = &files[(*count)++];
        memset(file, 0, sizeof *file); /* padding too: it travels */
        snprintf(file->folder, sizeof file->folder, "%s", folder);
        memcpy(file->name, name->name, sizeof file->name);
        file->generation = name->generation;
        file->step = name->step;
        look_at(directory, file);
    }
    listing_free(&listing);
    return STATUS_OK;
}

Status local_list(const char *dir, const LocalRun *run, LocalFile *files, int *count) {
    *count = 0;
    for (int i = 0; i < run->count; i++) {
        Way way;
        bool whole;
        Status listed = open_way(dir, run->key, run->folders[i], false, &way, &whole);
        if (whole) listed = list_folder(way.fds[LEVELS - 1], run->folders[i], files, count);
        close_way(&way);
        TRY(listed);
    }
    return STATUS_OK;
}

/* ---- keeping it small */

typedef struct {
    char folder[LOCAL_FOLDER];
    Listed file;
    bool counts, own;
} Held;

typedef struct {
    Held *items;
    int count, capacity;
} HeldList;

/* Of what counts, the newest first: the own, then the nearest to what was restored. */
static int most_wanted_first(const void *a, const void *b) {
    const Held *first = a, *second = b;
    if (first->counts != second->counts) return first->counts ? -1 : 1;
    if (first->own != second->own) return first->own ? -1 : 1;
    if (first->file.step != second->file.step)
        return first->file.step < second->file.step ? 1 : -1;
    return (first->file.generation < second->file.generation) -
           (first->file.generation > second->file.generation);
}

/* Without memory for it a file stays where it is. */
static void add_held(HeldList *list, const LocalPlace *place, const char *folder,
                     const Listed *file) {
    if (list->count == list->capacity) {
        int capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        Held *grown = realloc(list->items, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return;
        list->items = grown;
        list->capacity = capacity;
    }
    Held *held = &list->items[list->count++];
    snprintf(held->folder, sizeof held->folder, "%.47s", folder);
    held->file = *file;
    held->own = strcmp(folder, place->folder) == 0;
    bool earlier = generation_of(folder) < place->generation;
    held->counts = file->kind == LISTED_CHECKPOINT &&
                   (held->own || (earlier && file->step <= place->restored_step));
}

/* A launch that was killed early leaves an empty folder. */
static void remove_if_empty(const LocalPlace *place, const char *folder) {
    unlinkat(place->fds[LOCAL_RUN], folder, AT_REMOVEDIR);
}

/* All files in the folders of this and earlier launches. What cannot be read is left alone. */
static void list_held(const LocalPlace *place, HeldList *list) {
    int fd = openat(place->fds[LOCAL_RUN], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        if (fd >= 0) close(fd);
        return;
    }
    for (const struct dirent *found; (found = readdir(stream)) != NULL;) {
        int64_t generation = generation_of(found->d_name);
        Listing listing;
        if (generation == 0 || generation > place->generation) continue;
        if (strcmp(found->d_name, place->folder) != 0)
            remove_if_empty(place, found->d_name);
        int folder = openat(place->fds[LOCAL_RUN], found->d_name,
                            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder < 0) continue;
        if (listing_read(folder, &listing) == STATUS_OK) {
            for (int i = 0; i < listing.count; i++)
                if (listing.names[i].kind == LISTED_CHECKPOINT ||
                    listing.names[i].kind == LISTED_TEMPORARY)
                    add_held(list, place, found->d_name, &listing.names[i]);
            listing_free(&listing);
        }
        close(folder);
    }
    closedir(stream);
    if (list->count > 0)
        qsort(list->items, (size_t)list->count, sizeof *list->items, most_wanted_first);
}

static void delete_held(const LocalPlace *place, const Held *held) {
    char path[sizeof held->folder + sizeof held->file.name + 1];
    snprintf(path, sizeof path, "%s/%s", held->folder, held->file.name);
    unlinkat(place->fds[LOCAL_RUN], path, 0);
    if (!held->own) remove_if_empty(place, held->folder);
}

/* keep 0: all go. */
static void keep_newest(const LocalPlace *place, int keep) {
    HeldList list = {NULL, 0, 0};
    list_held(place, &list);
    for (int i = 0; i < list.count; i++) {
        const Held *held = &list.items[i];
        /* where hosts share the directory, it may be another host's that is being written */
        bool spare = keep > 0 && held->own && held->file.kind == LISTED_TEMPORARY;
        if (!spare && (i >= keep || !held->counts)) delete_held(place, held);
    }
    free(list.items);
}

Status local_make_room(const LocalPlace *place, size_t needed) {
    struct statvfs about;
    keep_newest(place, LOCAL_KEEP - 1);
    if (fstatvfs(place->fds[LOCAL_LAUNCH], &about) != 0) return STATUS_OK; /* then try */
    double room = (double)about.f_bavail * (double)about.f_frsize;
    if (room >= (double)needed) return STATUS_OK;
    return FAIL(STATUS_IO,
                "free some space there, make it larger, or set checkpoint.local.dir to a "
                "roomier directory",
                "%s has %.1f MiB free, but a snapshot needs about %.1f MiB", place->path,
                room / (1 << 20), (double)needed / (1 << 20));
}

/* ---- a launch's place */

/* For people who look at what is there; the place works without it. */
static void tell_run(const LocalPlace *place, const char *run_path) {
    int fd = openat(place->fds[LOCAL_RUN], RUN_FILE,
                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return;
    dprintf(fd, "%s\n", run_path);
    close(fd);
}

/* Another run that ends may remove what it has just found empty. */
static Status make_way(const char *dir, const char *key, const char *folder, Way *way) {
    bool whole = false;
    for (int i = 0; i < OPEN_ATTEMPTS && !whole; i++) {
        TRY(open_way(dir, key, folder, true, way, &whole));
        if (!whole) close_way(way);
    }
    return whole
               ? STATUS_OK
               : FAIL(STATUS_IO, "launch again", "%s goes away again and again", way->path);
}

Status local_open(const char *dir, const LocalRun *run, int64_t restored_step,
                  LocalPlace *out) {
    Way way;
    const char *folder = run->folders[0];
    *out = (LocalPlace){.fds = {-1, -1, -1, -1}};
    out->generation = generation_of(folder);
    TRY(make_way(dir, run->key, folder, &way));
    memcpy(out->fds, way.fds, sizeof out->fds);
    out->restored_step = restored_step;
    memcpy(out->key, run->key, sizeof out->key);
    memcpy(out->folder, folder, sizeof out->folder);
    snprintf(out->path, sizeof out->path, "%s", way.path);
    tell_run(out, run->run_path);
    keep_newest(out, LOCAL_KEEP);
    return STATUS_OK;
}

void local_close(LocalPlace *place) {
    for (int i = 0; i < LEVELS; i++) {
        if (place->fds[i] >= 0) close(place->fds[i]);
        place->fds[i] = -1;
    }
}

/* Whether nothing but our own note is left of a run. */
static bool is_empty(const LocalPlace *place) {
    int fd = openat(place->fds[LOCAL_RUN], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        if (fd >= 0) close(fd);
        return false;
    }
    bool empty = true;
    for (const struct dirent *found; (found = readdir(stream)) != NULL;)
        empty &= found->d_name[0] == '.' || strcmp(found->d_name, RUN_FILE) == 0;
    closedir(stream);
    return empty;
}

void local_remove(LocalPlace *place) {
    char user[32];
    if (place->fds[LOCAL_RUN] < 0) return;
    keep_newest(place, 0);
    unlinkat(place->fds[LOCAL_RUN], place->folder, AT_REMOVEDIR);
    if (is_empty(place)) unlinkat(place->fds[LOCAL_RUN], RUN_FILE, 0);
    unlinkat(place->fds[LOCAL_USER], place->key, AT_REMOVEDIR);
    user_folder(user);
    unlinkat(place->fds[LOCAL_DIR], user, AT_REMOVEDIR);
    local_close(place);
}
