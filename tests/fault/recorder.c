/* LD_PRELOAD library that writes down, in order, all that a process changes below one directory, so that
 * power_loss.py can rebuild what a disk may hold after a power loss at any moment.
 *
 *   RECORD_PATH  directory whose changes are recorded (absolute, resolved)
 *   RECORD_FILE  gets the records, appended: a line "call said offset bytes path [path]", then that many
 *                bytes of data. said: how long the process's output was when the call began (it goes to a
 *                regular file), so that it is known what it had promised by then
 *   RECORD_KILL  SIGKILL after so many recorded calls; none: never
 *
 * One call at a time: the order of the records is the order in which the calls were done. Heartbeats are
 * left out: they come by the clock, are never synced, and say nothing once their writer is gone. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static int record_fd = -1;
static long kill_after, calls;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void complain(const char *what) {
    dprintf(STDERR_FILENO, "recorder: %s\n", what);
    _exit(99);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RECORD_PATH"), *file = getenv("RECORD_FILE"),
               *at = getenv("RECORD_KILL");
    if (path == NULL || file == NULL) return;
    if (path[0] != '/' || strlen(path) >= sizeof root)
        complain("RECORD_PATH is not absolute");
    long fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                      0600);
    if (fd < 0) complain("cannot open RECORD_FILE");
    /* far away from the numbers that the program gets */
    record_fd = (int)syscall(SYS_fcntl, (int)fd, F_DUPFD_CLOEXEC, 200);
    syscall(SYS_close, (int)fd);
    kill_after = at == NULL ? 0 : atol(at);
    strcpy(root, path);
    root_length = strlen(root);
}

/* ---- is it a change of ours? */

static bool is_below(const char *path) {
    size_t length = strlen(path);
    bool heartbeat = length > 5 && strcmp(path + length - 5, ".beat") == 0;
    return strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == '\0') && !heartbeat;
}

static bool path_of_fd(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
    return length > 0;
}

static bool watches_fd(int fd, char path[PATH_MAX]) {
    return root_length > 0 && fd >= 0 && path_of_fd(fd, path) && is_below(path);
}

static bool watches_name(int directory, const char *name, char path[PATH_MAX]) {
    path[0] = '\0';
    if (root_length == 0 || name == NULL) return false;
    char base[PATH_MAX] = "";
    if (name[0] != '/') {
        if (directory == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) <= 0) return false;
        } else if (!path_of_fd(directory, base)) {
            return false;
        }
    }
    int length = snprintf(path, PATH_MAX, "%s%s%s", base, base[0] != '\0' ? "/" : "", name);
    return length < PATH_MAX && is_below(path);
}

/* ---- the record */

static long long said_now(void) {
    struct stat about;
    return syscall(SYS_fstat, STDERR_FILENO, &about) == 0 ? (long long)about.st_size : -1;
}

/* All calls are made between lock_calls and note, so that none overtakes its record. */
static long long lock_calls(bool watched) {
    if (!watched) return 0;
    pthread_mutex_lock(&lock);
    return said_now();
}

static void append(const void *data, size_t size) {
    for (const char *at = data; size > 0;) {
        long wrote = syscall(SYS_write, record_fd, at, size);
        if (wrote <= 0) complain("cannot write RECORD_FILE");
        at += wrote;
        size -= (size_t)wrote;
    }
}

/* done: the call has changed something; one that failed leaves no record. */
static void note(bool watched, bool done, const char *call, long long said,
                 long long offset, const void *data, size_t bytes, const char *path,
                 const char *second) {
    if (!watched) return;
    int error = errno;
    if (done) {
        char line[2 * PATH_MAX + 128];
        int length = snprintf(line, sizeof line, "%s %lld %lld %zu %s %s\n", call, said,
                              offset, bytes, path, second);
        append(line, (size_t)length);
        append(data, bytes);
        if (++calls == kill_after) syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
}

#define EXPORT __attribute__((visibility("default")))

/* ---- names */

static int open_any(int directory, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    bool watched =
        (flags & (O_CREAT | O_TRUNC)) != 0 && watches_name(directory, name, path);
    long long said = lock_calls(watched);
    bool there =
        watched && syscall(SYS_faccessat2, directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    long fd = syscall(SYS_openat, directory, name, flags, mode);
    bool truncates = there && (flags & O_TRUNC) != 0;
    note(watched, fd >= 0 && (!there || truncates), there ? "truncate" : "create", said, 0,
         NULL, 0, path, "");
    return (int)fd;
}

#define TAKE_MODE(flags, mode)                    \
    mode_t mode = 0;                              \
    if (((flags) & (O_CREAT | O_TMPFILE)) != 0) { \
        va_list arguments;                        \
        va_start(arguments, flags);               \
        mode = va_arg(arguments, mode_t);         \
        va_end(arguments);                        \
    }

EXPORT int open(const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any(AT_FDCWD, name, flags, mode);
}
EXPORT int open64(const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any(AT_FDCWD, name, flags, mode);
}
EXPORT int openat(int directory, const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any(directory, name, flags, mode);
}
EXPORT int openat64(int directory, const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any(directory, name, flags, mode);
}

EXPORT int renameat2(int from_directory, const char *from, int directory, const char *name,
                     unsigned flags) {
    char path[PATH_MAX], from_path[PATH_MAX];
    bool watched = watches_name(from_directory, from, from_path);
    watched = watches_name(directory, name, path) || watched;
    long long said = lock_calls(watched);
    long result = syscall(SYS_renameat2, from_directory, from, directory, name, flags);
    note(watched, result == 0, "rename", said, 0, NULL, 0, from_path, path);
    return (int)result;
}
EXPORT int renameat(int from_directory, const char *from, int directory, const char *name) {
    return renameat2(from_directory, from, directory, name, 0);
}
EXPORT int rename(const char *from, const char *name) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, name, 0);
}

EXPORT int linkat(int from_directory, const char *from, int directory, const char *name,
                  int flags) {
    char path[PATH_MAX], from_path[PATH_MAX];
    watches_name(from_directory, from, from_path);
    bool watched = watches_name(directory, name, path);
    long long said = lock_calls(watched);
    long result = syscall(SYS_linkat, from_directory, from, directory, name, flags);
    note(watched, result == 0, "link", said, 0, NULL, 0, from_path, path);
    return (int)result;
}
EXPORT int link(const char *from, const char *name) {
    return linkat(AT_FDCWD, from, AT_FDCWD, name, 0);
}

EXPORT int unlinkat(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    bool watched = watches_name(directory, name, path);
    long long said = lock_calls(watched);
    long result = syscall(SYS_unlinkat, directory, name, flags);
    note(watched, result == 0, "unlink", said, 0, NULL, 0, path, "");
    return (int)result;
}
EXPORT int unlink(const char *name) {
    return unlinkat(AT_FDCWD, name, 0);
}

EXPORT int mkdirat(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    bool watched = watches_name(directory, name, path);
    long long said = lock_calls(watched);
    long result = syscall(SYS_mkdirat, directory, name, mode);
    note(watched, result == 0, "mkdir", said, 0, NULL, 0, path, "");
    return (int)result;
}
EXPORT int mkdir(const char *name, mode_t mode) {
    return mkdirat(AT_FDCWD, name, mode);
}

/* ---- bytes */

static ssize_t write_any(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    bool watched = watches_fd(fd, path);
    long long said = lock_calls(watched);
    long result = offset < 0 ? syscall(SYS_write, fd, data, size)
                             : syscall(SYS_pwrite64, fd, data, size, offset);
    if (watched && offset < 0 && result > 0)
        offset =
            syscall(SYS_lseek, fd, 0, SEEK_CUR) - result; /* right with O_APPEND, too */
    note(watched, result > 0, "write", said, offset, data, result > 0 ? (size_t)result : 0,
         path, "");
    return result;
}
EXPORT ssize_t write(int fd, const void *data, size_t size) {
    return write_any(fd, data, size, -1);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return write_any(fd, data, size, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    return write_any(fd, data, size, offset);
}
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (watches_fd(fd, path)) complain("cannot record writev");
    return syscall(SYS_writev, fd, parts, count);
}

static int set_size(const char *call, int fd, int mode, off_t offset, off_t length) {
    char path[PATH_MAX];
    bool watched = watches_fd(fd, path);
    if (watched && mode != 0) complain("cannot record this way to fallocate");
    long long said = lock_calls(watched);
    bool truncates = strcmp(call, "truncate") == 0;
    long result = truncates ? syscall(SYS_ftruncate, fd, length)
                            : syscall(SYS_fallocate, fd, mode, offset, length);
    note(watched, result == 0, call, said, offset + length, NULL, 0, path, "");
    return (int)result;
}
EXPORT int ftruncate(int fd, off_t length) {
    return set_size("truncate", fd, 0, 0, length);
}
EXPORT int ftruncate64(int fd, off_t length) {
    return set_size("truncate", fd, 0, 0, length);
}
EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    return set_size("allocate", fd, mode, offset, length);
}
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length) {
    return set_size("allocate", fd, mode, offset, length);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    return set_size("allocate", fd, 0, offset, length) == 0 ? 0 : errno;
}
EXPORT int posix_fallocate64(int fd, off_t offset, off_t length) {
    return set_size("allocate", fd, 0, offset, length) == 0 ? 0 : errno;
}

static int sync_any(long number, int fd) {
    char path[PATH_MAX];
    bool watched = watches_fd(fd, path);
    long long said = lock_calls(watched);
    long result = syscall(number, fd);
    note(watched, result == 0, "sync", said, 0, NULL, 0, path, "");
    return (int)result;
}
EXPORT int fsync(int fd) {
    return sync_any(SYS_fsync, fd);
}
EXPORT int fdatasync(int fd) {
    return sync_any(SYS_fdatasync, fd);
}
