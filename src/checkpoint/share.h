/* Several ranks write one checkpoint: who they are, what rank 0 tells them, and what they tell it.
 *
 *   rank 0          share_offer, of a file it has created
 *   every rank      share_announce (collective), then share_write, then share_collect (collective)
 *   rank 0          commits
 *
 * A writer's part is one range of whole segments. Its own descriptor is synced and closed, both checked, before
 * share_write returns: on a network file system nobody else can do that for it. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/collective.h"

typedef struct Share Share;

/* Chooses `writers` of the ranks: rank 0, then one a host, then two a host, and so on.
 *
 * Ranks:   collective, with 2 or more writers and not more than ranks. run_dir is this rank's way to the run
 *          directory, followed at each save
 * Memory:  *out is the caller's: share_close. The collective, the registry and run_dir must stay
 * Errors:  agreed on: STATUS_MEMORY; STATUS_COMM. *out is NULL then */
Status share_open(Collective *collective, const State *registry, const char *run_dir,
                  int writers, Share **out);
void share_close(Share *share); /* NULL is allowed */

/* What the next share_announce tells. `writing` NULL: there is no file, and all only look at their state.
 * Ranks: local, rank 0, on any thread. Errors: STATUS_IO; there is no file then */
Status share_offer(Share *share, CheckpointWriting *writing);
Status share_announce(Share *share); /* collective. Errors: STATUS_COMM */

/* Places this rank's part, if it has one. `writing` is what rank 0 has created, NULL elsewhere.
 * Ranks: local, on any thread. Digest and not_finite: as checkpoint_write_share
 * Errors: as checkpoint_write_join, _share and _leave; digest and not_finite are undefined then */
Status share_write(Share *share, const State *state, CheckpointWriting *writing,
                   Digest *state_digest, int *not_finite);

/* Once all have written: rank 0's file gets the digests of all segments. Collective. Errors: STATUS_COMM */
Status share_collect(Share *share, CheckpointWriting *writing);
