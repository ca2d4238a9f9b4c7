/* The names in a run's checkpoints directory, read once and told apart. A name counts only when
 * printing what was read from it gives the same name again. */
#include "src/checkpoint/listing.h"

#include "src/checkpoint/owner.h"
#include "src/core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Reads the generation of a hidden name such as .g0003-….tmp or .owner.g0003….tmp. */
static bool is_temporary(const char *name, long long *generation) {
    size_t length = strlen(name);
    int end = 0;
    if (length < 4 || strcmp(name + length - 4, ".tmp") != 0) return false;
    if (sscanf(name, ".g%lld-step-%n", generation, &end) == 1 && end > 0) return true;
    return sscanf(name, ".owner.g%lld.%n", generation, &end) == 1 && end > 0;
}

void listing_tell(const char *name, Listed *out) {
    long long generation = 0, step = 0;
    char again[CATALOG_NAME], longer[CATALOG_NAME + 16];
    *out = (Listed){.kind = LISTED_OTHER};
    snprintf(out->name, sizeof out->name, "%s", name);
    if (is_temporary(name, &generation)) {
        out->kind = LISTED_TEMPORARY;
    } else if (sscanf(name, "g%lld-step-%lld.h5", &generation, &step) == 2 && step >= 0) {
        catalog_name(generation, step, again);
        snprintf(longer, sizeof longer, "%s.rejected", again);
        if (strcmp(name, again) == 0) out->kind = LISTED_CHECKPOINT;
        if (strcmp(name, longer) == 0) out->kind = LISTED_MARK;
        snprintf(longer, sizeof longer, "%s.pinned", again);
        if (strcmp(name, longer) == 0) out->kind = LISTED_PIN;
    } else if (sscanf(name, "owner.g%lld", &generation) == 1) {
        owner_name(generation, "", again);
        if (strcmp(name, again) == 0) out->kind = LISTED_OWNER;
        owner_name(generation, ".beat", again);
        if (strcmp(name, again) == 0) out->kind = LISTED_BEAT;
        owner_name(generation, ".end", again);
        if (strcmp(name, again) == 0) out->kind = LISTED_END;
    }
    if (generation < 1) out->kind = LISTED_OTHER; /* the first launch has generation 1 */
    out->generation = generation;
    out->step = step;
}

Status listing_read(int directory, Listing *out) {
    *out = (Listing){NULL, 0};
    int capacity = 0;
    /* an own descriptor: the position in a directory belongs to the open file */
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        int error = errno;
        if (fd >= 0) close(fd);
        return FAIL(STATUS_IO, file_fix_for(error),
                    "cannot open the checkpoints directory: %s", strerror(error));
    }
    for (;;) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (found == NULL) break;
        if (out->count == capacity) {
            capacity = capacity == 0 ? 64 : 2 * capacity;
            Listed *names = realloc(out->names, (size_t)capacity * sizeof *names);
            if (names == NULL) {
                closedir(stream);
                listing_free(out);
                return FAIL(STATUS_MEMORY, NULL, "no memory to list the checkpoints");
            }
            out->names = names;
        }
        listing_tell(found->d_name, &out->names[out->count++]);
    }
    int error = errno;
    closedir(stream);
    if (error == 0) return STATUS_OK;
    listing_free(out);
    return FAIL(STATUS_IO, file_fix_for(error), "cannot list the checkpoints directory: %s",
                strerror(error));
}

void listing_free(Listing *listing) {
    free(listing->names);
    *listing = (Listing){NULL, 0};
}

int64_t listing_newest_owner(const Listing *listing) {
    int64_t newest = 0;
    for (int i = 0; i < listing->count; i++)
        if (listing->names[i].kind == LISTED_OWNER && listing->names[i].generation > newest)
            newest = listing->names[i].generation;
    return newest;
}

int64_t listing_newest_any(const Listing *listing) {
    int64_t newest = 0;
    for (int i = 0; i < listing->count; i++) {
        const Listed *name = &listing->names[i];
        /* an unfinished file claims nothing: its owner may never have come to be */
        if (name->kind == LISTED_OTHER || name->kind == LISTED_TEMPORARY) continue;
        if (name->generation > newest) newest = name->generation;
    }
    return newest;
}

bool listing_has(const Listing *listing, const char *name) {
    for (int i = 0; i < listing->count; i++)
        if (strcmp(listing->names[i].name, name) == 0) return true;
    return false;
}
