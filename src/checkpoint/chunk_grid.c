/* Arithmetic of chunks that are runs of an entry's bytes. */
#include "src/checkpoint/chunk_grid.h"

/* Bytes of one step along `axis`: the product of what lies behind it. */
static uint64_t step_bytes(size_t element, int rank, const uint64_t *shape, int axis) {
    uint64_t bytes = element;
    for (int i = axis + 1; i < rank; i++)
        bytes *= shape[i];
    return bytes;
}

bool chunk_grid_make(size_t element, int rank, const uint64_t *shape, const uint64_t *chunk,
                     ChunkGrid *out) {
    *out = (ChunkGrid){.element = element, .rank = rank};
    int axis = 0;
    while (axis + 1 < rank && chunk[axis] == 1)
        axis++;
    /* an axis before may have to be the one: where all behind it is 1 wide as well */
    while (axis > 0 && chunk[axis] == shape[axis])
        axis--;
    out->axis = axis;
    uint64_t lead = 1;
    for (int i = 0; i < rank; i++) {
        if (chunk[i] == 0 || chunk[i] > shape[i]) return false;
        if (i > axis && chunk[i] != shape[i]) return false;
        if (i < axis) lead *= shape[i];
        out->shape[i] = shape[i];
        out->chunk[i] = chunk[i];
    }
    if (rank < 1 || chunk[axis] > CHUNK_MOST) return false;
    uint64_t step = step_bytes(element, rank, shape, axis);
    if (step > CHUNK_MOST || step * chunk[axis] > CHUNK_MOST) return false;
    out->whole = (size_t)(step * chunk[axis]);
    out->span = (size_t)(step * shape[axis]);
    out->count = (int64_t)(lead * ((out->span + out->whole - 1) / out->whole));
    return true;
}

/* The length from most / 2 to most of which as little as possible reaches past `extent`. */
static uint64_t fitting_length(uint64_t extent, uint64_t most) {
    uint64_t best = most, least = UINT64_MAX;
    for (uint64_t length = most; length >= (most + 1) / 2 && least > 0; length--) {
        uint64_t past = (length - extent % length) % length;
        if (past < least) best = length;
        if (past < least) least = past;
    }
    return best;
}

ChunkGrid chunk_grid_choose(size_t element, int rank, const int64_t *shape) {
    uint64_t extent[HEADER_RANK_MAX] = {0}, chunk[HEADER_RANK_MAX] = {0};
    for (int i = 0; i < rank; i++)
        extent[i] = chunk[i] = (uint64_t)shape[i];
    int axis = 0; /* the last one's step is one element */
    while (step_bytes(element, rank, extent, axis) > CHUNK_TARGET)
        axis++;
    for (int i = 0; i < axis; i++)
        chunk[i] = 1;
    uint64_t most = CHUNK_TARGET / step_bytes(element, rank, extent, axis);
    chunk[axis] = fitting_length(extent[axis], most < extent[axis] ? most : extent[axis]);
    ChunkGrid grid;
    chunk_grid_make(element, rank, extent, chunk, &grid);
    return grid;
}

/* Chunks before the axis begins anew. */
static int64_t per_span(const ChunkGrid *grid) {
    return (int64_t)((grid->span + grid->whole - 1) / grid->whole);
}

size_t chunk_grid_start(const ChunkGrid *grid, int64_t i) {
    return (size_t)(i / per_span(grid)) * grid->span +
           (size_t)(i % per_span(grid)) * grid->whole;
}

size_t chunk_grid_bytes(const ChunkGrid *grid, int64_t i) {
    size_t left = grid->span - (size_t)(i % per_span(grid)) * grid->whole;
    return left < grid->whole ? left : grid->whole;
}

uint64_t chunk_grid_place(const ChunkGrid *grid, int64_t i, int axis) {
    if (axis > grid->axis) return 0;
    if (axis == grid->axis) return (uint64_t)(i % per_span(grid)) * grid->chunk[axis];
    uint64_t lead = (uint64_t)(i / per_span(grid));
    for (int j = grid->axis - 1; j > axis; j--)
        lead /= grid->shape[j];
    return lead % grid->shape[axis];
}
