/* Matrix products by cuBLASLt: the library's first proposal whose sums have one order, or the one that a
 * checkpoint names.
 *
 * cuBLASLt's matrices are column-major and ours row-major, which is the same memory read as the
 * transpose. So out = op(a)·op(b) is asked for as outᵀ = op(b)ᵀ·op(a)ᵀ: its first factor is our b,
 * its rows are our columns, and a bias for each of our columns is one for each of its rows. */
#include "kernels/cuda/real/gemm.h"
#include "kernels/cuda/real/plan.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    WORKSPACE = 32 << 20, /* what NVIDIA advises for Hopper; enough elsewhere */
    PROPOSALS = 32
};

typedef struct {
    VendorPlan base;
    VendorGemm gemm;
    cublasLtMatmulDescOpaque_t product; /* without the bias' address */
    cublasLtMatrixLayoutOpaque_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
    size_t bias_bytes; /* of the rounded bias, at the workspace's begin */
} GemmPlan;

/* One handle for all: it may be used by several threads at once. */
static struct {
    pthread_mutex_t lock;
    cublasLtHandle_t handle;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Status shared_handle(void) {
    TRY(real_use_device());
    pthread_mutex_lock(&shared.lock);
    cublasStatus_t made =
        shared.handle != NULL ? CUBLAS_STATUS_SUCCESS : cublasLtCreate(&shared.handle);
    pthread_mutex_unlock(&shared.lock);
    return made == CUBLAS_STATUS_SUCCESS ? STATUS_OK
                                         : real_cublas_failed(made, "cublasLtCreate");
}

void real_close_products(void) {
    if (shared.handle != NULL) cublasLtDestroy(shared.handle);
    shared.handle = NULL;
}

/* ---- the product, as the library wants it described */

static cudaDataType_t data_type(VendorType type) {
    return type == VENDOR_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasComputeType_t compute_type(const VendorGemm *gemm) {
    return gemm->type == VENDOR_F32 && gemm->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                  : CUBLAS_COMPUTE_32F;
}

/* A matrix that is stored row-major as (rows × columns). */
static cublasStatus_t layout(cublasLtMatrixLayoutOpaque_t *out, VendorType type,
                             int64_t rows, int64_t columns) {
    return cublasLtMatrixLayoutInit(out, data_type(type), (uint64_t)columns, (uint64_t)rows,
                                    columns);
}

static cublasStatus_t set(cublasLtMatmulDescOpaque_t *product,
                          cublasLtMatmulDescAttributes_t attribute, const void *value,
                          size_t bytes) {
    return cublasLtMatmulDescSetAttribute(product, attribute, value, bytes);
}

static Status describe(GemmPlan *plan) {
    const VendorGemm *g = &plan->gemm;
    cublasOperation_t first = g->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = g->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    TRY_CUBLAS(cublasLtMatmulDescInit(&plan->product, compute_type(g), CUDA_R_32F));
    TRY_CUBLAS(set(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    TRY_CUBLAS(set(&plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    if (g->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cudaDataType_t type = data_type(g->out);
        const void *address =
            (const void *)(uintptr_t)256; /* any that is aligned: never read */
        TRY_CUBLAS(
            set(&plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        TRY_CUBLAS(
            set(&plan->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
        TRY_CUBLAS(set(&plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address,
                       sizeof address));
        if (g->out == VENDOR_BF16)
            plan->bias_bytes = ((size_t)g->columns * 2 + 255) / 256 * 256;
    }
    TRY_CUBLAS(layout(&plan->a, g->type, g->transpose_a ? g->inner : g->rows,
                      g->transpose_a ? g->rows : g->inner));
    TRY_CUBLAS(layout(&plan->b, g->type, g->transpose_b ? g->columns : g->inner,
                      g->transpose_b ? g->inner : g->columns));
    TRY_CUBLAS(layout(&plan->out, g->out, g->rows, g->columns));
    return STATUS_OK;
}

/* ---- choices */

static const struct {
    cublasLtMatmulAlgoConfigAttributes_t attribute;
    size_t bytes;
} attributes[GEMM_ATTRIBUTES] = {
    [GEMM_ALGORITHM] = {CUBLASLT_ALGO_CONFIG_ID, sizeof(int32_t)},
    [GEMM_TILE] = {CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t)},
    [GEMM_STAGES] = {CUBLASLT_ALGO_CONFIG_STAGES_ID, sizeof(uint32_t)},
    [GEMM_SPLIT_K] = {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, sizeof(int32_t)},
    [GEMM_REDUCTION] = {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, sizeof(uint32_t)},
    [GEMM_SWIZZLE] = {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, sizeof(uint32_t)},
    [GEMM_CUSTOM] = {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, sizeof(uint32_t)},
    [GEMM_INNER_SHAPE] = {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, sizeof(uint16_t)},
    [GEMM_CLUSTER_SHAPE] = {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(uint16_t)},
};

/* Partial sums are added in a pass of their own, in float: never by whoever comes first. */
static bool repeatable(int32_t reduction) {
    return reduction == CUBLASLT_REDUCTION_SCHEME_NONE ||
           reduction == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

static bool read_proposal(const cublasLtMatmulAlgo_t *algorithm, GemmChoice *choice) {
    *choice = (GemmChoice){{0}}; /* little-endian: short attributes fill the low bytes */
    for (int i = 0; i < GEMM_ATTRIBUTES; i++) {
        size_t written;
        if (cublasLtMatmulAlgoConfigGetAttribute(algorithm, attributes[i].attribute,
                                                 &choice->value[i], attributes[i].bytes,
                                                 &written) != CUBLAS_STATUS_SUCCESS)
            return false;
    }
    return true;
}

/* Makes the plan's algorithm from a choice. False: this choice cannot be used here. */
static bool try_choice(GemmPlan *plan, const GemmChoice *choice) {
    const VendorGemm *g = &plan->gemm;
    if (!repeatable(choice->value[GEMM_REDUCTION])) return false;
    if (cublasLtMatmulAlgoInit(shared.handle, compute_type(g), CUDA_R_32F,
                               data_type(g->type), data_type(g->type), data_type(g->out),
                               data_type(g->out), choice->value[GEMM_ALGORITHM],
                               &plan->algorithm) != CUBLAS_STATUS_SUCCESS)
        return false;
    for (int i = GEMM_ALGORITHM + 1; i < GEMM_ATTRIBUTES; i++)
        if (cublasLtMatmulAlgoConfigSetAttribute(&plan->algorithm, attributes[i].attribute,
                                                 &choice->value[i], attributes[i].bytes) !=
            CUBLAS_STATUS_SUCCESS)
            return false;
    cublasLtMatmulHeuristicResult_t result;
    if (cublasLtMatmulAlgoCheck(shared.handle, &plan->product, &plan->b, &plan->a,
                                &plan->out, &plan->out, &plan->algorithm,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > WORKSPACE)
        return false;
    plan->base.workspace = plan->bias_bytes + result.workspaceSize;
    gemm_choice_write(choice, plan->base.text);
    return true;
}

static Status try_proposals(GemmPlan *plan, bool *done) {
    cublasLtMatmulPreferenceOpaque_t preference;
    uint64_t workspace = WORKSPACE;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = 16;
    static const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    TRY_CUBLAS(cublasLtMatmulPreferenceInit(&preference));
    TRY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
        &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
        sizeof workspace));
    TRY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
        &preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        TRY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(&preference, sides[i], &alignment,
                                                        sizeof alignment));
    cublasLtMatmulHeuristicResult_t results[PROPOSALS];
    int count = 0;
    *done = false;
    if (cublasLtMatmulAlgoGetHeuristic(shared.handle, &plan->product, &plan->b, &plan->a,
                                       &plan->out, &plan->out, &preference, PROPOSALS,
                                       results, &count) != CUBLAS_STATUS_SUCCESS)
        return STATUS_OK;
    for (int i = 0; !*done && i < count; i++) {
        GemmChoice choice;
        *done = results[i].state == CUBLAS_STATUS_SUCCESS &&
                read_proposal(&results[i].algo, &choice) && try_choice(plan, &choice);
    }
    return STATUS_OK;
}

/* ---- running */

static Status run(VendorQueue *queue, const VendorPlan *base, void *out, const void *a,
                  const void *b, const float *bias, void *workspace) {
    GemmPlan plan = *(const GemmPlan *)base; /* this run's own: it gets the bias */
    const float one = 1.0f, zero = 0.0f;
    char *rest = workspace;
    TRY(real_use_device());
    if (plan.gemm.bias) {
        const void *added = bias;
        if (plan.bias_bytes > 0) {
            TRY(gemm_round_bias(queue, workspace, bias, plan.gemm.columns));
            added = workspace;
            rest += plan.bias_bytes;
        }
        TRY_CUBLAS(
            set(&plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &added, sizeof added));
    }
    TRY_CUBLAS(cublasLtMatmul(shared.handle, &plan.product, &one, b, &plan.b, a, &plan.a,
                              &zero, out, &plan.out, out, &plan.out, &plan.algorithm, rest,
                              plan.base.workspace - plan.bias_bytes, queue->stream));
    return STATUS_OK;
}

static void destroy(VendorPlan *plan) {
    free(plan);
}

/* ---- planning */

static Status refused(const VendorGemm *g, const char *recorded) {
    char shape[128];
    snprintf(shape, sizeof shape, "product of %s (%lld × %lld%s) by (%lld × %lld%s)",
             g->type == VENDOR_BF16 ? "bf16" : "fp32", (long long)g->rows,
             (long long)g->inner, g->transpose_a ? ", transposed" : "", (long long)g->inner,
             (long long)g->columns, g->transpose_b ? ", transposed" : "");
    if (recorded != NULL)
        return FAIL(
            STATUS_UNSUPPORTED,
            "resume with the libraries and the GPU of the run's first launch, or start "
            "a new run",
            "%s: the checkpoint's plan \"%.190s\" cannot be made here", shape, recorded);
    return FAIL(STATUS_UNSUPPORTED, "set device: cpu, or change the shape",
                "%s: cuBLASLt has no repeatable plan", shape);
}

Status vendor_plan_gemm(const VendorGemm *gemm, const char *recorded, VendorPlan **out) {
    *out = NULL;
    GemmChoice choice;
    bool again = recorded != NULL && recorded[0] != '\0', done = false;
    if (again && !gemm_choice_read(&choice, recorded)) return refused(gemm, recorded);
    TRY(shared_handle());
    GemmPlan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return FAIL(STATUS_MEMORY, "give the rank more memory", "no memory for a plan");
    plan->gemm = *gemm;
    plan->base.output = gemm->out;
    plan->base.run = run;
    plan->base.destroy = destroy;
    Status status = describe(plan);
    if (status == STATUS_OK) {
        if (again)
            done = try_choice(plan, &choice);
        else
            status = try_proposals(plan, &done);
    }
    if (status == STATUS_OK && !done) status = refused(gemm, again ? recorded : NULL);
    if (status != STATUS_OK) {
        free(plan);
        return status;
    }
    *out = &plan->base;
    return STATUS_OK;
}
