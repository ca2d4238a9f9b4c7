/* How an optimizer's pass goes over its pieces, all in one launch: a line of blocks each, a thread four
 * floats at a time. Include "launch.h" first. */
#pragma once

#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum { PIECE_THREADS = 256, PIECE_BLOCKS = 8, PIECE_ROWS_MAX = 65535 };

DEVICE int64_t piece_begin(void) {
    return 4 * (int64_t)(blockIdx.x * PIECE_THREADS + threadIdx.x);
}

DEVICE int64_t piece_step(void) {
    return 4 * PIECE_BLOCKS * PIECE_THREADS;
}

static inline int pieces_rows(int piece_count) {
    return piece_count < PIECE_ROWS_MAX ? piece_count : (int)PIECE_ROWS_MAX;
}
