/* The mutation check's build: leaves out the entry that REKINDLE_OMIT_ENTRY names. */
#include "src/checkpoint/omit.h"

#include <stdlib.h>
#include <string.h>

bool omit_entry(const char *path) {
    const char *omitted = getenv("REKINDLE_OMIT_ENTRY");
    return omitted != NULL && strcmp(path, omitted) == 0;
}
