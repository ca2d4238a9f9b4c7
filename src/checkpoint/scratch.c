/* Finds room for a short-lived file and checks beforehand what HDF5 would not survive: a full file
 * system and a limit on file sizes. */
#include "src/checkpoint/scratch.h"

#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int try_create(const char *directory, size_t needed, char path[SCRATCH_PATH]) {
    struct statvfs room;
    if (snprintf(path, SCRATCH_PATH, "%s/rekindle-%d-XXXXXX", directory, (int)getpid()) >=
        SCRATCH_PATH) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (statvfs(directory, &room) != 0) return -1;
    if ((uint64_t)room.f_bavail * room.f_frsize < needed) {
        errno = ENOSPC;
        return -1;
    }
    return mkostemp(path, O_CLOEXEC);
}

Status scratch_create(size_t needed, int64_t logical, char path[SCRATCH_PATH], int *fd) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        (uint64_t)logical > limit.rlim_cur)
        return FAIL(STATUS_IO, file_fix_for(EFBIG),
                    "a checkpoint of %lld bytes is above the limit of %llu bytes a file",
                    (long long)logical, (unsigned long long)limit.rlim_cur);
    const char *chosen = getenv("TMPDIR");
    const char *places[] = {"/dev/shm", chosen == NULL ? "/tmp" : chosen};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if ((*fd = try_create(places[i], needed, path)) >= 0) return STATUS_OK;
    return FAIL(STATUS_IO,
                "free some space in /dev/shm, or set TMPDIR to a directory with room",
                "cannot create a scratch file of %zu bytes in %s or %s: %s", needed,
                places[0], places[1], strerror(errno));
}
