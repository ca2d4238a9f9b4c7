/* Plans of convolutions with cuDNN's graph API: the library's first proposal that is exactly repeatable
 * and fits the workspace, or the one that a checkpoint names. */
#include "kernels/cuda/real/convolution.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    VendorPlan base;
    Descriptors graph, engine; /* cuDNN may look at the parts as long as the plan lives */
    cudnnBackendDescriptor_t plan;
} ConvolutionPlan;

/* One handle for all: it names the stream of the next call, so a call has it alone. */
static struct {
    pthread_mutex_t lock;
    cudnnHandle_t handle;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Status shared_handle(void) {
    TRY(real_use_device());
    if (shared.handle == NULL) TRY_CUDNN(cudnnCreate(&shared.handle));
    return STATUS_OK;
}

void real_close_convolutions(void) {
    if (shared.handle != NULL) cudnnDestroy(shared.handle);
    shared.handle = NULL;
}

/* ---- targets */

static cudnnStatus_t describe(const char *json, ConvolutionTarget *out) {
    CUDNN_NEED(
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &out->described));
    CUDNN_SET(out->described, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
              (int64_t)strlen(json), json);
    return cudnnBackendFinalize(out->described);
}

Status convolution_target_describe(const char *json, ConvolutionTarget *out) {
    *out = (ConvolutionTarget){NULL, NULL};
    cudnnStatus_t status = describe(json, out);
    if (status == CUDNN_STATUS_SUCCESS) return STATUS_OK;
    convolution_target_close(out);
    return real_cudnn_failed(status, "cudnnBackendFinalize(described device)");
}

void convolution_target_close(ConvolutionTarget *target) {
    if (target->described != NULL) cudnnBackendDestroyDescriptor(target->described);
    *target = (ConvolutionTarget){NULL, NULL};
}

/* ---- running */

static cudnnStatus_t execute(cudaStream_t stream, const ConvolutionPlan *plan,
                             Descriptors *mine, void *memory[3], void *workspace) {
    const int64_t names[3] = {CONVOLUTION_UID_OUT, CONVOLUTION_UID_A, CONVOLUTION_UID_B};
    cudnnBackendDescriptor_t pack;
    CUDNN_NEED(descriptors_add(mine, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, names);
    CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, memory);
    CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    CUDNN_NEED(cudnnBackendFinalize(pack));
    CUDNN_NEED(cudnnSetStream(shared.handle, stream));
    return cudnnBackendExecute(shared.handle, plan->plan, pack);
}

static Status run(VendorQueue *queue, const VendorPlan *base, void *out, const void *a,
                  const void *b, const float *bias, void *workspace) {
    (void)bias; /* convolutions have none: the backend adds it */
    Descriptors mine = {.count = 0};
    void *memory[3] = {out, (void *)(uintptr_t)a,
                       (void *)(uintptr_t)b}; /* a, b: only read */
    pthread_mutex_lock(&shared.lock);
    cudnnStatus_t status =
        execute(queue->stream, (const ConvolutionPlan *)base, &mine, memory, workspace);
    pthread_mutex_unlock(&shared.lock);
    descriptors_destroy(&mine);
    if (status != CUDNN_STATUS_SUCCESS)
        return real_cudnn_failed(status, "cudnnBackendExecute");
    return STATUS_OK;
}

static void destroy(VendorPlan *base) {
    ConvolutionPlan *plan = (ConvolutionPlan *)base;
    descriptors_destroy(&plan->engine);
    descriptors_destroy(&plan->graph);
    free(plan);
}

/* ---- planning */

/* Makes the plan of one choice. False: this choice cannot be used here. */
static bool try_choice(const ConvolutionTarget *target,
                       const VendorConvolution *convolution, cudnnBackendDescriptor_t graph,
                       const ConvolutionChoice *choice, ConvolutionPlan *plan) {
    cudnnBackendDescriptor_t engine;
    int64_t workspace = 0;
    bool allowed = false;
    if (convolution_choice_write(choice, plan->base.text) &&
        convolution_engine(target, graph, choice->engine, &plan->engine, &engine) ==
            CUDNN_STATUS_SUCCESS &&
        convolution_allowed(engine, convolution, &allowed) == CUDNN_STATUS_SUCCESS &&
        allowed &&
        convolution_finish(target, engine, choice, &plan->engine, &plan->plan,
                           &workspace) == CUDNN_STATUS_SUCCESS &&
        workspace <= VENDOR_WORKSPACE_MAX) {
        plan->base.workspace = (size_t)workspace;
        plan->base.output = choice->output;
        return true;
    }
    descriptors_destroy(&plan->engine);
    return false;
}

static bool try_proposals(const ConvolutionTarget *target,
                          const VendorConvolution *convolution,
                          cudnnBackendDescriptor_t graph, VendorType output,
                          ConvolutionPlan *plan) {
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A,
                                                   CUDNN_HEUR_MODE_FALLBACK};
    ConvolutionChoice *choices = malloc(CONVOLUTION_CHOICES_MAX * sizeof *choices);
    bool done = false;
    for (size_t m = 0; choices != NULL && !done && m < sizeof modes / sizeof *modes; m++) {
        int count;
        if (convolution_choices(target, graph, modes[m], choices, &count) !=
            CUDNN_STATUS_SUCCESS)
            continue;
        for (int i = 0; !done && i < count; i++) {
            choices[i].output = output;
            done = try_choice(target, convolution, graph, &choices[i], plan);
        }
    }
    free(choices);
    return done;
}

/* Plans with one type of output. False: not possible. */
static bool plan_output(const ConvolutionTarget *target,
                        const VendorConvolution *convolution,
                        const ConvolutionChoice *recorded, VendorType output,
                        ConvolutionPlan *plan) {
    cudnnBackendDescriptor_t graph;
    bool done = false;
    if (convolution_graph(target, convolution, output, &plan->graph, &graph) ==
        CUDNN_STATUS_SUCCESS)
        done = recorded != NULL ? try_choice(target, convolution, graph, recorded, plan)
                                : try_proposals(target, convolution, graph, output, plan);
    if (!done) descriptors_destroy(&plan->graph);
    return done;
}

static Status refused(const VendorConvolution *v, const char *recorded) {
    static const char *const directions[] = {
        [VENDOR_FORWARD] = "forward",
        [VENDOR_BACKWARD_DATA] = "backward (data)",
        [VENDOR_BACKWARD_WEIGHTS] = "backward (weights)",
    };
    char shape[256], detail[256] = "";
    snprintf(shape, sizeof shape,
             "convolution %s of %s (%lld, %lld, %lld, %lld) with (%lld, %lld, %lld, %lld), "
             "stride %d, padding %d",
             directions[v->direction], v->type == VENDOR_BF16 ? "bf16" : "fp32",
             (long long)v->n, (long long)v->c, (long long)v->h, (long long)v->w,
             (long long)v->m, (long long)(v->c / v->groups), (long long)v->r,
             (long long)v->s, v->stride, v->padding);
    if (recorded != NULL)
        return FAIL(
            STATUS_UNSUPPORTED,
            "resume with the libraries and the GPU of the run's first launch, or start "
            "a new run",
            "%s: the checkpoint's plan \"%.190s\" cannot be made here", shape, recorded);
    cudnnGetLastErrorString(detail, sizeof detail);
    return FAIL(STATUS_UNSUPPORTED, "set device: cpu, or change the shape",
                "%s: cuDNN has no repeatable plan%s%s", shape,
                detail[0] == '\0' ? "" : ": ", detail);
}

Status convolution_plan(const ConvolutionTarget *target,
                        const VendorConvolution *convolution, const char *recorded,
                        VendorPlan **out) {
    *out = NULL;
    ConvolutionChoice choice;
    bool again = recorded != NULL && recorded[0] != '\0';
    bool weights = convolution->direction == VENDOR_BACKWARD_WEIGHTS;
    if (again && !convolution_choice_read(&choice, recorded))
        return refused(convolution, recorded);
    ConvolutionPlan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return FAIL(STATUS_MEMORY, "give the rank more memory", "no memory for a plan");
    plan->base.run = run;
    plan->base.destroy = destroy;
    bool done;
    if (again)
        done = (choice.output == convolution->type ||
                (weights && choice.output == VENDOR_F32)) &&
               plan_output(target, convolution, &choice, choice.output, plan);
    else /* weights' gradients are summed in float: best without a rounding on the way */
        done = (weights && plan_output(target, convolution, NULL, VENDOR_F32, plan)) ||
               plan_output(target, convolution, NULL, convolution->type, plan);
    if (!done) {
        free(plan);
        return refused(convolution, again ? recorded : NULL);
    }
    *out = &plan->base;
    return STATUS_OK;
}

Status vendor_plan_convolution(const VendorConvolution *convolution, const char *recorded,
                               VendorPlan **out) {
    *out = NULL;
    pthread_mutex_lock(&shared.lock);
    Status status = shared_handle();
    if (status == STATUS_OK) {
        ConvolutionTarget target = {shared.handle, NULL};
        status = convolution_plan(&target, convolution, recorded, out);
    }
    pthread_mutex_unlock(&shared.lock);
    return status;
}
