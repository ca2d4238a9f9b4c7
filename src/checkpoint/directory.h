/* The way into a run's checkpoints directory: whose links are followed, and who else may write there.
 *
 * run.dir itself may lead anywhere: a user named it. checkpoints/ inside may be a symbolic link, too (to a
 * roomier disk), when it is ours, root's, or the run directory's owner's: others who may only write in a
 * shared directory cannot turn a run's work elsewhere. Once open, the descriptor is used and not the path.
 * Group-writable directories are a team's, and need no word. */
#pragma once

#include "src/core/status.h"

/* Opens run_dir/checkpoints; *out is -1 where there is none. A link that leads nowhere is a failure and no
 * empty directory: the disk that it means may not be mounted.
 * Ranks: local. Memory: *out is the caller's
 * Errors: STATUS_USAGE for a link that is not followed, or leads nowhere; STATUS_IO */
Status directory_open(const char *run_dir, int *out);

/* The same, and makes it where there is none, with its parents. */
Status directory_make(const char *run_dir, int *out);

/* For who begins to own it: can we write there, and can everybody? The latter is a warning.
 * Errors: STATUS_USAGE when the permissions forbid it; STATUS_IO */
Status directory_check(const char *run_dir, int directory);
