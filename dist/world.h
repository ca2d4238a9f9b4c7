/* The ranks of a launch over MPI: start, the collective, and the end. */
#pragma once

#include "src/collective.h"

#include <stdbool.h>

/* Starts MPI (MPI_THREAD_MULTIPLE is asked for) and opens a Collective on our own duplicate of
 * MPI_COMM_WORLD, set to return errors. Within one host the reduction goes through shared memory when
 * its ranks can share memory, else through MPI. Also sets status_set_who("rank R on HOST").
 * A process that nobody launched is alone: it starts no MPI and names nobody. Collective.
 * Memory: *out is the caller's until world_finish(); reductions are closed before
 * Errors: STATUS_COMM */
Status world_start(int *argc, char ***argv, Collective **out);

/* Closes the collective and ends MPI after a barrier, so that no rank's exit code kills a peer that
 * still works. Collective. NULL is fine. */
void world_finish(Collective *collective);

/* True when this process was started by a launcher of several processes (environment only). */
bool world_is_launched(void);

/* True for the launch's first process, and for one that nobody launched (environment only). While MPI
 * has not started it can speak for all, but not with an error: a launcher kills it as soon as another
 * one leaves with a non-zero code. */
bool world_is_first(void);
