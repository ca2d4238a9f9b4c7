/* What a plan holds: the finished metadata region and where every entry's bytes lie. */
#pragma once

#include "src/checkpoint/checkpoint.h"

enum { CHECKPOINT_PAGE = 4096 };

typedef struct {
    int index;      /* in the state's registry */
    int64_t offset; /* in the file */
    size_t bytes;
} PlanEntry;

struct CheckpointPlan {
    PlanEntry *entries; /* in order of file offset */
    int count;
    int small; /* the first so many lie in the region, all others behind it */
    unsigned char
        *region; /* page-aligned, texts in place, small entries and digests zero */
    size_t region_bytes;
    int64_t segments_offset; /* of the table of segment digests, inside the region */
    int64_t segments;
    int64_t bytes; /* the whole file: a multiple of CHECKPOINT_PAGE */
    char writer[sizeof((UserBlock *)0)->writer];
};

/* Segments behind a region: every CHECKPOINT_SEGMENT bytes, the last one shorter. */
static inline int64_t plan_segments(int64_t file_bytes, int64_t region_bytes) {
    int64_t tensors = file_bytes - CHECKPOINT_USER_BLOCK - region_bytes;
    return (tensors + CHECKPOINT_SEGMENT - 1) / CHECKPOINT_SEGMENT;
}
