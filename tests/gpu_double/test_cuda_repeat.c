/* Repetition: the second run of a key is recorded, later ones repeat it without the host; what cannot be
 * recorded is given anew each time with the same result. */
#include "tests/gpu_double/device.h"

static int open_one(void **state) {
    *state = device_open(PRECISION_FP32);
    return 0;
}

static int close_one(void **state) {
    double_set("GPU_DOUBLE_FAIL", NULL);
    device_close(*state);
    return 0;
}

enum { COUNT = 16 };

/* sum += x, as a step would: all of it in device memory. */
typedef struct {
    Backend *backend;
    float *sum, *x;
    int calls;
    int fail_at;  /* this call fails after it has given work; 0: none */
    bool copying; /* gives what cannot be recorded */
} Body;

static Status add_once(void *context) {
    Body *body = context;
    Backend *backend = body->backend;
    body->calls++;
    TRY(backend->ops->accumulate(backend, 0, body->sum, body->x, COUNT));
    if (body->calls == body->fail_at)
        return FAIL(STATUS_NOT_FINITE, NULL, "the body broke");
    float unused[COUNT];
    if (body->copying) TRY(backend->ops->copy_out(backend, unused, body->x, sizeof unused));
    return STATUS_OK;
}

static void put(const Body *body, float *to, float value) {
    float host[COUNT];
    for (int i = 0; i < COUNT; i++)
        host[i] = value;
    assert_ok(body->backend->ops->copy_in(body->backend, to, host, sizeof host));
}

static float sum_of(const Body *body) {
    float host[COUNT];
    assert_ok(body->backend->ops->copy_out(body->backend, host, body->sum, sizeof host));
    for (int i = 1; i < COUNT; i++)
        assert_true(host[i] == host[0]);
    return host[0];
}

static Body body_on(Backend *backend) {
    Body body = {.backend = backend,
                 .sum = ops_memory(backend, COUNT * sizeof(float)),
                 .x = ops_memory(backend, COUNT * sizeof(float))};
    put(&body, body.sum, 0.0f);
    return body;
}

static void repeats_read_what_lies_in_device_memory_now(void **state) {
    Body body = body_on(*state);
    float want = 0.0f;
    for (int run = 1; run <= 6; run++) {
        put(&body, body.x, (float)run);
        assert_ok(body.backend->ops->repeat(body.backend, 7, add_once, &body));
        want += (float)run;
        assert_true(sum_of(&body) == want);
        assert_int_equal(body.calls, run < 2 ? run : 2); /* plain, recorded, then never */
    }
}

static void recordings_of_many_steps_can_be_given_ahead(void **state) {
    Body body = body_on(*state);
    put(&body, body.x, 1.0f);
    for (int run = 0; run < 50; run++)
        assert_ok(body.backend->ops->repeat(body.backend, 7, add_once, &body));
    assert_true(sum_of(&body) == 50.0f);
}

static void key_zero_is_never_recorded(void **state) {
    Body body = body_on(*state);
    put(&body, body.x, 1.0f);
    for (int run = 0; run < 4; run++)
        assert_ok(body.backend->ops->repeat(body.backend, 0, add_once, &body));
    assert_int_equal(body.calls, 4);
    assert_int_equal(double_calls("vendor_capture_begin"), 0);
    assert_true(sum_of(&body) == 4.0f);
}

static void keys_have_recordings_of_their_own(void **state) {
    Body one = body_on(*state), two = body_on(*state);
    put(&one, one.x, 1.0f);
    put(&two, two.x, 10.0f);
    for (int run = 0; run < 5; run++) {
        assert_ok(one.backend->ops->repeat(one.backend, 1, add_once, &one));
        assert_ok(two.backend->ops->repeat(two.backend, 2, add_once, &two));
    }
    assert_true(sum_of(&one) == 5.0f && sum_of(&two) == 50.0f);
    assert_int_equal(one.calls, 2);
    assert_int_equal(two.calls, 2);
}

static void more_keys_than_places_still_count_right(void **state) {
    Body body = body_on(*state);
    put(&body, body.x, 1.0f);
    for (int round = 0; round < 3; round++)
        for (uint64_t key = 1; key <= 40; key++)
            assert_ok(body.backend->ops->repeat(body.backend, key, add_once, &body));
    assert_true(sum_of(&body) == 120.0f);
    for (int run = 0; run < 3; run++) /* used last, so still there or soon recorded again */
        assert_ok(body.backend->ops->repeat(body.backend, 40, add_once, &body));
    int calls = body.calls;
    assert_ok(body.backend->ops->repeat(body.backend, 40, add_once, &body));
    assert_int_equal(body.calls, calls);
    assert_true(sum_of(&body) == 124.0f);
}

static void a_body_that_fails_hands_its_failure_up_and_can_be_run_again(void **state) {
    Body body = body_on(*state);
    put(&body, body.x, 1.0f);
    body.fail_at = 1;
    assert_fails(body.backend->ops->repeat(body.backend, 3, add_once, &body),
                 STATUS_NOT_FINITE, "the body broke");
    for (int run = 0; run < 3; run++)
        assert_ok(body.backend->ops->repeat(body.backend, 3, add_once, &body));
    assert_int_equal(body.calls, 3); /* failed; plain; recorded */
    assert_true(sum_of(&body) == 4.0f);
}

static void a_body_that_fails_while_it_is_recorded_is_run_plain(void **state) {
    Body body = body_on(*state);
    put(&body, body.x, 1.0f);
    body.fail_at = 2;
    for (int run = 1; run <= 4; run++) {
        assert_ok(body.backend->ops->repeat(body.backend, 3, add_once, &body));
        assert_true(sum_of(&body) == (float)run);
    }
    assert_int_equal(body.calls, 5); /* once more for the recording that failed */
}

static Status fail_always_after_the_first(void *context) {
    Body *body = context;
    if (++body->calls > 1)
        return FAIL(STATUS_NOT_FINITE, NULL, "call %d broke", body->calls);
    return STATUS_OK;
}

static void a_failure_recorded_and_plain_is_told_as_the_plain_run_had_it(void **state) {
    Body body = body_on(*state);
    assert_ok(
        body.backend->ops->repeat(body.backend, 3, fail_always_after_the_first, &body));
    assert_fails(
        body.backend->ops->repeat(body.backend, 3, fail_always_after_the_first, &body),
        STATUS_NOT_FINITE, "call 3 broke");
    put(&body, body.x, 2.0f); /* the queue is usable again */
    assert_ok(add_once(&body));
    assert_true(sum_of(&body) == 2.0f);
}

static Status lose_a_peer_in_the_second_call(void *context) {
    Body *body = context;
    return ++body->calls == 2 ? FAIL(STATUS_COMM, "relaunch", "rank 3 is gone") : STATUS_OK;
}

static void after_a_lost_peer_nothing_is_tried_again(void **state) {
    Body body = body_on(*state);
    assert_ok(
        body.backend->ops->repeat(body.backend, 3, lose_a_peer_in_the_second_call, &body));
    assert_fails(
        body.backend->ops->repeat(body.backend, 3, lose_a_peer_in_the_second_call, &body),
        STATUS_COMM, "rank 3 is gone");
    assert_int_equal(body.calls, 2);
}

static void what_cannot_be_recorded_is_given_anew_each_time(void **state) {
    Body body = body_on(*state);
    body.copying = true;
    put(&body, body.x, 1.0f);
    for (int run = 1; run <= 5; run++) {
        assert_ok(body.backend->ops->repeat(body.backend, 3, add_once, &body));
        assert_true(sum_of(&body) == (float)run);
    }
    assert_int_equal(body.calls, 6);
    assert_int_equal(double_calls("vendor_graph_launch"), 0);
}

static void nothing_that_waits_or_allocates_is_let_into_a_recording(void **state) {
    Body body = body_on(*state);
    Backend *backend = body.backend;
    Cuda *cuda = cuda_of(backend);
    void *memory;
    float host[COUNT];
    cuda->recording = true;
    assert_fails(backend->ops->allocate(backend, 64, &memory), STATUS_UNSUPPORTED,
                 "recording");
    assert_fails(backend->ops->copy_in(backend, body.x, host, sizeof host),
                 STATUS_UNSUPPORTED, "recording");
    assert_fails(backend->ops->copy_out(backend, host, body.x, sizeof host),
                 STATUS_UNSUPPORTED, "recording");
    assert_fails(backend->ops->fetch(backend, host, body.x, sizeof host),
                 STATUS_UNSUPPORTED, "recording");
    assert_fails(backend->ops->fetch_fence(backend, 0), STATUS_UNSUPPORTED, "recording");
    assert_fails(backend->ops->finish(backend, 0), STATUS_UNSUPPORTED, "recording");
    assert_fails(cuda_workspace(cuda, cuda->workspace_bytes + 1, &memory),
                 STATUS_UNSUPPORTED, "recording");
    cuda->recording = false;
}

static void released_memory_ends_the_recordings_that_may_name_it(void **state) {
    Backend *backend = *state;
    Body body = body_on(backend);
    put(&body, body.x, 1.0f);
    void *before, *after;
    assert_ok(backend->ops->allocate(backend, 64, &before));
    for (int run = 0; run < 3; run++)
        assert_ok(backend->ops->repeat(backend, 3, add_once, &body));
    assert_int_equal(body.calls, 2);
    assert_ok(backend->ops->allocate(backend, 64, &after));
    backend->ops->release(backend, after); /* younger than the recording */
    assert_ok(backend->ops->repeat(backend, 3, add_once, &body));
    assert_int_equal(body.calls, 2);
    backend->ops->release(backend, before);
    for (int run = 0; run < 4; run++)
        assert_ok(backend->ops->repeat(backend, 3, add_once, &body));
    assert_int_equal(body.calls, 4); /* plain, recorded */
    assert_true(sum_of(&body) == 8.0f);
}

/* ---- weights that a recorded step changes are read anew by the next one */

typedef struct {
    Backend *backend;
    Tensor x, w, y;
    float *change;
} Step;

static Status convolve_and_change(void *context) {
    Step *step = context;
    const BackendOps *ops = step->backend->ops;
    int64_t count = tensor_elements(&step->w);
    TRY(ops->conv2d_forward(step->backend, 0, &(Conv2d){1, 1, 1}, &step->y, &step->x,
                            &step->w, NULL));
    TRY(ops->accumulate(step->backend, 0, step->w.data, step->change, count));
    return ops->parameters_changed(step->backend, step->w.data, count);
}

static void a_recorded_update_renews_the_copies_of_weights(void **state) {
    Backend *backend = *state;
    Tensor x = tensor_4d(NULL, 1, 2, 3, 3), w = tensor_4d(NULL, 8, 2, 3, 3);
    Tensor y = tensor_4d(NULL, 1, 8, 3, 3);
    float *ones = ops_host(144), *host_x = ops_host(18);
    for (int i = 0; i < 144; i++)
        ones[i] = 1.0f;
    host_x[4] = 1.0f; /* the middle of channel 0 */
    Step step = {.backend = backend,
                 .x = ops_activation_of(backend, x, host_x),
                 .w = ops_canonical_of(backend, w, ones),
                 .y = ops_activation(backend, y)};
    Tensor change = ops_canonical_of(backend, w, ones);
    step.change = change.data;
    for (int run = 1; run <= 5; run++) {
        assert_ok(backend->ops->repeat(backend, 9, convolve_and_change, &step));
        const float *got = ops_get(backend, &step.y);
        assert_true(got[4] == (float)run); /* w's value in this run */
    }
    /* a copy that comes later is renewed by the recording, too: it was made anew */
    Tensor w2 = w;
    w2.data = step.w.data;
    w2.shape[0] = 4;
    w2.shape[1] = 4;
    Tensor x2 = ops_activation_of(backend, tensor_4d(NULL, 1, 4, 3, 3), ops_random(36, 1));
    Tensor y2 = ops_activation(backend, tensor_4d(NULL, 1, 4, 3, 3));
    const Conv2d conv = {1, 1, 1};
    assert_ok(backend->ops->conv2d_forward(backend, 0, &conv, &y2, &x2, &w2, NULL));
    float first = ops_get(backend, &y2)[4];
    for (int run = 0; run < 3; run++)
        assert_ok(backend->ops->repeat(backend, 9, convolve_and_change, &step));
    assert_ok(backend->ops->conv2d_forward(backend, 0, &conv, &y2, &x2, &w2, NULL));
    float later = ops_get(backend, &y2)[4]; /* the weights went from 6 to 9 */
    assert_true(fabsf(later - 1.5f * first) <= 1e-4f * fabsf(first));
}

#define ON_A_DEVICE(test) cmocka_unit_test_setup_teardown(test, open_one, close_one)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_A_DEVICE(repeats_read_what_lies_in_device_memory_now),
        ON_A_DEVICE(recordings_of_many_steps_can_be_given_ahead),
        ON_A_DEVICE(key_zero_is_never_recorded),
        ON_A_DEVICE(keys_have_recordings_of_their_own),
        ON_A_DEVICE(more_keys_than_places_still_count_right),
        ON_A_DEVICE(a_body_that_fails_hands_its_failure_up_and_can_be_run_again),
        ON_A_DEVICE(a_body_that_fails_while_it_is_recorded_is_run_plain),
        ON_A_DEVICE(a_failure_recorded_and_plain_is_told_as_the_plain_run_had_it),
        ON_A_DEVICE(after_a_lost_peer_nothing_is_tried_again),
        ON_A_DEVICE(what_cannot_be_recorded_is_given_anew_each_time),
        ON_A_DEVICE(nothing_that_waits_or_allocates_is_let_into_a_recording),
        ON_A_DEVICE(released_memory_ends_the_recordings_that_may_name_it),
        ON_A_DEVICE(a_recorded_update_renews_the_copies_of_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
