/* Bringing a checkpoint from an object store within a restore's reach. On rank 0 only; what arrives is
 * verified whole before it counts. */
#pragma once

#include "src/checkpoint/catalog.h"

#include <stdbool.h>

/* A downloaded file, for as long as the restore needs it. */
typedef struct {
    char path[1024];         /* empty: none */
    char folder[64];         /* made for it, and removed with it; empty: none */
    char name[CATALOG_NAME]; /* what the store calls it */
} RestoreDownload;

/* Downloads what an s3:// address means: that object, or the newest of a prefix that proves itself; what
 * is passed over is named in the log. It becomes a hidden temporary of the run's checkpoints directory
 * (so that the next owner sweeps away what a killed launch left), or, where nothing may be written,
 * a file below TMPDIR.
 * Memory: the file is the caller's (restore_store_drop)
 * Errors: STATUS_NO_CHECKPOINT when there is none, or it is damaged; the store's; STATUS_IO */
Status restore_store_fetch(const char *url, const char *run_dir, bool read_only,
                           RestoreDownload *out);
void restore_store_drop(RestoreDownload *download);

/* What a launch finds where its run is mirrored. */
typedef struct {
    int count;                 /* checkpoints, valid or not */
    int64_t newest_generation; /* of any name there; 0: none */
} RestoreMirror;

/* Puts the newest checkpoint under the prefix that proves itself into an empty run directory, under its own
 * name; what is passed over is named in the log.
 * Errors: STATUS_NO_CHECKPOINT when there are some and none can be used; the store's, saying that nothing
 * is known of what is there; STATUS_IO */
Status restore_store_fill(const char *url, const char *run_dir, RestoreMirror *out);

/* Looks only at names. */
Status restore_store_look(const char *url, RestoreMirror *out);

/* Whether the address and the credentials can be right. Sends nothing. Errors: STATUS_USAGE */
Status restore_store_check(const char *url);
