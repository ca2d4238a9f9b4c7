/* Saving while training goes on: takes the state at a step boundary and makes it durable. This saver
 * works in the foreground: a save is over when saver_begin returns.
 *
 *   IDLE --saver_begin--> SAVING --committed, or failed--> FINISHED --saver_poll--> IDLE
 *
 * Invariants
 *  1. Only a state that is finite and the same on every rank is ever written.
 *  2. "Saved" is said only of what is durable.
 *  3. A failed save costs nothing but itself: what was saved before stays. max_failures in a row end
 *     the run, for then nothing protects it.
 *  4. Who has lost the directory writes nothing more. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/collective.h"

typedef struct Saver Saver;

typedef struct {
    bool finished;   /* a save ended since the last poll; all below is about it */
    Status status;   /* STATUS_OK: durable */
    Failure failure; /* when not */
    char name[CATALOG_NAME];
    int64_t step, bytes;
    Digest state_digest;
    double seconds;
} SaverEvent;

typedef struct {
    int level; /* of packing; 0: none */
    int max_failures;
    Retention keep;
} SaverOptions;

/* Plans the file and checks that there is room for two more of it (a warning otherwise).
 *
 * Ranks:   collective; `owner` on rank 0, NULL elsewhere
 * Memory:  owner, state and the text stay the caller's, until saver_close; *out is the caller's. The
 *          text (rank 0's counts) may be another one at each save
 * Errors:  the same on every rank; *out is NULL then */
Status saver_open(Collective *collective, const Owner *owner, const State *state,
                  const CheckpointText *text, const SaverOptions *options, Saver **out);

/* Saves the state as it is now. `what` (rank 0's counts) gives run, step, epoch, metrics, device_kind,
 * author and note; the rest is filled here. A save of a step that is already saved with the same
 * values is a success.
 *
 * Ranks:   collective, at a step boundary
 * Errors:  the same on every rank, and the run cannot go on: STATUS_NOT_FINITE or STATUS_CORRUPT
 *          naming the ranks and the first entry (nothing was written), STATUS_LOST_OWNER, or the last
 *          failure after max_failures in a row. Any other failure is a warning and an event */
Status saver_begin(Saver *saver, const UserBlock *what);

/* What ended since the last call. Ranks: every rank calls it at the same step boundary and gets the
 * same answer. Errors: STATUS_COMM */
Status saver_poll(Saver *saver, SaverEvent *event);

/* Waits for the save in flight; then poll. Ranks: collective. Errors: as saver_begin */
Status saver_finish(Saver *saver);

void saver_close(Saver *saver); /* NULL is allowed */
