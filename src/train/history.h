/* What the run's ledger tells of earlier launches: how long they lasted, which of them ended unawares, and
 * what their saves took. Nothing here may be relied upon: the file is for people, may be torn, edited, huge
 * or gone, and only estimates are made from it. */
#pragma once

#include "src/core/status.h"

typedef struct {
    int launches;    /* that are known; whoever reads is not among them */
    int failures;    /* those of them that neither ended nor stopped */
    double exposure; /* seconds that they lasted in all, as far as their lines show */
    double stall;    /* what a save cost training, mean of the newest ones; -1: unknown */
    double
        longest_save; /* seconds until durable, longest of the newest ones; -1: unknown */
} History;

/* Reads the newest lines of ledger.jsonl in run_dir: at most a mebibyte. A file that is not there tells
 * nothing. Ranks: local
 * Errors: STATUS_IO, STATUS_MEMORY, STATUS_USAGE for a link, a pipe …; *out tells nothing then */
Status history_read(const char *run_dir, History *out);
