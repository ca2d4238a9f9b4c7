/* The real libraries plan all convolutions of our networks for GPUs that are only described: exactly
 * repeatable, within the workspace, the same plan each time and the same from its text. */
#include "tests/gpu_plan/networks.h"
#include "tests/support/test.h"

#include "kernels/cuda/real/convolution.h"
#include "kernels/cuda/real/gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the driver tells of a device, as cuDNN writes it. */
#define DESCRIBED(name, version, processors, shared, cache, clock)                        \
    "{\"cudaDeviceId\":0,\"deviceVer\":" version ",\"driverVer\":13000,"                  \
    "\"totalGlobalMem\":80000000000,\"maxGridSize\":[2147483647,65535,65535],"            \
    "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"                             \
    "\"multiProcessorCount\":" processors ",\"warpSize\":32,"                             \
    "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":" shared ","      \
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":" \
    "32,"                                                                                 \
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,"             \
    "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":" clock ","             \
    "\"memClockRateKHz\":2000000,\"l2CacheSize\":" cache ",\"deviceName\":\"" name "\"}"

static const char *const h200 =
    DESCRIBED("NVIDIA H200", "900", "132", "232448", "62914560", "1980000");
static const char *const a100 =
    DESCRIBED("NVIDIA A100", "800", "108", "166912", "41943040", "1410000");

static Convolutions networks;

static int read_networks(void **state) {
    (void)state;
    static const struct {
        const char *arch;
        int channels, size;
    } ours[] = {{"lenet", 1, 28},
                {"resnet20", 1, 28},
                {"resnet20", 3, 32},
                {"resnet18", 1, 28},
                {"resnet18", 3, 32}};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (!convolutions_add(&networks, ours[i].arch, ours[i].channels, ours[i].size, 16))
            return -1;
    return convolutions_add_resnet50(&networks, 32) ? 0 : -1;
}

/* One of many, for what is asked of any. */
static const VendorConvolution example = {.direction = VENDOR_BACKWARD_WEIGHTS,
                                          .n = 16,
                                          .c = 64,
                                          .h = 28,
                                          .w = 28,
                                          .m = 64,
                                          .r = 3,
                                          .s = 3,
                                          .stride = 1,
                                          .padding = 1,
                                          .groups = 1,
                                          .type = VENDOR_F32};

/* ---- what is true of every plan */

/* Notes of the engine that a text names, as bits. */
static unsigned notes_of(const ConvolutionTarget *target,
                         const VendorConvolution *convolution, const char *text) {
    ConvolutionChoice choice;
    Descriptors all = {.count = 0};
    cudnnBackendDescriptor_t graph, engine;
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    unsigned bits = 0;
    assert_true(convolution_choice_read(&choice, text));
    assert_int_equal(convolution_graph(target, convolution, choice.output, &all, &graph),
                     0);
    assert_int_equal(convolution_engine(target, graph, choice.engine, &all, &engine), 0);
    assert_int_equal(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                              CUDNN_TYPE_NUMERICAL_NOTE,
                                              CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count,
                                              notes),
                     0);
    for (int64_t i = 0; i < count; i++)
        bits |= 1u << notes[i];
    descriptors_destroy(&all);
    return bits;
}

#define HAS(notes, note) ((((notes) >> CUDNN_NUMERICAL_NOTE_##note) & 1u) != 0)

static VendorPlan *plan(const ConvolutionTarget *target,
                        const VendorConvolution *convolution, const char *recorded) {
    VendorPlan *made = NULL;
    assert_ok(convolution_plan(target, convolution, recorded, &made));
    assert_true(vendor_plan_workspace(made) <= VENDOR_WORKSPACE_MAX);
    return made;
}

static void assert_same(VendorPlan *one, VendorPlan *other) {
    assert_string_equal(vendor_plan_text(one), vendor_plan_text(other));
    assert_int_equal(vendor_plan_workspace(one), vendor_plan_workspace(other));
    assert_int_equal(vendor_plan_output(one), vendor_plan_output(other));
    vendor_plan_destroy(other);
}

/* Plans one convolution three times; returns its engine's notes. */
static unsigned check(const ConvolutionTarget *target,
                      const VendorConvolution *convolution) {
    VendorPlan *first = plan(target, convolution, NULL);
    const char *text = vendor_plan_text(first);
    assert_true(strlen(text) > 0 && strlen(text) < VENDOR_PLAN_TEXT);
    assert_int_equal(strspn(text, "cudnnf32bf16:=,-0123456789"), strlen(text));
    assert_same(first, plan(target, convolution, ""));
    assert_same(first, plan(target, convolution, text));
    if (convolution->direction != VENDOR_BACKWARD_WEIGHTS)
        assert_int_equal(vendor_plan_output(first), convolution->type);
    unsigned notes = notes_of(target, convolution, text);
    assert_false(HAS(notes, NONDETERMINISTIC));
    assert_false(HAS(notes, REDUCED_PRECISION_REDUCTION));
    vendor_plan_destroy(first);
    return notes;
}

/* All networks, all directions. → how many plans use tensor cores */
static int check_networks(const char *device, VendorType type, bool tf32) {
    ConvolutionTarget target;
    int on_tensor_cores = 0;
    assert_ok(convolution_target_describe(device, &target));
    for (int i = 0; i < networks.count; i++)
        for (int direction = VENDOR_FORWARD; direction <= VENDOR_BACKWARD_WEIGHTS;
             direction++) {
            VendorConvolution one = networks.items[i];
            one.direction = (VendorDirection)direction;
            one.type = type;
            one.tf32 = tf32;
            unsigned notes = check(&target, &one);
            if (HAS(notes, TENSOR_CORE)) on_tensor_cores++;
            if (type == VENDOR_F32 && !tf32) {
                assert_false(HAS(notes, TENSOR_CORE));
                assert_false(HAS(notes, DOWN_CONVERT_INPUTS));
            }
        }
    convolution_target_close(&target);
    return on_tensor_cores;
}

static void the_networks_have_the_convolutions_that_are_meant(void **state) {
    (void)state;
    bool stem7 = false, one_channel = false, three_channels = false, halving = false;
    for (int i = 0; i < networks.count; i++) {
        const VendorConvolution *v = &networks.items[i];
        stem7 |= v->r == 7 && v->stride == 2 && v->c == 3;
        one_channel |= v->c == 1;
        three_channels |= v->c == 3;
        halving |= v->r == 3 && v->stride == 2;
    }
    assert_true(stem7 && one_channel && three_channels && halving);
    assert_true(networks.count >= 40 && networks.count < CONVOLUTIONS_MAX);
}

static void fp32_plans_on_hopper_are_full_fp32(void **state) {
    (void)state;
    assert_int_equal(check_networks(h200, VENDOR_F32, false), 0);
}

static void bf16_plans_on_hopper_use_tensor_cores(void **state) {
    (void)state;
    assert_true(check_networks(h200, VENDOR_BF16, false) > 2 * networks.count);
}

static void tf32_plans_on_hopper_use_tensor_cores(void **state) {
    (void)state;
    assert_true(check_networks(h200, VENDOR_F32, true) > 2 * networks.count);
}

static void fp32_plans_on_ampere_are_full_fp32(void **state) {
    (void)state;
    assert_int_equal(check_networks(a100, VENDOR_F32, false), 0);
}

static void bf16_plans_on_ampere_use_tensor_cores(void **state) {
    (void)state;
    assert_true(check_networks(a100, VENDOR_BF16, false) > 2 * networks.count);
}

static void grouped_convolutions_plan_in_all_directions(void **state) {
    (void)state;
    ConvolutionTarget target;
    assert_ok(convolution_target_describe(h200, &target));
    for (int groups = 4; groups <= 64; groups *= 4) /* 64: one channel each */
        for (int direction = VENDOR_FORWARD; direction <= VENDOR_BACKWARD_WEIGHTS;
             direction++)
            for (int type = VENDOR_F32; type <= VENDOR_BF16; type++) {
                VendorConvolution one = example;
                one.direction = (VendorDirection)direction;
                one.type = (VendorType)type;
                one.groups = groups;
                check(&target, &one);
            }
    convolution_target_close(&target);
}

/* ---- what is refused */

static void a_text_that_names_no_plan_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {
        "cudnn",
        "cudnn:",
        "cudnn:1",
        "cudnn:1:",
        "cudnn:1::",
        "cudnn:1::f64",
        "cudnn:1::bf16", /* of float inputs */
        "cudnn:01::f32", /* not as it was written */
        "cudnn:1::f32 ",
        "cudnn:1:2=6,,3=0:f32",
        "cudnn:1:2=6,3:f32",
        "cudnn:1:2=6 ,3=0:f32",
        "cudnn:1:99=6:f32",     /* no such knob */
        "cudnn:1:2=987654:f32", /* no such value */
        "cudnn:99999::f32",     /* no such engine */
        "cudnn:-1::f32",
        "cudnn:99999999999999999999::f32",
        "cublaslt:1:1:1:1:1:1:1:1:1",
        "nonsense",
    };
    ConvolutionTarget target;
    assert_ok(convolution_target_describe(h200, &target));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        VendorPlan *made = NULL;
        if (convolution_plan(&target, &example, texts[i], &made) != STATUS_UNSUPPORTED)
            fail_msg("\"%s\" was not refused", texts[i]);
        assert_non_null(strstr(status_failure()->what, texts[i]));
        assert_null(made);
    }
    convolution_target_close(&target);
}

/* Engine 20 adds with atomics: the library's own first choice for weights' gradients in full fp32. */
static void a_text_that_names_an_unrepeatable_plan_is_refused(void **state) {
    (void)state;
    ConvolutionTarget target;
    VendorPlan *made = NULL;
    assert_ok(convolution_target_describe(h200, &target));
    assert_true(HAS(notes_of(&target, &example, "cudnn:20::f32"), NONDETERMINISTIC));
    assert_fails(convolution_plan(&target, &example, "cudnn:20::f32", &made),
                 STATUS_UNSUPPORTED, "cannot be made here");
    convolution_target_close(&target);
}

static void a_plan_of_tensor_cores_is_refused_without_tf32(void **state) {
    (void)state;
    ConvolutionTarget target;
    VendorConvolution rounded = example;
    VendorPlan *first, *made = NULL;
    rounded.tf32 = true;
    assert_ok(convolution_target_describe(h200, &target));
    assert_ok(convolution_plan(&target, &rounded, NULL, &first));
    assert_true(HAS(notes_of(&target, &rounded, vendor_plan_text(first)), TENSOR_CORE));
    assert_fails(convolution_plan(&target, &example, vendor_plan_text(first), &made),
                 STATUS_UNSUPPORTED, vendor_plan_text(first));
    vendor_plan_destroy(first);
    convolution_target_close(&target);
}

static void an_impossible_convolution_is_refused_with_its_shape(void **state) {
    (void)state;
    ConvolutionTarget target;
    VendorConvolution impossible = example;
    VendorPlan *made = NULL;
    impossible.h = 2;
    impossible.r = 7;
    assert_ok(convolution_target_describe(h200, &target));
    assert_fails(convolution_plan(&target, &impossible, NULL, &made), STATUS_UNSUPPORTED,
                 "(16, 64, 2, 28) with (64, 64, 7, 3)");
    assert_null(made);
    convolution_target_close(&target);
}

static void a_device_that_is_not_described_is_refused(void **state) {
    (void)state;
    ConvolutionTarget target;
    assert_fails(convolution_target_describe("{}", &target), STATUS_DEVICE, "cudnn");
    assert_fails(convolution_target_describe("no device", &target), STATUS_DEVICE, "cudnn");
}

/* ---- products: the library plans on a GPU only; their texts can be read anywhere */

static void a_products_text_is_read_as_it_was_written(void **state) {
    (void)state;
    static const char *const texts[] = {"cublaslt",
                                        "cublaslt:1:2:3:4:5:6:7:8",
                                        "cublaslt:1:2:3:4:5:6:7:8:9:10",
                                        "cublaslt:1:2:3:4:5:6:7:8: 9",
                                        "cublaslt:1:2:3:4:5:6:7:8:09",
                                        "cublaslt:1:2:3:4:5:6:7:8:9 ",
                                        "cublaslt:1:2:3:4:5:6:7:8:x",
                                        "cudnn:1::f32",
                                        ""};
    GemmChoice choice = {{66, 20, 36, 1, 0, 1, 3, 0, 2}}, again;
    char text[VENDOR_PLAN_TEXT];
    gemm_choice_write(&choice, text);
    assert_string_equal(text, "cublaslt:66:20:36:1:0:1:3:0:2");
    assert_true(gemm_choice_read(&again, text));
    assert_memory_equal(&choice, &again, sizeof choice);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (gemm_choice_read(&again, texts[i])) fail_msg("\"%s\" was read", texts[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_networks_have_the_convolutions_that_are_meant),
        cmocka_unit_test(fp32_plans_on_hopper_are_full_fp32),
        cmocka_unit_test(bf16_plans_on_hopper_use_tensor_cores),
        cmocka_unit_test(tf32_plans_on_hopper_use_tensor_cores),
        cmocka_unit_test(fp32_plans_on_ampere_are_full_fp32),
        cmocka_unit_test(bf16_plans_on_ampere_use_tensor_cores),
        cmocka_unit_test(grouped_convolutions_plan_in_all_directions),
        cmocka_unit_test(a_text_that_names_no_plan_is_refused),
        cmocka_unit_test(a_text_that_names_an_unrepeatable_plan_is_refused),
        cmocka_unit_test(a_plan_of_tensor_cores_is_refused_without_tf32),
        cmocka_unit_test(an_impossible_convolution_is_refused_with_its_shape),
        cmocka_unit_test(a_device_that_is_not_described_is_refused),
        cmocka_unit_test(a_products_text_is_read_as_it_was_written),
    };
    return cmocka_run_group_tests(tests, read_networks, NULL);
}
