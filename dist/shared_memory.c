/* Rank 0 makes an anonymous file in memory; the others open it through /proc, and know by a token
 * in its last page that it is the right one (process ids may mean another process in another
 * container). */
#include "dist/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

typedef struct {
    int process, file;
    unsigned char token[16];
} Invitation;

static Status create(size_t size, Invitation *invitation, int *file) {
    static const char fix[] = "nothing to do: messages are used instead, which is slower";
    if (getrandom(invitation->token, sizeof invitation->token, 0) < 0)
        return FAIL(STATUS_UNSUPPORTED, fix, "no random bytes: %s", strerror(errno));
    *file = memfd_create("rekindle", MFD_CLOEXEC);
    if (*file < 0)
        return FAIL(STATUS_UNSUPPORTED, fix, "cannot create shared memory: %s",
                    strerror(errno));
    if (ftruncate(*file, (off_t)size) != 0 ||
        pwrite(*file, invitation->token, sizeof invitation->token, (off_t)(size - PAGE)) !=
            (ssize_t)sizeof invitation->token)
        return FAIL(STATUS_MEMORY, "use a smaller model, or a machine with more memory",
                    "cannot size shared memory (%zu bytes): %s", size, strerror(errno));
    invitation->process = getpid();
    invitation->file = *file;
    return STATUS_OK;
}

static Status join(size_t size, const Invitation *invitation, int *file) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", invitation->process, invitation->file);
    *file = open(path, O_RDWR | O_CLOEXEC);
    int error = errno;
    unsigned char token[sizeof invitation->token];
    struct stat found;
    if (*file >= 0 && fstat(*file, &found) == 0 && found.st_size == (off_t)size &&
        pread(*file, token, sizeof token, (off_t)(size - PAGE)) == (ssize_t)sizeof token &&
        memcmp(token, invitation->token, sizeof token) == 0)
        return STATUS_OK;
    return FAIL(STATUS_UNSUPPORTED,
                "start all ranks of a host in one container and as one user",
                "cannot see the memory of rank 0: %s: %s", path,
                *file < 0 ? strerror(error) : "that is another process");
}

static Status map(size_t size, size_t first, size_t end, int file, SharedMemory *out) {
    int error = 0;
    if (first < end) do { /* a signal may interrupt it */
            error = posix_fallocate(file, (off_t)first, (off_t)(end - first));
        } while (error == EINTR);
    void *bytes = MAP_FAILED;
    if (error == 0) {
        bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        error = errno;
    }
    if (bytes == MAP_FAILED)
        return FAIL(STATUS_MEMORY, "use a smaller model, or a machine with more memory",
                    "no shared memory (%zu bytes): %s", size, strerror(error));
    *out = (SharedMemory){bytes, size};
    return STATUS_OK;
}

Status shared_memory_open(Collective *collective, size_t size, size_t first, size_t end,
                          SharedMemory *out) {
    *out = (SharedMemory){NULL, 0};
    size = (size + PAGE - 1) / PAGE * PAGE + PAGE; /* the token's page */
    Invitation invitation = {0};
    int file = -1;
    const CollectiveOps *ops = collective->ops;
    Status status = STATUS_OK;
    if (collective->rank == 0) status = create(size, &invitation, &file);
    status = ops->agree(collective, status);
    if (status == STATUS_OK)
        status = ops->broadcast(collective, &invitation, sizeof invitation, 0);
    if (status == STATUS_OK) {
        if (collective->rank != 0) status = join(size, &invitation, &file);
        if (status == STATUS_OK) status = map(size, first, end, file, out);
        status =
            ops->agree(collective, status); /* rank 0's file stays open until all joined */
    }
    if (file >= 0) close(file);
    if (status != STATUS_OK) shared_memory_close(out);
    return status;
}

void shared_memory_close(SharedMemory *memory) {
    if (memory->bytes != NULL) munmap(memory->bytes, memory->size);
    *memory = (SharedMemory){NULL, 0};
}
