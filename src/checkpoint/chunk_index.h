/* HDF5's index of a dataset's chunks: a B-tree of version 1 (file format specification 3.0, section
 * III.A.1), whose nodes lie in the metadata region and carry no checksum of their own. HDF5 makes it when
 * the file is planned; a save fills in where each chunk came to lie, and a reader learns it from there,
 * as other programs do. */
#pragma once

#include "src/checkpoint/chunk_grid.h"

/* One chunk in the file. */
typedef struct {
    uint64_t address; /* counted from the region's start */
    uint32_t bytes;
    bool plain; /* neither shuffled nor deflated */
} ChunkPlace;

/* Reads the places of all chunks (room for grid->count). Every node is checked: the tree must hold exactly
 * the grid's chunks, in order. NULL, or what is wrong (a text to follow the dataset's name). */
const char *chunk_index_read(HeaderSource *source, uint64_t address, const ChunkGrid *grid,
                             ChunkPlace *places);

/* The same walk over an index that HDF5 has made, in `region` (`size` bytes): puts the places in. */
const char *chunk_index_write(unsigned char *region, uint64_t size, uint64_t address,
                              const ChunkGrid *grid, const ChunkPlace *places);
