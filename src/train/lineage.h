/* The lineage that a checkpoint carries: one JSON object for each launch of the run, the oldest first. The
 * launch's own object may get "plans", what the device told of the ways in which it computes
 * (BackendOps.plans): a later launch on the same kind of device computes in the same ways. */
#pragma once

#include "src/core/status.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct Lineage Lineage;

/* `earlier`: the restored file's text, or NULL for a fresh start; `where` names the file in failures.
 * Takes the reference to `launch`, this launch's object. Memory: *out is the caller's
 * Errors: STATUS_CORRUPT when `earlier` is no list; STATUS_MEMORY */
Status lineage_open(const char *earlier, const char *where, json_t *launch, Lineage **out);
void lineage_close(Lineage *lineage); /* NULL is allowed */

/* Notes this launch's plans ("": none). They stand for those of earlier launches on the same kind of
 * device, which are left out from here on: this launch was given them and repeats them.
 * Errors: STATUS_MEMORY; the text is as before then */
Status lineage_note_plans(Lineage *lineage, const char *plans);

/* As JSON. Valid until lineage_note_plans. */
const char *lineage_text(const Lineage *lineage);

/* The newest launch that told plans: its device's kind, and them; NULL when none did.
 * Memory: both are the caller's (free). Errors: STATUS_MEMORY */
Status lineage_find_plans(const char *text, char **kind, char **plans);
