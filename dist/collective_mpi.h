/* The collective over MPI. */
#pragma once

#include "src/collective.h"

#include <mpi.h>
#include <stdbool.h>

typedef struct {
    Collective base;
    MPI_Comm comm;  /* our own duplicate, set to return errors */
    int host_first; /* the first rank on this rank's host */
} CollectiveMpi;

/* Opens it on a duplicate of `parent` and counts the hosts. Collective over `parent`.
 * Memory: ops->close frees the duplicate; the struct lives until collective_mpi_destroy
 * Errors: STATUS_COMM */
Status collective_mpi_open(MPI_Comm parent, Collective **out);
void collective_mpi_destroy(Collective *collective);

/* The table's broadcast and gather, sent in pieces of at most `piece` bytes a rank (MPI counts in
 * int). */
Status collective_mpi_broadcast(Collective *self, void *data, size_t bytes, int root,
                                size_t piece);
Status collective_mpi_gather(Collective *self, const void *mine, size_t bytes, void *all,
                             size_t piece);
