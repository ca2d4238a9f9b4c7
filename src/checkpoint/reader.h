/* An opened checkpoint. For the files of this room that read it; others use checkpoint.h. */
#pragma once

#include "src/checkpoint/image.h"
#include "src/checkpoint/read_ahead.h"

#include <limits.h>

struct CheckpointReader {
    int fd;
    char name[NAME_MAX + 1];
    UserBlock block;
    unsigned char *region; /* verified */
    Image image;
    const CheckpointEntry **by_path; /* the same entries in order of path */
    ReadAhead *ahead;                /* of the segments; NULL: not begun */
};
