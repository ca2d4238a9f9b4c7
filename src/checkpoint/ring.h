/* Slots that go round: their owner fills one after the other and sends them, threads work at them, each at
 * the next that nobody works at, and the owner takes them back in the order in which it sent them. What a
 * slot holds is the user's: the ring knows numbers only. */
#pragma once

#include "src/core/status.h"

typedef struct Ring Ring;

/* Works at a slot. At most one slot at a time has a worker's number (0 … workers - 1). */
typedef void (*RingWork)(void *context, int worker, int slot);

/* Slots 0 … slots - 1, none of them sent. Where threads cannot be had fewer work; without any, and with 0
 * workers, what is sent is worked at there and then, as worker 0.
 *
 * Ranks:   local; `workers` threads, which no signal reaches
 * Memory:  *out is the caller's: ring_close. `context` must stay until then
 * Errors:  STATUS_MEMORY */
Status ring_open(int slots, int workers, RingWork work, void *context, Ring **out);

/* The slot that is to be filled and sent, the same until it is sent; -1 when all are on their way: take one
 * first. */
int ring_next(const Ring *ring);
void ring_send(Ring *ring);

/* The slot that was sent first of all that were not yet taken, or -1 when there is none; waits until it is
 * done. It stays as it is until it is sent again. */
int ring_take(Ring *ring);

/* Waits for the slots at which threads work; what else was sent is left undone. NULL is allowed. */
void ring_close(Ring *ring);
