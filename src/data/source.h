/* A file's content as a stream of bytes: plain or gzip, told apart by the content, not the name. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

typedef struct {
    const char *path; /* the caller's; for messages */
    int fd;
    bool compressed;
    bool between_members; /* gzip: the last member has ended whole, with a right checksum */
    int64_t size_bytes;   /* of the file */
    int64_t read_bytes;   /* of the file, so far */
    int64_t offset;       /* in the decoded content: where the next read begins */
    int64_t bound_bytes; /* the decoded content cannot be longer (plain: exactly so long) */
    z_stream stream;
    uint8_t *buffer;
} Source;

/* Opens a regular file. Ranks: local. Memory: source_close; path must outlive the source
 * Errors:  STATUS_USAGE when it is missing, unreadable, empty or not a regular file; STATUS_IO;
 *          STATUS_MEMORY. *out then needs no close */
Status source_open(const char *path, Source *out);
void source_close(Source *source);

/* Reads on. *got < bytes only at the content's end; a read that meets the end has then verified the
 * gzip checksum too.
 * Errors: STATUS_USAGE for a gzip stream that is damaged, cut off, or followed by other bytes;
 * STATUS_IO */
Status source_read(Source *source, void *out, size_t bytes, size_t *got);
