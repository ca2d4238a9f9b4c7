/* Captures and graphs. What is captured lies in lanes of its own, one for each queue that took part; a
 * launch makes fresh copies of them, so that an order between lanes that was not asked for is missing
 * in the graph, too. */
#include "tests/gpu_double/engine.h"

#include <map>

struct VendorGraph {
    std::vector<std::vector<Work>> lanes;
    MarkerPointer last; /* a graph does not run beside itself */
};

/* Lanes of launched graphs, beside those of queues. */
static std::vector<std::weak_ptr<Lane>> graph_lanes;

static Status spoil(Capture *capture, const char *function, const std::string &why) {
    if (capture->spoiled.empty()) capture->spoiled = why;
    return engine_fail(function, "%s", why.c_str());
}

void capture_spoil_all(const std::string &why) {
    for (VendorQueue *queue : engine.queues)
        if (queue->capture && queue->capture->spoiled.empty())
            queue->capture->spoiled = why;
}

Status capture_join(VendorQueue *queue, const MarkerPointer &marker) {
    const char *function = "vendor_queue_wait";
    if (!marker->capture && !queue->capture) return STATUS_OK;
    if (!marker->capture)
        return spoil(queue->capture.get(), function,
                     "a captured queue waits for an event that was recorded outside");
    if (marker->capture->ended)
        return engine_fail(function, "the event was recorded in a capture that has ended");
    if (queue->capture && queue->capture != marker->capture)
        return spoil(queue->capture.get(), function, "two captures meet");
    if (queue->capture) return STATUS_OK;
    queue->capture = marker->capture;
    queue->captured_lane = marker->capture->lanes.size();
    marker->capture->lanes.push_back({queue, {}});
    return STATUS_OK;
}

Status vendor_capture_begin(VendorQueue *queue) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.queues.count(queue) == 0) engine_misuse(__func__, "this is no queue");
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    if (queue->capture)
        return spoil(queue->capture.get(), __func__, "the queue is capturing already");
    queue->capture = std::make_shared<Capture>();
    queue->captured_lane = 0;
    queue->capture->lanes.push_back({queue, {}});
    engine.captures++;
    return STATUS_OK;
}

/* How many works of each lane the first `count` works of lane `at` are ordered behind. */
static void reach(const Capture &capture, size_t at, size_t count,
                  std::vector<size_t> *reached) {
    size_t from = (*reached)[at];
    if (count <= from) return;
    (*reached)[at] = count;
    for (size_t i = from; i < count; i++) {
        const MarkerPointer &needed = capture.lanes[at].works[i].needed;
        if (needed) reach(capture, needed->captured_lane, needed->position, reached);
    }
}

static bool all_joined(const Capture &capture) {
    std::vector<size_t> reached(capture.lanes.size(), 0);
    reach(capture, 0, capture.lanes[0].works.size(), &reached);
    for (size_t lane = 0; lane < reached.size(); lane++)
        for (size_t i = reached[lane]; i < capture.lanes[lane].works.size(); i++)
            if (capture.lanes[lane].works[i].run || capture.lanes[lane].works[i].needed)
                return false;
    return true;
}

Status vendor_capture_end(VendorQueue *queue, VendorGraph **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    if (engine.queues.count(queue) == 0) engine_misuse(__func__, "this is no queue");
    std::shared_ptr<Capture> capture = queue->capture;
    if (!capture) {
        TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
        return engine_fail(__func__, "the queue captures nothing");
    }
    if (queue->captured_lane != 0)
        return spoil(capture.get(), __func__, "the capture began on another queue");
    capture->ended = true;
    engine.captures--;
    for (VendorQueue *other : engine.queues)
        if (other->capture == capture) other->capture.reset();
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    if (!capture->spoiled.empty())
        return engine_fail(__func__, "the capture is spoiled: %s",
                           capture->spoiled.c_str());
    if (!all_joined(*capture))
        return engine_fail(__func__, "a queue that was forked was not joined");
    VendorGraph *graph = new VendorGraph();
    for (auto &lane : capture->lanes)
        graph->lanes.push_back(std::move(lane.works));
    engine.graphs.insert(graph);
    *out = graph;
    return STATUS_OK;
}

/* Copies one captured work; what ordered it in the capture orders it among the copies. */
static Work copy_of(const Work &work, std::map<Marker *, MarkerPointer> *markers) {
    Work copy = work;
    for (MarkerPointer *marker : {&copy.needed, &copy.reached})
        if (*marker) {
            MarkerPointer &fresh = (*markers)[marker->get()];
            if (!fresh) fresh = std::make_shared<Marker>();
            *marker = fresh;
        }
    return copy;
}

Status vendor_graph_launch(VendorQueue *queue, VendorGraph *graph) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.queues.count(queue) == 0) engine_misuse(__func__, "this is no queue");
    if (engine.graphs.count(graph) == 0) engine_misuse(__func__, "this is no graph");
    TRY(engine_enter(__func__, 0));
    std::string why;
    if (inject_take_late(&why)) engine_break(why);
    for (size_t i = 0; i < graph_lanes.size();)
        if (graph_lanes[i].expired()) {
            graph_lanes[i] = graph_lanes.back();
            graph_lanes.pop_back();
        } else {
            i++;
        }
    if (graph->last) {
        Work after;
        after.needed = graph->last;
        lane_append(queue->lane, std::move(after));
    }
    MarkerPointer begin = lane_mark(queue->lane);
    std::map<Marker *, MarkerPointer> markers;
    for (size_t i = graph->lanes.size(); i-- > 0;) {
        std::shared_ptr<Lane> lane = i == 0 ? queue->lane : std::make_shared<Lane>();
        if (i != 0) {
            graph_lanes.push_back(lane);
            Work after;
            after.needed = begin;
            lane_append(lane, std::move(after));
        }
        for (const Work &work : graph->lanes[i])
            lane_append(lane, copy_of(work, &markers));
    }
    graph->last = lane_mark(queue->lane);
    return STATUS_OK;
}

void vendor_graph_destroy(VendorGraph *graph) {
    if (graph == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.graphs.erase(graph) == 0) engine_misuse(__func__, "this is no graph");
    delete graph;
}

void capture_forget() {
    for (const auto &lane : graph_lanes)
        if (std::shared_ptr<Lane> held = lane.lock()) held->works.clear();
    graph_lanes.clear();
}
