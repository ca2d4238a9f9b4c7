/* What a verified metadata region says: names, types, shapes and places of the datasets. */
#pragma once

#include "src/checkpoint/checkpoint.h"

enum { IMAGE_TEXTS = 3, IMAGE_OBJECTS_MAX = 65536 };

extern const char
    *const IMAGE_TEXT_NAMES[IMAGE_TEXTS]; /* "identity", "config", "lineage" */

typedef struct {
    CheckpointEntry *entries; /* in order of file offset */
    int count;
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
void image_destroy(Image *image); /* sets it to nothing */
