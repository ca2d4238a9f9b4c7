/* The relay of CollectiveOps over MPI: one rank of each host passes frames on to its neighbours in memory that
 * they share, and hosts tell each other by messages. */
#pragma once

#include "src/collective.h"

/* As CollectiveOps.relay_open. `host` is a number that the ranks of one host have in common, and no other
 * rank has; `hosts` is how many there are. Ranks that have a host but no memory in common each count as
 * a host of their own.
 * Errors: STATUS_MEMORY, agreed on; STATUS_COMM */
Status relay_open(Collective *collective, int root, size_t frame_bytes, int host, int hosts,
                  Relay **out);
