/* The double's captures: what becomes a graph, what spoils one, and that a graph lacks an order that its
 * capture lacked. */
#include "kernels/cuda/vendor.h"
#include "tests/gpu_double/double.h"
#include "tests/gpu_double/test_double.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 64, BYTES = COUNT * sizeof(float) };
static VendorQueue *queue, *side;
static VendorEvent *forked, *joined;
static float *pinned, *a, *b;

static int open_device(void **state) {
    (void)state;
    VendorDevice device;
    double_reset();
    Status status = vendor_open(0, &device);
    if (status == STATUS_OK) status = vendor_queue_create(false, &queue);
    if (status == STATUS_OK) status = vendor_queue_create(false, &side);
    if (status == STATUS_OK) status = vendor_event_create(&forked);
    if (status == STATUS_OK) status = vendor_event_create(&joined);
    if (status == STATUS_OK) status = vendor_allocate_pinned(BYTES, (void **)&pinned);
    if (status == STATUS_OK) status = vendor_allocate(BYTES, (void **)&a);
    if (status == STATUS_OK) status = vendor_allocate(BYTES, (void **)&b);
    return status != STATUS_OK;
}

static int close_device(void **state) {
    (void)state;
    vendor_release(a);
    vendor_release(b);
    vendor_release_pinned(pinned);
    vendor_event_destroy(forked);
    vendor_event_destroy(joined);
    vendor_queue_destroy(queue);
    vendor_queue_destroy(side);
    vendor_close();
    return double_leaks();
}

static void a_graph_reads_memory_anew_at_each_launch(void **state) {
    (void)state;
    VendorGraph *graph;
    float seen[COUNT];
    assert_ok(vendor_capture_begin(queue));
    assert_ok(vendor_copy_in(queue, a, pinned, BYTES));
    assert_ok(vendor_copy(queue, b, a, BYTES));
    assert_ok(vendor_capture_end(queue, &graph));
    assert_ok(vendor_wait(queue));
    double_peek(seen, b, BYTES);
    assert_true(isnan(seen[0])); /* recorded, not run */
    for (int launch = 1; launch <= 2; launch++) {
        pinned[5] = (float)launch;
        assert_ok(vendor_graph_launch(queue, graph));
        assert_ok(vendor_wait(queue));
        double_peek(seen, b, BYTES);
        assert_true(seen[5] == (float)launch);
    }
    vendor_graph_destroy(graph);
}

/* queue: fill a → side: copy a to b → queue: copy b out; with or without the orders between them */
static void fork_and_join(bool fork_late, VendorGraph **graph) {
    assert_ok(vendor_capture_begin(queue));
    if (fork_late) assert_ok(launch_fill(queue, a, COUNT, 1.0f));
    assert_ok(vendor_record(queue, forked));
    assert_ok(vendor_queue_wait(side, forked));
    if (!fork_late) assert_ok(launch_fill(queue, a, COUNT, 1.0f));
    assert_ok(vendor_copy(side, b, a, BYTES));
    assert_ok(vendor_record(side, joined));
    assert_ok(vendor_queue_wait(queue, joined));
    assert_ok(vendor_copy_out(queue, pinned, b, BYTES));
    assert_ok(vendor_capture_end(queue, graph));
}

static void queues_fork_and_join_in_a_graph(void **state) {
    (void)state;
    VendorGraph *graph;
    fork_and_join(true, &graph);
    for (int launch = 0; launch < 3; launch++) {
        memset(pinned, 0, BYTES);
        assert_ok(vendor_zero(queue, b, BYTES));
        assert_ok(vendor_graph_launch(queue, graph));
        assert_ok(vendor_wait(queue));
        assert_true(pinned[2] == 3.0f);
    }
    vendor_graph_destroy(graph);
    assert_ok(vendor_zero(side, b, BYTES)); /* the queue is itself again */
    assert_ok(vendor_wait(side));
}

static void an_order_that_a_fork_lacks_shows_with_a_seed(void **state) {
    (void)state;
    for (int late = 0; late < 2; late++) {
        VendorGraph *graph;
        assert_ok(vendor_zero(queue, a, BYTES));
        fork_and_join(late, &graph);
        setenv("GPU_DOUBLE_SEED", "2", 1); /* what is waited for runs as early as it may */
        assert_ok(vendor_graph_launch(queue, graph));
        assert_ok(vendor_wait(queue));
        unsetenv("GPU_DOUBLE_SEED");
        assert_true(pinned[2] == (late ? 3.0f : 0.0f));
        vendor_graph_destroy(graph);
    }
}

static void ends_with(const char *text) {
    VendorGraph *graph = (VendorGraph *)&graph;
    assert_fails(vendor_capture_end(queue, &graph), STATUS_DEVICE, text);
    assert_null(graph);
}

static void a_fork_that_is_not_joined_is_refused(void **state) {
    (void)state;
    assert_ok(vendor_capture_begin(queue));
    assert_ok(vendor_record(queue, forked));
    assert_ok(vendor_queue_wait(side, forked));
    assert_ok(vendor_zero(side, a, BYTES));
    assert_ok(vendor_record(side, joined));
    assert_ok(vendor_queue_wait(queue, joined));
    assert_ok(vendor_zero(side, a, BYTES)); /* after the join */
    ends_with("not joined");
}

static void waiting_in_a_capture_for_what_is_outside_is_refused(void **state) {
    (void)state;
    assert_ok(vendor_record(side, forked));
    assert_ok(vendor_capture_begin(queue));
    assert_fails(vendor_queue_wait(queue, forked), STATUS_DEVICE, "recorded outside");
    ends_with("recorded outside");
}

static void try_wait(void) {
    assert_int_equal(vendor_wait(queue), STATUS_DEVICE);
}
static void try_allocate(void) {
    void *memory;
    assert_int_equal(vendor_allocate(64, &memory), STATUS_DEVICE);
    assert_null(memory);
}
static void try_event_done(void) {
    bool done;
    assert_int_equal(vendor_event_done(forked, &done), STATUS_DEVICE);
}
static void try_plan(void) {
    VendorPlan *plan;
    VendorGemm gemm = {.rows = 1, .columns = 1, .inner = 1};
    assert_int_equal(vendor_plan_gemm(&gemm, NULL, &plan), STATUS_DEVICE);
}
static void try_release(void) {
    vendor_release(b);
    b = NULL;
}
static void try_other_queue(void) {
    assert_int_equal(vendor_wait(side), STATUS_DEVICE);
}

static void what_may_not_be_called_spoils_the_capture(void **state) {
    (void)state;
    static const struct {
        void (*call)(void);
        const char *name;
    } calls[] = {{try_wait, "vendor_wait"},
                 {try_allocate, "vendor_allocate"},
                 {try_event_done, "vendor_event_done"},
                 {try_plan, "vendor_plan_gemm"},
                 {try_release, "vendor_release"},
                 {try_other_queue, "vendor_wait"}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        assert_ok(vendor_capture_begin(queue));
        assert_ok(vendor_zero(queue, a, BYTES));
        calls[i].call();
        ends_with(calls[i].name);
        close_device(NULL);
        assert_int_equal(open_device(NULL), 0);
    }
}

static void copies_of_memory_that_is_not_pinned_end_a_capture(void **state) {
    (void)state;
    float on_stack[COUNT];
    assert_ok(vendor_capture_begin(queue));
    assert_fails(vendor_copy_out(queue, on_stack, a, BYTES), STATUS_DEVICE, "pinned");
    ends_with("pinned");
}

static void a_failed_capture_leaves_the_queue_usable(void **state) {
    (void)state;
    setenv("GPU_DOUBLE_FAIL", "vendor_capture_end:1", 1);
    double_reset();
    assert_ok(vendor_capture_begin(queue));
    assert_ok(vendor_zero(queue, a, BYTES));
    ends_with("injected");
    unsetenv("GPU_DOUBLE_FAIL");
    vendor_queue_destroy(queue); /* no longer capturing: else this aborts */
    queue = NULL;
}

int main(void) {
#define DEVICE_TEST(f) cmocka_unit_test_setup_teardown(f, open_device, close_device)
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(a_graph_reads_memory_anew_at_each_launch),
        DEVICE_TEST(queues_fork_and_join_in_a_graph),
        DEVICE_TEST(an_order_that_a_fork_lacks_shows_with_a_seed),
        DEVICE_TEST(a_fork_that_is_not_joined_is_refused),
        DEVICE_TEST(waiting_in_a_capture_for_what_is_outside_is_refused),
        DEVICE_TEST(what_may_not_be_called_spoils_the_capture),
        DEVICE_TEST(copies_of_memory_that_is_not_pinned_end_a_capture),
        DEVICE_TEST(a_failed_capture_leaves_the_queue_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
