/* What the machine itself can do: direct access to its disk, and memcpy. */
#include "bench/support/ceiling.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECE = 8 << 20, HUGE_PAGE = 2 << 20, ALIGNMENT = 4096 };

/* One thread's part of the work. */
typedef struct {
    int fd;
    bool writes;
    int64_t from, end;
    unsigned char *to; /* the copy's; or a buffer of PIECE bytes */
    const unsigned char *source;
    int error;
} Part;

static void *move_part(void *argument) {
    Part *self = argument;
    for (int64_t at = self->from; at < self->end && self->error == 0; at += PIECE) {
        size_t bytes = self->end - at < PIECE ? (size_t)(self->end - at) : PIECE;
        int moved = self->writes ? file_write_at(self->fd, self->to, bytes, at)
                                 : file_read_at(self->fd, self->to, bytes, at);
        if (moved != 0) self->error = errno;
    }
    return NULL;
}

static void *copy_part(void *argument) {
    Part *self = argument;
    memcpy(self->to + self->from, self->source + self->from,
           (size_t)(self->end - self->from));
    return NULL;
}

/* Runs `work` on the parts, the first one in this thread; the first error. */
static int run_parts(void *(*work)(void *), Part *parts, int count) {
    pthread_t threads[CEILING_MOST_THREADS];
    bool started[CEILING_MOST_THREADS] = {false};
    for (int i = 1; i < count; i++)
        started[i] = pthread_create(&threads[i], NULL, work, &parts[i]) == 0;
    work(&parts[0]);
    int error = parts[0].error;
    for (int i = 1; i < count; i++) {
        if (started[i])
            pthread_join(threads[i], NULL);
        else
            work(&parts[i]);
        if (error == 0) error = parts[i].error;
    }
    return error;
}

static void divide(Part *parts, int count, int64_t bytes, int64_t unit) {
    int64_t each = bytes / count / unit * unit;
    for (int i = 0; i < count; i++) {
        parts[i].from = i * each;
        parts[i].end = i + 1 == count ? bytes : (i + 1) * each;
    }
}

static Status move_file(int fd, const char *name, bool writes, int64_t bytes, int threads) {
    static unsigned char
        *buffers[CEILING_MOST_THREADS]; /* kept: touched memory is faster */
    Part parts[CEILING_MOST_THREADS];
    for (int i = 0; i < threads; i++) {
        if (buffers[i] == NULL) buffers[i] = ceiling_memory(PIECE);
        if (buffers[i] == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory");
        parts[i] = (Part){.fd = fd, .writes = writes, .to = buffers[i]};
    }
    divide(parts, threads, bytes, PIECE);
    int error = writes ? fallocate(fd, 0, 0, bytes) != 0 ? errno : 0 : 0;
    if (error == 0) error = run_parts(move_part, parts, threads);
    if (error == 0 && writes && fsync(fd) != 0) error = errno;
    return error == 0 ? STATUS_OK
                      : FAIL(STATUS_IO, file_fix_for(error), "cannot %s %s directly: %s",
                             writes ? "write" : "read", name, strerror(error));
}

static Status open_and_move(int directory, const char *name, int flags, int64_t bytes,
                            int threads) {
    int fd = openat(directory, name, flags | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        return FAIL(STATUS_IO, "use a directory whose file system knows O_DIRECT",
                    "cannot open %s for direct input and output: %s", name,
                    strerror(errno));
    Status status = move_file(fd, name, flags != O_RDONLY, bytes, threads);
    close(fd);
    return status;
}

Status ceiling_write(int directory, const char *name, int64_t bytes, int threads) {
    return open_and_move(directory, name, O_WRONLY | O_CREAT | O_EXCL, bytes, threads);
}

Status ceiling_read(int directory, const char *name, int64_t bytes, int threads) {
    return open_and_move(directory, name, O_RDONLY, bytes, threads);
}

void ceiling_copy(void *to, const void *from, size_t bytes, int threads) {
    Part parts[CEILING_MOST_THREADS];
    if (bytes == 0) return;
    for (int i = 0; i < threads; i++)
        parts[i] = (Part){.to = to, .source = from};
    divide(parts, threads, (int64_t)bytes, ALIGNMENT);
    run_parts(copy_part, parts, threads);
}

void *ceiling_memory(size_t bytes) {
    unsigned char *memory =
        aligned_alloc(HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (memory == NULL) return NULL;
    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at++)
        memory[at] = (unsigned char)(at * at >> 7);
    return memory;
}
