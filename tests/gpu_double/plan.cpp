/* Plans: which product or convolution, by which of the double's two ways. "double-1" sums in float,
 * "double-2" in double, so that a plan that was recorded and one that was not give different bits. A
 * run scribbles over all of its workspace. */
#include "tests/gpu_double/engine.h"
#include "tests/gpu_double/launch.h"

#include <stdlib.h>
#include <string.h>

struct VendorPlan {
    bool is_gemm;
    VendorGemm gemm;
    VendorConvolution convolution;
    VendorType type, output; /* of a and b; of out */
    bool tf32, bias;
    int64_t out_count, a_count, b_count;
    std::string text;
    size_t workspace;
};

static size_t bytes_of(int64_t count, VendorType type) {
    return (size_t)count * (type == VENDOR_BF16 ? sizeof(Bf16) : sizeof(float));
}

static Status choose(VendorPlan *plan, const char *function, const char *recorded) {
    const char *first = getenv("GPU_DOUBLE_PLAN");
    if (first == nullptr) first = "double-1";
    plan->text = recorded == nullptr || recorded[0] == '\0' ? first : recorded;
    if (plan->text != "double-1" && plan->text != "double-2")
        return FAIL(STATUS_UNSUPPORTED,
                    "continue the run with the libraries that it began with",
                    "%s: there is no plan \"%s\" (device %d, the double)", function,
                    plan->text.c_str(), engine.device);
    return STATUS_OK;
}

static Status refuse(const char *function) {
    return FAIL(STATUS_UNSUPPORTED, "set device: cpu",
                "%s: no plan for this description (device %d, the double)", function,
                engine.device);
}

static Status keep(VendorPlan plan, VendorPlan **out) {
    *out = new VendorPlan(std::move(plan));
    engine.plans.insert(*out);
    return STATUS_OK;
}

Status vendor_plan_gemm(const VendorGemm *gemm, const char *recorded, VendorPlan **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, 0));
    VendorPlan plan = {};
    plan.is_gemm = true;
    plan.gemm = *gemm;
    plan.type = gemm->type, plan.output = gemm->out;
    plan.tf32 = gemm->tf32, plan.bias = gemm->bias;
    plan.out_count = gemm->rows * gemm->columns;
    plan.a_count = gemm->rows * gemm->inner;
    plan.b_count = gemm->inner * gemm->columns;
    if (gemm->rows < 1 || gemm->columns < 1 || gemm->inner < 1 ||
        (gemm->out != VENDOR_F32 && gemm->out != gemm->type))
        return refuse(__func__);
    plan.workspace = gemm->inner % 2 == 0 ? 512 : 0; /* both happen */
    TRY(choose(&plan, __func__, recorded));
    return keep(std::move(plan), out);
}

Status vendor_plan_convolution(const VendorConvolution *convolution, const char *recorded,
                               VendorPlan **out) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    *out = nullptr;
    TRY(engine_enter(__func__, 0));
    const VendorConvolution &p = *convolution;
    if (p.n < 1 || p.c < 1 || p.m < 1 || p.r < 1 || p.s < 1 || p.stride < 1 ||
        p.padding < 0 || p.groups < 1 || p.c % p.groups != 0 || p.m % p.groups != 0 ||
        p.h + 2 * p.padding < p.r || p.w + 2 * p.padding < p.s)
        return refuse(__func__);
    int64_t rows = (p.h + 2 * p.padding - p.r) / p.stride + 1;
    int64_t columns = (p.w + 2 * p.padding - p.s) / p.stride + 1;
    int64_t x = p.n * p.h * p.w * p.c, y = p.n * rows * columns * p.m;
    int64_t w = p.m * p.r * p.s * (p.c / p.groups);
    VendorPlan plan = {};
    plan.convolution = p;
    plan.type = plan.output = p.type;
    plan.tf32 = p.tf32;
    switch (p.direction) {
    case VENDOR_FORWARD:
        plan.out_count = y, plan.a_count = x, plan.b_count = w;
        break;
    case VENDOR_BACKWARD_DATA:
        plan.out_count = x, plan.a_count = y, plan.b_count = w;
        plan.workspace = 1024;
        break;
    case VENDOR_BACKWARD_WEIGHTS:
        plan.out_count = w, plan.a_count = x, plan.b_count = y;
        plan.workspace = bytes_of(w, VENDOR_F32);
        if (p.groups == 1) plan.output = VENDOR_F32; /* both happen */
        break;
    }
    TRY(choose(&plan, __func__, recorded));
    return keep(std::move(plan), out);
}

static void check_plan(const char *function, const VendorPlan *plan) {
    if (engine.plans.count(const_cast<VendorPlan *>(plan)) == 0)
        engine_misuse(function, "this is no plan");
}

void vendor_plan_destroy(VendorPlan *plan) {
    if (plan == nullptr) return;
    std::unique_lock<std::mutex> lock(engine.mutex);
    check_plan(__func__, plan);
    engine.plans.erase(plan);
    delete plan;
}

const char *vendor_plan_text(const VendorPlan *plan) {
    return plan->text.c_str();
}

size_t vendor_plan_workspace(const VendorPlan *plan) {
    return plan->workspace;
}

VendorType vendor_plan_output(const VendorPlan *plan) {
    return plan->output;
}

/* ---- running */

static std::vector<float> floats_of(const void *data, int64_t count, VendorType type,
                                    bool tf32) {
    std::vector<float> out((size_t)count);
    if (type == VENDOR_BF16) {
        const Bf16 *values = static_cast<const Bf16 *>(data);
        for (size_t i = 0; i < out.size(); i++)
            out[i] = bf16_to_float(values[i]);
        return out;
    }
    memcpy(out.data(), data, out.size() * sizeof(float));
    if (!tf32) return out;
    for (float &value : out) { /* ten bits of mantissa, to nearest */
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u) continue;
        bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
        memcpy(&value, &bits, sizeof bits);
    }
    return out;
}

static void run(const VendorPlan &plan, void *out, const void *a, const void *b,
                const float *bias, void *workspace) {
    std::vector<float> left = floats_of(a, plan.a_count, plan.type, plan.tf32);
    std::vector<float> right = floats_of(b, plan.b_count, plan.type, plan.tf32);
    std::vector<float> result((size_t)plan.out_count);
    bool wide = plan.text == "double-2";
    if (plan.workspace > 0) memset(workspace, 0xFF, plan.workspace);
    if (plan.is_gemm)
        arithmetic_gemm(plan.gemm, result.data(), left.data(), right.data(), wide);
    else
        arithmetic_convolution(plan.convolution, result.data(), left.data(), right.data(),
                               wide);
    if (plan.bias)
        for (size_t i = 0; i < result.size(); i++)
            result[i] += bias[i % (size_t)plan.gemm.columns];
    if (plan.output == VENDOR_F32) {
        memcpy(out, result.data(), result.size() * sizeof(float));
    } else {
        Bf16 *values = static_cast<Bf16 *>(out);
        for (size_t i = 0; i < result.size(); i++)
            values[i] = bf16_from_float(result[i]);
    }
}

static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    return first < second + b_bytes && second < first + a_bytes;
}

Status vendor_plan_run(VendorQueue *queue, const VendorPlan *plan, void *out, const void *a,
                       const void *b, const float *bias, void *workspace) {
    std::unique_lock<std::mutex> lock(engine.mutex);
    if (engine.queues.count(queue) == 0) engine_misuse(__func__, "this is no queue");
    check_plan(__func__, plan);
    TRY(engine_enter(__func__, ENTER_IN_CAPTURE));
    size_t out_bytes = bytes_of(plan->out_count, plan->output);
    size_t a_bytes = bytes_of(plan->a_count, plan->type);
    size_t b_bytes = bytes_of(plan->b_count, plan->type);
    TRY(memory_check_device(__func__, out, out_bytes));
    TRY(memory_check_device(__func__, a, a_bytes));
    TRY(memory_check_device(__func__, b, b_bytes));
    if (plan->workspace > 0) TRY(memory_check_device(__func__, workspace, plan->workspace));
    if (plan->bias)
        TRY(memory_check_device(__func__, bias,
                                (size_t)plan->gemm.columns * sizeof(float)));
    else if (bias != nullptr)
        return engine_fail(__func__, "a bias that the plan has not");
    for (const void *pointer : {static_cast<const void *>(out), a, b})
        if ((uintptr_t)pointer % 16 != 0)
            return engine_fail(__func__, "%p is not aligned to 16 bytes", pointer);
    if (overlap(out, out_bytes, a, a_bytes) || overlap(out, out_bytes, b, b_bytes) ||
        (plan->workspace > 0 && (overlap(workspace, plan->workspace, out, out_bytes) ||
                                 overlap(workspace, plan->workspace, a, a_bytes) ||
                                 overlap(workspace, plan->workspace, b, b_bytes))))
        return engine_fail(__func__, "the result or the workspace overlaps something else");
    Work work;
    VendorPlan copy = *plan;
    work.run = [=] {
        memory_open();
        memory_running("of a plan");
        run(copy, out, a, b, bias, workspace);
        memory_running(nullptr);
        return Progress::DONE;
    };
    return queue_append(queue, std::move(work));
}
