/* Writes the pieces of a file while the next one is being made. */
#pragma once

#include "src/core/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct WriteBehind WriteBehind;

/* Buffers for pieces of at most `piece` bytes (a multiple of STATE_PAGE), of which about `count` will be
 * written to `fd`.
 *
 * Ranks:   local; two threads of its own for more than two pieces, one for two, none for one
 * Memory:  *out is the caller's: write_behind_close. As many pieces, four at most. `fd` stays the caller's
 * Errors:  STATUS_MEMORY */
Status write_behind_open(int fd, size_t piece, int64_t count, WriteBehind **out);

/* A buffer that is free, page-aligned, of unknown content; it is the caller's, and the same, until it is
 * sent. */
unsigned char *write_behind_piece(WriteBehind *self);

/* Hands that buffer over: its first `bytes` go to `offset` of the file some time before
 * write_behind_finish returns. */
void write_behind_send(WriteBehind *self, size_t bytes, int64_t offset);

/* Waits until all is written. 0, or -1 with the errno of the first failure; nothing was begun after it. */
int write_behind_finish(WriteBehind *self);

/* Waits for what is being written; without write_behind_finish the rest is not. NULL is allowed. */
void write_behind_close(WriteBehind *self);

/* Writes whole pages from aligned memory, now. File systems that take O_DIRECT when it is set may still
 * refuse the write itself: then the page cache it is. 0, or -1 with errno. */
int write_behind_pages(int fd, const void *data, size_t bytes, int64_t offset);
