/* Communicators of the double: NCCL's exchange over point-to-point messages of MPI_COMM_WORLD, which
 * the program itself does not use, under a tag of the communicator's own. */
#pragma once

#include "tests/gpu_double/engine.h"

#include <mpi.h>

struct ExchangeState;

/* What a communicator and its exchanges share; exchanges may outlive it. */
struct Link {
    int rank, size, tag;
    std::vector<int> world; /* of each rank: its rank in MPI_COMM_WORLD */
    bool aborted = false;
    std::string broken; /* why */
    std::vector<std::shared_ptr<ExchangeState>> under_way;
};

/* A send or a receive of `count` floats of device memory. */
struct Transfer {
    bool send;
    float *data; /* a send only reads it */
    int64_t count;
    int peer;
};

/* One exchange. Run again and again until it is done; a copy of one that has not begun is fresh. */
struct Exchange {
    std::shared_ptr<Link> link;
    std::vector<Transfer> transfers;
    float *sum =
        nullptr; /* a reduction: mine and all that is received, added in order of rank */
    const float *mine = nullptr;
    int64_t count = 0;
    bool hangs = false;
    std::shared_ptr<ExchangeState> state;

    Progress operator()();
};

/* Gives up what is under way; its memory stays MPI's where MPI may still touch it. */
void exchange_abort(Link *link);

/* The connection of a communicator's ranks, without blocking. */
struct Connection;
std::shared_ptr<Connection> connection_begin(const uint8_t id[VENDOR_COMM_ID],
                                             const std::shared_ptr<Link> &link);
/* True: link->world is filled in, or link->broken says why it never will be. */
bool connection_poll(Connection *connection);
void connection_abort(const std::shared_ptr<Connection> &connection);
void connection_make_id(uint8_t id[VENDOR_COMM_ID]);
bool connection_has_mpi();
