/* Runs the grid of a launch on the CPU: block by block, a block's threads one after another in warps
 * of 32. A thread that meets a barrier or a shuffle waits there as a fiber; one that meets none costs
 * no switch. The orders of blocks, warps and lanes are arbitrary functions of a seed: a result that
 * changes with it shows a race.
 *
 *   not begun → running → exited
 *                 ↕
 *        at a barrier, at a shuffle */
#include "tests/gpu_double/engine.h"
#include "tests/gpu_double/fiber.h"
#include "tests/gpu_double/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <numeric>

enum { WARP = 32, THREADS_MAX = 1024, SHARED_MAX = 48 << 10, SHARED_GAP = 64 };
enum class At : uint8_t { NOWHERE, BARRIER, SHUFFLE };

GpuDim threadIdx, blockIdx, blockDim, gridDim;
GpuDoubleLanes gpu_double_lanes;

namespace {

struct Shuffle {
    GpuDoubleShuffle kind;
    unsigned mask, operand;
    int width;
    uint64_t bits, result;
};

struct SharedArray {
    const char *declaration;
    size_t offset, bytes;
};

struct Block {
    unsigned threads;
    uint8_t exited[THREADS_MAX];
    At at[THREADS_MAX];
    Fiber *fiber[THREADS_MAX]; /* where it waits */
    Shuffle shuffle[THREADS_MAX];
    int line[THREADS_MAX]; /* of the barrier */
    std::vector<SharedArray> arrays;
    size_t shared_used;
    std::string why; /* broken */
};

Block block;
alignas(64) uint8_t shared_memory[SHARED_MAX + 64 * SHARED_GAP];
const GpuDoubleGrid *grid_running;
uint64_t order_state;

void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));
void broken(const char *format, ...) {
    if (!block.why.empty()) return;
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    block.why = text;
}

/* A step of splitmix64: orders need no better numbers. */
uint64_t random_bits() {
    uint64_t z = order_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The order k → (k · step + first) mod count: all places, once each. */
struct Order {
    uint64_t count, step, first;
    explicit Order(uint64_t places) : count(places) {
        uint64_t bits = random_bits();
        first = bits % count;
        step = 1 + (bits >> 32) % count;
        while (std::gcd(step, count) != 1)
            step++;
    }
    uint64_t at(uint64_t k) const {
        return (k * step + first) % count;
    }
};

void body() {
    grid_running->run_lanes(grid_running->arguments.get());
}

unsigned warp_end(unsigned first) {
    return first + WARP < block.threads ? first + WARP : block.threads;
}

/* Lets a waiting thread go on until it waits again or has exited. */
void resume(unsigned thread) {
    Fiber *fiber = block.fiber[thread];
    block.at[thread] = At::NOWHERE;
    block.fiber[thread] = nullptr;
    threadIdx.x = thread;
    if (fiber_run(fiber)) fiber_give_back(fiber);
}

/* Begins all lanes of a warp; each runs until it waits or has exited. */
void begin_warp(unsigned first) {
    uint64_t bits = random_bits();
    gpu_double_lanes = {0,
                        WARP,
                        (unsigned)(bits | 1) & 31u,
                        (unsigned)(bits >> 8) & 31u,
                        first,
                        block.threads,
                        block.exited};
    while (gpu_double_lanes.next < gpu_double_lanes.end && block.why.empty()) {
        Fiber *fiber = fiber_take(body);
        if (fiber_run(fiber)) fiber_give_back(fiber);
    }
}

/* The lane that a lane reads; its own where the source would lie outside of its width. */
unsigned source_lane(const Shuffle &shuffle, unsigned lane) {
    unsigned width = (unsigned)shuffle.width, inside = lane % width;
    unsigned source = shuffle.kind == GPU_DOUBLE_XOR ? inside ^ shuffle.operand
                                                     : inside + shuffle.operand;
    return source < width ? lane - inside + source : lane;
}

/* Completes the shuffle at which `lane` waits, if every lane of its mask that lives is there. */
void complete_shuffle(unsigned first, unsigned lane) {
    const Shuffle &mine = block.shuffle[first + lane];
    for (unsigned other = 0; other < WARP; other++) {
        unsigned thread = first + other;
        if (!(mine.mask >> other & 1u) || thread >= block.threads || block.exited[thread])
            continue;
        if (block.at[thread] != At::SHUFFLE)
            return broken(
                "thread %u is in the mask of a shuffle of its warp and waits at a "
                "barrier instead",
                thread);
        const Shuffle &its = block.shuffle[thread];
        if (its.mask != mine.mask || its.kind != mine.kind || its.width != mine.width)
            return broken("thread %u waits at another shuffle than thread %u", thread,
                          first + lane);
    }
    for (unsigned other = 0; other < WARP; other++) {
        unsigned thread = first + other;
        if (!(mine.mask >> other & 1u) || thread >= block.threads || block.exited[thread])
            continue;
        Shuffle &its = block.shuffle[thread];
        unsigned lane_read = source_lane(its, other), source = first + lane_read;
        if (source >= block.threads || block.exited[source] ||
            !(its.mask >> lane_read & 1u))
            return broken(
                "thread %u reads by shuffle from lane %u, which has exited or is not "
                "in the mask",
                thread, lane_read);
        its.result = block.shuffle[source].bits;
    }
    unsigned mask = mine.mask; /* `mine` changes as its lane goes on */
    unsigned turn = (unsigned)random_bits();
    for (unsigned k = 0; k < WARP; k++) {
        unsigned thread = first + ((k * 5 + turn) & 31u);
        if ((mask >> (thread - first) & 1u) && thread < block.threads &&
            !block.exited[thread])
            resume(thread);
    }
}

/* Runs a warp's shuffles until all its threads have exited or wait at a barrier. */
void settle_warp(unsigned first) {
    for (unsigned thread = first; thread < warp_end(first) && block.why.empty();)
        if (block.at[thread] == At::SHUFFLE) {
            complete_shuffle(first, thread - first);
            thread = first;
        } else {
            thread++;
        }
}

/* All threads that live wait at the barrier: lets them pass. */
void pass_barrier(const Order &warps) {
    bool waits[THREADS_MAX];
    int line = 0;
    for (unsigned thread = 0; thread < block.threads; thread++) {
        waits[thread] = block.at[thread] == At::BARRIER;
        if (!waits[thread]) continue;
        if (line != 0 && line != block.line[thread])
            return broken("the threads wait at different barriers, in lines %d and %d",
                          line, block.line[thread]);
        line = block.line[thread];
    }
    for (uint64_t k = 0; k < warps.count && block.why.empty(); k++) {
        unsigned first = (unsigned)warps.at(k) * WARP;
        unsigned turn = (unsigned)random_bits();
        for (unsigned lane = 0; lane < WARP && block.why.empty(); lane++) {
            unsigned thread = first + ((lane * 11 + turn) & 31u);
            if (thread < block.threads && waits[thread]) resume(thread);
        }
        settle_warp(first);
    }
}

bool all_exited() {
    for (unsigned thread = 0; thread < block.threads; thread++)
        if (!block.exited[thread]) return false;
    return true;
}

void check_shared_ends() {
    for (const SharedArray &array : block.arrays)
        for (size_t i = 0; i < SHARED_GAP; i++)
            if (shared_memory[array.offset + array.bytes + i] != 0xA5)
                return broken("a shared array of %zu bytes was written behind its end",
                              array.bytes);
}

void run_block() {
    memset(block.exited, 0, block.threads);
    memset(block.at, 0, block.threads);
    block.arrays.clear();
    block.shared_used = 0;
    Order warps((block.threads + WARP - 1) / WARP);
    for (uint64_t k = 0; k < warps.count && block.why.empty(); k++) {
        unsigned first = (unsigned)warps.at(k) * WARP;
        begin_warp(first);
        settle_warp(first);
    }
    while (block.why.empty() && !all_exited())
        pass_barrier(warps);
    check_shared_ends();
    if (block.why.empty()) return;
    for (unsigned thread = 0; thread < block.threads; thread++)
        if (block.at[thread] != At::NOWHERE) fiber_abandon(block.fiber[thread]);
}

void wait_at(At place) {
    unsigned thread = threadIdx.x;
    block.at[thread] = place;
    block.fiber[thread] = fiber_current();
    fiber_pause();
}

} // namespace

void gpu_double_barrier(int line) {
    block.line[threadIdx.x] = line;
    wait_at(At::BARRIER);
}

uint64_t gpu_double_shuffle(GpuDoubleShuffle kind, unsigned mask, uint64_t bits,
                            unsigned operand, int width) {
    unsigned thread = threadIdx.x;
    if (!(mask >> thread % WARP & 1u))
        broken("thread %u shuffles under the mask %#x, which leaves it out", thread, mask);
    if (width < 1 || width > WARP || (width & (width - 1)) != 0)
        broken("a shuffle's width is %d, not a power of two up to 32", width);
    block.shuffle[thread] = {kind, mask, operand, width, bits, 0};
    wait_at(At::SHUFFLE);
    return block.shuffle[thread].result;
}

void gpu_double_misaligned(const void *address) {
    broken("thread %u loads or stores 16 bytes at %p, which is not a multiple of 16",
           threadIdx.x, address);
    wait_at(At::SHUFFLE); /* for ever: the block is broken */
    abort();
}

void *gpu_double_shared(const char *declaration, size_t bytes) {
    for (const SharedArray &array : block.arrays)
        if (array.declaration == declaration) return shared_memory + array.offset;
    size_t offset = block.shared_used;
    size_t room = (bytes + SHARED_GAP + 63) / 64 * 64;
    if (offset + room > sizeof shared_memory) {
        fputs("gpu_double: a kernel wants more than 48 KiB of shared memory\n", stderr);
        abort();
    }
    memset(shared_memory + offset, 0xFF, bytes);
    memset(shared_memory + offset + bytes, 0xA5, SHARED_GAP);
    block.arrays.push_back({declaration, offset, bytes});
    block.shared_used += room;
    return shared_memory + offset;
}

bool block_run_grid(const GpuDoubleGrid &grid, std::string *why) {
    grid_running = &grid;
    block.why.clear();
    block.threads = (unsigned)grid.threads;
    order_state = engine_seed();
    gridDim = {(unsigned)grid.blocks_x, (unsigned)grid.blocks_y, 1};
    blockDim = {(unsigned)grid.threads, 1, 1};
    threadIdx = {0, 0, 0};
    Order blocks((uint64_t)(grid.blocks_x * grid.blocks_y));
    memory_running(grid.kernel);
    for (uint64_t k = 0; k < blocks.count && block.why.empty(); k++) {
        uint64_t index = blocks.at(k);
        blockIdx = {(unsigned)(index % (uint64_t)grid.blocks_x),
                    (unsigned)(index / (uint64_t)grid.blocks_x), 0};
        run_block();
    }
    memory_running(nullptr);
    if (block.why.empty()) return true;
    char place[96];
    snprintf(place, sizeof place, " in block (%u, %u) of ", blockIdx.x, blockIdx.y);
    *why = block.why + place + grid.kernel;
    return false;
}
