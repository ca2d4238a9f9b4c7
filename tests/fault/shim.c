/* LD_PRELOAD library that numbers a process's calls on files below one directory and does something to
 * one of them: SIGKILL or SIGSTOP before or after it, an error, a short write. It says what it did.
 *
 *   SHIM_PATH    directory whose files are watched (absolute, resolved)
 *   SHIM_TRACE   file that gets one line "number kind call path" for each watched call
 *   SHIM_AT      number of the call to act on, from 1; none: only count
 *   SHIM_DO      kill-before kill-after stop-before stop-after short, or an error's name (ENOSPC …)
 *   SHIM_HAPPENS set: a call that is to fail does its work first, and only its answer is lost
 *   SHIM_ALWAYS  set: every later call fails, too, where the error can be (see plausible)
 *   SHIM_SYNC_MS milliseconds that every sync takes longer: a slow disk
 *   SHIM_CREATE_MS  the same of each call that takes room or a new name
 *   SHIM_REPORT  file that gets one line for each injection
 *
 * The library calls the kernel itself: nothing here depends on what it wraps. Calls are numbered over all
 * threads in the order in which they begin. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* What a call does, as far as errors differ. */
typedef enum {
    KIND_CREATE, /* takes room or a new name: open with O_CREAT, link, rename, mkdir, fallocate */
    KIND_WRITE,
    KIND_SYNC,
    KIND_CLOSE,
    KIND_UNLINK,
    KIND_LOOK, /* opens for reading, reads, asks */
} Kind;
static const char *const kind_names[] = {"create", "write",  "sync",
                                         "close",  "unlink", "look"};

typedef enum {
    DO_COUNT,
    DO_KILL_BEFORE,
    DO_KILL_AFTER,
    DO_STOP_BEFORE,
    DO_STOP_AFTER,
    DO_FAIL,
    DO_SHORT,
} Action;

static const struct {
    const char *name;
    Action action;
    int error;
} actions[] = {
    {"kill-before", DO_KILL_BEFORE, 0},
    {"kill-after", DO_KILL_AFTER, 0},
    {"stop-before", DO_STOP_BEFORE, 0},
    {"stop-after", DO_STOP_AFTER, 0},
    {"short", DO_SHORT, 0},
    {"ENOSPC", DO_FAIL, ENOSPC},
    {"EIO", DO_FAIL, EIO},
    {"EDQUOT", DO_FAIL, EDQUOT},
    {"EINTR", DO_FAIL, EINTR},
    {"EROFS", DO_FAIL, EROFS},
    {"EXDEV", DO_FAIL, EXDEV},
    {"ESTALE", DO_FAIL, ESTALE},
    {"ENOENT", DO_FAIL, ENOENT},
    {"EEXIST", DO_FAIL, EEXIST},
};

static char root[PATH_MAX];
static size_t root_length;
static int trace_fd = -1, report_fd = -1;
static long wanted;
static Action action;
static int action_error;
static bool always, happens;
static long slow_ms[KIND_LOOK + 1];
static atomic_long calls;
static _Thread_local bool interrupted; /* the previous watched call of this thread was */

static void complain(const char *what) {
    dprintf(STDERR_FILENO, "shim: %s\n", what);
    _exit(99);
}

static int open_log(const char *variable) {
    const char *path = getenv(variable);
    if (path == NULL) return -1;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                      0600);
    if (fd < 0) complain("cannot open a log");
    /* far away from the numbers that the program gets: its own limits and loops do not meet it */
    long high = syscall(SYS_fcntl, (int)fd, F_DUPFD_CLOEXEC, 200);
    syscall(SYS_close, (int)fd);
    return (int)high;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIM_PATH"), *at = getenv("SHIM_AT"),
               *what = getenv("SHIM_DO");
    if (path == NULL) return;
    if (path[0] != '/' || strlen(path) >= sizeof root)
        complain("SHIM_PATH is not absolute");
    strcpy(root, path);
    root_length = strlen(root);
    trace_fd = open_log("SHIM_TRACE");
    report_fd = open_log("SHIM_REPORT");
    always = getenv("SHIM_ALWAYS") != NULL;
    happens = getenv("SHIM_HAPPENS") != NULL;
    const char *slow_sync = getenv("SHIM_SYNC_MS"), *slow_create = getenv("SHIM_CREATE_MS");
    slow_ms[KIND_SYNC] = slow_sync != NULL ? atol(slow_sync) : 0;
    slow_ms[KIND_CREATE] = slow_create != NULL ? atol(slow_create) : 0;
    if (at == NULL) return;
    wanted = atol(at);
    for (size_t i = 0; what != NULL && i < sizeof actions / sizeof *actions; i++)
        if (strcmp(what, actions[i].name) == 0) {
            action = actions[i].action;
            action_error = actions[i].error;
        }
    if (wanted < 1 || action == DO_COUNT) complain("SHIM_AT and SHIM_DO do not fit");
}

/* ---- is it a call on a watched file? */

/* Heartbeats come by the clock: numbered, they would shift the numbers of all other calls. */
static bool is_heartbeat(const char *path) {
    size_t length = strlen(path);
    return length > 5 && strcmp(path + length - 5, ".beat") == 0;
}

static bool is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == '\0') && !is_heartbeat(path);
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

/* ---- what happens to it */

typedef struct {
    long number; /* 0: not watched */
    bool kill_after, stop_after, shorten, happens;
    int error; /* to fail with; 0: none */
} Verdict;

static void say(int fd, const Verdict *verdict, Kind kind, const char *call,
                const char *path, const char *what) {
    char line[PATH_MAX + 128];
    int length = snprintf(line, sizeof line, "%ld %s %s %s%s%s\n", verdict->number,
                          kind_names[kind], call, path, what[0] != '\0' ? " " : "", what);
    if (fd >= 0) syscall(SYS_write, fd, line, (size_t)length);
}

/* Whether a lasting condition shows in such a call: a full disk still deletes, a read-only one still
 * reads, and a storm of signals lets every second call through. */
static bool plausible(Kind kind) {
    if (action == DO_SHORT) return kind == KIND_WRITE;
    switch (action_error) {
    case ENOSPC:
    case EDQUOT:
        return kind == KIND_CREATE || kind == KIND_WRITE || kind == KIND_SYNC;
    case EROFS:
        return kind == KIND_CREATE || kind == KIND_WRITE || kind == KIND_UNLINK;
    case EINTR:
        return !interrupted;
    default:
        return true;
    }
}

static void hit(int signal_number) {
    syscall(SYS_kill, (int)syscall(SYS_getpid), signal_number);
}

static Verdict judge(bool watched, Kind kind, const char *call, const char *path) {
    Verdict verdict = {.number = 0};
    if (!watched) return verdict;
    verdict.number = atomic_fetch_add(&calls, 1) + 1;
    say(trace_fd, &verdict, kind, call, path, "");
    if (slow_ms[kind] > 0) {
        struct timespec wait = {slow_ms[kind] / 1000, slow_ms[kind] % 1000 * 1000000};
        nanosleep(&wait, NULL);
    }
    bool first = verdict.number == wanted;
    bool later = always && wanted > 0 && verdict.number > wanted && plausible(kind);
    bool was_interrupted = interrupted;
    interrupted = false;
    if (!first && !later) return verdict;
    if (action == DO_SHORT && kind != KIND_WRITE) return verdict;
    if (action == DO_FAIL && action_error == EINTR && was_interrupted) return verdict;
    interrupted = action == DO_FAIL && action_error == EINTR;
    say(report_fd, &verdict, kind, call, path, getenv("SHIM_DO"));
    if (action == DO_KILL_BEFORE) hit(SIGKILL);
    if (action == DO_STOP_BEFORE) hit(SIGSTOP);
    verdict.kill_after = action == DO_KILL_AFTER;
    verdict.stop_after = action == DO_STOP_AFTER;
    verdict.shorten = action == DO_SHORT;
    verdict.error = action == DO_FAIL ? action_error : 0;
    verdict.happens = happens;
    return verdict;
}

static void conclude(const Verdict *verdict) {
    int error = errno;
    if (verdict->kill_after) hit(SIGKILL);
    if (verdict->stop_after) hit(SIGSTOP);
    errno = error;
}

/* RESULT becomes the call's, or -1 with the error that was asked for. */
#define INJECT(result, watched, kind, call, path, system_call)     \
    do {                                                           \
        Verdict verdict_ = judge((watched), (kind), (call), path); \
        if (verdict_.error != 0) {                                 \
            if (verdict_.happens) (void)(system_call);             \
            errno = verdict_.error;                                \
            (result) = -1;                                         \
        } else {                                                   \
            (result) = (system_call);                              \
            conclude(&verdict_);                                   \
        }                                                          \
    } while (0)

#define EXPORT __attribute__((visibility("default")))

/* ---- names */

static int open_any(const char *call, int directory, const char *name, int flags,
                    mode_t mode) {
    char path[PATH_MAX];
    long result;
    Kind kind = (flags & O_CREAT) != 0 ? KIND_CREATE : KIND_LOOK;
    INJECT(result, watches_name(directory, name, path), kind, call, path,
           syscall(SYS_openat, directory, name, flags, mode));
    return (int)result;
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
    return open_any("open", AT_FDCWD, name, flags, mode);
}
EXPORT int open64(const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any("open", AT_FDCWD, name, flags, mode);
}
EXPORT int openat(int directory, const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any("openat", directory, name, flags, mode);
}
EXPORT int openat64(int directory, const char *name, int flags, ...) {
    TAKE_MODE(flags, mode)
    return open_any("openat", directory, name, flags, mode);
}

static int rename_any(const char *call, int from_directory, const char *from, int directory,
                      const char *name, unsigned flags) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_CREATE, call, path,
           syscall(SYS_renameat2, from_directory, from, directory, name, flags));
    return (int)result;
}
EXPORT int rename(const char *from, const char *name) {
    return rename_any("rename", AT_FDCWD, from, AT_FDCWD, name, 0);
}
EXPORT int renameat(int from_directory, const char *from, int directory, const char *name) {
    return rename_any("renameat", from_directory, from, directory, name, 0);
}
EXPORT int renameat2(int from_directory, const char *from, int directory, const char *name,
                     unsigned flags) {
    return rename_any("renameat2", from_directory, from, directory, name, flags);
}

EXPORT int linkat(int from_directory, const char *from, int directory, const char *name,
                  int flags) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_CREATE, "linkat", path,
           syscall(SYS_linkat, from_directory, from, directory, name, flags));
    return (int)result;
}
EXPORT int link(const char *from, const char *name) {
    return linkat(AT_FDCWD, from, AT_FDCWD, name, 0);
}

EXPORT int unlinkat(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_UNLINK, "unlinkat", path,
           syscall(SYS_unlinkat, directory, name, flags));
    return (int)result;
}
EXPORT int unlink(const char *name) {
    return unlinkat(AT_FDCWD, name, 0);
}

EXPORT int mkdirat(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_CREATE, "mkdirat", path,
           syscall(SYS_mkdirat, directory, name, mode));
    return (int)result;
}
EXPORT int mkdir(const char *name, mode_t mode) {
    return mkdirat(AT_FDCWD, name, mode);
}

EXPORT int faccessat(int directory, const char *name, int mode, int flags) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_LOOK, "faccessat", path,
           syscall(SYS_faccessat2, directory, name, mode, flags));
    return (int)result;
}

EXPORT int fstatat(int directory, const char *restrict name, struct stat *restrict about,
                   int flags) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_name(directory, name, path), KIND_LOOK, "fstatat", path,
           syscall(SYS_newfstatat, directory, name, about, flags));
    return (int)result;
}

/* ---- bytes */

static ssize_t write_any(const char *call, int fd, const void *data, size_t size,
                         off_t offset) {
    char path[PATH_MAX];
    Verdict verdict = judge(watches_fd(fd, path), KIND_WRITE, call, path);
    if (verdict.error != 0) {
        errno = verdict.error;
        return -1;
    }
    if (verdict.shorten && size > 1) size /= 2;
    long result = offset < 0 ? syscall(SYS_write, fd, data, size)
                             : syscall(SYS_pwrite64, fd, data, size, offset);
    conclude(&verdict);
    return result;
}
EXPORT ssize_t write(int fd, const void *data, size_t size) {
    return write_any("write", fd, data, size, -1);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return write_any("pwrite", fd, data, size, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    return write_any("pwrite", fd, data, size, offset);
}
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), KIND_WRITE, "writev", path,
           syscall(SYS_writev, fd, parts, count));
    return result;
}

EXPORT ssize_t read(int fd, void *data, size_t size) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), KIND_LOOK, "read", path,
           syscall(SYS_read, fd, data, size));
    return result;
}
EXPORT ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), KIND_LOOK, "pread", path,
           syscall(SYS_pread64, fd, data, size, offset));
    return result;
}
EXPORT ssize_t pread64(int fd, void *data, size_t size, off_t offset) {
    return pread(fd, data, size, offset);
}

/* ---- files as a whole */

static int on_fd(const char *call, int fd, Kind kind, long number) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), kind, call, path, syscall(number, fd));
    return (int)result;
}
EXPORT int fsync(int fd) {
    return on_fd("fsync", fd, KIND_SYNC, SYS_fsync);
}
EXPORT int fdatasync(int fd) {
    return on_fd("fdatasync", fd, KIND_SYNC, SYS_fdatasync);
}

/* As on Linux: a close that reports an error has closed. */
EXPORT int close(int fd) {
    char path[PATH_MAX];
    Verdict verdict = judge(watches_fd(fd, path), KIND_CLOSE, "close", path);
    long result = syscall(SYS_close, fd);
    conclude(&verdict);
    if (verdict.error == 0) return (int)result;
    errno = verdict.error;
    return -1;
}

static int allocate(const char *call, int fd, int mode, off_t offset, off_t length) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), KIND_CREATE, call, path,
           syscall(SYS_fallocate, fd, mode, offset, length));
    return (int)result;
}
EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    return allocate("fallocate", fd, mode, offset, length);
}
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length) {
    return allocate("fallocate", fd, mode, offset, length);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    return allocate("posix_fallocate", fd, 0, offset, length) == 0 ? 0 : errno;
}
EXPORT int posix_fallocate64(int fd, off_t offset, off_t length) {
    return allocate("posix_fallocate", fd, 0, offset, length) == 0 ? 0 : errno;
}

static int truncate_any(int fd, off_t length) {
    char path[PATH_MAX];
    long result;
    INJECT(result, watches_fd(fd, path), KIND_CREATE, "ftruncate", path,
           syscall(SYS_ftruncate, fd, length));
    return (int)result;
}
EXPORT int ftruncate(int fd, off_t length) {
    return truncate_any(fd, length);
}
EXPORT int ftruncate64(int fd, off_t length) {
    return truncate_any(fd, length);
}

/* These fill structures in glibc's own way: its functions do the work. */
EXPORT int fstatvfs(int fd, struct statvfs *about) {
    static int (*real)(int, struct statvfs *);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "fstatvfs");
    char path[PATH_MAX];
    int result;
    INJECT(result, watches_fd(fd, path), KIND_LOOK, "fstatvfs", path, real(fd, about));
    return result;
}

/* A directory's first entry stands for all: glibc asks the kernel for many at once. */
EXPORT struct dirent *readdir(DIR *stream) {
    static struct dirent *(*real)(DIR *);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "readdir");
    char path[PATH_MAX];
    if (root_length == 0 || telldir(stream) != 0 || !watches_fd(dirfd(stream), path))
        return real(stream);
    Verdict verdict = judge(true, KIND_LOOK, "readdir", path);
    if (verdict.error != 0) {
        errno = verdict.error;
        return NULL;
    }
    struct dirent *result = real(stream);
    conclude(&verdict);
    return result;
}
