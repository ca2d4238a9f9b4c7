/* What tells the versions of the checkpoint format apart. */
#include "src/checkpoint/format.h"

#include <string.h>

_Static_assert((int)FORMAT_PACKED == (int)CHECKPOINT_FORMAT_VERSION,
               "the newest version has no line here");

int format_for_level(int level) {
    return level > 0 ? FORMAT_PACKED : FORMAT_PLAIN;
}

bool format_is_known(int64_t version) {
    return version >= FORMAT_PLAIN && version <= CHECKPOINT_FORMAT_VERSION;
}

bool format_has_packing(int version) {
    return version >= FORMAT_PACKED;
}

void format_fill_missing(UserBlock *block) {
    if (block->version < FORMAT_PACKED) {
        strcpy(block->compression, "none");
        block->value_bytes = 0;
    }
}
