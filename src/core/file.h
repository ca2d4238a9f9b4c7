/* Files that appear whole and durable, or not at all. */
#pragma once

#include "src/core/status.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* Makes `name` appear in the directory whole and durable, or not at all. An existing `name` is never
 * replaced.
 *
 * Ranks:   local
 * Memory:  data (size bytes) stays the caller's
 * Errors:  STATUS_IO naming the failed step; STATUS_EXISTS if `name` is there already. The directory
 *          is then as before, unless the failed step is the last one (its sync): then `name` stands,
 *          of unknown durability */
Status file_publish(int directory, const char *name, const void *data, size_t size);

/* Like file_publish, but an existing `name` is replaced atomically. Errors: STATUS_IO */
Status file_replace(int directory, const char *name, const void *data, size_t size);

/* Gives a hidden name for a file that will be published as `name`, which no living or dead process has
 * used: what a killed one left never blocks. Errors: STATUS_IO */
Status file_temporary_name(const char *name, char temp[NAME_MAX + 1]);

/* Removes the hidden temporaries that killed publications of `name` left behind. Call it only where no
 * other process may be publishing it. What cannot be removed stays: it is only litter */
void file_sweep(int directory, const char *name);

/* The last steps of a publication, for a file written elsewhere: gives the synced and closed file
 * `temp` its name without replacing (renameat2 RENAME_NOREPLACE; where that gives EINVAL, link and
 * unlink), then syncs the directory. An error of a call that did happen, as network file systems report it
 * when an answer is lost, is none: our own inode under `name` is success. Errors: STATUS_IO, STATUS_EXISTS; `temp` is still there then, unless only the directory's sync failed */
Status file_name_and_sync(int directory, const char *temp, const char *name);

/* True when both names stand for one file: a link or rename that reported an error may have happened. */
bool file_is_same(int directory, const char *name, int other_directory, const char *other);

/* Makes the directory's names durable. File systems that cannot (EINVAL) keep them as well as they ever
 * will. Errors: STATUS_IO naming `name`, the one that matters to the caller */
Status file_sync_directory(int directory, const char *name);

/* Opens a file of the program's own in a directory that others may write, too. A symbolic link is never
 * followed; a pipe, a device or a directory is refused and not waited for. flags: as of open; what it makes
 * has the mode that the umask leaves.
 * Memory:  *fd is the caller's; -1 after a failure
 * Errors:  STATUS_USAGE saying what stands there under that name; STATUS_IO */
Status file_open(int directory, const char *name, int flags, int *fd);

/* Reads a whole file of at most `limit` bytes: as file_open does, but a path that a user named (of the
 * directory AT_FDCWD) may lead over links. Memory: *data is the caller's (free), with a zero
 * byte after its end. Errors: STATUS_IO, STATUS_MEMORY, STATUS_USAGE when it is larger, or no regular file */
Status file_read(int directory, const char *name, size_t limit, char **data, size_t *size);

/* Whole-buffer write and read at an offset, through EINTR and short counts; 0, or -1 with errno
 * (EIO for an unexpected end of file). */
int file_write_at(int fd, const void *data, size_t size, long long offset);
int file_read_at(int fd, void *data, size_t size, long long offset);

/* Makes a directory and its parents (with the mode that the umask leaves) and syncs the parents, also of those that are there already.
 * Errors: STATUS_IO */
Status file_make_directory(const char *path);

/* What a user can do about an errno from a file operation. Never NULL. */
const char *file_fix_for(int error);
