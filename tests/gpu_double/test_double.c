/* The double of CUDA itself: that it computes what it is asked for, and that it shows what a GPU would
 * leave to chance. */
#include "tests/gpu_double/test_double.h"

#include "kernels/cuda/vendor.h"
#include "tests/gpu_double/double.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static VendorQueue *queue, *other;
static float *pinned; /* COUNT floats */
enum { COUNT = 4096 };

static int open_device(void **state) {
    (void)state;
    VendorDevice device;
    double_reset();
    if (vendor_open(0, &device) != STATUS_OK) return 1;
    if (vendor_queue_create(false, &queue) != STATUS_OK) return 1;
    if (vendor_queue_create(true, &other) != STATUS_OK) return 1;
    return vendor_allocate_pinned(COUNT * sizeof(float), (void **)&pinned) != STATUS_OK;
}

static int close_device(void **state) {
    (void)state;
    vendor_release_pinned(pinned);
    vendor_queue_destroy(queue);
    vendor_queue_destroy(other);
    vendor_close();
    unsetenv("GPU_DOUBLE_FAIL");
    unsetenv("GPU_DOUBLE_FAIL_LATE");
    unsetenv("GPU_DOUBLE_SEED");
    return double_leaks();
}

static float *floats(int count) {
    void *memory = NULL;
    assert_ok(vendor_allocate((size_t)count * sizeof(float), &memory));
    return memory;
}

/* ---- memory */

/* Runs `touch` in a child; its end and its first line on stderr. */
static int end_of_child(void (*touch)(float *), float *memory, char text[256]) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        touch(memory);
        _exit(0);
    }
    close(ends[1]);
    memset(text, 0, 256);
    assert_true(read(ends[0], text, 255) >= 0);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void read_it(float *memory) {
    volatile float value = memory[3];
    (void)value;
}

static void write_it(float *memory) {
    memory[3] = 1.0f;
}

static void release_and_write_it(float *memory) {
    vendor_release(memory);
    write_it(memory);
}

static void run_behind_its_end(float *memory) {
    if (launch_fill(queue, memory, 2048, 0.0f) == STATUS_OK) vendor_wait(queue);
}

static void write_one_behind(float *memory) {
    if (launch_fill(queue, memory, 1001, 0.0f) == STATUS_OK) vendor_wait(queue);
    vendor_release(memory);
}

static void host_code_that_touches_device_memory_is_killed_with_a_message(void **state) {
    (void)state;
    char text[256];
    float *memory = floats(16);
    assert_int_equal(end_of_child(read_it, memory, text), SIGABRT);
    assert_non_null(strstr(text, "host code touched device memory"));
    assert_non_null(strstr(text, "byte 12 of allocation"));
    assert_int_equal(end_of_child(write_it, memory, text), SIGABRT);
    assert_int_equal(end_of_child(release_and_write_it, memory, text), SIGABRT);
    assert_non_null(strstr(text, "released"));
    assert_ok(launch_fill(queue, memory, 16, 0.0f));
    assert_ok(vendor_wait(queue)); /* the range is closed again after work */
    assert_int_equal(end_of_child(read_it, memory, text), SIGABRT);
    vendor_release(memory);
}

static void kernels_that_leave_their_memory_are_found(void **state) {
    (void)state;
    char text[256];
    float *memory = floats(1000); /* a page has 1,024 floats */
    assert_int_equal(end_of_child(run_behind_its_end, memory, text), SIGABRT);
    assert_non_null(strstr(text, "kernel fill touched"));
    assert_int_equal(end_of_child(write_one_behind, memory, text), SIGABRT);
    assert_non_null(strstr(text, "written behind the end"));
    vendor_release(memory);
}

static void fresh_memory_is_poisoned(void **state) {
    (void)state;
    float *memory = floats(COUNT);
    assert_ok(vendor_copy_out(queue, pinned, memory, COUNT * sizeof(float)));
    assert_ok(vendor_wait(queue));
    for (int i = 0; i < COUNT; i++)
        assert_true(isnan(pinned[i]));
    vendor_release(memory);
}

static void a_device_has_only_so_much_memory(void **state) {
    (void)state;
    setenv("GPU_DOUBLE_MEMORY", "1048576", 1);
    void *memory = NULL, *more = NULL;
    size_t left = 0;
    assert_ok(vendor_allocate(1000000, &memory));
    assert_ok(vendor_memory_free(&left));
    assert_int_equal(left, 48576);
    assert_fails(vendor_allocate(48577, &more), STATUS_MEMORY, "48577 bytes");
    vendor_release(memory);
    assert_ok(vendor_allocate(48577, &more)); /* having no memory breaks nothing */
    vendor_release(more);
    unsetenv("GPU_DOUBLE_MEMORY");
}

static void leaks_are_counted(void **state) {
    (void)state;
    VendorDevice device;
    void *memory;
    VendorEvent *event;
    assert_ok(vendor_open(1, &device));
    assert_ok(vendor_allocate(64, &memory));
    assert_ok(vendor_event_create(&event));
    vendor_close();
    assert_int_equal(double_leaks(), 2);
    vendor_release(memory);
    vendor_event_destroy(event);
}

/* ---- queues */

static void nothing_runs_before_it_is_waited_for(void **state) {
    (void)state;
    float *memory = floats(16), seen[16];
    VendorEvent *event;
    bool done = false;
    assert_ok(vendor_event_create(&event));
    assert_ok(vendor_event_done(event, &done)); /* never recorded */
    assert_true(done);
    assert_ok(launch_fill(queue, memory, 16, 5.0f));
    assert_ok(vendor_record(queue, event));
    assert_ok(vendor_wait(other));
    double_peek(seen, memory, sizeof seen);
    assert_true(isnan(seen[3]));
    assert_ok(vendor_event_done(event, &done));
    assert_true(done);
    double_peek(seen, memory, sizeof seen);
    assert_true(seen[3] == 8.0f);
    vendor_event_destroy(event);
    vendor_release(memory);
}

static void a_missing_wait_between_queues_shows_as_poison(void **state) {
    (void)state;
    float *memory = floats(16), *copy = floats(16);
    VendorEvent *event;
    assert_ok(vendor_event_create(&event));
    for (int ordered = 0; ordered < 2; ordered++) {
        assert_ok(launch_fill(queue, memory, 16, 1.0f));
        assert_ok(vendor_record(queue, event));
        if (ordered) assert_ok(vendor_queue_wait(other, event));
        assert_ok(vendor_copy(other, copy, memory, 64));
        assert_ok(vendor_copy_out(other, pinned, copy, 64));
        assert_ok(vendor_wait(other));
        if (ordered)
            assert_true(pinned[2] == 3.0f);
        else
            assert_true(isnan(pinned[2]));
    }
    vendor_event_destroy(event);
    vendor_release(memory);
    vendor_release(copy);
}

static void pinned_memory_reused_too_early_shows(void **state) {
    (void)state;
    float *memory = floats(16), seen[16];
    pinned[0] = 1.0f;
    assert_ok(vendor_copy_in(queue, memory, pinned, 64));
    pinned[0] = 2.0f;
    assert_ok(vendor_wait(queue));
    double_peek(seen, memory, sizeof seen);
    assert_true(seen[0] == 2.0f);
    assert_ok(vendor_zero(queue, memory, 64));
    assert_ok(vendor_wait(queue));
    double_peek(seen, memory, sizeof seen);
    assert_true(seen[0] == 0.0f);
    vendor_release(memory);
}

static void copies_demand_pinned_and_device_memory(void **state) {
    (void)state;
    float *memory = floats(16), on_stack[16] = {0};
    assert_fails(vendor_copy_in(queue, memory, on_stack, 64), STATUS_DEVICE,
                 "pinned memory");
    assert_fails(vendor_zero(queue, memory, 64), STATUS_DEVICE,
                 "pinned memory"); /* sticky */
    vendor_release(memory);
}

static void pages_that_were_there_can_be_pinned(void **state) {
    (void)state;
    float *memory = floats(16);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    float *host =
        mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ok(vendor_pin(host, page));
    host[1] = 7.0f;
    assert_ok(vendor_copy_in(queue, memory, host, 64));
    assert_ok(vendor_copy_out(queue, host + 16, memory, 64));
    assert_ok(vendor_wait(queue));
    assert_true(host[17] == 7.0f);
    assert_ok(vendor_copy_in(queue, memory, host, 64));
    vendor_unpin(host);
    assert_fails(vendor_wait(queue), STATUS_DEVICE, "released before the copy ran");
    munmap(host, page);
    vendor_release(memory);
}

/* ---- kernels */

static void kernels_meet_at_barriers_and_shuffles(void **state) {
    (void)state;
    float *x = floats(2048), *sums = floats(8);
    assert_ok(launch_fill(queue, x, 2048, 0.0f));
    assert_ok(launch_block_sum(queue, sums, x, 8));
    assert_ok(vendor_copy_out(queue, pinned, sums, 32));
    assert_ok(vendor_wait(queue));
    for (int b = 0; b < 8; b++) /* exact in float */
        assert_true(pinned[b] == 256.0f * (256.0f * (float)b) + 255.0f * 128.0f);
    double *y;
    assert_ok(vendor_allocate(32 * sizeof(double), (void **)&y));
    for (int i = 0; i < 32; i++)
        ((double *)(void *)pinned)[i] = 10.0 + i;
    assert_ok(vendor_copy_in(queue, y, pinned, 32 * sizeof(double)));
    assert_ok(launch_shift_down(queue, y, 3));
    assert_ok(vendor_copy_out(queue, pinned, y, 32 * sizeof(double)));
    assert_ok(vendor_wait(queue));
    for (int i = 0; i < 32; i++)
        assert_true(((double *)(void *)pinned)[i] == (i < 29 ? 13.0 : 10.0) + i);
    vendor_release(y);
    vendor_release(x);
    vendor_release(sums);
}

/* reverse's result for a seed, of 100 threads */
static void reversed(bool barrier, const char *seed, float out[100]) {
    float *y = floats(100);
    setenv("GPU_DOUBLE_SEED", seed, 1);
    assert_ok(launch_fill(queue, y, 100, 0.0f));
    assert_ok(launch_reverse(queue, y, 100, barrier));
    assert_ok(vendor_copy_out(queue, pinned, y, 400));
    assert_ok(vendor_wait(queue));
    memcpy(out, pinned, 400);
    vendor_release(y);
}

static void a_race_shows_as_a_result_that_changes_with_the_seed(void **state) {
    (void)state;
    float one[100], two[100];
    reversed(true, "1", one);
    for (int i = 0; i < 100; i++)
        assert_true(one[i] == (float)(99 - i));
    reversed(true, "2", two);
    assert_memory_equal(one, two, sizeof one);
    reversed(false, "1", one);
    reversed(false, "2", two);
    assert_memory_not_equal(one, two, sizeof one);
}

static void shared_memory_is_poisoned(void **state) {
    (void)state;
    float *y = floats(32);
    assert_ok(launch_read_uninitialised(queue, y));
    assert_ok(vendor_copy_out(queue, pinned, y, 128));
    assert_ok(vendor_wait(queue));
    for (int i = 0; i < 32; i++)
        assert_true(isnan(pinned[i]));
    vendor_release(y);
}

static void each_thread_of_each_block_runs_once(void **state) {
    (void)state;
    static const int64_t grids[][3] = {{1, 1, 1}, {7, 3, 33}, {2, 5, 1024}, {64, 1, 40}};
    for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
        int64_t count = grids[g][0] * grids[g][1] * grids[g][2];
        int *y, *seen = malloc((size_t)count * sizeof(int));
        assert_ok(vendor_allocate((size_t)count * sizeof(int), (void **)&y));
        assert_ok(vendor_zero(queue, y, (size_t)count * sizeof(int)));
        assert_ok(launch_everywhere(queue, y, grids[g][0], grids[g][1], grids[g][2]));
        assert_ok(vendor_wait(queue));
        double_peek(seen, y, (size_t)count * sizeof(int));
        for (int64_t i = 0; i < count; i++)
            assert_int_equal(seen[i], 1);
        free(seen);
        vendor_release(y);
    }
}

static void grids_that_a_gpu_refuses_are_refused(void **state) {
    (void)state;
    static const int64_t grids[][3] = {{0, 1, 32}, {1, 1, 0}, {1, 1, 1025}, {1, 65536, 1}};
    for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
        assert_fails(launch_everywhere(queue, NULL, grids[g][0], grids[g][1], grids[g][2]),
                     STATUS_DEVICE, "everywhere: a grid of");
        close_device(NULL); /* a refused launch is the end of a device */
        assert_int_equal(open_device(NULL), 0);
    }
}

static void broken_kernels_are_found_by_the_next_wait(void **state) {
    (void)state;
    static const char *const texts[] = {"different barriers", "lane 5, which has exited",
                                        "waits at a barrier instead",
                                        "not a multiple of 16"};
    for (int which = DIVERGENT_BARRIER; which <= MISALIGNED; which++) {
        float *y = floats(64);
        assert_ok(launch_broken(queue, y, (BrokenKernel)which));
        assert_fails(vendor_wait(queue), STATUS_DEVICE, texts[which]);
        assert_fails(vendor_wait(other), STATUS_DEVICE, texts[which]);
        vendor_release(y);
        close_device(NULL);
        assert_int_equal(open_device(NULL), 0);
    }
}

static void bf16_rounds_to_nearest_even_and_keeps_nan(void **state) {
    (void)state;
    assert_int_equal(bf16_round(1.0f), 0x3f80);
    assert_int_equal(bf16_round(1.00390625f), 0x3f80);    /* 1 + 2^-8: a tie, to even */
    assert_int_equal(bf16_round(1.01171875f), 0x3f82);    /* 1 + 3·2^-8: a tie, to even */
    assert_int_equal(bf16_round(-3.4028235e38f), 0xff80); /* beyond the largest */
    uint32_t bits = 0x7f800001u; /* a NaN whose upper half is infinity's */
    float nan_value;
    memcpy(&nan_value, &bits, sizeof bits);
    assert_true((bf16_round(nan_value) & 0x7fff) > 0x7f80);
}

/* ---- injection */

static void an_injected_failure_fires_once_and_breaks_the_device(void **state) {
    (void)state;
    float *memory = floats(16);
    setenv("GPU_DOUBLE_FAIL", "vendor_zero:2;rank:7,vendor_zero:1", 1);
    double_reset();
    assert_ok(vendor_zero(queue, memory, 64));
    assert_fails(vendor_zero(queue, memory, 64), STATUS_DEVICE, "an injected failure");
    assert_int_equal(double_fired(), 1);
    assert_int_equal(double_calls("vendor_zero"), 2);
    assert_fails(vendor_wait(queue), STATUS_DEVICE, "vendor_zero: an injected failure");
    vendor_release(memory);
}

static void an_injected_lack_of_memory_breaks_nothing(void **state) {
    (void)state;
    void *memory;
    setenv("GPU_DOUBLE_FAIL", "vendor_allocate:1", 1);
    double_reset();
    assert_fails(vendor_allocate(16, &memory), STATUS_MEMORY, "injected");
    assert_null(memory);
    assert_ok(vendor_wait(queue));
}

static void a_late_failure_shows_at_the_wait(void **state) {
    (void)state;
    float *memory = floats(16);
    setenv("GPU_DOUBLE_FAIL_LATE", "launch:1", 1);
    double_reset();
    assert_ok(launch_fill(queue, memory, 16, 0.0f));
    assert_ok(vendor_wait(other));
    assert_fails(vendor_wait(queue), STATUS_DEVICE, "launch: an injected late failure");
    vendor_release(memory);
}

int main(void) {
#define DEVICE_TEST(f) cmocka_unit_test_setup_teardown(f, open_device, close_device)
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(host_code_that_touches_device_memory_is_killed_with_a_message),
        DEVICE_TEST(kernels_that_leave_their_memory_are_found),
        DEVICE_TEST(fresh_memory_is_poisoned),
        DEVICE_TEST(a_device_has_only_so_much_memory),
        cmocka_unit_test(leaks_are_counted),
        DEVICE_TEST(nothing_runs_before_it_is_waited_for),
        DEVICE_TEST(a_missing_wait_between_queues_shows_as_poison),
        DEVICE_TEST(pinned_memory_reused_too_early_shows),
        DEVICE_TEST(copies_demand_pinned_and_device_memory),
        DEVICE_TEST(pages_that_were_there_can_be_pinned),
        DEVICE_TEST(kernels_meet_at_barriers_and_shuffles),
        DEVICE_TEST(a_race_shows_as_a_result_that_changes_with_the_seed),
        DEVICE_TEST(shared_memory_is_poisoned),
        DEVICE_TEST(each_thread_of_each_block_runs_once),
        DEVICE_TEST(grids_that_a_gpu_refuses_are_refused),
        DEVICE_TEST(broken_kernels_are_found_by_the_next_wait),
        DEVICE_TEST(bf16_rounds_to_nearest_even_and_keeps_nan),
        DEVICE_TEST(an_injected_failure_fires_once_and_breaks_the_device),
        DEVICE_TEST(an_injected_lack_of_memory_breaks_nothing),
        DEVICE_TEST(a_late_failure_shows_at_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
