/* Which engine runs a convolution, and with which knobs: asks the library, refuses what is not exactly
 * repeatable, and writes a choice as text that makes the same plan again. */
#include "kernels/cuda/real/convolution.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- as text */

bool convolution_choice_write(const ConvolutionChoice *choice,
                              char text[VENDOR_PLAN_TEXT]) {
    int used = snprintf(text, VENDOR_PLAN_TEXT, "cudnn:%" PRId64 ":", choice->engine);
    for (int i = 0; i < choice->knobs && used < VENDOR_PLAN_TEXT; i++)
        used += snprintf(text + used, VENDOR_PLAN_TEXT - (size_t)used, "%s%d=%" PRId64,
                         i == 0 ? "" : ",", choice->type[i], choice->value[i]);
    if (used < VENDOR_PLAN_TEXT)
        used += snprintf(text + used, VENDOR_PLAN_TEXT - (size_t)used, ":%s",
                         choice->output == VENDOR_F32 ? "f32" : "bf16");
    return used < VENDOR_PLAN_TEXT;
}

static bool read_number(const char **at, int64_t *out) {
    char *end;
    if (**at != '-' && (**at < '0' || **at > '9')) return false;
    *out = strtoll(*at, &end, 10);
    if (end == *at) return false;
    *at = end;
    return true;
}

bool convolution_choice_read(ConvolutionChoice *choice, const char *text) {
    *choice = (ConvolutionChoice){0};
    if (strncmp(text, "cudnn:", 6) != 0) return false;
    const char *at = text + 6;
    if (!read_number(&at, &choice->engine) || *at++ != ':') return false;
    while (*at != ':') {
        int64_t type;
        if (choice->knobs == CHOICE_KNOBS_MAX) return false;
        if (choice->knobs > 0 && *at++ != ',') return false;
        if (!read_number(&at, &type) || type < 0 || type >= CUDNN_KNOB_TYPE_COUNTS ||
            *at++ != '=' || !read_number(&at, &choice->value[choice->knobs]))
            return false;
        choice->type[choice->knobs++] = (int)type;
    }
    choice->output = strcmp(at, ":f32") == 0 ? VENDOR_F32 : VENDOR_BF16;
    /* one text for one choice: signs, leading zeros and the like are somebody else's */
    char again[VENDOR_PLAN_TEXT];
    return convolution_choice_write(choice, again) && strcmp(again, text) == 0;
}

/* ---- from the library */

static cudnnStatus_t read_knobs(cudnnBackendDescriptor_t config, Descriptors *all,
                                ConvolutionChoice *choice) {
    cudnnBackendDescriptor_t knobs[CHOICE_KNOBS_MAX];
    int64_t count = 0, one;
    for (int i = 0; i < CHOICE_KNOBS_MAX; i++)
        CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &knobs[i]));
    CUDNN_NEED(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, CHOICE_KNOBS_MAX,
                                        &count, knobs));
    for (choice->knobs = 0; choice->knobs < count; choice->knobs++) {
        cudnnBackendKnobType_t type;
        CUDNN_NEED(cudnnBackendGetAttribute(knobs[choice->knobs],
                                            CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                            CUDNN_TYPE_KNOB_TYPE, 1, &one, &type));
        CUDNN_NEED(cudnnBackendGetAttribute(
            knobs[choice->knobs], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
            &one, &choice->value[choice->knobs]));
        choice->type[choice->knobs] = (int)type;
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t read_config(cudnnBackendDescriptor_t config,
                                 ConvolutionChoice *choice) {
    Descriptors mine = {.count = 0};
    cudnnBackendDescriptor_t engine;
    int64_t one;
    cudnnStatus_t status = descriptors_add(&mine, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (status == CUDNN_STATUS_SUCCESS)
        status = cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one, &engine);
    if (status == CUDNN_STATUS_SUCCESS)
        status = cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                                          CUDNN_TYPE_INT64, 1, &one, &choice->engine);
    if (status == CUDNN_STATUS_SUCCESS) status = read_knobs(config, &mine, choice);
    descriptors_destroy(&mine);
    return status;
}

static cudnnStatus_t ask(const ConvolutionTarget *target, cudnnBackendDescriptor_t graph,
                         cudnnBackendHeurMode_t mode, Descriptors *mine,
                         ConvolutionChoice *choices, int room, int *count) {
    cudnnBackendDescriptor_t asked, configs[CONVOLUTION_CHOICES_MAX];
    int64_t found = 0;
    CUDNN_NEED(descriptors_add(mine, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &asked));
    CUDNN_SET(asked, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              1, &graph);
    CUDNN_SET(asked, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target->handle == NULL)
        CUDNN_SET(asked, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                  &target->described);
    CUDNN_NEED(cudnnBackendFinalize(asked));
    for (int i = 0; i < room; i++)
        CUDNN_NEED(descriptors_add(mine, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]));
    CUDNN_NEED(cudnnBackendGetAttribute(asked, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, room, &found,
                                        configs));
    for (*count = 0; *count < room && *count < found; ++*count)
        CUDNN_NEED(read_config(configs[*count], &choices[*count]));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t convolution_choices(const ConvolutionTarget *target,
                                  cudnnBackendDescriptor_t graph,
                                  cudnnBackendHeurMode_t mode,
                                  ConvolutionChoice choices[CONVOLUTION_CHOICES_MAX],
                                  int *count) {
    Descriptors mine = {.count = 0};
    *count = 0;
    cudnnStatus_t status =
        ask(target, graph, mode, &mine, choices, CONVOLUTION_CHOICES_MAX, count);
    descriptors_destroy(&mine);
    return status;
}

/* ---- engines */

cudnnStatus_t convolution_engine(const ConvolutionTarget *target,
                                 cudnnBackendDescriptor_t graph, int64_t index,
                                 Descriptors *all, cudnnBackendDescriptor_t *engine) {
    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_ENGINE_DESCRIPTOR, engine));
    CUDNN_SET(*engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
              &graph);
    CUDNN_SET(*engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &index);
    if (target->handle == NULL)
        CUDNN_SET(*engine, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                  &target->described);
    return cudnnBackendFinalize(*engine);
}

cudnnStatus_t convolution_allowed(cudnnBackendDescriptor_t engine,
                                  const VendorConvolution *convolution, bool *allowed) {
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    *allowed = false;
    CUDNN_NEED(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                        CUDNN_TYPE_NUMERICAL_NOTE,
                                        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes));
    bool full = convolution->type == VENDOR_F32 && !convolution->tf32;
    for (int64_t i = 0; i < count; i++) {
        switch (notes[i]) {
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION: /* sums are in float */
        case CUDNN_NUMERICAL_NOTE_FFT: /* sums of transformed values lose more digits */
        case CUDNN_NUMERICAL_NOTE_WINOGRAD: /* the same */
            return CUDNN_STATUS_SUCCESS;
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: /* of floats: TF32 */
        case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
            if (full) return CUDNN_STATUS_SUCCESS;
            break;
        default:
            break;
        }
    }
    *allowed = true;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t convolution_finish(const ConvolutionTarget *target,
                                 cudnnBackendDescriptor_t engine,
                                 const ConvolutionChoice *choice, Descriptors *all,
                                 cudnnBackendDescriptor_t *plan, int64_t *workspace) {
    cudnnBackendDescriptor_t config, knobs[CHOICE_KNOBS_MAX];
    int64_t one;
    for (int i = 0; i < choice->knobs; i++) {
        cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)choice->type[i];
        CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &knobs[i]));
        CUDNN_SET(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                  &type);
        CUDNN_SET(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                  &choice->value[i]);
        CUDNN_NEED(cudnnBackendFinalize(knobs[i]));
    }
    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config));
    CUDNN_SET(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
              &engine);
    if (choice->knobs > 0)
        CUDNN_SET(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                  choice->knobs, knobs);
    CUDNN_NEED(cudnnBackendFinalize(config));

    CUDNN_NEED(descriptors_add(all, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, plan));
    if (target->handle != NULL)
        CUDNN_SET(*plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                  &target->handle);
    else
        CUDNN_SET(*plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &target->described);
    CUDNN_SET(*plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              1, &config);
    CUDNN_NEED(cudnnBackendFinalize(*plan));
    return cudnnBackendGetAttribute(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                    CUDNN_TYPE_INT64, 1, &one, workspace);
}
