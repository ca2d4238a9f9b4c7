/* Exchanges between ranks as queued work. Device memory is staged in host memory on both ways, since
 * it is closed while messages travel. */
#include "tests/gpu_double/comm.h"

#include <string.h>

struct ExchangeState {
    std::vector<std::vector<float>> buffers; /* one for each transfer */
    std::vector<MPI_Request> requests;       /* of those that go to other ranks */
    std::vector<bool> receives;              /* of each request */
};

/* Buffers that MPI may still read from or write to after an abort. */
static std::vector<std::shared_ptr<ExchangeState>> given_up;

static bool begin(Exchange *exchange) {
    Link &link = *exchange->link;
    auto state = std::make_shared<ExchangeState>();
    exchange->state = state;
    link.under_way.push_back(state);
    for (const Transfer &transfer : exchange->transfers) {
        state->buffers.emplace_back((size_t)transfer.count);
        std::vector<float> &buffer = state->buffers.back();
        if (transfer.send) {
            memory_open();
            memcpy(buffer.data(), transfer.data, buffer.size() * sizeof(float));
        }
        if (transfer.peer == link.rank) continue;
        MPI_Request request = MPI_REQUEST_NULL;
        int world = link.world[(size_t)transfer.peer], count = (int)transfer.count;
        int code = transfer.send ? MPI_Isend(buffer.data(), count, MPI_FLOAT, world,
                                             link.tag, MPI_COMM_WORLD, &request)
                                 : MPI_Irecv(buffer.data(), count, MPI_FLOAT, world,
                                             link.tag, MPI_COMM_WORLD, &request);
        if (code != MPI_SUCCESS) return false;
        state->requests.push_back(request);
        state->receives.push_back(!transfer.send);
    }
    return true;
}

/* A rank's transfers to itself meet in order. */
static bool meet_self(Exchange *exchange) {
    std::vector<size_t> sends, receives;
    for (size_t i = 0; i < exchange->transfers.size(); i++)
        if (exchange->transfers[i].peer == exchange->link->rank)
            (exchange->transfers[i].send ? sends : receives).push_back(i);
    if (sends.size() != receives.size()) return false;
    for (size_t i = 0; i < sends.size(); i++) {
        if (exchange->transfers[sends[i]].count != exchange->transfers[receives[i]].count)
            return false;
        exchange->state->buffers[receives[i]] = exchange->state->buffers[sends[i]];
    }
    return true;
}

/* 1: all messages have arrived as they should, 0: not yet, -1: never. */
static int test(Exchange *exchange) {
    ExchangeState &state = *exchange->state;
    if (state.requests.empty()) return 1;
    int done = 0;
    std::vector<MPI_Status> statuses(state.requests.size());
    if (MPI_Testall((int)state.requests.size(), state.requests.data(), &done,
                    statuses.data()) != MPI_SUCCESS)
        return -1;
    if (!done) return 0;
    size_t request = 0;
    for (const Transfer &transfer : exchange->transfers) {
        if (transfer.peer == exchange->link->rank) continue;
        int count = 0;
        if (!transfer.send) {
            MPI_Get_count(&statuses[request], MPI_FLOAT, &count);
            if (count != (int)transfer.count) return -1;
        }
        request++;
    }
    return 1;
}

static void deliver(Exchange *exchange) {
    Link &link = *exchange->link;
    memory_open();
    if (exchange->sum !=
        nullptr) { /* transfers: a send and a receive for each other rank */
        std::vector<float> total((size_t)exchange->count, 0.0f);
        for (int rank = 0; rank < link.size; rank++) {
            const float *part = exchange->mine;
            for (size_t i = 0; i < exchange->transfers.size(); i++)
                if (!exchange->transfers[i].send && exchange->transfers[i].peer == rank)
                    part = exchange->state->buffers[i].data();
            for (size_t i = 0; i < total.size(); i++)
                total[i] += part[i];
        }
        memcpy(exchange->sum, total.data(), total.size() * sizeof(float));
        return;
    }
    for (size_t i = 0; i < exchange->transfers.size(); i++)
        if (!exchange->transfers[i].send)
            memcpy(exchange->transfers[i].data, exchange->state->buffers[i].data(),
                   exchange->state->buffers[i].size() * sizeof(float));
}

static void finish(Exchange *exchange) {
    auto &under_way = exchange->link->under_way;
    for (size_t i = 0; i < under_way.size(); i++)
        if (under_way[i] == exchange->state) {
            under_way.erase(under_way.begin() + (ptrdiff_t)i);
            break;
        }
    exchange->state.reset();
}

/* A broken exchange stays under way, as NCCL's do, until its communicator is aborted. */
static Progress broken(Exchange *exchange, const char *why) {
    if (exchange->link->broken.empty()) exchange->link->broken = why;
    return Progress::PENDING;
}

Progress Exchange::operator()() {
    if (link->aborted) return Progress::DONE;
    if (hangs || !link->broken.empty()) return Progress::PENDING;
    if (!state) {
        if (!begin(this)) return broken(this, "MPI refused a message");
        if (!meet_self(this))
            return broken(this, "a rank's messages to itself do not match");
    }
    int arrived = test(this);
    if (arrived == 0) return Progress::PENDING;
    if (arrived < 0)
        return broken(this, "a message was not as long as its receiver expected");
    deliver(this);
    finish(this);
    return Progress::DONE;
}

void exchange_abort(Link *link) {
    link->aborted = true;
    for (const auto &state : link->under_way) {
        for (size_t i = 0; i < state->requests.size(); i++) {
            if (state->requests[i] == MPI_REQUEST_NULL) continue;
            if (state->receives[i]) MPI_Cancel(&state->requests[i]);
            MPI_Request_free(&state->requests[i]);
        }
        given_up.push_back(state);
    }
    link->under_way.clear();
}
