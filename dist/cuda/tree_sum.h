/* The kernel that adds tree nodes on the device: one pass over up to TREE_TERMS vectors. */
#pragma once

#include "kernels/cuda/vendor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TREE_TERMS = 64, /* keeps a pass small enough to travel as a kernel's argument */
    TREE_DEPTH = 8   /* sums under way at once, one more than the kernel lets wait */
};

/* Additions in postfix order: term i is read, then the two newest sums are added additions[i] times. */
typedef struct {
    float *sum; /* may be a term's memory */
    const float *terms[TREE_TERMS];
    uint8_t additions[TREE_TERMS];
    int count; /* of terms; at least one */
} TreePass;

/* sum[i] = the terms' sum, i in [0, length). Memory: device; the pass is copied
 * Shapes:  length a multiple of 16, not 0; all vectors 64-byte aligned */
Status cuda_tree_sum(VendorQueue *queue, const TreePass *pass, int64_t length);

#ifdef __cplusplus
}
#endif
