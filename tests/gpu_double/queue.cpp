/* Lanes of work: nothing in them runs before something waits for it, and then only
 * what that demands: in the order of need, or what is needed of other lanes as early as it may run. Both are
 * orders that a GPU could choose; the seed decides. */
#include "tests/gpu_double/engine.h"

#include <sched.h>
#include <time.h>

/* ---- lanes */

void lane_append(const std::shared_ptr<Lane> &lane, Work work) {
    lane->issued++;
    if (work.order) {
        work.needed = *work.order;
        work.reached = *work.order = std::make_shared<Marker>();
    }
    if (work.reached) {
        work.reached->lane = lane;
        work.reached->position = lane->issued;
    }
    lane->works.push_back(std::move(work));
}

MarkerPointer lane_mark(const std::shared_ptr<Lane> &lane) {
    Work work;
    work.reached = std::make_shared<Marker>();
    MarkerPointer marker = work.reached;
    lane_append(lane, std::move(work));
    return marker;
}

static Progress run_front(Lane *lane) {
    Work &work = lane->works.front();
    if (work.needed && !work.needed->reached) {
        Progress progress = lane_advance(work.needed->lane, work.needed->position);
        if (progress != Progress::DONE) return progress;
    }
    if (work.run) {
        Progress progress = work.run();
        if (progress != Progress::DONE) return progress;
    }
    if (work.reached) {
        work.reached->reached = true;
        work.reached->lane.reset();
    }
    lane->works.pop_front();
    lane->done++;
    return Progress::DONE;
}

/* Runs what the lane waits for up to the position before its own work, as far as that is possible. */
static void advance_needed(Lane *lane, uint64_t position) {
    for (uint64_t at = lane->done; at < position; at++) {
        if (at < lane->done) continue; /* something needed this lane, too */
        MarkerPointer needed = lane->works[at - lane->done].needed;
        if (needed && !needed->reached) lane_advance(needed->lane, needed->position);
    }
}

Progress lane_advance(const std::shared_ptr<Lane> &lane, uint64_t position) {
    if (!engine.failure.empty()) return Progress::FAILED;
    std::shared_ptr<Lane> held = lane; /* its last marker may be the one that is reached */
    if (engine_seed() % 2 == 0) advance_needed(held.get(), position);
    while (held->done < position) {
        Progress progress = run_front(held.get());
        if (progress != Progress::DONE) return progress;
    }
    return Progress::DONE;
}

/* Lets others use the engine, and other processes the core. */
static void look_away(std::unique_lock<std::mutex> &lock, int looks) {
    lock.unlock();
    if (looks < 50) {
        sched_yield();
    } else {
        struct timespec pause = {0, 50000};
        nanosleep(&pause, nullptr);
    }
    lock.lock();
}

Status lane_finish(std::unique_lock<std::mutex> &lock, const std::shared_ptr<Lane> &lane,
                   uint64_t position, const char *function) {
    std::shared_ptr<Lane> held = lane;
    for (int looks = 0;; looks++) {
        Progress progress = lane_advance(held, position);
        memory_close();
        if (progress == Progress::DONE) return STATUS_OK;
        if (progress == Progress::FAILED)
            return engine_fail(function, "%s", engine.failure.c_str());
        look_away(lock, looks);
    }
}

void engine_drain(std::unique_lock<std::mutex> &lock) {
    Failure first = *status_failure(); /* clean-up must not hide it */
    std::vector<std::shared_ptr<Lane>> lanes;
    for (VendorQueue *queue : engine.queues)
        lanes.push_back(queue->lane);
    for (const auto &lane : lanes)
        if (engine.failure.empty()) lane_finish(lock, lane, lane->issued, "vendor_release");
    status_adopt(&first);
}

/* ---- giving work */

Status queue_append(VendorQueue *queue, Work work) {
    if (queue->awaits_exchange)
        return engine_fail("queue",
                           "work is given while an exchange is still under way: poll "
                           "its communicator first");
    if (inject_take_hang()) work.run = [] { return Progress::PENDING; };
    std::string why;
    if (inject_take_late(&why))
        work.run = [why] {
            engine_break(why);
            return Progress::FAILED;
        };
    if (!queue->capture) {
        lane_append(queue->lane, std::move(work));
        return STATUS_OK;
    }
    queue->capture->lanes[queue->captured_lane].works.push_back(std::move(work));
    return STATUS_OK;
}
