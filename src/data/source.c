/* Reads plain and gzip files. zlib's own gzread ignores bytes after a gzip stream and a file that
 * is cut off at its very end; a data set's identity must not rest on either, so this calls inflate. */
#include "src/data/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 1 << 16,
    INFLATE_RATIO = 1032, /* deflate: two bits stand for at most 258 bytes */
    GZIP_WINDOW = 15 + 16,
    GZIP_FIRST_BYTE = 0x1f,
};

static const char damaged[] = "fetch the file again; `gzip -t` shows the same damage";

static Status open_failed(const char *path, const char *step, int error) {
    bool users = error == ENOENT || error == ENOTDIR || error == EACCES || error == ELOOP ||
                 error == ENAMETOOLONG;
    return FAIL(users ? STATUS_USAGE : STATUS_IO,
                users ? "check the path and its permissions" : "check the file system",
                "cannot %s %s: %s", step, path, strerror(error));
}

static Status read_some(Source *source, void *out, size_t bytes, size_t *got) {
    for (;;) {
        ssize_t count = read(source->fd, out, bytes);
        if (count >= 0) {
            *got = (size_t)count;
            source->read_bytes += count;
            return STATUS_OK;
        }
        if (errno != EINTR)
            return FAIL(STATUS_IO, "check the file system",
                        "cannot read %s at offset %lld: %s", source->path,
                        (long long)source->read_bytes, strerror(errno));
    }
}

Status source_open(const char *path, Source *out) {
    *out = (Source){.path = path, .fd = -1};
    /* O_NONBLOCK: a pipe must be refused below, not waited for here */
    out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (out->fd < 0) return open_failed(path, "open", errno);

    Status status = STATUS_OK;
    struct stat info;
    uint8_t start[2] = {0, 0};
    if (fstat(out->fd, &info) != 0)
        status = open_failed(path, "inspect", errno);
    else if (!S_ISREG(info.st_mode))
        status = FAIL(STATUS_USAGE, "name the data file itself", "%s is not a regular file",
                      path);
    else if (info.st_size == 0)
        status = FAIL(STATUS_USAGE, "fetch the file again", "%s is empty (0 bytes)", path);
    else if (pread(out->fd, start, sizeof start, 0) < 0)
        status = open_failed(path, "read", errno);
    if (status != STATUS_OK) {
        source_close(out);
        return status;
    }

    out->size_bytes = out->bound_bytes = info.st_size;
    out->compressed = start[0] == GZIP_FIRST_BYTE && start[1] == 0x8b;
    if (!out->compressed) return STATUS_OK;
    if (__builtin_mul_overflow(out->size_bytes, INFLATE_RATIO, &out->bound_bytes))
        out->bound_bytes = INT64_MAX;
    out->buffer = malloc(BUFFER_BYTES);
    if (out->buffer == NULL || inflateInit2(&out->stream, GZIP_WINDOW) != Z_OK) {
        free(out->buffer);
        out->buffer = NULL;
        source_close(out);
        return FAIL(STATUS_MEMORY, NULL, "no memory to decompress %s", path);
    }
    return STATUS_OK;
}

void source_close(Source *source) {
    if (source->buffer != NULL) inflateEnd(&source->stream);
    free(source->buffer);
    if (source->fd >= 0) close(source->fd);
    *source = (Source){.fd = -1};
}

/* One call of inflate; true in *ended when the file has ended after a whole member. */
static Status inflate_some(Source *source, bool *ended) {
    z_stream *stream = &source->stream;
    if (stream->avail_in == 0) {
        size_t got = 0;
        TRY(read_some(source, source->buffer, BUFFER_BYTES, &got));
        stream->next_in = source->buffer;
        stream->avail_in = (uInt)got;
        if (got == 0) {
            *ended = source->between_members;
            if (*ended) return STATUS_OK;
            return FAIL(
                STATUS_USAGE, damaged,
                "%s is cut off: the gzip stream has no end at offset %lld of the file "
                "(%lld bytes of content so far)",
                source->path, (long long)source->read_bytes, (long long)source->offset);
        }
    }
    if (source->between_members) {
        if (stream->next_in[0] != GZIP_FIRST_BYTE)
            return FAIL(
                STATUS_USAGE, damaged,
                "%s has trailing bytes after the gzip stream, from offset %lld of the file",
                source->path, (long long)(source->read_bytes - stream->avail_in));
        inflateReset(stream);
        source->between_members = false;
    }
    int code = inflate(stream, Z_NO_FLUSH);
    if (code == Z_STREAM_END) source->between_members = true;
    if (code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR) return STATUS_OK;
    if (code == Z_MEM_ERROR)
        return FAIL(STATUS_MEMORY, NULL, "no memory to decompress %s", source->path);
    return FAIL(
        STATUS_USAGE, damaged,
        "%s is damaged: %s near offset %lld of the file (%lld bytes of content so far)",
        source->path, stream->msg != NULL ? stream->msg : "not a gzip stream",
        (long long)(source->read_bytes - stream->avail_in), (long long)source->offset);
}

Status source_read(Source *source, void *out, size_t bytes, size_t *got) {
    *got = 0;
    bool ended = false;
    while (*got < bytes && !ended) {
        size_t more = bytes - *got, done = 0;
        uint8_t *to = (uint8_t *)out + *got;
        if (source->compressed) {
            if (more > 1u << 30) more = 1u << 30; /* zlib counts in unsigned int */
            source->stream.next_out = to;
            source->stream.avail_out = (uInt)more;
            TRY(inflate_some(source, &ended));
            done = more - source->stream.avail_out;
        } else {
            TRY(read_some(source, to, more, &done));
            ended = done == 0;
        }
        *got += done;
        source->offset += (int64_t)done;
    }
    return STATUS_OK;
}
