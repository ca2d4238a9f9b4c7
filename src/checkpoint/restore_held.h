/* What the hosts of a launch hold in their memory (src/checkpoint/local.h), as a restore sees it: each
 * host's first rank lists, rank 0 judges all of it by the owner records. For src/checkpoint/restore.c. */
#pragma once

#include "src/checkpoint/local.h"
#include "src/collective.h"

typedef struct {
    int rank; /* that holds it; the lowest comes first */
    char host[64];
    char folder[LOCAL_FOLDER];
    CatalogItem item; /* of its block only the state's digest */
} RestoreHeld;

typedef struct {
    LocalRun run;       /* the same on every rank */
    RestoreHeld *items; /* rank 0: newest first */
    int count;
} RestoreHeldList;

/* A host that cannot look says so in its log and holds nothing.
 *
 * Ranks:   collective; `catalog` on rank 0
 * Memory:  out->items is the caller's (free), also after a failure
 * Errors:  STATUS_MEMORY, STATUS_COMM; the same on every rank */
Status restore_held_gather(Collective *collective, const char *dir, const char *run_dir,
                           const Catalog *catalog, RestoreHeldList *out);
