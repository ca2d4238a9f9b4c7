/* Failures at the seam: each call of each of its functions that a small piece of training makes fails once;
 * what comes up names the function, nothing is left behind, and nothing hangs. */
#include "tests/gpu_double/device.h"

#include <sys/mman.h>

typedef struct {
    Backend *backend;
    Tensor x, w, b, y, dx, dw, db, features, v, logits, dv;
} Step;

enum { PAGE = 4096 };

/* Forward, backward and an update of one convolution and one linear layer. */
static Status step_body(void *context) {
    Step *s = context;
    Backend *backend = s->backend;
    const BackendOps *ops = backend->ops;
    const Conv2d conv = {1, 1, 1};
    TRY(ops->conv2d_forward(backend, 0, &conv, &s->y, &s->x, &s->w, &s->b));
    TRY(ops->reorder(backend, 0, &s->features, &s->y));
    TRY(ops->linear_forward(backend, 0, &s->logits, &s->features, &s->v, NULL));
    TRY(ops->linear_backward(backend, 0, NULL, &s->dv, NULL, &s->logits, &s->features,
                             &s->v));
    TRY(ops->conv2d_backward(backend, 0, &conv, &s->dx, &s->dw, &s->db, &s->y, &s->x,
                             &s->w));
    TRY(ops->accumulate(backend, 0, s->w.data, s->dw.data, 64));
    return ops->parameters_changed(backend, s->w.data, 64);
}

enum { TENSORS = 11 };

static Status allocate_all(Step *s) {
    Tensor *tensors[TENSORS] = {&s->x,  &s->w,  &s->b,        &s->y, &s->dx,    &s->dw,
                                &s->db, &s->dv, &s->features, &s->v, &s->logits};
    const Tensor shapes[TENSORS] = {
        tensor_4d(NULL, 2, 3, 4, 4), tensor_4d(NULL, 4, 3, 3, 3),
        tensor_1d(NULL, 4),          tensor_4d(NULL, 2, 4, 4, 4),
        tensor_4d(NULL, 2, 3, 4, 4), tensor_4d(NULL, 4, 3, 3, 3),
        tensor_1d(NULL, 4),          tensor_2d(NULL, 5, 64),
        tensor_2d(NULL, 2, 64),      tensor_2d(NULL, 5, 64),
        tensor_2d(NULL, 2, 5)};
    for (int i = 0; i < TENSORS; i++) {
        *tensors[i] = shapes[i];
        if (i == 3 || i == 4 || i == 8) s->backend->ops->layout(s->backend, tensors[i]);
        TRY(s->backend->ops->allocate(s->backend, 4096, (void **)&tensors[i]->data));
        TRY(s->backend->ops->zero(s->backend, 0, tensors[i]->data, 4096));
    }
    return STATUS_OK;
}

static void release_all(Step *s) {
    Tensor *tensors[TENSORS] = {&s->x,  &s->w,  &s->b,        &s->y, &s->dx,    &s->dw,
                                &s->db, &s->dv, &s->features, &s->v, &s->logits};
    for (int i = 0; i < TENSORS; i++)
        s->backend->ops->release(s->backend, tensors[i]->data);
}

static Status train(Step *s, void *snapshot) {
    Backend *backend = s->backend;
    const BackendOps *ops = backend->ops;
    float images[96] = {1.0f}, logits[10];
    for (int step = 0; step < 4; step++) {
        TRY(ops->copy_in(backend, s->x.data, images, sizeof images));
        TRY(ops->repeat(backend, 5, step_body, s));
        TRY(ops->fetch(backend, snapshot, s->w.data, PAGE));
        TRY(ops->fetch_fence(backend, 0));
    }
    TRY(ops->fetch_finish(backend));
    TRY(ops->copy_out(backend, logits, s->logits.data, sizeof logits));
    return ops->finish(backend, 0);
}

/* Opens, trains a little, closes. */
static Status whole_story(void) {
    BackendOptions options = {.precision = PRECISION_BF16, .patience_s = 20.0};
    Step step = {.backend = NULL};
    TRY(rekindle_cuda_open(&options, &step.backend));
    const BackendOps *ops = step.backend->ops;
    void *snapshot =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(snapshot != MAP_FAILED);
    Status status = ops->pin(step.backend, snapshot, PAGE);
    bool pinned = status == STATUS_OK;
    if (status == STATUS_OK) status = allocate_all(&step);
    if (status == STATUS_OK) status = train(&step, snapshot);
    Failure failure = *status_failure();
    release_all(&step);
    if (pinned) ops->unpin(step.backend, snapshot);
    ops->close(step.backend);
    munmap(snapshot, PAGE);
    return status == STATUS_OK ? status : status_adopt(&failure);
}

static const char *const functions[] = {
    "vendor_count",
    "vendor_open",
    "vendor_allocate",
    "vendor_allocate_pinned",
    "vendor_pin",
    "vendor_queue_create",
    "vendor_event_create",
    "vendor_copy_in",
    "vendor_copy_out",
    "vendor_zero",
    "vendor_record",
    "vendor_queue_wait",
    "vendor_event_done",
    "vendor_plan_gemm",
    "vendor_plan_convolution",
    "vendor_plan_run",
    "vendor_graph_launch",
    "vendor_capture_begin",
    "vendor_capture_end",
    "launch",
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* More of one function than this teaches nothing new. */
enum { CALLS = 60 };

static void every_failing_call_is_told_and_leaves_nothing(void **state) {
    (void)state;
    for (int f = 0; f < FUNCTIONS; f++)
        for (int call = 1; call <= CALLS; call++) {
            char rule[64];
            snprintf(rule, sizeof rule, "%s:%d", functions[f], call);
            double_set("GPU_DOUBLE_FAIL", rule);
            Status status = whole_story();
            int fired = double_fired();
            double_set("GPU_DOUBLE_FAIL", NULL);
            assert_int_equal(double_leaks(), 0);
            if (fired == 0) {
                assert_ok(status);
                if (call == 1) fail_msg("the story never calls %s", functions[f]);
                break;
            }
            if (status == STATUS_OK) { /* only what may fail while closing */
                if (strcmp(functions[f], "vendor_record") != 0 &&
                    strcmp(functions[f], "vendor_event_done") != 0)
                    fail_msg("%s was not told", rule);
                continue;
            }
            if (status != STATUS_DEVICE && status != STATUS_MEMORY)
                fail_msg("%s gives %d: %s", rule, status, status_failure()->what);
            if (status == STATUS_DEVICE &&
                strstr(status_failure()->what, functions[f]) == NULL)
                fail_msg("%s says: %s", rule, status_failure()->what);
            assert_true(status_failure()->fix[0] != '\0');
        }
}

static void every_late_failure_is_told_and_leaves_nothing(void **state) {
    (void)state;
    static const char *const later[] = {"vendor_copy_in", "vendor_copy_out",
                                        "vendor_zero",    "vendor_plan_run",
                                        "launch",         "vendor_graph_launch"};
    for (size_t f = 0; f < sizeof later / sizeof *later; f++)
        for (int call = 1; call <= CALLS; call++) {
            char rule[64];
            snprintf(rule, sizeof rule, "%s:%d", later[f], call);
            double_set("GPU_DOUBLE_FAIL_LATE", rule);
            Status status = whole_story();
            int fired = double_fired();
            double_set("GPU_DOUBLE_FAIL_LATE", NULL);
            assert_int_equal(double_leaks(), 0);
            if (fired == 0) {
                assert_ok(status);
                assert_true(call > 1);
                break;
            }
            if (status != STATUS_DEVICE)
                fail_msg("%s gives %d: %s", rule, status, status_failure()->what);
            if (strstr(status_failure()->what, later[f]) == NULL)
                fail_msg("%s says: %s", rule, status_failure()->what);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failing_call_is_told_and_leaves_nothing),
        cmocka_unit_test(every_late_failure_is_told_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
