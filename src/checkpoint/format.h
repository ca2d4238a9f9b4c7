/* The versions of the checkpoint format, in one place: what each one added, and what is taken for it in a file
 * that was written before (src/checkpoint/FORMAT.md, "Versions"). The rest of this room asks here and compares
 * no version itself; a new version is one more line in each function, and a kept file in tests/formats. */
#pragma once

#include "src/checkpoint/checkpoint.h"

enum {
    FORMAT_PLAIN = 1,  /* all entries stored as they are */
    FORMAT_PACKED = 2, /* the larger entries packed; compression and value_bytes say so */
};

/* The oldest version that can hold what is written at this level of packing: what needs no newer one stays
 * readable by older programs. */
int format_for_level(int level);

/* Whether this program reads it. Those that it does not are newer: there is none that it has forgotten. */
bool format_is_known(int64_t version);

/* Since FORMAT_PACKED: packed entries, more rows in the table of digests than are used, and the fields of the
 * user block that tell of packing. */
bool format_has_packing(int version);

/* Gives the fields that the file's version lacks the values that it had without saying so. */
void format_fill_missing(UserBlock *block);
