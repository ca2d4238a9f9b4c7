/* Matrices of a batch, each transposed, from one type to another: what turns planes into channels-last
 * and back. Include "launch.h" first. */
#pragma once

#include "kernels/cuda/lanes.cuh"

enum { TRANSPOSE_THREADS = 256, TRANSPOSE_TILE = 1024, TRANSPOSE_BATCH_MAX = 65535 };

/* to[b][j][i] = from[b][i][j], i below rows, j below columns; cut into tiles of tile_rows × tile_columns,
 * at most TRANSPOSE_TILE elements: both reads and writes then run along memory. */
typedef struct {
    int64_t batch, rows, columns;
    uint32_t tile_rows, tile_columns;
    uint32_t tiles_across; /* tiles in a row of tiles */
} Transpose;

/* A tile's row in shared memory has an odd length, so that a column lies in different banks. */
template <typename To, typename From>
KERNEL void transpose_kernel(Transpose t, To *to, const From *from) {
    SHARED(float, tile, TRANSPOSE_TILE * 3 / 2);
    int64_t i0 = (int64_t)(blockIdx.x / t.tiles_across) * t.tile_rows;
    int64_t j0 = (int64_t)(blockIdx.x % t.tiles_across) * t.tile_columns;
    uint32_t high = t.rows - i0 < t.tile_rows ? (uint32_t)(t.rows - i0) : t.tile_rows;
    uint32_t wide =
        t.columns - j0 < t.tile_columns ? (uint32_t)(t.columns - j0) : t.tile_columns;
    uint32_t pitch = t.tile_columns | 1u;
    for (int64_t b = blockIdx.y; b < t.batch; b += gridDim.y) {
        const From *source = from + b * t.rows * t.columns;
        To *sink = to + b * t.rows * t.columns;
        if (b != blockIdx.y) __syncthreads(); /* the tile has been read */
        for (uint32_t k = threadIdx.x; k < high * wide; k += TRANSPOSE_THREADS) {
            uint32_t i = k / wide, j = k % wide;
            tile[i * pitch + j] = lane_load(source + (i0 + i) * t.columns + j0 + j);
        }
        __syncthreads();
        for (uint32_t k = threadIdx.x; k < high * wide; k += TRANSPOSE_THREADS) {
            uint32_t i = k % high, j = k / high;
            lane_store(sink + (j0 + j) * t.rows + i0 + i, tile[i * pitch + j]);
        }
    }
}

static inline int64_t transpose_smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

template <typename To, typename From>
static Status transpose(VendorQueue *queue, To *to, const From *from, int64_t batch,
                        int64_t rows, int64_t columns) {
    if (batch <= 0 || rows <= 0 || columns <= 0) return STATUS_OK;
    const int64_t side = 32;
    int64_t tile_rows = side, tile_columns = side;
    if (columns <= side) {
        tile_columns = columns;
        tile_rows = transpose_smaller(rows, TRANSPOSE_TILE / columns);
    } else if (rows <= side) {
        tile_rows = rows;
        tile_columns = transpose_smaller(columns, TRANSPOSE_TILE / rows);
    }
    int64_t down = (rows + tile_rows - 1) / tile_rows;
    int64_t across = (columns + tile_columns - 1) / tile_columns;
    Transpose t = {
        batch,           rows, columns, (uint32_t)tile_rows, (uint32_t)tile_columns,
        (uint32_t)across};
    return LAUNCH(queue, down * across, transpose_smaller(batch, TRANSPOSE_BATCH_MAX),
                  TRANSPOSE_THREADS, (transpose_kernel<To, From>), t, to, from);
}
