/* A device that keeps its memory apart and works behind the host: an opened "cpu" or "reference" device with
 * other ways to it. It holds what calls it to the rules of src/backend.h: what is copied or pinned is on
 * the right side, fetched memory arrives as late as it may (when it is waited for) and is read as late
 * as it may (at the fence), and recorded work neither allocates nor copies. One at a time. */
#pragma once

#include "tests/support/test.h"

#include "src/backend.h"

#include <stdlib.h>
#include <string.h>

enum { APART_RANGES = 4096, APART_FETCHES = 256, APART_KEYS = 64 };

typedef struct {
    const char *begin;
    size_t bytes;
} ApartRange;

typedef struct {
    void *host;
    const void *device;
    size_t bytes;
    void *read; /* what the device held at the fence; NULL: not fenced yet */
} ApartFetch;

static struct {
    BackendOps ops; /* the device's own, with our ways in it */
    const BackendOps *inner;
    ApartRange device[APART_RANGES], pinned[APART_RANGES];
    ApartFetch fetches[APART_FETCHES];
    int fetch_count;
    bool repeating;
    uint64_t keys[APART_KEYS];
    int runs[APART_KEYS]; /* of each key */
    int key_count;
    int copies_in;
} apart;

static inline bool apart_holds(const ApartRange *ranges, const void *memory, size_t bytes) {
    for (int i = 0; i < APART_RANGES; i++) {
        const char *begin = ranges[i].begin;
        if (begin != NULL && (const char *)memory >= begin &&
            (const char *)memory + bytes <= begin + ranges[i].bytes)
            return true;
    }
    return false;
}

static inline void apart_add(ApartRange *ranges, const void *memory, size_t bytes) {
    for (int i = 0; i < APART_RANGES; i++)
        if (ranges[i].begin == NULL) {
            ranges[i] = (ApartRange){memory, bytes};
            return;
        }
    fail_msg("too many allocations");
}

static inline void apart_remove(ApartRange *ranges, const void *memory) {
    for (int i = 0; i < APART_RANGES; i++)
        if (ranges[i].begin == memory) {
            ranges[i].begin = NULL;
            return;
        }
    fail_msg("memory is given back that was never taken");
}

static inline Status apart_allocate(Backend *self, size_t bytes, void **out) {
    TRY(apart.inner->allocate(self, bytes, out));
    apart_add(apart.device, *out, bytes);
    memset(*out, 0xff, bytes); /* NaN */
    return STATUS_OK;
}

static inline void apart_release(Backend *self, void *memory) {
    if (memory == NULL) return;
    apart_remove(apart.device, memory);
    apart.inner->release(self, memory);
}

static inline Status apart_copy_in(Backend *self, void *device, const void *host,
                                   size_t bytes) {
    assert_true(apart_holds(apart.device, device, bytes));
    assert_false(apart_holds(apart.device, host, 1));
    assert_false(apart.repeating);
    apart.copies_in++;
    return apart.inner->copy_in(self, device, host, bytes);
}

static inline Status apart_copy_out(Backend *self, void *host, const void *device,
                                    size_t bytes) {
    assert_true(apart_holds(apart.device, device, bytes));
    assert_false(apart.repeating);
    return apart.inner->copy_out(self, host, device, bytes);
}

static inline Status apart_zero(Backend *self, int worker, void *memory, size_t bytes) {
    assert_true(apart_holds(apart.device, memory, bytes));
    return apart.inner->zero(self, worker, memory, bytes);
}

static inline Status apart_pin(Backend *self, void *host, size_t bytes) {
    (void)self;
    assert_true((uintptr_t)host % 4096 == 0 && bytes % 4096 == 0 && bytes > 0);
    apart_add(apart.pinned, host, bytes);
    return STATUS_OK;
}

static inline void apart_unpin(Backend *self, void *host) {
    (void)self;
    if (host == NULL) return;
    for (int i = 0; i < apart.fetch_count; i++) /* it would be written after it is freed */
        assert_ptr_not_equal(apart.fetches[i].host, host);
    apart_remove(apart.pinned, host);
}

static inline Status apart_fetch(Backend *self, void *host, const void *device,
                                 size_t bytes) {
    (void)self;
    assert_true(apart_holds(apart.pinned, host, bytes));
    assert_true(apart_holds(apart.device, device, bytes));
    assert_false(apart.repeating);
    assert_true(apart.fetch_count < APART_FETCHES);
    apart.fetches[apart.fetch_count++] = (ApartFetch){host, device, bytes, NULL};
    return STATUS_OK;
}

static inline Status apart_fetch_fence(Backend *self, int worker) {
    (void)self, (void)worker;
    assert_false(apart.repeating);
    for (int i = 0; i < apart.fetch_count; i++) {
        ApartFetch *fetch = &apart.fetches[i];
        if (fetch->read != NULL) continue;
        fetch->read = malloc(fetch->bytes);
        memcpy(fetch->read, fetch->device, fetch->bytes);
    }
    return STATUS_OK;
}

static inline Status apart_fetch_finish(Backend *self) {
    (void)self;
    for (int i = 0; i < apart.fetch_count; i++) {
        ApartFetch *fetch = &apart.fetches[i];
        memcpy(fetch->host, fetch->read != NULL ? fetch->read : fetch->device,
               fetch->bytes);
        free(fetch->read);
    }
    apart.fetch_count = 0;
    return STATUS_OK;
}

static inline Status apart_repeat(Backend *self, uint64_t key,
                                  Status (*body)(void *context), void *context) {
    (void)self;
    assert_false(apart.repeating);
    int at = 0;
    while (at < apart.key_count && apart.keys[at] != key)
        at++;
    assert_true(at < APART_KEYS);
    if (at == apart.key_count) {
        apart.keys[apart.key_count] = key;
        apart.runs[apart.key_count++] = 0;
    }
    apart.runs[at]++;
    apart.repeating = true;
    int allocations = 0, after = 0;
    for (int i = 0; i < APART_RANGES; i++)
        allocations += apart.device[i].begin != NULL;
    Status status = body(context);
    for (int i = 0; i < APART_RANGES; i++)
        after += apart.device[i].begin != NULL;
    if (apart.runs[at] > 1) assert_int_equal(after, allocations);
    apart.repeating = false;
    return status;
}

static inline Status apart_open(const char *inner, Backend **out) {
    BackendOptions options = {.workers = 1};
    TRY(backend_open(inner, &options, out));
    memset(&apart, 0, sizeof apart);
    apart.inner = (*out)->ops;
    apart.ops = *apart.inner;
    apart.ops.name = "apart";
    apart.ops.host_memory = false;
    apart.ops.allocate = apart_allocate;
    apart.ops.release = apart_release;
    apart.ops.copy_in = apart_copy_in;
    apart.ops.copy_out = apart_copy_out;
    apart.ops.zero = apart_zero;
    apart.ops.pin = apart_pin;
    apart.ops.unpin = apart_unpin;
    apart.ops.fetch = apart_fetch;
    apart.ops.fetch_fence = apart_fetch_fence;
    apart.ops.fetch_finish = apart_fetch_finish;
    apart.ops.repeat = apart_repeat;
    (*out)->ops = &apart.ops;
    return STATUS_OK;
}

/* Nothing may be left pinned, allocated or on its way. */
static inline void apart_close(Backend *backend) {
    for (int i = 0; i < APART_RANGES; i++) {
        assert_null(apart.device[i].begin);
        assert_null(apart.pinned[i].begin);
    }
    assert_int_equal(apart.fetch_count, 0);
    backend->ops->close(backend);
}
