/* The system calls behind files that appear whole and durable, or not at all. */
#include "src/core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

const char *file_fix_for(int error) {
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        return "free some space, or set run.dir to a roomier file system";
    case EACCES:
    case EPERM:
        return "check the permissions of the file and of its directory";
    case EROFS:
        return "the file system is read-only: set run.dir to another one";
    case ENOENT:
        return "check the path: it or one of its directories does not exist";
    case ENOTDIR:
        return "check the path: one of its parts is not a directory";
    case EISDIR:
        return "name a file, not a directory";
    case EEXIST:
        return "the name is taken and is never replaced: choose another one, or move it "
               "away";
    case ELOOP:
        return "check the path: a symbolic link stands where none may, or links form a "
               "circle";
    case ENAMETOOLONG:
        return "use a shorter name";
    case EMFILE:
    case ENFILE:
        return "too many files are open: raise the limit (ulimit -n)";
    case EFBIG:
        return "the file is larger than the file system or the limit (ulimit -f) allows";
    case ESTALE:
        return "the network file system lost the directory: mount it again and relaunch";
    case EIO:
        return "the device or its connection failed: check the system's log, then the disk";
    default:
        return "check free space, permissions and the health of the file system";
    }
}

int file_write_at(int fd, const void *data, size_t size, long long offset) {
    const char *bytes = data;
    while (size > 0) {
        ssize_t wrote = pwrite(fd, bytes, size, (off_t)offset);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote == 0) errno = EIO; /* no progress and no reason: never spin on it */
        if (wrote <= 0) return -1;
        bytes += wrote;
        size -= (size_t)wrote;
        offset += wrote;
    }
    return 0;
}

int file_read_at(int fd, void *data, size_t size, long long offset) {
    char *bytes = data;
    while (size > 0) {
        ssize_t got = pread(fd, bytes, size, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = EIO;
        if (got <= 0) return -1;
        bytes += got;
        size -= (size_t)got;
        offset += got;
    }
    return 0;
}

/* Some file systems cannot sync a directory and say EINVAL; their renames are as durable as they
 * will ever be. */
static int sync_directory(int directory) {
    return fsync(directory) == 0 || errno == EINVAL ? 0 : -1;
}

Status file_sync_directory(int directory, const char *name) {
    if (sync_directory(directory) == 0) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot sync the directory of %s: %s", name,
                strerror(errno));
}

typedef struct {
    bool known;
    dev_t device;
    ino_t inode;
} File;

static File look_at(int directory, const char *name) {
    struct stat about;
    if (fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) != 0)
        return (File){.known = false};
    return (File){true, about.st_dev, about.st_ino};
}

static bool same_file(File a, File b) {
    return a.known && b.known && a.device == b.device && a.inode == b.inode;
}

bool file_is_same(int directory, const char *name, int other_directory, const char *other) {
    return same_file(look_at(directory, name), look_at(other_directory, other));
}

/* Over a network file system a call can happen and still report an error (EEXIST, ENOENT, ESTALE …) when its
 * first answer was lost and it was sent again: the inode under the new name tells. errno stays. */
static int unless_happened(int directory, const char *name, File ours) {
    int error = errno;
    bool happened = same_file(look_at(directory, name), ours);
    errno = error;
    return happened ? 0 : -1;
}

/* Renames without replacing; 0, or -1 with errno and `temp` still in place. */
static int rename_new(int directory, const char *temp, const char *name) {
    File ours = look_at(directory, temp);
    if (renameat2(directory, temp, directory, name, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL) return unless_happened(directory, name, ours);
    /* NFS and others lack the flag; a hard link never replaces either */
    if (linkat(directory, temp, directory, name, 0) != 0 &&
        unless_happened(directory, name, ours) != 0)
        return -1;
    unlinkat(directory, temp, 0); /* `name` stands: a second, hidden name is only litter */
    return 0;
}

static int rename_over(int directory, const char *temp, const char *name) {
    File ours = look_at(directory, temp);
    if (renameat(directory, temp, directory, name) == 0) return 0;
    return unless_happened(directory, name, ours);
}

Status file_temporary_name(const char *name, char temp[NAME_MAX + 1]) {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return FAIL(STATUS_IO, NULL, "no random number for a temporary name of %s: %s",
                    name, strerror(errno));
    int length =
        snprintf(temp, NAME_MAX + 1, ".%s.%016llx.tmp", name, (unsigned long long)random);
    return length <= NAME_MAX
               ? STATUS_OK
               : FAIL(STATUS_IO, file_fix_for(ENAMETOOLONG), "name too long: %s", name);
}

typedef enum { REPLACE_NEVER, REPLACE_ATOMICALLY } Replace;

static Status publish(int directory, const char *name, const void *data, size_t size,
                      Replace replace) {
    char temp[NAME_MAX + 1];
    TRY(file_temporary_name(name, temp));

    const char *step = "create";
    int fd =
        openat(directory, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) /* nothing of ours to remove, and the error is not about `name` */
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot %s %s (%zu bytes): %s", step,
                    name, size, strerror(errno));
    step = "write";
    if (file_write_at(fd, data, size, 0) != 0) goto failed;
    step = "sync";
    if (fsync(fd) != 0)
        goto failed; /* never retried: the kernel may have dropped the pages */
    step = "close";
    int closed = close(fd);
    fd = -1;
    if (closed != 0) goto failed; /* NFS and quotas report late */
    step = "name";
    int named = replace == REPLACE_NEVER ? rename_new(directory, temp, name)
                                         : rename_over(directory, temp, name);
    if (named != 0) goto failed;
    return file_sync_directory(directory, name);

failed:;
    int error = errno; /* clean-up below must not hide the first cause */
    if (fd >= 0) close(fd);
    unlinkat(directory, temp, 0);
    bool taken = error == EEXIST && replace == REPLACE_NEVER;
    return FAIL(taken ? STATUS_EXISTS : STATUS_IO, file_fix_for(error),
                "cannot %s %s (%zu bytes): %s", step, name, size, strerror(error));
}

Status file_publish(int directory, const char *name, const void *data, size_t size) {
    return publish(directory, name, data, size, REPLACE_NEVER);
}

Status file_replace(int directory, const char *name, const void *data, size_t size) {
    return publish(directory, name, data, size, REPLACE_ATOMICALLY);
}

void file_sweep(int directory, const char *name) {
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        if (fd >= 0) close(fd);
        return;
    }
    size_t length = strlen(name);
    for (const struct dirent *found; (found = readdir(stream)) != NULL;) {
        const char *text = found->d_name;
        /* .NAME.0123456789abcdef.tmp */
        if (text[0] == '.' && strncmp(text + 1, name, length) == 0 &&
            strlen(text) == length + 22 && text[length + 1] == '.' &&
            strspn(text + length + 2, "0123456789abcdef") == 16 &&
            strcmp(text + length + 18, ".tmp") == 0)
            unlinkat(directory, text, 0);
    }
    closedir(stream);
}

Status file_name_and_sync(int directory, const char *temp, const char *name) {
    if (rename_new(directory, temp, name) != 0)
        return FAIL(errno == EEXIST ? STATUS_EXISTS : STATUS_IO, file_fix_for(errno),
                    "cannot name %s (written as %s): %s", name, temp, strerror(errno));
    return file_sync_directory(directory, name);
}

/* O_NONBLOCK: a pipe without a peer must be refused, not waited for; on a regular file it changes nothing */
static Status open_regular(int directory, const char *name, int flags, const char *fix,
                           int *out) {
    struct stat about;
    *out = openat(directory, name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    if (*out >= 0 && fstat(*out, &about) == 0 && S_ISREG(about.st_mode)) return STATUS_OK;
    int error = *out >= 0 ? ENXIO : errno;
    if (*out >= 0) close(*out);
    *out = -1;
    if (error == ENXIO || error == EISDIR) /* a pipe or a socket; a directory */
        return FAIL(STATUS_USAGE, fix, "%s is not a regular file", name);
    if (error == ELOOP && (flags & O_NOFOLLOW) != 0)
        return FAIL(STATUS_USAGE, fix, "%s is a symbolic link, which is never followed",
                    name);
    return FAIL(STATUS_IO, file_fix_for(error), "cannot open %s: %s", name,
                strerror(error));
}

Status file_open(int directory, const char *name, int flags, int *fd) {
    return open_regular(directory, name, flags | O_NOFOLLOW,
                        "take it away: a file of the program's own belongs there", fd);
}

Status file_read(int directory, const char *name, size_t limit, char **data, size_t *size) {
    char *bytes = NULL;
    const char *step = "examine";
    int fd;
    if (directory == AT_FDCWD)
        TRY(open_regular(directory, name, O_RDONLY, "name a regular file", &fd));
    else
        TRY(file_open(directory, name, O_RDONLY, &fd));
    struct stat about;
    if (fstat(fd, &about) != 0) goto failed;
    if ((uintmax_t)about.st_size > limit) {
        close(fd);
        return FAIL(STATUS_USAGE, "check that this is the file that was meant",
                    "%s has %lld bytes, more than the limit of %zu", name,
                    (long long)about.st_size, limit);
    }
    size_t length = (size_t)about.st_size;
    bytes = malloc(length + 1);
    if (bytes == NULL) {
        close(fd);
        return FAIL(STATUS_MEMORY, NULL, "no memory to read %s (%zu bytes)", name, length);
    }
    step = "read";
    if (file_read_at(fd, bytes, length, 0) != 0) goto failed;
    close(fd); /* only read from: nothing can be lost */
    bytes[length] = '\0';
    *data = bytes;
    if (size != NULL) *size = length;
    return STATUS_OK;

failed:;
    int error = errno;
    close(fd);
    free(bytes);
    return FAIL(STATUS_IO, file_fix_for(error), "cannot %s %s: %s", step, name,
                strerror(error));
}

/* Makes one directory whose parents exist and makes its name durable: also when it is there already, for
 * who made it may have been killed before the sync. 0, or -1 with errno. */
static int make_one(const char *path, const char *parent) {
    bool made = mkdir(path, 0777) == 0;
    if (!made) {
        struct stat about;
        if (errno != EEXIST) return -1;
        if (stat(path, &about) != 0) return -1;
        errno = ENOTDIR;
        if (!S_ISDIR(about.st_mode)) return -1;
    }
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return made ? -1 : 0; /* not ours to read: then we did not make it */
    int synced = sync_directory(fd);
    int error = errno;
    close(fd);
    errno = error;
    /* of what was always there, only a real loss matters */
    return made || error == EIO ? synced : 0;
}

Status file_make_directory(const char *path) {
    char whole[PATH_MAX], parent[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof whole)
        return FAIL(STATUS_IO, "use a path of 1 to 4095 bytes",
                    "cannot make a directory: its path has %zu bytes", length);
    strcpy(parent, path[0] == '/' ? "/" : ".");
    for (size_t end = 0; end < length;) {
        size_t start = end + strspn(path + end, "/");
        end = start + strcspn(path + start, "/");
        if (end == start) break; /* nothing but slashes is left */
        memcpy(whole, path, end);
        whole[end] = '\0';
        if (make_one(whole, parent) != 0)
            return FAIL(STATUS_IO, file_fix_for(errno), "cannot make the directory %s: %s",
                        whole, strerror(errno));
        strcpy(parent, whole);
    }
    return STATUS_OK;
}
