/* The state of one boundary, standing still while training goes on, so that a thread can save it.
 *
 *   free --snapshot_take--> taken --snapshot_release--> free
 *
 * No step waits for a copy. On a device whose memory is the host's the snapshot *is* the state's own memory
 * as long as nobody writes there, and then one of two things happens:
 *
 *   SPARE    there is a second set of arenas: the next update writes into it (snapshot_target), the sets change
 *            places, and the old one is the snapshot. No byte moves that would not have moved anyway
 *   OVERLAP  there is none: the next update waits until the snapshot is read; the passes before it do not
 *
 * On a device apart the snapshot is the host's copy, which is fetched while the next step computes.
 *
 * Invariants
 *  1. All that a step changes lies in the arenas that its update writes, and it writes all of them; scalars,
 *     which others write too, are copied.
 *  2. While a snapshot is taken nothing writes to snapshot_state. */
#pragma once

#include "src/backend.h"
#include "src/state/state.h"

typedef struct Snapshot Snapshot;

typedef enum { SNAPSHOT_OVERLAP, SNAPSHOT_SPARE } SnapshotMemory;

/* Whether a second set fits into this machine's free memory beside those of the other `ranks_here` - 1 ranks,
 * with as much left over again. False where the state has a device of its own. Ranks: local */
bool snapshot_spare_fits(const State *live, const Backend *backend, int ranks_here);

/* A thread asks the kernel for the spare set's pages, before the first update needs them.
 *
 * Ranks:   local
 * Memory:  *out is the caller's: snapshot_close, before residence_close; NULL after a failure. `live` and
 *          the backend outlive it
 * Errors:  STATUS_MEMORY */
Status snapshot_open(State *live, Backend *backend, SnapshotMemory memory, Snapshot **out);
void snapshot_close(Snapshot *snapshot); /* NULL is allowed */

size_t snapshot_spare_bytes(const Snapshot *snapshot); /* 0: there is no second set */

/* From here on the snapshot is the state as it is now. On a device apart it is on its way, until somebody has
 * waited for all fetches (Backend.fetch_finish) and says so: snapshot_arrived, or snapshot_wait, which does
 * both. Ranks: local. Errors: the backend's; it is not taken then */
Status snapshot_take(Snapshot *snapshot);
void snapshot_arrived(Snapshot *snapshot);
Status snapshot_wait(Snapshot *snapshot);
void snapshot_release(Snapshot *snapshot); /* harmless where none is taken */

bool snapshot_is_taken(const Snapshot *snapshot);
bool snapshot_is_whole(const Snapshot *snapshot); /* taken, and all of it is there */

/* What was taken. Its registry is the live state's. */
const State *snapshot_state(const Snapshot *snapshot);

/* Where the next update has to write: a set of arenas to change places with the live ones (state_exchange).
 * NULL: in place. */
Arena *snapshot_target(Snapshot *snapshot);

/* Whether an update in place would change the snapshot: it must be read, and released, before. */
bool snapshot_is_in_the_way(const Snapshot *snapshot);
