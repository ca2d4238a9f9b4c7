/* What the parts of `rekindle checkpoints` share. */
#pragma once

#include "src/checkpoint/catalog.h"

#include <jansson.h>
#include <limits.h>

enum { CHECKPOINTS_PATHS = 64 };

typedef struct {
    const char *paths[CHECKPOINTS_PATHS];
    int count;
    bool json;
} CheckpointsArguments;

/* One checkpoint file that an argument means: itself, or the newest valid one of a run directory. */
typedef struct {
    int directory;
    char name[NAME_MAX + 1];
} ChosenCheckpoint;

/* Errors: STATUS_USAGE when the path is not there, STATUS_NO_CHECKPOINT when a directory holds none */
Status checkpoints_choose(const char *path, ChosenCheckpoint *out);
void checkpoints_release(ChosenCheckpoint *chosen);

/* A run directory, or a directory that itself holds the files. */
Status checkpoints_catalog(const char *path, Catalog *out);

/* Damage asked about by name is exit code 3, "no valid checkpoint", not a fault of the program. */
Status checkpoints_damaged(Status status);

void checkpoints_print_json(json_t *json); /* takes the reference */

/* "12.3 MiB" */
void checkpoints_size(int64_t bytes, char text[32]);

/* Compares two checkpoints entry by entry. *differ tells the exit code. */
Status checkpoints_diff(const CheckpointsArguments *arguments, bool *differ);
