/* How convolutions are planned with cuDNN's graph API, in three steps: the operation graph of one
 * convolution (convolution_graph.c), the engines that may run it and their knobs as text
 * (convolution_choice.c), and the plan (convolution.c). */
#pragma once

#include "kernels/cuda/real/plan.h"

/* What a plan is made for: the device of a handle, or, without a GPU, one that is only described. */
typedef struct {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t described; /* used when handle is NULL */
} ConvolutionTarget;

/* A device by its properties, as cuDNN writes them (JSON). Plans made for it cannot run here. */
Status convolution_target_describe(const char *json, ConvolutionTarget *out);
void convolution_target_close(ConvolutionTarget *target);

/* vendor_plan_convolution, for any target. */
Status convolution_plan(const ConvolutionTarget *target,
                        const VendorConvolution *convolution, const char *recorded,
                        VendorPlan **out);

/* ---- descriptors that belong together: destroyed together, newest first */
typedef struct {
    cudnnBackendDescriptor_t items[80];
    int count;
} Descriptors;

#define CUDNN_NEED(call)                                 \
    do {                                                 \
        cudnnStatus_t need_ = (call);                    \
        if (need_ != CUDNN_STATUS_SUCCESS) return need_; \
    } while (0)
#define CUDNN_SET(descriptor, attribute, type, count, values) \
    CUDNN_NEED(                                               \
        cudnnBackendSetAttribute((descriptor), (attribute), (type), (count), (values)))

cudnnStatus_t descriptors_add(Descriptors *all, cudnnBackendDescriptorType_t type,
                              cudnnBackendDescriptor_t *out);
void descriptors_destroy(Descriptors *all);

/* ---- the graph: one operation and its three tensors, which a run finds by these names */
enum { CONVOLUTION_UID_OUT = 1, CONVOLUTION_UID_A = 2, CONVOLUTION_UID_B = 3 };

cudnnStatus_t convolution_graph(const ConvolutionTarget *target,
                                const VendorConvolution *convolution, VendorType output,
                                Descriptors *all, cudnnBackendDescriptor_t *graph);

/* ---- the choice: an engine and its knobs */
enum { CHOICE_KNOBS_MAX = CUDNN_KNOB_TYPE_COUNTS };

typedef struct {
    int64_t engine;
    int knobs;
    int type[CHOICE_KNOBS_MAX];
    int64_t value[CHOICE_KNOBS_MAX];
    VendorType output;
} ConvolutionChoice;

/* "cudnn:38:2=5,14=3:f32": engine 38, knob 2 at 5, knob 14 at 3, float output. False when the text has
 * no room, or is no such text. */
bool convolution_choice_write(const ConvolutionChoice *choice, char text[VENDOR_PLAN_TEXT]);
bool convolution_choice_read(ConvolutionChoice *choice, const char *text);

/* The library's proposals for the graph, best first. */
enum { CONVOLUTION_CHOICES_MAX = 64 };
cudnnStatus_t convolution_choices(const ConvolutionTarget *target,
                                  cudnnBackendDescriptor_t graph,
                                  cudnnBackendHeurMode_t mode,
                                  ConvolutionChoice choices[CONVOLUTION_CHOICES_MAX],
                                  int *count);

cudnnStatus_t convolution_engine(const ConvolutionTarget *target,
                                 cudnnBackendDescriptor_t graph, int64_t index,
                                 Descriptors *all, cudnnBackendDescriptor_t *engine);
/* Whether the engine gives the same bits each time, and its sums are those of the seam. */
cudnnStatus_t convolution_allowed(cudnnBackendDescriptor_t engine,
                                  const VendorConvolution *convolution, bool *allowed);
/* The plan of a choice with its engine, and the workspace that it needs. */
cudnnStatus_t convolution_finish(const ConvolutionTarget *target,
                                 cudnnBackendDescriptor_t engine,
                                 const ConvolutionChoice *choice, Descriptors *all,
                                 cudnnBackendDescriptor_t *plan, int64_t *workspace);
