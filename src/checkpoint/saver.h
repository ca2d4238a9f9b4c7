/* Saving while training goes on: takes a state that stands still and makes it durable, or only has the hosts
 * hold it in their memory (src/checkpoint/local.h). In the background a
 * thread of each rank works at a save, and the ranks meet for a moment at a step boundary, twice:
 *
 *   IDLE --saver_begin--> PERSISTING   rank 0 writes a hidden temporary; every rank digests its own state
 *        --saver_advance, once all are through: the digests are compared-->
 *                         COMMITTING   rank 0 gives the file its user block, syncs, names and prunes
 *        --saver_advance, once that is over--> IDLE, and an event for saver_poll
 *
 * With several writers rank 0 makes the file first (CREATING), a saver_advance more tells them of it, and then
 * each places its part (src/checkpoint/share.h).
 *
 * In the foreground the same happens inside of saver_begin. saver_hold goes the same way, but the first rank of
 * each host does what rank 0 does, in its host's memory.
 *
 * Invariants
 *  1. Only a state that is finite and the same on every rank is ever named.
 *  2. "Saved" is said only of what is durable.
 *  3. A failed save costs nothing but itself: what was saved before stays. max_failures in a row end
 *     the run, for then nothing protects it.
 *  4. Who has lost the directory writes nothing more.
 *  5. A host that cannot hold a state costs nothing: it says so once, and the other hosts hold it.
 *  6. At most one save is in flight, and where it stands is the same on every rank after each
 *     saver_advance. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/checkpoint/local.h"
#include "src/collective.h"

typedef struct Saver Saver;

typedef struct {
    bool finished;   /* a save ended since the last poll; all below is about it */
    bool held;       /* it was to be held only; then */
    int hosts;       /* … so many hosts hold it */
    Status status;   /* STATUS_OK: durable, or held by a host */
    Failure failure; /* when not */
    char name[CATALOG_NAME];
    int64_t step, bytes;
    Digest state_digest;
    double seconds;         /* from saver_begin until it was durable, of which: */
    double persist, commit; /* at work in the phase of that name, on rank 0 */
} SaverEvent;

typedef struct {
    int level;   /* of packing; 0: none */
    int writers; /* ranks that each place a part of a durable file: not more than there are ranks take part, and
                    1 where files are packed; 0: as 1 */
    const char *
        run_dir; /* this rank's way to it, where there are more writers than rank 0. The caller's, until
                            saver_close */
    int max_failures;
    Retention keep;
    bool background;
    /* Rank 0's: makes durable what belongs to a checkpoint and lies beside it, before that is named; on the
     * saver's thread. Its failure is a warning. NULL: nothing does */
    Status (*before_commit)(void *context);
    void *context;
    /* where this rank holds snapshots; NULL, or closed: it holds none. The caller's, until saver_close */
    const LocalPlace *place;
} SaverOptions;

/* Plans the file and checks that there is room for two more of it (a warning otherwise).
 *
 * Ranks:   collective; `owner` on rank 0, NULL elsewhere
 * Memory:  owner, state and the text stay the caller's, until saver_close; *out is the caller's. Of the
 *          state only the registry is looked at. The text (rank 0's counts) may be another one at each
 *          save, and changes only while none is in flight
 * Errors:  the same on every rank; *out is NULL then. Without a thread the saver works in the foreground,
 *          and says so */
Status saver_open(Collective *collective, const Owner *owner, const State *state,
                  const CheckpointText *text, const SaverOptions *options, Saver **out);

/* Begins to save `state`, whose registry is that of saver_open and whose values stand still while
 * saver_is_reading. `what` (rank 0's counts) gives run, step, epoch, metrics, device_kind, author and note;
 * the rest is filled here. A save of a step that is already saved with the same values is a success.
 *
 * Ranks:   every rank, at the same step boundary; none is in flight
 * Errors:  those of saver_advance, in the foreground; none in the background */
Status saver_begin(Saver *saver, const State *state, const UserBlock *what);

/* Begins to have the hosts hold `state`, in the same way. `what` and the text of every rank with a place count,
 * and the block's parent is the caller's, too.
 *
 * Ranks:   every rank, at the same step boundary; none is in flight
 * Errors:  as saver_begin; a state that no host holds is an event */
Status saver_hold(Saver *saver, const State *state, const UserBlock *what);

/* This rank's share of the control word: CONTROL_SAVING while its thread is at work. Ranks: local */
uint32_t saver_bits(const Saver *saver);

/* Moves the save in flight on, when no rank's bit is in the control word of this step.
 *
 * Ranks:   every rank, with the same bits
 * Errors:  the same on every rank, and the run cannot go on: STATUS_NOT_FINITE or STATUS_CORRUPT
 *          naming the ranks and the first entry (nothing was saved), STATUS_LOST_OWNER, or the last
 *          failure after max_failures in a row. Any other failure is a warning and an event */
Status saver_advance(Saver *saver, uint32_t bits);

/* Whether a save is in flight, and whether its state must still stand still. The same on every rank. */
bool saver_is_busy(const Saver *saver);
bool saver_is_reading(const Saver *saver);

/* With several writers: waits until they have a file, and has all of them begin. Before it nobody may wait for
 * what they read. Ranks: collective, at any time. Errors: as saver_advance */
Status saver_await_file(Saver *saver);

/* Waits until this rank's thread has read the state. Ranks: local; after saver_await_file */
void saver_await_reading(Saver *saver);

/* What ended since the last call. Ranks: local, rank 0's text; the same on each rank */
void saver_poll(Saver *saver, SaverEvent *event);

/* Waits for the save in flight; then poll. Ranks: collective. Errors: as saver_advance. NULL is allowed */
Status saver_finish(Saver *saver);

/* What is still in flight is given up: nothing is named. NULL is allowed. Ranks: local */
void saver_close(Saver *saver);
