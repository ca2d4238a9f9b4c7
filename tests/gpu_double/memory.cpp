/* Device memory that host code cannot touch: a range of addresses that is closed. While work runs, an
 * allocation that it touches is opened by the fault, for the thread that works; once the work that could
 * run has run, those are closed again.
 *
 *   [allocation | rest of its page, a pattern][guard page][allocation | ...][guard page] ...
 *
 * Addresses are never used twice, so that what was released stays closed. Pinned memory is a list of what
 * the host may hand to copies. */
#include "tests/gpu_double/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

static const size_t RANGE_BYTES = (size_t)1 << 38, PAGE = 4096, HUGE = (size_t)1 << 21;
static const size_t PINNED_POISON = 1 << 20; /* poisoning all of a large ring takes long */
enum { PATTERN = 0xC7 };

struct Allocation {
    size_t bytes;
    uint64_t number; /* counts allocations, for texts */
    bool released, opened;
    Allocation *next; /* opened, too */
    char *memory;
};

struct Pinned {
    size_t bytes;
    bool ours; /* allocated here, not only pinned */
};

static char *range, *top;
static volatile bool working;
static pthread_t worker; /* the thread that works */
static Allocation *opened;
static size_t used;
static uint64_t allocations_made;
static std::map<uintptr_t, Allocation> allocations;
static std::map<uintptr_t, Pinned> pinned;
static const char *volatile running_kernel;
static struct sigaction before_segv, before_bus;

static size_t whole_pages(size_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* What an allocation takes: no bytes take a page, too. */
static size_t room_of(size_t bytes) {
    return whole_pages(bytes == 0 ? 1 : bytes);
}

/* ---- faults */

static std::map<uintptr_t, Allocation>::iterator allocation_below(uintptr_t address) {
    auto after = allocations.upper_bound(address);
    return after == allocations.begin() ? allocations.end() : --after;
}

static bool works_here() {
    return working && pthread_equal(worker, pthread_self());
}

/* Work touches this address: opens its allocation. Takes no memory. */
static bool open_for_work(uintptr_t address) {
    auto found = allocation_below(address);
    if (!works_here() || found == allocations.end()) return false;
    Allocation &allocation = found->second;
    size_t room = room_of(allocation.bytes);
    if (allocation.released || allocation.opened || address - found->first >= room)
        return false;
    if (mprotect(allocation.memory, room, PROT_READ | PROT_WRITE) != 0) return false;
    allocation.opened = true;
    allocation.next = opened;
    opened = &allocation;
    return true;
}

/* Says who touched what. Not safe against a fault inside of malloc, which does not touch the range. */
static void tell_fault(uintptr_t address) {
    char text[320], who[160];
    const char *kernel = running_kernel;
    if (kernel != nullptr && works_here())
        snprintf(who, sizeof who, "kernel %s touched device memory that is not its own",
                 kernel);
    else
        snprintf(who, sizeof who, "host code touched device memory");
    auto found = allocation_below(address);
    int length;
    if (found == allocations.end())
        length = snprintf(text, sizeof text, "gpu_double: %s at %#lx\n", who, address);
    else
        length =
            snprintf(text, sizeof text,
                     "gpu_double: %s at %#lx: byte %zu of allocation %lu of %zu bytes%s\n",
                     who, address, address - found->first, found->second.number,
                     found->second.bytes, found->second.released ? ", released" : "");
    ssize_t written = write(STDERR_FILENO, text, (size_t)length);
    (void)written;
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    if (address >= (uintptr_t)range && address < (uintptr_t)range + RANGE_BYTES) {
        if (open_for_work(address)) return;
        tell_fault(address);
        abort();
    }
    struct sigaction *before = signal == SIGSEGV ? &before_segv : &before_bus;
    if ((before->sa_flags & SA_SIGINFO) != 0)
        return before->sa_sigaction(signal, info, context);
    sigaction(signal, before, nullptr); /* the instruction faults again */
}

/* Looked after again and again: test frameworks put their own handlers in front of each test. */
static void catch_faults() {
    struct sigaction action = {}, before;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    for (int signal : {SIGSEGV, SIGBUS}) {
        sigaction(signal, &action, &before);
        bool ours = (before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction == on_fault;
        if (!ours) (signal == SIGSEGV ? before_segv : before_bus) = before;
    }
}

Status memory_reserve() {
    if (range != nullptr) return STATUS_OK;
    void *memory = mmap(nullptr, RANGE_BYTES + HUGE, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return engine_fail("vendor_open", "cannot reserve %zu bytes of addresses",
                           RANGE_BYTES);
    range = static_cast<char *>(memory);
    range += HUGE - (uintptr_t)range % HUGE;
    top = range;
    return STATUS_OK;
}

void memory_running(const char *kernel) {
    running_kernel = kernel;
}

/* ---- the device's memory */

void memory_open() {
    if (works_here()) return;
    catch_faults();
    worker = pthread_self();
    working = true;
}

void memory_close() {
    for (; opened != nullptr; opened = opened->next) {
        opened->opened = false;
        mprotect(opened->memory, room_of(opened->bytes), PROT_NONE);
    }
    working = false;
}

Status memory_allocate(size_t bytes, void **out) {
    size_t room = room_of(bytes);
    if (room >= HUGE) top = range + ((size_t)(top - range) + HUGE - 1) / HUGE * HUGE;
    size_t left = RANGE_BYTES - (size_t)(top - range);
    if (bytes > engine_memory_size() - used || room + PAGE > left)
        return FAIL(
            STATUS_MEMORY, "use a smaller batch or model, or more ranks",
            "vendor_allocate: no %zu bytes on device %d of the double: %zu of %zu are "
            "used",
            bytes, engine.device, used, engine_memory_size());
    if (mprotect(top, room, PROT_READ | PROT_WRITE) != 0)
        return FAIL(STATUS_MEMORY, "free memory of this machine",
                    "vendor_allocate: this machine gives no %zu bytes", bytes);
    catch_faults();
    if (room >= HUGE) madvise(top, room, MADV_HUGEPAGE); /* or opening takes long */
    memset(top, 0xFF, bytes);
    memset(top + bytes, PATTERN, room - bytes);
    mprotect(top, room, PROT_NONE);
    allocations[(uintptr_t)top] = {bytes, ++allocations_made, false, false, nullptr, top};
    used += bytes;
    *out = top;
    top += room + PAGE; /* the guard is as it was reserved */
    return STATUS_OK;
}

static void check_pattern(const char *memory, size_t bytes, uint64_t number) {
    for (const char *at = memory + bytes; at < memory + whole_pages(bytes); at++)
        if ((unsigned char)*at != PATTERN) {
            fprintf(
                stderr,
                "gpu_double: device memory was written behind the end of allocation %lu of "
                "%zu bytes, at byte %td\n",
                number, bytes, at - memory);
            abort();
        }
}

void memory_release(void *device) {
    auto found = allocations.find((uintptr_t)device);
    if (found == allocations.end() || found->second.released)
        engine_misuse("vendor_release", "this is no device memory that is allocated");
    char *memory = static_cast<char *>(device);
    size_t bytes = found->second.bytes;
    size_t room = room_of(bytes);
    mprotect(memory + room - PAGE, PAGE, PROT_READ);
    check_pattern(memory, bytes, found->second.number);
    void *closed = mmap(memory, room, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (closed == MAP_FAILED) abort();
    found->second.released = true;
    used -= bytes;
}

size_t memory_used() {
    return used;
}

bool memory_is_device(const void *address, size_t bytes) {
    auto found = allocation_below((uintptr_t)address);
    if (found == allocations.end() || found->second.released) return false;
    size_t offset = (uintptr_t)address - found->first;
    return offset <= found->second.bytes && bytes <= found->second.bytes - offset;
}

Status memory_check_device(const char *function, const void *address, size_t bytes) {
    if (memory_is_device(address, bytes)) return STATUS_OK;
    return engine_fail(function, "%p (%zu bytes) is not inside of device memory", address,
                       bytes);
}

/* ---- pinned memory */

Status memory_pin(void *host, size_t bytes) {
    uintptr_t first = (uintptr_t)host;
    if (bytes == 0 || first % PAGE != 0 || bytes % PAGE != 0)
        return engine_fail("vendor_pin", "%p (%zu bytes) is not whole pages", host, bytes);
    auto after = pinned.lower_bound(first + bytes);
    if (after != pinned.begin() && (--after)->first + after->second.bytes > first)
        return engine_fail("vendor_pin", "%p (%zu bytes) is pinned already", host, bytes);
    pinned[first] = {bytes, false};
    return STATUS_OK;
}

bool memory_unpin(void *host) {
    auto found = pinned.find((uintptr_t)host);
    if (found == pinned.end() || found->second.ours) return false;
    pinned.erase(found);
    return true;
}

Status memory_allocate_pinned(size_t bytes, void **out) {
    size_t room = whole_pages(bytes == 0 ? 1 : bytes);
    void *memory =
        mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return FAIL(STATUS_MEMORY, "free memory of this machine",
                    "vendor_allocate_pinned: this machine gives no %zu bytes", bytes);
    memset(memory, 0xFF, room < PINNED_POISON ? room : PINNED_POISON);
    pinned[(uintptr_t)memory] = {bytes, true};
    *out = memory;
    return STATUS_OK;
}

bool memory_release_pinned(void *host) {
    auto found = pinned.find((uintptr_t)host);
    if (found == pinned.end() || !found->second.ours) return false;
    munmap(host, room_of(found->second.bytes));
    pinned.erase(found);
    return true;
}

bool memory_is_pinned(const void *address, size_t bytes) {
    uintptr_t first = (uintptr_t)address;
    auto after = pinned.upper_bound(first);
    if (after == pinned.begin()) return false;
    --after;
    size_t offset = first - after->first;
    return offset <= after->second.bytes && bytes <= after->second.bytes - offset;
}

Status memory_check_pinned(const char *function, const void *address, size_t bytes) {
    if (memory_is_pinned(address, bytes)) return STATUS_OK;
    return engine_fail(function, "%p (%zu bytes) is not inside of pinned memory", address,
                       bytes);
}

int memory_leaks() {
    int count = 0;
    for (const auto &[address, allocation] : allocations)
        if (!allocation.released) {
            fprintf(stderr,
                    "gpu_double: leak: %zu bytes of device memory (allocation %lu)\n",
                    allocation.bytes, allocation.number);
            count++;
        }
    for (const auto &[address, memory] : pinned) {
        fprintf(stderr, "gpu_double: leak: %zu bytes of pinned memory\n", memory.bytes);
        count++;
    }
    return count;
}
