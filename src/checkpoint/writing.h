/* A file on its way to the disk, for the files that put it there. Others use checkpoint.h. */
#pragma once

#include "src/checkpoint/plan.h"

#include <limits.h>

struct CheckpointWriting {
    const CheckpointPlan *plan;
    CheckpointPlan *own_plan; /* of who joined */
    int directory;            /* the caller's */
    char name[NAME_MAX + 1], temp[NAME_MAX + 1];
    int fd;        /* of `temp`; -1: closed */
    bool created;  /* by us, and not yet named */
    int64_t bytes; /* of the whole file, as far as it is known */
    unsigned char
        *staging; /* CHECKPOINT_USER_BLOCK bytes, page-aligned; NULL for who joined */
    unsigned char *region; /* this save's copy, page-aligned; NULL for who joined */
    Digest state_digest;
    const char *step; /* for the failure's text */
};

/* The step failed, and errno tells why. */
Status writing_fail(const CheckpointWriting *self);

/* Its writes pass by the page cache, where the file system allows. */
void writing_go_direct(const CheckpointWriting *self);

/* fsync and close, both checked: 0, or -1 with errno. */
int writing_sync_and_close(CheckpointWriting *self);
