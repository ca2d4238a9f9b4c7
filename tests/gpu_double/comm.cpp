/* The seam's communicators. A call that begins something is under way until polls have found it done;
 * an exchange is given to its queue only then. */
#include "tests/gpu_double/comm.h"

#include <limits.h>

struct VendorComm {
    std::shared_ptr<Link> link;
    std::shared_ptr<Connection> connection; /* until it stands */
    std::shared_ptr<MarkerPointer> order = std::make_shared<MarkerPointer>();
    bool grouping = false;
    VendorQueue *queue = nullptr; /* of the group, or of the exchange under way */
    Exchange exchange;
    bool under_way = false;
    int polls = 0; /* of what is under way */
    bool connect_hangs = false;
};

static Status broken(const char *function, VendorComm *comm, const std::string &why) {
    if (comm->link->broken.empty()) comm->link->broken = why;
    return FAIL(STATUS_COMM, "relaunch; look for the rank that failed first",
                "%s: %s (rank %d of %d, device %d, the double)", function,
                comm->link->broken.c_str(), comm->link->rank, comm->link->size,
                engine.device);
}

/* What each call on a communicator passes. */
static Status enter(const char *function, VendorComm *comm) {
    if (engine.comms.count(comm) == 0) engine_misuse(function, "this is no communicator");
    Status status = engine_enter(function, ENTER_IN_CAPTURE | ENTER_COMM);
    if (status == STATUS_COMM && comm->link->broken.empty())
        comm->link->broken = "an injected failure";
    TRY(status);
    if (!comm->link->broken.empty()) return broken(function, comm, "");
    std::string late;
    if (inject_take_late(&late)) comm->link->broken = late; /* the next poll tells */
    return STATUS_OK;
}

static Status enter_idle(const char *function, VendorComm *comm) {
    TRY(enter(function, comm));
    if (comm->connection || comm->under_way)
        return broken(function, comm, "an earlier call is still under way");
    return STATUS_OK;
}

Status vendor_comm_id(uint8_t id[VENDOR_COMM_ID]) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(engine_enter(__func__, ENTER_COMM));
    connection_make_id(id);
    return STATUS_OK;
}

Status vendor_comm_open(const uint8_t id[VENDOR_COMM_ID], int rank, int size,
                        VendorComm **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, ENTER_COMM));
    if (size < 1 || rank < 0 || rank >= size)
        return FAIL(STATUS_COMM, nullptr, "%s: rank %d of %d", __func__, rank, size);
    VendorComm *comm = new VendorComm();
    comm->link = std::make_shared<Link>();
    comm->link->rank = rank;
    comm->link->size = size;
    comm->connect_hangs = inject_take_hang();
    comm->connection = connection_begin(id, comm->link);
    std::string late;
    if (inject_take_late(&late)) comm->link->broken = late;
    engine.comms.insert(comm);
    *out = comm;
    return STATUS_OK;
}

Status vendor_comm_poll(VendorComm *comm, bool *ready) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *ready = false;
    TRY(enter(__func__, comm));
    if (comm->connect_hangs) return STATUS_OK;
    if (comm->connection) {
        if (!connection_poll(comm->connection.get())) return STATUS_OK;
        comm->connection.reset();
        if (!comm->link->broken.empty()) return broken(__func__, comm, "");
    }
    if (comm->under_way) {
        if (++comm->polls < 2) return STATUS_OK;
        comm->under_way = false;
        comm->queue->awaits_exchange = false;
        Work work;
        work.run = std::move(comm->exchange);
        work.order = comm->order;
        TRY(queue_append(comm->queue, std::move(work)));
    }
    *ready = true;
    return STATUS_OK;
}

/* ---- exchanges */

static Status check_queue(const char *function, VendorComm *comm, VendorQueue *queue) {
    if (engine.queues.count(queue) == 0) engine_misuse(function, "this is no queue");
    if (queue->awaits_exchange)
        return engine_fail(function,
                           "the queue waits for an exchange that is still under way");
    if (comm->grouping && comm->queue != nullptr && comm->queue != queue)
        return engine_fail(function, "a group's exchange is of one queue");
    comm->queue = queue;
    return STATUS_OK;
}

static void begin_exchange(VendorComm *comm) {
    comm->under_way = true;
    comm->polls = 0;
    comm->queue->awaits_exchange = true;
}

/* Adds to the group, or to an exchange of its own. */
static Status transfer(const char *function, VendorQueue *queue, VendorComm *comm,
                       bool send, const float *data, int64_t count, int peer) {
    TRY(enter_idle(function, comm));
    bool hangs = inject_take_hang();
    TRY(check_queue(function, comm, queue));
    if (peer < 0 || peer >= comm->link->size || count < 0 || count > INT_MAX)
        return broken(function, comm,
                      "there is no such rank, or the count is out of range");
    TRY(memory_check_device(function, data, (size_t)count * sizeof(float)));
    if (!comm->grouping) comm->exchange = Exchange();
    comm->exchange.link = comm->link;
    comm->exchange.hangs = comm->exchange.hangs || hangs;
    comm->exchange.transfers.push_back({send, const_cast<float *>(data), count, peer});
    if (!comm->grouping) begin_exchange(comm);
    return STATUS_OK;
}

Status vendor_group_begin(VendorComm *comm) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(enter_idle(__func__, comm));
    if (comm->grouping) return broken(__func__, comm, "a group was begun already");
    comm->grouping = true;
    comm->queue = nullptr;
    comm->exchange = Exchange();
    comm->exchange.link = comm->link;
    return STATUS_OK;
}

Status vendor_send(VendorQueue *queue, VendorComm *comm, const float *data, int64_t count,
                   int to) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    return transfer(__func__, queue, comm, true, data, count, to);
}

Status vendor_receive(VendorQueue *queue, VendorComm *comm, float *data, int64_t count,
                      int from) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    return transfer(__func__, queue, comm, false, data, count, from);
}

Status vendor_group_end(VendorComm *comm) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(enter_idle(__func__, comm));
    if (!comm->grouping) return broken(__func__, comm, "no group was begun");
    comm->grouping = false;
    comm->exchange.hangs = comm->exchange.hangs || inject_take_hang();
    if (comm->queue != nullptr) begin_exchange(comm);
    return STATUS_OK;
}

/* An exchange of one call: every other rank gets `mine`, and `received` gets theirs. */
static Status collective(const char *function, VendorQueue *queue, VendorComm *comm,
                         const float *mine, int64_t count, float *received, bool in_place) {
    const Link &link = *comm->link;
    if (comm->grouping) return broken(function, comm, "it may not be part of a group");
    if (count < 0 || count > INT_MAX)
        return broken(function, comm, "the count is out of range");
    TRY(check_queue(function, comm, queue));
    comm->exchange = Exchange();
    comm->exchange.link = comm->link;
    comm->exchange.hangs = inject_take_hang();
    for (int rank = 0; rank < link.size; rank++) {
        float *place = received == nullptr ? nullptr : received + rank * count;
        if (rank == link.rank && in_place) continue;
        comm->exchange.transfers.push_back({true, const_cast<float *>(mine), count, rank});
        comm->exchange.transfers.push_back({false, place, count, rank});
    }
    begin_exchange(comm);
    return STATUS_OK;
}

Status vendor_all_gather(VendorQueue *queue, VendorComm *comm, float *all,
                         const float *mine, int64_t count) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(enter_idle(__func__, comm));
    size_t bytes = (size_t)count * sizeof(float);
    TRY(memory_check_device(__func__, mine, bytes));
    TRY(memory_check_device(__func__, all, bytes * (size_t)comm->link->size));
    return collective(__func__, queue, comm, mine, count, all,
                      mine == all + comm->link->rank * count);
}

Status vendor_all_reduce(VendorQueue *queue, VendorComm *comm, float *sum,
                         const float *mine, int64_t count) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(enter_idle(__func__, comm));
    TRY(memory_check_device(__func__, mine, (size_t)count * sizeof(float)));
    TRY(memory_check_device(__func__, sum, (size_t)count * sizeof(float)));
    TRY(collective(__func__, queue, comm, mine, count, nullptr, true));
    comm->exchange.sum = sum;
    comm->exchange.mine = mine;
    comm->exchange.count = count;
    return STATUS_OK;
}

/* ---- ends */

static void forget(VendorComm *comm) {
    if (comm->under_way) comm->queue->awaits_exchange = false;
    engine.comms.erase(comm);
    delete comm;
}

void vendor_comm_abort(VendorComm *comm) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.comms.count(comm) == 0) engine_misuse(__func__, "this is no communicator");
    exchange_abort(comm->link.get());
    if (comm->connection) connection_abort(comm->connection);
    forget(comm);
}

void vendor_comm_close(VendorComm *comm) {
    if (comm == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.comms.count(comm) == 0) engine_misuse(__func__, "this is no communicator");
    if (!comm->link->broken.empty() || comm->connection || comm->under_way)
        engine_misuse(__func__, "it is broken or an earlier call is still under way");
    const MarkerPointer &last = *comm->order;
    if (engine.failure.empty() && last && !last->reached)
        engine_misuse(__func__, "its last exchange is not done");
    exchange_abort(comm->link.get()); /* after a failure of the device there may be some */
    forget(comm);
}
