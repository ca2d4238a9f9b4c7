/* The seam's real side on a machine without a GPU: it says so, with the call and the vendor's text, and
 * what was not made can be released. Skipped where there is a GPU. */
#include "tests/support/test.h"

#include "kernels/cuda/vendor.h"

#include <string.h>

static int device_count;

static int count_devices(void **state) {
    (void)state;
    return vendor_count(&device_count) == STATUS_OK ? 0 : -1;
}

#define SKIP_WITH_A_GPU() \
    if (device_count > 0) skip()

static void no_driver_is_no_error_but_no_device(void **state) {
    (void)state;
    SKIP_WITH_A_GPU();
    int count = 7;
    assert_int_equal(vendor_count(&count), STATUS_OK);
    assert_int_equal(count, 0);
}

static void opening_names_the_call_and_the_reason(void **state) {
    (void)state;
    SKIP_WITH_A_GPU();
    VendorDevice device;
    assert_fails(vendor_open(0, &device), STATUS_DEVICE, "cudaInitDevice on no device: ");
    assert_non_null(strstr(status_failure()->what, "cudaError"));
    assert_string_equal(device.name, "");
}

static void what_needs_a_device_fails_and_gives_nothing(void **state) {
    (void)state;
    SKIP_WITH_A_GPU();
    void *memory = &device_count;
    VendorQueue *queue = (VendorQueue *)memory;
    VendorEvent *event = (VendorEvent *)memory;
    VendorPlan *plan = (VendorPlan *)memory;
    VendorGemm gemm = {.rows = 8, .columns = 8, .inner = 8};
    size_t free_bytes;
    assert_fails(vendor_allocate(64, &memory), STATUS_DEVICE, "cudaMalloc");
    assert_null(memory);
    assert_fails(vendor_allocate_pinned(64, &memory), STATUS_DEVICE, "cudaHostAlloc");
    assert_null(memory);
    assert_fails(vendor_queue_create(false, &queue), STATUS_DEVICE, "cudaStream");
    assert_null(queue);
    assert_fails(vendor_event_create(&event), STATUS_DEVICE, "cudaEventCreateWithFlags");
    assert_null(event);
    assert_fails(vendor_memory_free(&free_bytes), STATUS_DEVICE, "cudaMemGetInfo");
    assert_fails(vendor_plan_gemm(&gemm, NULL, &plan), STATUS_DEVICE, "cublasLtCreate");
    assert_null(plan);
    assert_fails(vendor_plan_gemm(&gemm, "nonsense", &plan), STATUS_UNSUPPORTED,
                 "nonsense");
    assert_null(plan);
    VendorConvolution convolution = {.direction = VENDOR_FORWARD,
                                     .n = 1,
                                     .c = 8,
                                     .h = 8,
                                     .w = 8,
                                     .m = 8,
                                     .r = 1,
                                     .s = 1,
                                     .stride = 1,
                                     .groups = 1};
    plan = (VendorPlan *)&device_count;
    assert_fails(vendor_plan_convolution(&convolution, NULL, &plan), STATUS_DEVICE,
                 "cudnnCreate");
    assert_null(plan);
}

static void nothing_can_be_released(void **state) {
    (void)state;
    vendor_release(NULL);
    vendor_release_pinned(NULL);
    vendor_queue_destroy(NULL);
    vendor_event_destroy(NULL);
    vendor_graph_destroy(NULL);
    vendor_plan_destroy(NULL);
    vendor_comm_close(NULL);
    vendor_close();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_driver_is_no_error_but_no_device),
        cmocka_unit_test(opening_names_the_call_and_the_reason),
        cmocka_unit_test(what_needs_a_device_fails_and_gives_nothing),
        cmocka_unit_test(nothing_can_be_released),
    };
    return cmocka_run_group_tests(tests, count_devices, NULL);
}
