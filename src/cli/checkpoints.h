/* What the parts of `rekindle checkpoints` share. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/checkpoint/object_store.h"

#include <jansson.h>
#include <limits.h>

enum { CHECKPOINTS_PATHS = 64 };

typedef struct {
    const char *paths[CHECKPOINTS_PATHS];
    int count;
    bool json, dry_run;
} CheckpointsArguments;

/* One checkpoint file that an argument means: itself, or the newest valid one of a run directory. */
typedef struct {
    int directory;
    char name[NAME_MAX + 1];
    char folder[64]; /* of a download, removed with it; empty: none */
} ChosenCheckpoint;

/* What s3:// means is downloaded into a folder of its own, below TMPDIR, and verified.
 * Errors: STATUS_USAGE when the path is not there, STATUS_NO_CHECKPOINT when a directory holds none */
Status checkpoints_choose(const char *path, ChosenCheckpoint *out);
/* The commit record of what s3:// means; of a prefix, the newest valid one's. Errors: the same */
Status checkpoints_show_stored(const char *url, char name[NAME_MAX + 1], UserBlock *out);
void checkpoints_release(ChosenCheckpoint *chosen);

/* The same of a name in a store. */
Status checkpoints_download(const ObjectPlace *place, const char *name,
                            ChosenCheckpoint *out);

/* A run directory, a directory that itself holds the files, or s3:// with what is under that prefix (then
 * its directory is -1). */
Status checkpoints_catalog(const char *path, Catalog *out);

/* The configuration that a run was last launched with; NULL where its directory holds none.
 * Memory: *out is the caller's (free). Errors: STATUS_USAGE, also for a link; STATUS_IO, STATUS_MEMORY */
Status checkpoints_run_config(const char *run_dir, Config **out);

/* What is under an address in a store. options: NULL for the usual patience. */
Status checkpoints_stored(const char *url, const StoreOptions *options, Catalog *out);

/* Damage asked about by name is exit code 3, "no valid checkpoint", not a fault of the program. */
Status checkpoints_damaged(Status status);

void checkpoints_print_json(json_t *json); /* takes the reference */

/* What a commit record says, with the file's name. Memory: the caller's */
json_t *checkpoints_block_json(const char *name, const UserBlock *block);

/* Bytes of values for each byte of a packed file; 0: it is not packed. */
double checkpoints_ratio(const UserBlock *block);

/* "12.3 MiB" */
void checkpoints_size(int64_t bytes, char text[32]);

/* ls: each tier of a run. */
Status checkpoints_list(const CheckpointsArguments *arguments);

/* show: one checkpoint's commit record and lineage. */
Status checkpoints_show(const CheckpointsArguments *arguments);

/* Copies between a directory and a store. *missed: some could not be copied, and why was said. */
Status checkpoints_copy(const CheckpointsArguments *arguments, bool *missed);

/* Compares two checkpoints entry by entry. *differ tells the exit code. */
Status checkpoints_diff(const CheckpointsArguments *arguments, bool *differ);

/* What retention leaves alone, and deleting what it would. */
Status checkpoints_pin(const CheckpointsArguments *arguments);
Status checkpoints_unpin(const CheckpointsArguments *arguments);
Status checkpoints_prune(const CheckpointsArguments *arguments);
