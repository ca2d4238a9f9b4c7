/* The collective of a process without peers. It needs no MPI, whose start alone takes longer than
 * many a small command of ours. */
#pragma once

#include "src/collective.h"

/* Opens it. Ranks: local. Memory: until collective_alone_destroy. Errors: STATUS_MEMORY */
Status collective_alone_open(Collective **out);
void collective_alone_destroy(Collective *collective);

/* The reduction of one rank: its only node is the sum, nothing is copied. Also used by
 * collective_mpi when it has a single rank. As in CollectiveOps. */
Status collective_alone_reduction_open(Collective *self, ReductionMode mode, int shards,
                                       int64_t length, Reduction **out);
Status collective_alone_reduce(Collective *self, Reduction *reduction,
                               const uint8_t *present);
/* Refuses: sums in host memory gain nothing from parts. */
Status collective_alone_reduce_part(Collective *self, Reduction *reduction,
                                    const uint8_t *present, int64_t first, int64_t count);
void collective_alone_reduction_close(Collective *self, Reduction *reduction);
