/* How the ranks of a communicator find each other: each greets the rank that made the id, which answers
 * with the list of all. Two ranks on one device are refused, as NCCL refuses them. */
#include "tests/gpu_double/comm.h"

#include <stdio.h>
#include <string.h>

static const char MAGIC[8] = "double1";

struct Id {
    char magic[8];
    int maker;  /* rank in MPI_COMM_WORLD */
    int serial; /* of the maker's ids */
};

struct Greeting {
    int rank, size, world;
    char device[40];
};

struct Connection {
    std::shared_ptr<Link> link;
    int maker;
    std::vector<Greeting> greetings; /* the maker's: by rank as they came */
    std::vector<int> answer;         /* world ranks; the first is -1 when refused */
    Greeting mine;
    std::vector<MPI_Request> requests;
    bool answering = false;
    int polls = 0;
};

bool connection_has_mpi() {
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    return started && !ended;
}

void connection_make_id(uint8_t id[VENDOR_COMM_ID]) {
    static int serial;
    Id made = {};
    memcpy(made.magic, MAGIC, sizeof MAGIC);
    made.serial = serial++;
    if (connection_has_mpi()) MPI_Comm_rank(MPI_COMM_WORLD, &made.maker);
    memset(id, 0, VENDOR_COMM_ID);
    memcpy(id, &made, sizeof made);
}

static MPI_Request post(bool send, void *data, size_t bytes, int peer, int tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (send)
        MPI_Isend(data, (int)bytes, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request);
    else
        MPI_Irecv(data, (int)bytes, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request);
    return request;
}

std::shared_ptr<Connection> connection_begin(const uint8_t bytes[VENDOR_COMM_ID],
                                             const std::shared_ptr<Link> &link) {
    Id id;
    memcpy(&id, bytes, sizeof id);
    auto connection = std::make_shared<Connection>();
    connection->link = link;
    connection->maker = id.maker;
    Greeting &mine = connection->mine;
    mine = {link->rank, link->size, 0, {}};
    snprintf(mine.device, sizeof mine.device, "%s", engine_identity(engine.device).c_str());
    if (memcmp(id.magic, MAGIC, sizeof MAGIC) != 0) {
        link->broken = "the id is none of vendor_comm_id";
        return connection;
    }
    if (link->size == 1) {
        link->world = {0};
        return connection;
    }
    if (!connection_has_mpi()) {
        link->broken = "there is only this process";
        return connection;
    }
    int world_size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.world);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    link->tag = 4096 + 2 * ((id.serial * world_size + id.maker) % (1 << 20));
    size_t others = (size_t)link->size - 1;
    connection->answer.resize((size_t)link->size);
    if (mine.world != id.maker) {
        connection->requests = {post(true, &mine, sizeof mine, id.maker, link->tag + 1),
                                post(false, connection->answer.data(),
                                     connection->answer.size() * sizeof(int), id.maker,
                                     link->tag + 1)};
        return connection;
    }
    connection->greetings.resize(others);
    for (Greeting &greeting : connection->greetings)
        connection->requests.push_back(
            post(false, &greeting, sizeof greeting, MPI_ANY_SOURCE, link->tag + 1));
    return connection;
}

/* All greetings are there: makes the list, or refuses. */
static void answer_all(Connection *connection) {
    std::vector<Greeting> all = connection->greetings;
    all.push_back(connection->mine);
    std::vector<int> &answer = connection->answer;
    answer.assign(all.size(), -1);
    bool refused = false;
    for (size_t i = 0; i < all.size(); i++) {
        if (all[i].rank < 0 || all[i].rank >= (int)all.size() ||
            all[i].size != (int)all.size() || answer[(size_t)all[i].rank] >= 0) {
            refused = true;
            continue;
        }
        answer[(size_t)all[i].rank] = all[i].world;
        for (size_t j = 0; j < i; j++)
            refused = refused || strcmp(all[i].device, all[j].device) == 0;
    }
    if (refused) answer[0] = -1;
    connection->requests.clear();
    for (const Greeting &greeting : connection->greetings)
        connection->requests.push_back(post(true, answer.data(),
                                            answer.size() * sizeof(int), greeting.world,
                                            connection->link->tag + 1));
    connection->answering = true;
}

bool connection_poll(Connection *connection) {
    Link &link = *connection->link;
    if (++connection->polls < 4) return false; /* a connection takes its time */
    if (!link.broken.empty() || !link.world.empty()) return true;
    int done = 0;
    if (MPI_Testall((int)connection->requests.size(), connection->requests.data(), &done,
                    MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
        link.broken = "MPI failed";
        return true;
    }
    if (!done) return false;
    if (!connection->greetings.empty() && !connection->answering) {
        answer_all(connection);
        return false;
    }
    if (connection->answer[0] < 0)
        link.broken = "two ranks are on one device, or their numbers do not fit together";
    else
        link.world = connection->answer;
    return true;
}

/* Connections that were given up: MPI may still touch their memory. */
static std::vector<std::shared_ptr<Connection>> given_up;

void connection_abort(const std::shared_ptr<Connection> &connection) {
    for (MPI_Request &request : connection->requests) {
        if (request == MPI_REQUEST_NULL) continue;
        MPI_Cancel(&request);
        MPI_Request_free(&request);
    }
    given_up.push_back(connection);
}
