/* The double's products and convolutions against the reference device's. */
#include "kernels/cuda/vendor.h"
#include "kernels/reference/reference.h"
#include "tests/gpu_double/double.h"
#include "tests/gpu_double/test_double.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 16 };
static VendorQueue *queue;
static float *pinned, *a, *b, *out, *bias;
static void *workspace;
static float host_a[MOST], host_b[MOST], host_out[MOST], expected[MOST], host_bias[64];

static int open_device(void **state) {
    (void)state;
    VendorDevice device;
    double_reset();
    Status status = vendor_open(0, &device);
    if (status == STATUS_OK) status = vendor_queue_create(false, &queue);
    if (status == STATUS_OK)
        status = vendor_allocate_pinned(MOST * sizeof(float), (void **)&pinned);
    void **const places[] = {(void **)&a, (void **)&b, (void **)&out, (void **)&bias,
                             &workspace};
    for (int i = 0; i < 5; i++)
        if (status == STATUS_OK) status = vendor_allocate(MOST * sizeof(float), places[i]);
    return status != STATUS_OK;
}

static int close_device(void **state) {
    (void)state;
    vendor_release(a);
    vendor_release(b);
    vendor_release(out);
    vendor_release(bias);
    vendor_release(workspace);
    vendor_release_pinned(pinned);
    vendor_queue_destroy(queue);
    vendor_close();
    return double_leaks();
}

static float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

static void put(float *device, const float *values, int64_t count, VendorType type) {
    for (int64_t i = 0; i < count; i++)
        if (type == VENDOR_BF16)
            ((uint16_t *)(void *)pinned)[i] = bf16_round(values[i]);
        else
            pinned[i] = values[i];
    assert_ok(vendor_copy_in(queue, device, pinned, MOST * sizeof(float)));
    assert_ok(vendor_wait(queue));
}

static void take(float *values, const float *device, int64_t count, VendorType type) {
    assert_ok(vendor_copy_out(queue, pinned, device, MOST * sizeof(float)));
    assert_ok(vendor_wait(queue));
    for (int64_t i = 0; i < count; i++)
        values[i] =
            type == VENDOR_BF16 ? from_bf16(((uint16_t *)(void *)pinned)[i]) : pinned[i];
}

/* Values that bf16 holds exactly, so that only sums and results round. */
static void fill(float *values, int64_t count, unsigned seed) {
    for (int64_t i = 0; i < count; i++)
        values[i] = from_bf16(bf16_round((float)(rand_r(&seed) % 2001 - 1000) / 1000.0f));
}

static void assert_close(const float *got, int64_t count, float error) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - expected[i]) <= error * (1.0f + fabsf(expected[i]))))
            fail_msg("element %d: %g instead of %g", (int)i, (double)got[i],
                     (double)expected[i]);
}

static void products_are_the_references(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1}, {5, 17, 33}, {64, 40, 128}, {33, 64, 7}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int kind = 0; kind < 32; kind++) {
            int64_t rows = shapes[s][0], columns = shapes[s][1], inner = shapes[s][2];
            VendorGemm gemm = {rows,
                               columns,
                               inner,
                               kind & 1,
                               (kind & 2) != 0,
                               (kind & 4) != 0,
                               kind & 8 ? VENDOR_BF16 : VENDOR_F32,
                               VENDOR_F32,
                               false};
            if ((kind & 16) != 0) gemm.out = gemm.type;
            fill(host_a, rows * inner, 1);
            fill(host_b, inner * columns, 2);
            fill(host_bias, columns, 3);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) {
                    double sum = gemm.bias ? (double)host_bias[j] : 0.0;
                    for (int64_t k = 0; k < inner; k++)
                        sum +=
                            (double)
                                host_a[gemm.transpose_a ? k * rows + i : i * inner + k] *
                            (double)
                                host_b[gemm.transpose_b ? j * inner + k : k * columns + j];
                    expected[i * columns + j] = (float)sum;
                }
            VendorPlan *plan;
            assert_ok(vendor_plan_gemm(&gemm, NULL, &plan));
            put(a, host_a, rows * inner, gemm.type);
            put(b, host_b, inner * columns, gemm.type);
            put(bias, host_bias, columns, VENDOR_F32);
            assert_ok(vendor_plan_run(queue, plan, out, a, b, gemm.bias ? bias : NULL,
                                      workspace));
            take(host_out, out, rows * columns, gemm.out);
            assert_close(host_out, rows * columns,
                         gemm.out == VENDOR_BF16 ? 0.004f : 1e-5f);
            vendor_plan_destroy(plan);
        }
}

/* (n, c, h, w) ↔ (n, h, w, c) */
static void to_last(float *last, const float *first, int64_t n, int64_t c, int64_t hw) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t p = 0; p < hw; p++)
                last[(i * hw + p) * c + k] = first[(i * c + k) * hw + p];
}

static void check_convolution(VendorConvolution p) {
    static float x[MOST], w[MOST], y[MOST];
    int64_t rows = (p.h + 2 * p.padding - p.r) / p.stride + 1;
    int64_t columns = (p.w + 2 * p.padding - p.s) / p.stride + 1;
    int64_t depth = p.c / p.groups;
    Conv2d conv = {p.stride, p.padding, p.groups};
    Tensor tx = tensor_4d(x, p.n, p.c, p.h, p.w), tw = tensor_4d(w, p.m, depth, p.r, p.s);
    Tensor ty = tensor_4d(y, p.n, p.m, rows, columns), result;
    fill(x, tensor_elements(&tx), 1);
    fill(w, tensor_elements(&tw), 2);
    fill(y, tensor_elements(&ty), 3);
    static float plain[MOST];
    Tensor *inputs[2];
    switch (p.direction) {
    case VENDOR_FORWARD:
        result = ty, inputs[0] = &tx, inputs[1] = &tw;
        result.data = plain;
        assert_ok(reference_conv2d_forward(NULL, 0, &conv, &result, &tx, &tw, NULL));
        break;
    case VENDOR_BACKWARD_DATA:
        result = tx, inputs[0] = &ty, inputs[1] = &tw;
        result.data = plain;
        assert_ok(
            reference_conv2d_backward(NULL, 0, &conv, &result, NULL, NULL, &ty, &tx, &tw));
        break;
    default:
        result = tw, inputs[0] = &tx, inputs[1] = &ty;
        result.data = plain;
        assert_ok(
            reference_conv2d_backward(NULL, 0, &conv, NULL, &result, NULL, &ty, &tx, &tw));
    }
    float *const places[] = {a, b};
    for (int i = 0; i < 2; i++) {
        const Tensor *t = inputs[i];
        to_last(host_a, t->data, t->shape[0], t->shape[1], t->shape[2] * t->shape[3]);
        put(places[i], host_a, tensor_elements(t), p.type);
    }
    int64_t count = tensor_elements(&result);
    to_last(expected, plain, result.shape[0], result.shape[1],
            result.shape[2] * result.shape[3]);
    VendorPlan *plan;
    assert_ok(vendor_plan_convolution(&p, NULL, &plan));
    assert_true(vendor_plan_workspace(plan) <= MOST * sizeof(float));
    assert_ok(vendor_plan_run(queue, plan, out, a, b, NULL, workspace));
    take(host_out, out, count, vendor_plan_output(plan));
    assert_close(host_out, count, vendor_plan_output(plan) == VENDOR_BF16 ? 0.004f : 1e-5f);
    vendor_plan_destroy(plan);
}

static void convolutions_are_the_references(void **state) {
    (void)state;
    static const VendorConvolution shapes[] = {
        {0, 2, 3, 9, 7, 8, 3, 3, 1, 1, 1, VENDOR_F32, false},
        {0, 1, 16, 8, 8, 32, 3, 3, 2, 1, 1, VENDOR_F32, false},
        {0, 2, 8, 5, 6, 4, 1, 1, 2, 0, 1, VENDOR_F32, false},
        {0, 1, 12, 6, 6, 8, 3, 2, 1, 2, 4, VENDOR_F32, false},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int kind = 0; kind < 6; kind++) {
            VendorConvolution p = shapes[s];
            p.direction = (VendorDirection)(kind / 2);
            p.type = kind % 2 ? VENDOR_BF16 : VENDOR_F32;
            check_convolution(p);
        }
}

static void run_one_product(const char *recorded, bool tf32, float *result) {
    VendorGemm gemm = {1, 1, 4096, false, false, false, VENDOR_F32, VENDOR_F32, tf32};
    VendorPlan *plan;
    unsigned seed = 4;
    for (int i = 0; i < 4096; i++) {
        host_a[i] = (float)rand_r(&seed) / (float)RAND_MAX;
        host_b[i] = (float)rand_r(&seed) / (float)RAND_MAX;
    }
    put(a, host_a, 4096, VENDOR_F32);
    put(b, host_b, 4096, VENDOR_F32);
    assert_ok(vendor_plan_gemm(&gemm, recorded, &plan));
    if (recorded != NULL) assert_string_equal(vendor_plan_text(plan), recorded);
    assert_ok(vendor_plan_run(queue, plan, out, a, b, NULL, workspace));
    take(result, out, 1, VENDOR_F32);
    vendor_plan_destroy(plan);
}

static void a_recorded_plan_is_used_and_its_bits_are_its_own(void **state) {
    (void)state;
    float first, again, recorded, chosen, tf32;
    run_one_product(NULL, false, &first);
    run_one_product("double-1", false, &again);
    run_one_product("double-2", false, &recorded);
    setenv("GPU_DOUBLE_PLAN", "double-2", 1);
    run_one_product(NULL, false, &chosen);
    run_one_product("double-1", false, &again);
    unsetenv("GPU_DOUBLE_PLAN");
    run_one_product(NULL, true, &tf32);
    assert_true(first == again && recorded == chosen && first != recorded && tf32 != first);
    assert_true(fabsf(first - recorded) < 1.0f && fabsf(first - tf32) < 1.0f);
    VendorGemm gemm = {1, 1, 1, false, false, false, VENDOR_F32, VENDOR_F32, false};
    VendorPlan *plan;
    assert_fails(vendor_plan_gemm(&gemm, "cublaslt-7", &plan), STATUS_UNSUPPORTED,
                 "cublaslt-7");
    assert_null(plan);
    gemm.out = VENDOR_BF16;
    assert_fails(vendor_plan_gemm(&gemm, NULL, &plan), STATUS_UNSUPPORTED, "no plan");
}

static void a_run_scribbles_over_its_workspace(void **state) {
    (void)state;
    VendorGemm gemm = {1, 1, 2, false, false, false, VENDOR_F32, VENDOR_F32, false};
    VendorPlan *plan;
    assert_ok(vendor_plan_gemm(&gemm, NULL, &plan));
    assert_true(vendor_plan_workspace(plan) > 0);
    assert_ok(vendor_zero(queue, workspace, 4096));
    assert_ok(vendor_zero(queue, a, 64));
    assert_ok(vendor_zero(queue, b, 64));
    assert_ok(vendor_plan_run(queue, plan, out, a, b, NULL, workspace));
    assert_ok(vendor_wait(queue));
    float seen[1];
    double_peek(seen, workspace, sizeof seen);
    assert_true(isnan(seen[0]));
    assert_fails(vendor_plan_run(queue, plan, out, a, b, NULL, NULL), STATUS_DEVICE,
                 "not inside of device memory");
    vendor_plan_destroy(plan);
}

static void a_run_refuses_memory_that_overlaps_or_is_not_aligned(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        VendorGemm gemm = {2, 2, 3, false, false, false, VENDOR_F32, VENDOR_F32, false};
        VendorPlan *plan;
        assert_ok(vendor_plan_gemm(&gemm, NULL, &plan));
        assert_fails(
            vendor_plan_run(queue, plan, kind ? a : out, kind ? a : a + 1, b, NULL, NULL),
            STATUS_DEVICE, kind ? "overlaps" : "not aligned");
        vendor_plan_destroy(plan);
        close_device(NULL);
        assert_int_equal(open_device(NULL), 0);
    }
}

int main(void) {
#define DEVICE_TEST(f) cmocka_unit_test_setup_teardown(f, open_device, close_device)
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(products_are_the_references),
        DEVICE_TEST(convolutions_are_the_references),
        DEVICE_TEST(a_recorded_plan_is_used_and_its_bits_are_its_own),
        DEVICE_TEST(a_run_scribbles_over_its_workspace),
        DEVICE_TEST(a_run_refuses_memory_that_overlaps_or_is_not_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
