/* Plans: recorded as text, repeated by a later launch, refused when they cannot be, and hostile text
 * refused before anything is planned. */
#include "tests/gpu_double/device.h"

static int forget_variables(void **state) {
    (void)state;
    double_set("GPU_DOUBLE_PLAN", NULL);
    double_set("GPU_DOUBLE_FAIL", NULL);
    return 0;
}

/* Opens the device with what an earlier launch on that kind of device told. */
static Status open_with_of(const char *plans, const char *kind, Backend **out) {
    BackendOptions options = {
        .workers = 1, .plans = plans, .plans_kind = kind, .patience_s = 20.0};
    return rekindle_cuda_open(&options, out);
}

static Status open_with(const char *plans, Backend **out) {
    static char kind[sizeof((Backend *)0)->kind];
    if (kind[0] == '\0') {
        TRY(open_with_of(NULL, NULL, out));
        memcpy(kind, (*out)->kind, sizeof kind);
        device_close(*out);
    }
    return open_with_of(plans, kind, out);
}

enum { N = 4, K = 300, M = 7 };

/* Some work that needs plans of all kinds; the linear layer's result, whose bits tell the plan. */
static Status multiply(Backend *backend, float y[N * M]) {
    const BackendOps *ops = backend->ops;
    Tensor x = ops_activation_of(backend, tensor_2d(NULL, N, K), ops_random(N * K, 1));
    Tensor w = ops_canonical_of(backend, tensor_2d(NULL, M, K), ops_random(M * K, 2));
    Tensor out = ops_activation(backend, tensor_2d(NULL, N, M));
    TRY(ops->linear_forward(backend, 0, &out, &x, &w, NULL));
    return ops->copy_out(backend, y, out.data, N * M * sizeof(float));
}

static void convolve(Backend *backend) {
    const BackendOps *ops = backend->ops;
    const Conv2d conv = {2, 1, 1};
    Tensor shape = tensor_4d(NULL, 2, 3, 5, 5), filters = tensor_4d(NULL, 4, 3, 3, 3);
    Tensor x = ops_activation_of(backend, shape, ops_random(150, 1));
    Tensor w = ops_canonical_of(backend, filters, ops_random(108, 2));
    Tensor y = ops_activation(backend, tensor_4d(NULL, 2, 4, 3, 3));
    Tensor dx = ops_activation(backend, shape), dw = ops_canonical(backend, filters);
    assert_ok(ops->conv2d_forward(backend, 0, &conv, &y, &x, &w, NULL));
    assert_ok(ops->conv2d_backward(backend, 0, &conv, &dx, &dw, NULL, &y, &x, &w));
    assert_ok(ops->finish(backend, 0));
}

static void plans_are_told_as_sorted_lines(void **state) {
    (void)state;
    Backend *backend;
    float y[N * M];
    assert_ok(open_with(NULL, &backend));
    assert_string_equal(backend->ops->plans(backend), "");
    assert_ok(multiply(backend, y));
    convolve(backend);
    convolve(backend); /* again: no second line */
    assert_string_equal(backend->ops->plans(backend),
                        "conv dw n2 c3 h5 w5 m4 r3 s3 stride2 pad1 g1 f32 = double-1\n"
                        "conv dx n2 c3 h5 w5 m4 r3 s3 stride2 pad1 g1 f32 = double-1\n"
                        "conv fwd n2 c3 h5 w5 m4 r3 s3 stride2 pad1 g1 f32 = double-1\n"
                        "gemm m4 n7 k300 nt f32 f32 = double-1\n");
    device_close(backend);
}

static void a_plan_is_made_once_for_a_description(void **state) {
    (void)state;
    Backend *backend;
    assert_ok(open_with("", &backend));
    double_reset();
    for (int i = 0; i < 5; i++)
        convolve(backend);
    assert_int_equal(double_calls("vendor_plan_convolution"), 3);
    device_close(backend);
}

static void a_recorded_plan_is_used_again_where_another_would_be_chosen(void **state) {
    (void)state;
    Backend *backend;
    float first[N * M], chosen[N * M], repeated[N * M];
    assert_ok(open_with(NULL, &backend));
    assert_ok(multiply(backend, first));
    char *recorded = strdup(backend->ops->plans(backend));
    assert_non_null(recorded);
    device_close(backend);

    double_set("GPU_DOUBLE_PLAN", "double-2"); /* as after an update of a library */
    assert_ok(open_with(NULL, &backend));
    assert_ok(multiply(backend, chosen));
    device_close(backend);
    assert_memory_not_equal(first, chosen,
                            sizeof first); /* so the choice shows in the bits */

    assert_ok(open_with(recorded, &backend));
    assert_ok(multiply(backend, repeated));
    assert_string_equal(backend->ops->plans(backend), recorded);
    device_close(backend);
    assert_memory_equal(first, repeated, sizeof first);
    free(recorded);
}

static void plans_of_another_kind_of_device_are_ignored(void **state) {
    (void)state;
    const char *const kinds[] = {"cuda of another make", "", NULL};
    for (int i = 0; i < 3; i++) {
        Backend *backend;
        assert_ok(
            open_with_of("gemm m4 n7 k300 nt f32 f32 = engine-77", kinds[i], &backend));
        assert_string_equal(backend->ops->plans(backend), "");
        device_close(backend);
    }
}

static void recorded_plans_that_a_launch_does_not_need_are_told_on(void **state) {
    (void)state;
    Backend *backend;
    const char *recorded = "conv fwd n9 = double-1\ngemm m4 n7 k300 nt f32 f32 = double-2\n"
                           "zebra = double-1\n";
    float y[N * M];
    assert_ok(open_with(recorded, &backend));
    assert_ok(multiply(backend, y));
    assert_string_equal(backend->ops->plans(backend), recorded);
    device_close(backend);
}

static void a_recorded_plan_that_cannot_be_made_is_refused_by_name(void **state) {
    (void)state;
    Backend *backend;
    float y[N * M];
    assert_ok(open_with("gemm m4 n7 k300 nt f32 f32 = engine-77", &backend));
    assert_fails(multiply(backend, y), STATUS_UNSUPPORTED, "engine-77");
    assert_non_null(strstr(status_failure()->what, "gemm m4 n7 k300"));
    assert_non_null(strstr(status_failure()->what, "other bits"));
    assert_non_null(strstr(status_failure()->fix, "libraries that wrote the checkpoint"));
    device_close(backend);
}

static void hostile_plans_are_refused_when_the_device_opens(void **state) {
    (void)state;
    char long_key[400], long_text[400];
    memset(long_key, 'k', sizeof long_key);
    strcpy(long_key + 300, " = a");
    memset(long_text, 't', sizeof long_text - 1);
    memcpy(long_text, "k = ", 4);
    long_text[sizeof long_text - 1] = '\0';
    const char *const texts[] = {
        "no equals sign",
        "key = ",
        " = text",
        "key = two words",
        "key = a = b",
        "k\x01y = text",
        "key = te\x7fxt",
        "key = t\xc3\xa9xt",
        "\n",
        "a = x\n\nb = y\n",
        "b = x\na = y\n", /* falling */
        "a = x\na = y\n", /* twice */
        "key=text",
        long_key,
        long_text,
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Backend *backend;
        Status status = open_with(texts[i], &backend);
        if (status != STATUS_CORRUPT) fail_msg("\"%s\" gives %d", texts[i], status);
        assert_non_null(strstr(status_failure()->what, "recorded plans"));
        assert_null(backend);
        assert_int_equal(double_leaks(), 0);
    }
}

static void more_plans_than_any_run_makes_are_refused(void **state) {
    (void)state;
    enum { LINES = 8193, LINE = 16 };
    char *text = malloc(LINES * LINE + 1);
    assert_non_null(text);
    for (int i = 0; i < LINES; i++)
        snprintf(text + i * LINE, LINE + 1, "key%05u = plan\n", (unsigned)i % 100000u);
    Backend *backend;
    assert_fails(open_with(text, &backend), STATUS_CORRUPT, "8192");
    text[(LINES - 1) * LINE] = '\0';
    assert_ok(open_with(text, &backend));
    assert_string_equal(backend->ops->plans(backend), text);
    device_close(backend);
    free(text);
}

static void a_description_without_a_plan_says_so(void **state) {
    (void)state;
    Backend *backend;
    float y[N * M];
    assert_ok(open_with(NULL, &backend));
    double_set("GPU_DOUBLE_PLAN", "nothing");
    assert_fails(multiply(backend, y), STATUS_UNSUPPORTED, "vendor_plan_gemm");
    assert_string_equal(backend->ops->plans(backend), "");
    device_close(backend);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_told_as_sorted_lines),
        cmocka_unit_test(a_plan_is_made_once_for_a_description),
        cmocka_unit_test_teardown(
            a_recorded_plan_is_used_again_where_another_would_be_chosen, forget_variables),
        cmocka_unit_test(plans_of_another_kind_of_device_are_ignored),
        cmocka_unit_test(recorded_plans_that_a_launch_does_not_need_are_told_on),
        cmocka_unit_test(a_recorded_plan_that_cannot_be_made_is_refused_by_name),
        cmocka_unit_test(hostile_plans_are_refused_when_the_device_opens),
        cmocka_unit_test(more_plans_than_any_run_makes_are_refused),
        cmocka_unit_test_teardown(a_description_without_a_plan_says_so, forget_variables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
