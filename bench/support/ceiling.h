/* What the machine itself can do, for figures that are measured against it: direct writes and reads of a file by one
 * or two threads, each its own part, in requests of 8 MiB, and memcpy by one or two threads. */
#pragma once

#include "src/core/status.h"

#include <stddef.h>
#include <stdint.h>

enum { CEILING_MOST_THREADS = 2 };

/* Writes a new file past the page cache, with its room reserved, and syncs it.
 * Errors: STATUS_IO, also where the file system knows no direct access; STATUS_MEMORY */
Status ceiling_write(int directory, const char *name, int64_t bytes, int threads);

/* Reads so much of a file past the page cache. Errors: as above */
Status ceiling_read(int directory, const char *name, int64_t bytes, int threads);

/* Copies, each thread its own part. Errors: none */
void ceiling_copy(void *to, const void *from, size_t bytes, int threads);

/* Memory as fast as there is: in huge pages, touched. NULL: no memory. Memory: the caller's (free) */
void *ceiling_memory(size_t bytes);
