/* The exact and the fast reduction between the ranks of an MPI launch. */
#pragma once

#include "src/collective.h"

typedef enum {
    TRANSPORT_BEST,     /* shared memory on one host where it can be had, else messages */
    TRANSPORT_SHARED,   /* or fail */
    TRANSPORT_MESSAGES, /* MPI between ranks anywhere */
} Transport;

/* As CollectiveOps.reduction_open, over a CollectiveMpi.
 * Errors: STATUS_MEMORY, STATUS_UNSUPPORTED, agreed on; STATUS_COMM */
Status exchange_open(Collective *self, ReductionMode mode, Transport transport, int shards,
                     int64_t length, Reduction **out);
Status exchange_reduce(Collective *self, Reduction *reduction, const uint8_t *present);
void exchange_close(Reduction *reduction);

/* Which way it goes: TRANSPORT_SHARED or TRANSPORT_MESSAGES. */
Transport exchange_transport(const Reduction *reduction);
