/* Matrices of a batch, each transposed, from one type to another: what turns planes into channels-last
 * and back. Include "launch.h" first. */
#pragma once

#include "kernels/cuda/lanes.cuh"

enum { TRANSPOSE_THREADS = 256, TRANSPOSE_TILE = 1024, TRANSPOSE_SIDE = 32 };

/* to[b][j][i] = from[b][i][j], i below rows, j below columns. Large matrices are cut into tiles of at most
 * TRANSPOSE_TILE elements, of small ones a block takes several: both reads and writes run along memory. */
typedef struct {
    int64_t batch, rows, columns;
    uint32_t tile_rows, tile_columns;
    uint32_t across, tiles; /* tiles side by side, and in all, of a matrix */
} Transpose;

/* A tile's row in shared memory has an odd length, so that a column lies in different banks. */
template <typename To, typename From>
KERNEL void transpose_kernel(Transpose t, To *to, const From *from) {
    SHARED(float, tile, TRANSPOSE_TILE * 3 / 2);
    const int64_t base = (int64_t)(blockIdx.x / t.tiles) * t.rows * t.columns;
    const uint32_t index = blockIdx.x % t.tiles;
    const int64_t i0 = (int64_t)(index / t.across) * t.tile_rows;
    const int64_t j0 = (int64_t)(index % t.across) * t.tile_columns;
    const uint32_t high = t.rows - i0 < t.tile_rows ? (uint32_t)(t.rows - i0) : t.tile_rows;
    const uint32_t wide =
        t.columns - j0 < t.tile_columns ? (uint32_t)(t.columns - j0) : t.tile_columns;
    const uint32_t pitch = t.tile_columns | 1u;
    for (uint32_t k = threadIdx.x; k < high * wide; k += TRANSPOSE_THREADS) {
        uint32_t i = k / wide, j = k % wide;
        tile[i * pitch + j] = lane_load(from + base + (i0 + i) * t.columns + j0 + j);
    }
    __syncthreads();
    for (uint32_t k = threadIdx.x; k < high * wide; k += TRANSPOSE_THREADS) {
        uint32_t i = k % high, j = k / high;
        lane_store(to + base + (j0 + j) * t.rows + i0 + i, tile[i * pitch + j]);
    }
}

template <typename To, typename From>
KERNEL void transpose_small_kernel(Transpose t, To *to, const From *from) {
    SHARED(float, tile, TRANSPOSE_TILE);
    const uint32_t rows = (uint32_t)t.rows, columns = (uint32_t)t.columns;
    const uint32_t area = rows * columns, group = TRANSPOSE_TILE / area;
    const int64_t first = (int64_t)blockIdx.x * group;
    const uint32_t here =
        (t.batch - first < group ? (uint32_t)(t.batch - first) : group) * area;
    for (uint32_t k = threadIdx.x; k < here; k += TRANSPOSE_THREADS)
        tile[k] = lane_load(from + first * area + k);
    __syncthreads();
    for (uint32_t k = threadIdx.x; k < here; k += TRANSPOSE_THREADS) {
        uint32_t inside = k % area;
        lane_store(to + first * area + k,
                   tile[k - inside + inside % rows * columns + inside / rows]);
    }
}

static inline int64_t transpose_smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

template <typename To, typename From>
static Status transpose(VendorQueue *queue, To *to, const From *from, int64_t batch,
                        int64_t rows, int64_t columns) {
    if (batch <= 0 || rows <= 0 || columns <= 0) return STATUS_OK;
    if (rows * columns <= TRANSPOSE_TILE / 2) {
        const Transpose t = {batch, rows, columns, 0, 0, 0, 0};
        const int64_t group = TRANSPOSE_TILE / (rows * columns);
        return LAUNCH(queue, (batch + group - 1) / group, 1, TRANSPOSE_THREADS,
                      (transpose_small_kernel<To, From>), t, to, from);
    }
    int64_t tile_rows = TRANSPOSE_SIDE, tile_columns = TRANSPOSE_SIDE;
    if (columns <= TRANSPOSE_SIDE) {
        tile_columns = columns;
        tile_rows = transpose_smaller(rows, TRANSPOSE_TILE / columns);
    } else if (rows <= TRANSPOSE_SIDE) {
        tile_rows = rows;
        tile_columns = transpose_smaller(columns, TRANSPOSE_TILE / rows);
    }
    const int64_t down = (rows + tile_rows - 1) / tile_rows;
    const int64_t across = (columns + tile_columns - 1) / tile_columns;
    const Transpose t = {batch,
                         rows,
                         columns,
                         (uint32_t)tile_rows,
                         (uint32_t)tile_columns,
                         (uint32_t)across,
                         (uint32_t)(down * across)};
    return LAUNCH(queue, batch * down * across, 1, TRANSPOSE_THREADS,
                  (transpose_kernel<To, From>), t, to, from);
}
