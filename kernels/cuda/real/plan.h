/* A plan behind the seam: what products (gemm.c) and convolutions (convolution.c) have in common. */
#pragma once

#include "kernels/cuda/real/real.h"

struct VendorPlan {
    char text[VENDOR_PLAN_TEXT];
    size_t workspace;
    VendorType output;
    Status (*run)(VendorQueue *queue, const VendorPlan *plan, void *out, const void *a,
                  const void *b, const float *bias, void *workspace);
    void (*destroy)(VendorPlan *plan); /* frees the plan, too */
};
