/* Opening the CUDA device: which one a rank takes, what the device kind says, and what is told where
 * there is none. */
#include "tests/gpu_double/device.h"

static int forget_variables(void **state) {
    (void)state;
    double_set("GPU_DOUBLE_DEVICES", NULL);
    double_set("GPU_DOUBLE_FAIL", NULL);
    return 0;
}

static void without_a_device_opening_says_what_to_do(void **state) {
    (void)state;
    double_set("GPU_DOUBLE_DEVICES", "0");
    BackendOptions options = {.workers = 1};
    Backend *backend = (Backend *)&options;
    assert_fails(rekindle_cuda_open(&options, &backend), STATUS_UNSUPPORTED,
                 "no CUDA device");
    assert_fails(rekindle_cuda_open(&options, &backend), STATUS_UNSUPPORTED, "device: cpu");
    assert_null(backend);
}

static void ranks_of_a_host_take_its_devices_in_turn(void **state) {
    (void)state;
    static const struct {
        const char *devices;
        int host_rank, device;
    } cases[] = {{"4", 0, 0}, {"4", 3, 3}, {"4", 6, 2}, {"1", 5, 0}};
    char identities[4][40];
    for (int i = 0; i < 4; i++) {
        double_set("GPU_DOUBLE_DEVICES", "4");
        BackendOptions options = {.workers = 1, .host_rank = i};
        Backend *backend;
        assert_ok(rekindle_cuda_open(&options, &backend));
        strcpy(identities[i], cuda_of(backend)->device.identity);
        device_close(backend);
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double_set("GPU_DOUBLE_DEVICES", cases[i].devices);
        BackendOptions options = {.workers = 1, .host_rank = cases[i].host_rank};
        Backend *backend;
        assert_ok(rekindle_cuda_open(&options, &backend));
        assert_string_equal(cuda_of(backend)->device.identity, identities[cases[i].device]);
        device_close(backend);
    }
}

static void the_device_kind_names_what_bits_depend_on(void **state) {
    (void)state;
    static const char *const words[] = {"fp32", "tf32", "bf16"};
    for (int precision = PRECISION_FP32; precision <= PRECISION_BF16; precision++) {
        Backend *backend = device_open((Precision)precision);
        const VendorDevice *device = &cuda_of(backend)->device;
        char start[160];
        snprintf(start, sizeof start, "cuda double-of-CUDA sm_%d%d %s kernels-",
                 device->compute_major, device->compute_minor, device->libraries);
        assert_int_equal(strncmp(backend->kind, start, strlen(start)), 0);
        size_t length = strlen(backend->kind);
        assert_true(length > 4);
        assert_string_equal(&backend->kind[length - 4], words[precision]);
        assert_string_equal(backend->ops->name, "cuda");
        assert_int_equal(backend->workers, 1);
        assert_false(backend->ops->host_memory);
        device_close(backend);
    }
}

static void no_operation_of_the_table_is_missing(void **state) {
    (void)state;
    Backend *backend = device_open(PRECISION_FP32);
    void *const *entries = (void *const *)&backend->ops->allocate;
    size_t bytes = sizeof(BackendOps) - offsetof(BackendOps, allocate);
    for (size_t i = 0; i < bytes / sizeof *entries; i++)
        if (entries[i] == NULL) fail_msg("entry %zu after allocate is NULL", i);
    device_close(backend);
}

static void a_failed_opening_leaves_nothing_and_can_be_tried_again(void **state) {
    (void)state;
    static const char *const functions[] = {"vendor_count", "vendor_open",
                                            "vendor_queue_create", "vendor_event_create",
                                            "vendor_allocate_pinned"};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        for (int call = 1;; call++) {
            char rule[64];
            snprintf(rule, sizeof rule, "%s:%d", functions[i], call);
            double_set("GPU_DOUBLE_FAIL", rule);
            BackendOptions options = {.workers = 1};
            Backend *backend;
            Status status = rekindle_cuda_open(&options, &backend);
            if (double_fired() == 0) {
                assert_ok(status);
                device_close(backend);
                assert_true(call > 1);
                break;
            }
            assert_null(backend);
            assert_true(status == STATUS_DEVICE || status == STATUS_MEMORY);
            assert_non_null(strstr(status_failure()->what, functions[i]));
            assert_int_equal(double_leaks(), 0);
        }
    double_set("GPU_DOUBLE_FAIL", NULL);
    device_close(device_open(PRECISION_FP32));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(without_a_device_opening_says_what_to_do,
                                  forget_variables),
        cmocka_unit_test_teardown(ranks_of_a_host_take_its_devices_in_turn,
                                  forget_variables),
        cmocka_unit_test(the_device_kind_names_what_bits_depend_on),
        cmocka_unit_test(no_operation_of_the_table_is_missing),
        cmocka_unit_test_teardown(a_failed_opening_leaves_nothing_and_can_be_tried_again,
                                  forget_variables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
