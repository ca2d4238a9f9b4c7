/* The user block as text: 4,096 bytes of JSON that are at once the commit record, the registry
 * metadata and what `head -c 4096 FILE` shows a person. */
#pragma once

#include "src/checkpoint/checkpoint.h"

/* Writes the block as text, one field a line, padded with spaces, a newline at the end; the last
 * field is the checksum of the whole text. The same block gives the same bytes.
 *
 * Errors: STATUS_USAGE when the metrics are no JSON object or the text would be too long */
Status userblock_encode(const UserBlock *block, char text[CHECKPOINT_USER_BLOCK]);

/* Checks the text (checksum, format, version, fields, ranges) and reads it. `name` is the file's, for
 * the failure text. Nothing is trusted before the checksum is right.
 *
 * Errors: STATUS_CORRUPT naming file and reason; STATUS_USAGE for a newer format */
Status userblock_decode(const char text[CHECKPOINT_USER_BLOCK], const char *name,
                        UserBlock *out);

/* Opens a file for reading (regular files only, links are not followed), and reads and checks its
 * user block and its length.
 *
 * Memory:  *fd is the caller's (close); -1 after a failure
 * Errors:  STATUS_IO, STATUS_CORRUPT, STATUS_USAGE as above */
Status userblock_open(int directory, const char *name, int *fd, UserBlock *out);
