/* Carries a run's new checkpoints to an object store, behind the training. A thread of rank 0.
 *
 *   IDLE --mirror_offer--> SENDING --stands there, or failed--> IDLE, or SENDING what was offered meanwhile
 *                             '--another launch's name--> OFF: nothing more is sent
 *
 * Invariants
 *  1. Training never waits for it: an offer is a name left behind a lock.
 *  2. At most one upload is under way and one offer waits; a newer offer takes the waiting one's place.
 *  3. A failure is told and counted; the next offer is tried anew.
 *  4. Who lost the directory, or finds a higher generation's name in the store, sends nothing more.
 *  5. It deletes only what it put itself, beyond keep_last, once something newer stands, and only what
 *     the run directory does not keep (pins, keep_best, keep_every). */
#pragma once

#include "src/checkpoint/catalog.h"

typedef struct Mirror Mirror;

/* How one offer ended. */
typedef struct {
    char name[CATALOG_NAME];
    Status status;
    Failure failure; /* when not STATUS_OK */
    bool was_there;  /* the store held the same state */
    bool off;        /* nothing will be sent any more */
    int64_t step, bytes;
    double seconds;
} MirrorEvent;

typedef struct {
    int sent, failed, replaced; /* replaced: never sent, since something newer was there */
} MirrorCounts;

/* Starts the thread. No message is sent before the first offer.
 * Ranks:   local; rank 0
 * Memory:  owner stays the caller's until mirror_close; *out is the caller's, NULL after a failure
 * Errors:  STATUS_USAGE for what is no s3://bucket/prefix, or without credentials; STATUS_MEMORY */
Status mirror_open(const char *url, const Owner *owner, int keep_last, Mirror **out);

/* A checkpoint of the owner's directory is durable. Returns at once. NULL-safe, as all below. */
void mirror_offer(Mirror *mirror, const char *name);

/* The oldest end that was not told yet; false: none. */
bool mirror_poll(Mirror *mirror, MirrorEvent *out);

/* Waits until all that was offered has ended, at most so long. False: it has not. */
bool mirror_finish(Mirror *mirror, double seconds);

MirrorCounts mirror_counts(Mirror *mirror);

/* Calls off what is still under way (what is there of an upload stays, to be continued) and ends the
 * thread. */
void mirror_close(Mirror *mirror);
