/* How the devices of all ranks compute: one text for the checkpoint. */
#pragma once

#include "src/backend.h"
#include "src/collective.h"

/* The lines that BackendOps.plans tells on any rank, each once, sorted. Ranks have shards of different
 * sizes, so that one rank alone does not know all.
 *
 * Ranks:   collective over `collective`
 * Memory:  *out is the caller's to free; NULL on all ranks but the first
 * Errors:  as agree */
Status plans_gather(Backend *backend, Collective *collective, char **out);
