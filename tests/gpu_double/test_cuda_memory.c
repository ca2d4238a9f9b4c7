/* Device memory, copies to and fro, and fetches beside the work, over a double that runs nothing before
 * something waits for it. */
#include "tests/gpu_double/device.h"

#include <sys/mman.h>

static int open_one(void **state) {
    *state = device_open(PRECISION_FP32);
    return 0;
}

static int close_one(void **state) {
    double_set("GPU_DOUBLE_FAIL", NULL);
    double_set("GPU_DOUBLE_FAIL_LATE", NULL);
    device_close(*state);
    return 0;
}

static void *pinned_pages(Backend *backend, size_t bytes) {
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    assert_ok(backend->ops->pin(backend, memory, bytes));
    return memory;
}

static void unpin_pages(Backend *backend, void *memory, size_t bytes) {
    backend->ops->unpin(backend, memory);
    munmap(memory, bytes);
}

static unsigned char pattern_at(size_t i) {
    return (unsigned char)(i * 2654435761u >> 13);
}

static void copies_of_any_size_come_back(void **state) {
    Backend *backend = *state;
    static const size_t sizes[] = {0,
                                   1,
                                   3,
                                   4096,
                                   (2 << 20) - 1,
                                   2 << 20,
                                   (2 << 20) + 5,
                                   (40u << 20) +
                                       77}; /* more than the ring of pinned pieces */
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t bytes = sizes[s];
        unsigned char *in = malloc(bytes + 1), *out = calloc(1, bytes + 1);
        assert_true(in != NULL && out != NULL);
        for (size_t i = 0; i < bytes; i++)
            in[i] = pattern_at(i);
        void *device;
        assert_ok(backend->ops->allocate(backend, bytes, &device));
        assert_ok(backend->ops->copy_in(backend, device, in, bytes));
        memset(in, 0xee, bytes); /* it may be used again at once */
        assert_ok(backend->ops->copy_out(backend, out, device, bytes));
        for (size_t i = 0; i < bytes; i++)
            if (out[i] != pattern_at(i)) fail_msg("size %zu: byte %zu is wrong", bytes, i);
        backend->ops->release(backend, device);
        free(in);
        free(out);
    }
}

static void a_copy_in_waits_for_nothing_while_the_ring_has_room(void **state) {
    Backend *backend = *state;
    void *device;
    float value = 1.0f;
    assert_ok(backend->ops->allocate(backend, sizeof value, &device));
    double_reset();
    for (int i = 0; i < 12; i++)
        assert_ok(backend->ops->copy_in(backend, device, &value, sizeof value));
    assert_int_equal(double_calls("vendor_event_done"), 0);
    assert_int_equal(double_calls("vendor_wait"), 0);
    backend->ops->release(backend, device);
}

static void memory_is_counted_and_a_lack_of_it_is_told_with_numbers(void **state) {
    Backend *backend = *state;
    BackendMemory before, with, after;
    backend->ops->memory(backend, &before);
    void *device;
    assert_ok(backend->ops->allocate(backend, 1 << 20, &device));
    void *workspace;
    assert_ok(cuda_workspace(cuda_of(backend), 3 << 20, &workspace));
    backend->ops->memory(backend, &with);
    assert_int_equal(with.used, before.used + (4 << 20));
    assert_int_equal(with.workspace, before.workspace + (3 << 20));
    assert_true(with.free < before.free && with.free > 0);
    assert_int_equal(with.total, cuda_of(backend)->device.memory);
    backend->ops->release(backend, device);
    backend->ops->release(backend, NULL);
    backend->ops->memory(backend, &after);
    assert_int_equal(after.used, before.used + (3 << 20));

    void *too_much = &after;
    char total[32];
    snprintf(total, sizeof total, "%zu", with.total);
    assert_fails(backend->ops->allocate(backend, with.total + 1, &too_much), STATUS_MEMORY,
                 total);
    assert_null(too_much);
    assert_non_null(strstr(status_failure()->fix, "train.batch"));
    assert_ok(backend->ops->allocate(backend, 1, &device)); /* and the device goes on */
    backend->ops->release(backend, device);
}

static void the_workspace_grows_and_keeps_its_place_when_less_is_asked(void **state) {
    Backend *backend = *state;
    void *small, *large, *again;
    assert_ok(cuda_workspace(cuda_of(backend), 100, &small));
    assert_ok(cuda_workspace(cuda_of(backend), 5 << 20, &large));
    assert_ok(cuda_workspace(cuda_of(backend), 5 << 20, &again));
    assert_ptr_equal(large, again);
    assert_ok(cuda_workspace(cuda_of(backend), 10, &again));
    assert_ptr_equal(large, again);
}

static void zero_writes_zeros_in_order_with_copies(void **state) {
    Backend *backend = *state;
    unsigned char bytes[300];
    memset(bytes, 0x5a, sizeof bytes);
    void *device;
    assert_ok(backend->ops->allocate(backend, sizeof bytes, &device));
    assert_ok(backend->ops->copy_in(backend, device, bytes, sizeof bytes));
    assert_ok(backend->ops->zero(backend, 0, (char *)device + 100, 100));
    assert_ok(backend->ops->zero(backend, 0, device, 0));
    assert_ok(backend->ops->copy_out(backend, bytes, device, sizeof bytes));
    for (int i = 0; i < 300; i++)
        assert_int_equal(bytes[i], i >= 100 && i < 200 ? 0 : 0x5a);
    backend->ops->release(backend, device);
}

enum { SNAPSHOT = 8192 };

/* What a fetch of `old` brings when the source is overwritten after it, with or without a fence. */
static unsigned char fetched_before_an_overwrite(Backend *backend, bool fence) {
    unsigned char old[SNAPSHOT], new[SNAPSHOT];
    memset(old, 1, sizeof old);
    memset(new, 2, sizeof new);
    void *device;
    unsigned char *host = pinned_pages(backend, SNAPSHOT);
    assert_ok(backend->ops->allocate(backend, SNAPSHOT, &device));
    assert_ok(backend->ops->copy_in(backend, device, old, SNAPSHOT));
    assert_ok(backend->ops->fetch(backend, host, device, SNAPSHOT));
    if (fence) assert_ok(backend->ops->fetch_fence(backend, 0));
    assert_ok(backend->ops->copy_in(backend, device, new, SNAPSHOT));
    assert_ok(backend->ops->finish(backend, 0));
    assert_ok(backend->ops->fetch_finish(backend));
    unsigned char first = host[0];
    for (int i = 0; i < SNAPSHOT; i++)
        assert_int_equal(host[i], first);
    unpin_pages(backend, host, SNAPSHOT);
    backend->ops->release(backend, device);
    return first;
}

static void a_fence_keeps_later_work_off_what_is_being_fetched(void **state) {
    Backend *backend = *state;
    assert_int_equal(fetched_before_an_overwrite(backend, true), 1);
    /* without it the device may be early: the double is, so the fence is what makes the difference */
    assert_int_equal(fetched_before_an_overwrite(backend, false), 2);
}

static void fetches_return_at_once_and_one_finish_waits_for_all(void **state) {
    Backend *backend = *state;
    enum { PARTS = 3 };
    unsigned char values[PARTS][4096], *host = pinned_pages(backend, PARTS * 4096);
    void *device[PARTS];
    for (int i = 0; i < PARTS; i++) {
        memset(values[i], i + 1, 4096);
        assert_ok(backend->ops->allocate(backend, 4096, &device[i]));
        assert_ok(backend->ops->copy_in(backend, device[i], values[i], 4096));
        assert_ok(backend->ops->fetch(backend, host + i * 4096, device[i], 4096));
    }
    for (int i = 0; i < PARTS; i++)
        assert_int_equal(host[i * 4096], 0); /* nobody has waited yet */
    assert_ok(backend->ops->fetch_finish(backend));
    for (int i = 0; i < PARTS; i++)
        assert_int_equal(host[i * 4096 + 4095], i + 1);
    assert_ok(
        backend->ops->fetch_finish(backend)); /* nothing under way: nothing to wait for */
    assert_ok(backend->ops->fetch_fence(backend, 0));
    assert_ok(backend->ops->fetch(backend, host, device[0], 0));
    unpin_pages(backend, host, PARTS * 4096);
    for (int i = 0; i < PARTS; i++)
        backend->ops->release(backend, device[i]);
}

static void only_whole_pages_can_be_pinned(void **state) {
    Backend *backend = *state;
    char *memory =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    assert_fails(backend->ops->pin(backend, memory + 64, 4096), STATUS_DEVICE,
                 "vendor_pin");
    backend->ops->unpin(backend, NULL);
    munmap(memory, 8192);
}

static Status lost_peer(void *context) {
    ++*(int *)context;
    return FAIL(STATUS_COMM, "relaunch", "rank 3 is gone");
}

static void assert_ready(VendorComm *comm) {
    for (bool ready = false; !ready;)
        assert_ok(vendor_comm_poll(comm, &ready));
}

static void a_wait_ends_when_a_peer_is_lost_or_patience_ends(void **state) {
    Backend *backend = *state;
    Cuda *cuda = cuda_of(backend);
    /* an event that was recorded behind work that never ends: a peer that never sends */
    uint8_t id[VENDOR_COMM_ID];
    assert_ok(vendor_comm_id(id));
    VendorComm *comm;
    assert_ok(vendor_comm_open(id, 0, 1, &comm));
    assert_ready(comm);
    void *data;
    assert_ok(backend->ops->allocate(backend, 64, &data));
    double_set("GPU_DOUBLE_HANG", "vendor_all_reduce:1");
    assert_ok(vendor_all_reduce(cuda->work, comm, data, data, 16));
    assert_ready(comm);
    double_set("GPU_DOUBLE_HANG", NULL);
    int asked = 0;
    cuda->peers = lost_peer;
    cuda->peers_context = &asked;
    assert_fails(backend->ops->finish(backend, 0), STATUS_COMM, "rank 3 is gone");
    assert_int_equal(asked, 1);
    cuda->peers = NULL;
    cuda->patience_s = 0.05;
    cuda->doing = "the exchange of gradients";
    assert_fails(backend->ops->finish(backend, 0), STATUS_WATCHDOG,
                 "the exchange of gradients");
    assert_true(cuda->hung);
    vendor_comm_abort(comm);
    cuda->hung = false; /* only the test knows that the abort freed the queue */
    cuda->patience_s = 20.0;
    backend->ops->release(backend, data);
}

static void a_failure_of_the_device_is_told_by_the_next_wait(void **state) {
    Backend *backend = *state;
    float value = 1.0f;
    void *device;
    assert_ok(backend->ops->allocate(backend, sizeof value, &device));
    double_set("GPU_DOUBLE_FAIL_LATE", "vendor_copy_in:1");
    assert_ok(backend->ops->copy_in(backend, device, &value, sizeof value));
    assert_fails(backend->ops->finish(backend, 0), STATUS_DEVICE, "vendor_copy_in");
    backend->ops->release(backend, device);
}

#define ON_A_DEVICE(test) cmocka_unit_test_setup_teardown(test, open_one, close_one)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_A_DEVICE(copies_of_any_size_come_back),
        ON_A_DEVICE(a_copy_in_waits_for_nothing_while_the_ring_has_room),
        ON_A_DEVICE(memory_is_counted_and_a_lack_of_it_is_told_with_numbers),
        ON_A_DEVICE(the_workspace_grows_and_keeps_its_place_when_less_is_asked),
        ON_A_DEVICE(zero_writes_zeros_in_order_with_copies),
        ON_A_DEVICE(a_fence_keeps_later_work_off_what_is_being_fetched),
        ON_A_DEVICE(fetches_return_at_once_and_one_finish_waits_for_all),
        ON_A_DEVICE(only_whole_pages_can_be_pinned),
        ON_A_DEVICE(a_wait_ends_when_a_peer_is_lost_or_patience_ends),
        ON_A_DEVICE(a_failure_of_the_device_is_told_by_the_next_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
