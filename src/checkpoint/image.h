/* What a verified metadata region says: names, types, shapes and places of the datasets. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/chunk_index.h"

enum { IMAGE_TEXTS = 3, IMAGE_OBJECTS_MAX = 65536 };

extern const char
    *const IMAGE_TEXT_NAMES[IMAGE_TEXTS]; /* "identity", "config", "lineage" */

/* A packed entry's chunks; in the file they lie in this order, too. */
typedef struct {
    ChunkGrid grid;
    uint64_t index;     /* its address, counted from the region's start */
    ChunkPlace *places; /* grid.count */
} ImagePacked;

typedef struct {
    CheckpointEntry *entries; /* in order of file offset */
    int count;
    ImagePacked *packed; /* entry->packed - 1 is the place here */
    int packed_count;
    int64_t chunks;                 /* of all of them */
    size_t whole;                   /* bytes of the largest chunk, unpacked */
    const char *texts[IMAGE_TEXTS]; /* inside the region */
    int64_t segments_offset; /* of the table, inside the region; unused without segments */
    int64_t segments;
} Image;

/* Lists the datasets of a region whose digest has been checked.
 *
 * Memory:  *out is the caller's (image_destroy); its texts point into `region`
 * Errors:  STATUS_CORRUPT naming file, dataset and reason; STATUS_MEMORY */
Status image_list(const unsigned char *region, const UserBlock *block, const char *name,
                  Image *out);
/* The same of a region in which no chunk has a place yet: their places are not checked. */
Status image_list_planned(const unsigned char *region, const UserBlock *block,
                          const char *name, Image *out);
void image_destroy(Image *image); /* sets it to nothing */
