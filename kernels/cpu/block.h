/* Tiles of an activation's rows of channels: what batch norm and the column sums work on. A tile
 * has 16 channels, so that its running sums stay in registers, and up to 64 rows, so that passing
 * over it twice reads memory once. */
#pragma once

#include <stdint.h>
#include <string.h>

enum { BLOCK_ROWS = 64, BLOCK_CHANNELS = 16, BLOCK_HALVES = 2 };

typedef float Lane8 __attribute__((vector_size(32)));

/* One of 16 channels' values, as two vectors. */
typedef struct {
    Lane8 half[BLOCK_HALVES];
} Lane16;

typedef struct {
    const float *data;
    int64_t stride; /* floats between rows */
} Block;

static inline Lane8 block_load(const float *from) {
    Lane8 value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void block_store(float *to, Lane8 value) {
    memcpy(to, &value, sizeof value);
}

/* The tile at `at` of a matrix with `stride` channels, of which `width` are left: a narrow tile is
 * copied beside zeros, so that all tiles are alike. `copy` has room for a tile. */
static inline Block block_at(const float *at, int64_t stride, int64_t rows, int64_t width,
                             float *copy) {
    if (width >= BLOCK_CHANNELS) return (Block){at, stride};
    memset(copy, 0, (size_t)(rows * BLOCK_CHANNELS) * sizeof *copy);
    for (int64_t row = 0; row < rows; row++)
        memcpy(copy + row * BLOCK_CHANNELS, at + row * stride,
               (size_t)width * sizeof *copy);
    return (Block){copy, BLOCK_CHANNELS};
}
