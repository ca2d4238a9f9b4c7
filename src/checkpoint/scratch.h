/* Short-lived files in memory for HDF5: it lays files out there, and never comes near the real
 * disk. */
#pragma once

#include "src/core/status.h"

#include <stddef.h>
#include <stdint.h>

enum { SCRATCH_PATH = 512 };

/* Creates an empty file in /dev/shm, or where that is missing or has less than `needed` bytes free,
 * in $TMPDIR or /tmp. The caller lets HDF5 open `path` and unlinks it at once, so that even a killed
 * process leaves nothing.
 *
 * Ranks:   local
 * Memory:  *fd and path are the caller's (close, unlink)
 * Errors:  STATUS_IO, also when `logical` (the sparse file's length) is above the process's limit:
 *          HDF5 would not survive the failure */
Status scratch_create(size_t needed, int64_t logical, char path[SCRATCH_PATH], int *fd);
