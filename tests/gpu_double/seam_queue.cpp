/* The seam's queues, events and copies. */
#include "tests/gpu_double/engine.h"
#include "tests/gpu_double/launch.h"

#include <string.h>

static void check_queue(const char *function, VendorQueue *queue) {
    if (engine.queues.count(queue) == 0) engine_misuse(function, "this is no queue");
}

static void check_event(const char *function, VendorEvent *event) {
    if (engine.events.count(event) == 0) engine_misuse(function, "this is no event");
}

/* ---- queues */

Status vendor_queue_create(bool urgent, VendorQueue **out) {
    (void)urgent; /* the double runs what is waited for */
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, 0));
    *out = new VendorQueue();
    engine.queues.insert(*out);
    return STATUS_OK;
}

void vendor_queue_destroy(VendorQueue *queue) {
    if (queue == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    if (queue->capture && !queue->capture->ended)
        engine_misuse(__func__, "it is capturing");
    engine_drain(lock);
    engine.queues.erase(queue);
    delete queue;
}

Status vendor_wait(VendorQueue *queue) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    TRY(engine_enter(__func__, 0));
    std::shared_ptr<Lane> lane = queue->lane;
    std::string why;
    if (inject_take_late(&why)) engine_break(why);
    return lane_finish(lock, lane, lane->issued, __func__);
}

/* ---- copies. Pinned memory is looked at when the copy runs: by then it may have been released. */

static Progress gone(const char *function) {
    engine_break(std::string(function) +
                 ": its pinned memory was released before the copy ran");
    return Progress::FAILED;
}

Status vendor_copy_in(VendorQueue *queue, void *device, const void *host, size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    TRY(memory_check_device(__func__, device, bytes));
    TRY(memory_check_pinned(__func__, host, bytes));
    Work work;
    work.run = [=] {
        if (!memory_is_pinned(host, bytes)) return gone("vendor_copy_in");
        memory_open();
        memcpy(device, host, bytes);
        return Progress::DONE;
    };
    return queue_append(queue, std::move(work));
}

Status vendor_copy_out(VendorQueue *queue, void *host, const void *device, size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    TRY(memory_check_device(__func__, device, bytes));
    TRY(memory_check_pinned(__func__, host, bytes));
    Work work;
    work.run = [=] {
        if (!memory_is_pinned(host, bytes)) return gone("vendor_copy_out");
        memory_open();
        memcpy(host, device, bytes);
        return Progress::DONE;
    };
    return queue_append(queue, std::move(work));
}

Status vendor_copy(VendorQueue *queue, void *device, const void *from_device,
                   size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    TRY(memory_check_device(__func__, device, bytes));
    TRY(memory_check_device(__func__, from_device, bytes));
    uintptr_t to = (uintptr_t)device, from = (uintptr_t)from_device;
    if (to < from + bytes && from < to + bytes)
        return engine_fail(__func__, "source and target overlap");
    Work work;
    work.run = [=] {
        memory_open();
        memcpy(device, from_device, bytes);
        return Progress::DONE;
    };
    return queue_append(queue, std::move(work));
}

Status vendor_zero(VendorQueue *queue, void *device, size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    TRY(memory_check_device(__func__, device, bytes));
    Work work;
    work.run = [=] {
        memory_open();
        memset(device, 0, bytes);
        return Progress::DONE;
    };
    return queue_append(queue, std::move(work));
}

/* ---- launches */

Status gpu_double_launch(VendorQueue *queue, GpuDoubleGrid grid) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue("launch", queue);
    TRY(engine_enter("launch", ENTER_IN_CAPTURE));
    if (grid.threads < 1 || grid.threads > 1024 || grid.blocks_x < 1 ||
        grid.blocks_x > INT32_MAX || grid.blocks_y < 1 || grid.blocks_y > 65535)
        return engine_fail(
            "launch", "%s: a grid of %ld by %ld blocks of %ld threads is refused",
            grid.kernel, (long)grid.blocks_x, (long)grid.blocks_y, (long)grid.threads);
    Work work;
    work.run = [grid] {
        std::string why;
        memory_open();
        if (block_run_grid(grid, &why)) return Progress::DONE;
        engine_break("launch: " + why);
        return Progress::FAILED;
    };
    return queue_append(queue, std::move(work));
}

/* ---- events */

Status vendor_event_create(VendorEvent **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, 0));
    *out = new VendorEvent();
    engine.events.insert(*out);
    return STATUS_OK;
}

void vendor_event_destroy(VendorEvent *event) {
    if (event == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_event(__func__, event);
    engine.events.erase(event);
    delete event;
}

Status vendor_record(VendorQueue *queue, VendorEvent *event) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    check_event(__func__, event);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    Work work;
    MarkerPointer marker = work.reached = std::make_shared<Marker>();
    marker->capture = queue->capture;
    marker->captured_lane = queue->captured_lane;
    TRY(queue_append(queue, std::move(work)));
    if (queue->capture)
        marker->position = queue->capture->lanes[queue->captured_lane].works.size();
    event->marker = marker;
    return STATUS_OK;
}

Status vendor_queue_wait(VendorQueue *queue, VendorEvent *event) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_queue(__func__, queue);
    check_event(__func__, event);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    if (!event->marker) return STATUS_OK; /* never recorded: as CUDA has it */
    TRY(capture_join(queue, event->marker));
    Work work;
    work.needed = event->marker;
    return queue_append(queue, std::move(work));
}

Status vendor_event_done(VendorEvent *event, bool *done) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *done = false;
    check_event(__func__, event);
    TRY(engine_enter(__func__, 0));
    MarkerPointer marker = event->marker;
    if (marker && marker->capture)
        return engine_fail(__func__, "the event was recorded in a capture");
    if (marker && !marker->reached) {
        Progress progress = lane_advance(marker->lane, marker->position);
        memory_close();
        if (progress == Progress::FAILED)
            return engine_fail(__func__, "%s", engine.failure.c_str());
        *done = progress == Progress::DONE;
    } else {
        *done = true;
    }
    return STATUS_OK;
}
