/* A choice of cuBLASLt's as text, apart from the library that made it. */
#pragma once

#include "kernels/cuda/vendor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The attributes of an algorithm, in the order in which the text has them. */
enum {
    GEMM_ALGORITHM,
    GEMM_TILE,
    GEMM_STAGES,
    GEMM_SPLIT_K,
    GEMM_REDUCTION,
    GEMM_SWIZZLE,
    GEMM_CUSTOM,
    GEMM_INNER_SHAPE,
    GEMM_CLUSTER_SHAPE,
    GEMM_ATTRIBUTES
};

typedef struct {
    int32_t value[GEMM_ATTRIBUTES];
} GemmChoice;

/* "cublaslt:66:20:36:1:0:0:3:0:2". False: no such text. */
bool gemm_choice_read(GemmChoice *choice, const char *text);
void gemm_choice_write(const GemmChoice *choice, char text[VENDOR_PLAN_TEXT]);

/* What a float bias becomes for an output of bf16: rounded, in device memory. */
Status gemm_round_bias(VendorQueue *queue, void *bf16, const float *bias, int64_t count);

#ifdef __cplusplus
}
#endif
