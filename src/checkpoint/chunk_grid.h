/* How an entry's bytes are cut into HDF5's chunks: so that every chunk is one run of the entry's own
 * bytes, and the chunks in HDF5's order are the entry from its first byte to its last.
 *
 * A chunk is 1 wide in the axes before `axis`, whole in those behind it. Where it reaches past the end
 * of `axis` it is filled up with zeros, as HDF5 does. */
#pragma once

#include "src/checkpoint/header.h"

#include <stdbool.h>

enum {
    CHUNK_WORTH_IT = 64 << 10, /* smaller entries stay whole: an index costs them more */
    CHUNK_TARGET = 256 << 10,  /* fits into a core's cache, packed and not */
    CHUNK_MOST = 4 << 20,      /* that a reader takes */
};

typedef struct {
    int64_t count;  /* of chunks; 0: the entry is not cut */
    size_t whole;   /* bytes of a chunk with what fills it up */
    size_t span;    /* bytes of `axis` and those behind it: chunks begin anew after them */
    size_t element; /* bytes */
    int rank, axis;
    uint64_t shape[HEADER_RANK_MAX], chunk[HEADER_RANK_MAX]; /* elements */
} ChunkGrid;

/* Chooses chunks of about CHUNK_TARGET bytes for an entry of at least CHUNK_WORTH_IT bytes. */
ChunkGrid chunk_grid_choose(size_t element, int rank, const int64_t *shape);

/* The grid of chunks of a given shape. False when they are no such runs, or larger than CHUNK_MOST. The
 * product of `shape` and `element` must fit into 63 bits. */
bool chunk_grid_make(size_t element, int rank, const uint64_t *shape, const uint64_t *chunk,
                     ChunkGrid *out);

/* Where chunk `i` begins in the entry's bytes, and how many of them it holds. */
size_t chunk_grid_start(const ChunkGrid *grid, int64_t i);
size_t chunk_grid_bytes(const ChunkGrid *grid, int64_t i);

/* The same place in elements along one axis. */
uint64_t chunk_grid_place(const ChunkGrid *grid, int64_t i, int axis);
