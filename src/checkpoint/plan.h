/* What a plan holds: the finished metadata region and where every entry's bytes lie. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/chunk_grid.h"

enum { CHECKPOINT_PAGE = 4096 };

typedef struct {
    int index;      /* in the state's registry */
    int64_t offset; /* in the file; of packed ones, were nothing gained by packing */
    size_t bytes;
    ChunkGrid grid;       /* of packed ones; they lie behind all others */
    uint64_t chunk_index; /* its address, counted from the region's start */
} PlanEntry;

struct CheckpointPlan {
    PlanEntry *entries; /* in order of file offset */
    int count;
    int small; /* the first so many lie in the region, all others behind it */
    unsigned char
        *region; /* page-aligned, texts in place, small entries and digests zero */
    size_t region_bytes;
    int64_t segments_offset; /* of the table of segment digests, inside the region */
    /* with packed entries both are upper bounds */
    int64_t segments;
    int64_t bytes; /* the whole file: a multiple of CHECKPOINT_PAGE */
    int level;     /* 0: nothing is packed */
    int64_t chunks;
    int64_t chunks_offset; /* where packed entries begin */
    size_t whole;          /* bytes of the largest chunk, unpacked */
    int64_t value_bytes;
    char writer[sizeof((UserBlock *)0)->writer];
};

/* Segments behind a region: every CHECKPOINT_SEGMENT bytes, the last one shorter. */
static inline int64_t plan_segments(int64_t file_bytes, int64_t region_bytes) {
    int64_t tensors = file_bytes - CHECKPOINT_USER_BLOCK - region_bytes;
    return (tensors + CHECKPOINT_SEGMENT - 1) / CHECKPOINT_SEGMENT;
}

/* HDF5 laid the file out in another way than this program reads. */
Status plan_refuse_layout(void);
