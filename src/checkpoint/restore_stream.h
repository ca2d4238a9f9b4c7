/* The bytes of one checkpoint on their way from one rank's disk into every rank's arenas. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/collective.h"

/* Streams and verifies a matched file and compares the outcome on all ranks with each other and with
 * the file's own digest.
 *
 * Ranks:   collective; `reader` on rank `root` (the same everywhere), NULL elsewhere
 * Errors:  the same on every rank. *file_failed: the file is bad, the ranks are in step, the state is
 *          all zero again, and another file may be tried. STATUS_CORRUPT without it: ranks hold
 *          different bytes */
Status restore_stream(Collective *collective, int root, CheckpointReader *reader,
                      State *state, const UserBlock *block, bool *file_failed);
