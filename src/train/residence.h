/* Where the state lives: on the host, for checkpoints, digests and messages between ranks, and on the
 * device, for computing. Where the device's memory is the host's it is one and the same.
 *
 * Only the device's copy moves with the steps. The host's is that of the newest snapshot:
 * residence_fetch begins one, residence_fetched ends it. Scalars live on the host alone. */
#pragma once

#include "src/backend.h"
#include "src/state/state.h"

/* Gives every arena its place on the device and pins the host's. The values are still on the host alone.
 * Ranks: local. Memory: residence_close, also after a failure. Errors: the backend's */
Status residence_open(State *state, Backend *backend);
void residence_close(State *state, Backend *backend); /* before the backend is closed */

/* The host's values become the device's: after a restore, or a fresh start's first values.
 * Ranks: local. Errors: the backend's */
Status residence_upload(State *state, Backend *backend);

/* Begins to fetch what the work given so far leaves; residence_fetched waits for it. Ranks: local
 * Errors: the backend's */
Status residence_fetch(State *state, Backend *backend);
Status residence_fetched(State *state, Backend *backend);
