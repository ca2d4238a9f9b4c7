/* The engine itself: which devices there are, what every call of the seam passes first, and the end. */
#include "tests/gpu_double/double.h"
#include "tests/gpu_double/engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Engine engine;

static long long from_environment(const char *name, long long otherwise) {
    const char *value = getenv(name);
    return value == nullptr ? otherwise : atoll(value);
}

int engine_device_count() {
    return (int)from_environment("GPU_DOUBLE_DEVICES", 4);
}

size_t engine_memory_size() {
    return (size_t)from_environment("GPU_DOUBLE_MEMORY", 16ll << 30);
}

uint64_t engine_seed() {
    return (uint64_t)from_environment("GPU_DOUBLE_SEED", 1);
}

std::string engine_identity(int device) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *at = host; *at != '\0'; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
    char text[40];
    snprintf(text, sizeof text, "GPU-%016lx-%d", hash, device);
    return text;
}

/* ---- failures */

static Status device_failure(const char *function, const char *what) {
    return FAIL(STATUS_DEVICE, "relaunch; if it happens again, have the device tested",
                "%s: %s (device %d, the double)", function, what, engine.device);
}

Status engine_fail(const char *function, const char *format, ...) {
    char what[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (engine.failure.empty()) engine_break(std::string(function) + ": " + what);
    return device_failure(function, what);
}

void engine_break(const std::string &why) {
    if (engine.open && engine.failure.empty()) engine.failure = why;
}

void engine_misuse(const char *function, const char *what) {
    fprintf(stderr, "gpu_double: misuse of %s: %s\n", function, what);
    abort();
}

static Status injected_failure(const char *function, unsigned rules) {
    if ((rules & ENTER_MEMORY) != 0)
        return FAIL(STATUS_MEMORY, "use a smaller batch or model, or more ranks",
                    "%s: out of memory (injected; device %d, the double)", function,
                    engine.device);
    if ((rules & ENTER_COMM) != 0)
        return FAIL(STATUS_COMM, "relaunch; look for the rank that failed first",
                    "%s: an injected failure (device %d, the double)", function,
                    engine.device);
    return engine_fail(function, "an injected failure");
}

Status engine_enter(const char *function, unsigned rules) {
    if (!engine.open && (rules & ENTER_BEFORE_OPEN) == 0)
        engine_misuse(function, "the device is not open");
    Injection injection = inject_at(function);
    if (injection == Injection::FAIL) return injected_failure(function, rules);
    if (!engine.failure.empty()) return device_failure(function, engine.failure.c_str());
    if (engine.captures > 0 && (rules & ENTER_IN_CAPTURE) == 0) {
        capture_spoil_all(std::string(function) + " was called");
        return device_failure(function, "it may not be called during a capture");
    }
    if (injection == Injection::FAIL_LATE)
        inject_set_late(std::string(function) + ": an injected late failure");
    return STATUS_OK;
}

/* ---- the device */

Status vendor_count(int *count) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *count = 0;
    TRY(engine_enter(__func__, ENTER_BEFORE_OPEN));
    *count = engine_device_count();
    return STATUS_OK;
}

Status vendor_open(int index, VendorDevice *device) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.open) engine_misuse(__func__, "a device is open already");
    engine.device = index;
    TRY(engine_enter(__func__, ENTER_BEFORE_OPEN));
    if (index < 0 || index >= engine_device_count())
        return device_failure(__func__, "there is no such device");
    TRY(memory_reserve());
    memset(device, 0, sizeof *device);
    snprintf(device->name, sizeof device->name, "double of CUDA");
    snprintf(device->identity, sizeof device->identity, "%s",
             engine_identity(index).c_str());
    snprintf(device->libraries, sizeof device->libraries, "double-1");
    device->compute_major = 9;
    device->compute_minor = 0;
    device->multiprocessors = 4;
    device->memory = engine_memory_size();
    engine.failure.clear();
    engine.open = true;
    return STATUS_OK;
}

static int report(const char *what, size_t count) {
    if (count > 0) fprintf(stderr, "gpu_double: leak: %zu %s\n", count, what);
    return (int)count;
}

void vendor_close(void) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (!engine.open) return;
    engine.leaks =
        memory_leaks() + report("queues", engine.queues.size()) +
        report("events", engine.events.size()) + report("graphs", engine.graphs.size()) +
        report("plans", engine.plans.size()) + report("communicators", engine.comms.size());
    inject_write_counts();
    capture_forget();
    engine.open = false;
    engine.failure.clear();
    const char *leaks = getenv("GPU_DOUBLE_LEAKS");
    if (engine.leaks > 0 && leaks != nullptr && strcmp(leaks, "fatal") == 0) abort();
}

/* ---- memory */

Status vendor_memory_free(size_t *bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(engine_enter(__func__, 0));
    *bytes = engine_memory_size() - memory_used();
    return STATUS_OK;
}

Status vendor_allocate(size_t bytes, void **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, ENTER_MEMORY));
    return memory_allocate(bytes, out);
}

void vendor_release(void *device_memory) {
    if (device_memory == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.captures > 0) capture_spoil_all("vendor_release was called");
    engine_drain(lock);
    memory_release(device_memory);
}

Status vendor_allocate_pinned(size_t bytes, void **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, ENTER_MEMORY));
    return memory_allocate_pinned(bytes, out);
}

void vendor_release_pinned(void *host_memory) {
    if (host_memory == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.captures > 0) capture_spoil_all("vendor_release_pinned was called");
    if (!memory_release_pinned(host_memory))
        engine_misuse(__func__, "this was not allocated as pinned memory");
}

Status vendor_pin(void *host_memory, size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    TRY(engine_enter(__func__, ENTER_MEMORY));
    return memory_pin(host_memory, bytes);
}

void vendor_unpin(void *host_memory) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (!memory_unpin(host_memory)) engine_misuse(__func__, "this is not pinned memory");
}

/* ---- for tests */

int double_leaks(void) {
    return engine.leaks;
}

void double_peek(void *host, const void *device, size_t bytes) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (!memory_is_device(device, bytes))
        engine_misuse(__func__, "this is no device memory");
    memory_open();
    memcpy(host, device, bytes);
    memory_close();
}

void double_drain(void) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    engine_drain(lock);
}
