/* What the double's own files share: the engine is the one object behind kernels/cuda/vendor.h.
 *
 * Work given to a lane (a queue's own, or a graph's) is only noted. It runs when the host waits for
 * something, and then only as much of it as the thing waited for demands: what the caller forgot to
 * order is seen as stale or poisoned data. Device memory is accessible only while work runs.
 *
 * Threads: every function of the seam holds the engine's lock; a blocking wait lets go of it between
 * looks. Everything below is called with it held. */
#pragma once

#include "kernels/cuda/vendor.h"

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

/* ---- work (queue.cpp) */

enum class Progress { DONE, PENDING, FAILED };

struct Lane;
struct Capture;

/* A place in a lane: reached when all work up to it is done. */
struct Marker {
    std::shared_ptr<Lane> lane;
    uint64_t position = 0;
    bool reached = false;
    std::shared_ptr<Capture> capture; /* of a place in a captured lane */
    size_t captured_lane = 0;
};
using MarkerPointer = std::shared_ptr<Marker>;

/* One piece of work: it waits for `needed`, runs, and `reached` is then reached. A copy of a piece that
 * has not run yet is a fresh piece. */
struct Work {
    std::function<Progress()> run;
    MarkerPointer needed, reached;
    std::shared_ptr<MarkerPointer>
        order; /* the last work of a communicator: this one follows it */
};

struct Lane {
    std::deque<Work> works;
    uint64_t issued = 0, done = 0;
};

/* Lanes recorded instead of run; the first is the queue's that began. */
struct Capture {
    struct CapturedLane {
        VendorQueue *queue;
        std::vector<Work> works;
    };
    std::vector<CapturedLane> lanes;
    std::string spoiled; /* why it can no longer become a graph */
    bool ended = false;
};

struct VendorQueue {
    std::shared_ptr<Lane> lane = std::make_shared<Lane>();
    std::shared_ptr<Capture> capture;
    size_t captured_lane = 0;
    bool awaits_exchange =
        false; /* one that is still under way: nothing may be given meanwhile */
};

struct VendorEvent {
    MarkerPointer marker; /* of the last record */
};

/* Gives work to the queue, or to its capture. */
Status queue_append(VendorQueue *queue, Work work);
void lane_append(const std::shared_ptr<Lane> &lane, Work work);
/* The place behind all work of the lane so far. */
MarkerPointer lane_mark(const std::shared_ptr<Lane> &lane);
/* Runs what the lane needs up to the position, without blocking. */
Progress lane_advance(const std::shared_ptr<Lane> &lane, uint64_t position);
/* As lane_advance, until it is done or the device has failed. */
Status lane_finish(std::unique_lock<std::mutex> &lock, const std::shared_ptr<Lane> &lane,
                   uint64_t position, const char *function);
void engine_drain(std::unique_lock<std::mutex> &lock); /* all queues, or until a failure */

/* ---- captures (capture.cpp) */

/* A queue is about to wait for the marker: joins its capture, or refuses to mix captures. */
Status capture_join(VendorQueue *queue, const MarkerPointer &marker);
void capture_spoil_all(const std::string &why);
void capture_forget(); /* the work of graphs that never ran */

/* ---- memory (memory.cpp) */

Status memory_reserve(); /* the range of addresses, once */
Status memory_allocate(size_t bytes, void **out);
void memory_release(void *device);
size_t memory_used();
void memory_open();  /* for work: what this thread touches from now on is opened */
void memory_close(); /* once the work that could run has run */
bool memory_is_device(const void *address, size_t bytes); /* inside of one allocation */
bool memory_is_pinned(const void *address, size_t bytes);
Status memory_pin(void *host, size_t bytes);
bool memory_unpin(void *host); /* false: was not pinned so */
Status memory_allocate_pinned(size_t bytes, void **out);
bool memory_release_pinned(void *host);
Status memory_check_device(const char *function, const void *address, size_t bytes);
Status memory_check_pinned(const char *function, const void *address, size_t bytes);
/* What runs now, for the text of a fault; nullptr: host code. */
void memory_running(const char *kernel);
int memory_leaks(); /* prints them */

/* ---- kernels (block.cpp); false: the grid is broken, with the reason */
struct GpuDoubleGrid;
bool block_run_grid(const GpuDoubleGrid &grid, std::string *why);

/* ---- arithmetic (arithmetic.cpp): row-major, sums in the order of `inner`, in float or double */
void arithmetic_multiply(float *out, const float *a, const float *b, int64_t rows,
                         int64_t columns, int64_t inner, bool wide, bool add);
void arithmetic_gemm(const VendorGemm &gemm, float *out, const float *a, const float *b,
                     bool wide); /* without the bias */
void arithmetic_convolution(const VendorConvolution &p, float *out, const float *a,
                            const float *b, bool wide);

/* ---- the engine (device.cpp) */

struct Engine {
    std::mutex mutex;
    bool open = false;
    int device = 0;
    std::string failure; /* of work that has run, or injected: no call succeeds any more */
    std::set<VendorQueue *> queues;
    std::set<VendorEvent *> events;
    std::set<VendorGraph *> graphs;
    std::set<VendorPlan *> plans;
    std::set<VendorComm *> comms;
    int captures = 0; /* under way */
    int leaks = 0;    /* found by the last vendor_close */
};
extern Engine engine;

/* What a function of the seam may do, for engine_enter. */
enum : unsigned {
    ENTER_BEFORE_OPEN = 1,
    ENTER_IN_CAPTURE = 2, /* else it is refused while anything is captured, and spoils it */
    ENTER_MEMORY = 4,     /* its injected failure is STATUS_MEMORY */
    ENTER_COMM = 8,       /* STATUS_COMM */
};

/* Begins a function of the seam: counts the call, fails it where that is asked for or where it may not
 * be called now. */
Status engine_enter(const char *function, unsigned rules);
/* STATUS_DEVICE in the words of the seam. */
Status engine_fail(const char *function, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Work has failed: every later call tells. */
void engine_break(const std::string &why);
/* The caller broke the seam's contract in a function that cannot say so: prints and aborts. */
[[noreturn]] void engine_misuse(const char *function, const char *what);
std::string engine_identity(int device); /* the same in every process of a host */
int engine_device_count();
size_t engine_memory_size();
uint64_t engine_seed();

/* ---- injection (inject.cpp) */
enum class Injection { NONE, FAIL, FAIL_LATE, HANG };
Injection inject_at(const char *function); /* counts the call */
int inject_rank();
/* A failure that was injected into the call under way and shall show later; cleared by asking. */
void inject_set_late(const std::string &why);
bool inject_take_late(std::string *why);
bool inject_take_hang(); /* the call under way shall never be done; cleared by asking */
void inject_write_counts();
