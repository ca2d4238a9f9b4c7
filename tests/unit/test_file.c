/* A published file appears whole or not at all, whichever system call fails. The calls are replaced
 * here by ones that fail on demand: the executable's own definitions come before the C library's. */
#include "src/core/file.h"
#include "tests/support/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- calls that fail on demand */

typedef enum {
    CALL_OPEN,
    CALL_WRITE,
    CALL_READ,
    CALL_SYNC,
    CALL_CLOSE,
    CALL_RENAME,
    CALL_LINK
} Call;

static struct {
    Call call;
    int number; /* the n-th call from now, 1 is the next; 0: none */
    int error;
    bool happens; /* the call does its work and only its answer is lost */
    int fired;
} plan;
static bool no_rename_flags;        /* like NFS: RENAME_NOREPLACE gives EINVAL */
static size_t longest_transfer = 0; /* 0: no limit */
static int syncs;

static void fail_at(Call call, int number, int error) {
    memset(&plan, 0, sizeof plan);
    plan.call = call;
    plan.number = number;
    plan.error = error;
}

static bool must_fail(Call call) {
    if (plan.number == 0 || plan.call != call || --plan.number > 0) return false;
    plan.fired++;
    errno = plan.error;
    return true;
}

static size_t transfer_of(size_t size) {
    return longest_transfer > 0 && longest_transfer < size ? longest_transfer : size;
}

int openat(int directory, const char *path, int flags, ...) {
    if ((flags & O_CREAT) == 0) return (int)syscall(SYS_openat, directory, path, flags, 0);
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    if (must_fail(CALL_OPEN)) return -1;
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    if (must_fail(CALL_WRITE)) return plan.error == 0 ? 0 : -1;
    return syscall(SYS_pwrite64, fd, data, transfer_of(size), offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    if (must_fail(CALL_READ)) return -1;
    return syscall(SYS_pread64, fd, data, transfer_of(size), offset);
}

int fsync(int fd) {
    syncs++;
    if (must_fail(CALL_SYNC)) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int close(int fd) {
    int result =
        (int)syscall(SYS_close, fd); /* Linux frees the number even when it fails */
    return must_fail(CALL_CLOSE) ? -1 : result;
}

int renameat2(int from_directory, const char *from, int to_directory, const char *to,
              unsigned flags) {
    if (no_rename_flags && flags != 0) {
        errno = EINVAL;
        return -1;
    }
    if (must_fail(CALL_RENAME)) return -1;
    return (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    if (must_fail(CALL_RENAME)) return -1;
    return (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, 0);
}

int linkat(int from_directory, const char *from, int to_directory, const char *to,
           int flags) {
    if (must_fail(CALL_LINK)) {
        if (plan.happens)
            syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
        errno = plan.error;
        return -1;
    }
    return (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
}

/* ---- a directory of each test's own */

static char root[64];
static int directory = -1;

static int make_root(void **state) {
    (void)state;
    memset(&plan, 0, sizeof plan);
    no_rename_flags = false;
    longest_transfer = 0;
    strcpy(root, "/tmp/rekindle_file_XXXXXX");
    if (mkdtemp(root) == NULL) return -1;
    directory = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory < 0 ? -1 : 0;
}

static int remove_root(void **state) {
    (void)state;
    memset(&plan, 0, sizeof plan);
    char command[96];
    close(directory);
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static int entries_in(int fd) {
    int count = 0;
    DIR *listing = fdopendir((int)syscall(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY, 0));
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(listing);
    return count;
}

static void assert_holds(const char *name, const char *expected) {
    char *data;
    size_t size;
    assert_ok(file_read(directory, name, 1 << 20, &data, &size));
    assert_int_equal(size, strlen(expected));
    assert_string_equal(data, expected);
    free(data);
}

/* ---- publishing */

static void a_published_file_is_whole_and_alone(void **state) {
    (void)state;
    syncs = 0;
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_holds("a", "hello");
    assert_int_equal(entries_in(directory), 1);
    assert_int_equal(syncs, 2); /* the file, then its directory */
    assert_ok(file_publish(directory, "empty", NULL, 0));
    assert_holds("empty", "");
    mode_t mask = umask(027);
    assert_ok(file_publish(directory, "masked", NULL, 0));
    umask(mask);
    struct stat about;
    assert_int_equal(fstatat(directory, "masked", &about, 0), 0);
    assert_int_equal(about.st_mode & 0777, 0640);
    assert_int_equal(about.st_nlink, 1);
}

static void an_existing_name_is_never_replaced(void **state) {
    (void)state;
    for (int flags = 0; flags < 2; flags++) {
        no_rename_flags = flags == 1;
        char name[] = "a0";
        name[1] = (char)('0' + flags);
        assert_ok(file_publish(directory, name, "first", 5));
        assert_fails(file_publish(directory, name, "second", 6), STATUS_EXISTS, name);
        assert_holds(name, "first");
    }
    assert_int_equal(symlinkat("elsewhere", directory, "link"), 0);
    assert_fails(file_publish(directory, "link", "x", 1), STATUS_EXISTS, "link");
    assert_int_equal(entries_in(directory), 3);
}

static void replacing_is_whole_too(void **state) {
    (void)state;
    assert_ok(file_replace(directory, "a", "first", 5));
    assert_ok(file_replace(directory, "a", "second", 6));
    assert_holds("a", "second");
    for (Call call = CALL_OPEN; call <= CALL_RENAME; call++) {
        if (call == CALL_READ) continue;
        fail_at(call, 1, EIO);
        assert_fails(file_replace(directory, "a", "third", 5), STATUS_IO,
                     "Input/output error");
        assert_int_equal(plan.fired, 1);
        assert_holds("a", "second");
    }
    assert_int_equal(entries_in(directory), 1);
}

static void any_failed_call_leaves_the_directory_as_before(void **state) {
    (void)state;
    static const struct {
        Call call;
        int error;
        const char *step;
    } steps[] = {
        {CALL_OPEN, ENOSPC, "cannot create"}, {CALL_OPEN, EEXIST, "cannot create"},
        {CALL_WRITE, ENOSPC, "cannot write"}, {CALL_WRITE, 0, "cannot write"},
        {CALL_SYNC, EIO, "cannot sync"},      {CALL_CLOSE, EDQUOT, "cannot close"},
        {CALL_RENAME, EROFS, "cannot name"},  {CALL_RENAME, EACCES, "cannot name"}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        fail_at(steps[i].call, 1, steps[i].error);
        assert_fails(file_publish(directory, "a", "hello", 5), STATUS_IO, steps[i].step);
        assert_int_equal(plan.fired, 1);
        assert_true(status_failure()->fix[0] != '\0');
        assert_int_equal(entries_in(directory), 0);
    }
    no_rename_flags = true;
    fail_at(CALL_LINK, 1, EPERM);
    assert_fails(file_publish(directory, "a", "hello", 5), STATUS_IO, "cannot name");
    assert_int_equal(plan.fired, 1);
    assert_int_equal(entries_in(directory), 0);
}

static void a_failed_sync_is_never_tried_again(void **state) {
    (void)state;
    syncs = 0;
    fail_at(CALL_SYNC, 1, EIO);
    assert_fails(file_publish(directory, "a", "hello", 5), STATUS_IO, "cannot sync a");
    assert_int_equal(syncs, 1);
    fail_at(CALL_SYNC, 1, EINTR);
    assert_fails(file_publish(directory, "a", "hello", 5), STATUS_IO, "cannot sync a");
    assert_int_equal(syncs, 2);
}

static void a_failed_sync_of_the_directory_leaves_the_name(void **state) {
    (void)state;
    fail_at(CALL_SYNC, 2, EIO);
    assert_fails(file_publish(directory, "a", "hello", 5), STATUS_IO,
                 "sync the directory of a");
    assert_holds("a", "hello");
    fail_at(CALL_SYNC, 2, EINVAL); /* some file systems cannot sync directories at all */
    assert_ok(file_publish(directory, "b", "hello", 5));
    assert_int_equal(plan.fired, 1);
}

static void without_rename_flags_a_link_does_it(void **state) {
    (void)state;
    no_rename_flags = true;
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_holds("a", "hello");
    assert_int_equal(entries_in(directory), 1);
}

static void a_link_whose_answer_was_lost_is_recognised(void **state) {
    (void)state;
    no_rename_flags = true;
    fail_at(CALL_LINK, 1, EEXIST);
    plan.happens = true;
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_int_equal(plan.fired, 1);
    assert_holds("a", "hello");
    assert_int_equal(entries_in(directory), 1);
}

static void interrupted_and_short_transfers_go_on(void **state) {
    (void)state;
    longest_transfer = 2;
    fail_at(CALL_WRITE, 2, EINTR);
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_int_equal(plan.fired, 1);
    fail_at(CALL_READ, 2, EINTR);
    assert_holds("a", "hello");
    assert_int_equal(plan.fired, 1);
}

static void what_a_killed_process_left_blocks_nobody(void **state) {
    (void)state;
    int fd = openat(directory, ".a.tmp", O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_holds("a", "hello");
}

static void a_sweep_takes_the_temporaries_of_one_name_and_nothing_else(void **state) {
    (void)state;
    static const char *const names[] = {
        ".f.0123456789abcdef.tmp", ".g.0123456789abcdef.tmp",  ".f.0123456789abcdeg.tmp",
        ".f.0123456789abcdef.tm_", ".f.f.123456789abcdef.tmp", "f"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        close(openat(directory, names[i], O_WRONLY | O_CREAT, 0600));
    file_sweep(directory, "f");
    assert_int_not_equal(faccessat(directory, names[0], F_OK, 0), 0);
    for (size_t i = 1; i < sizeof names / sizeof *names; i++)
        assert_int_equal(faccessat(directory, names[i], F_OK, 0), 0);
}

static void names_that_are_too_long_are_refused(void **state) {
    (void)state;
    char name[256];
    memset(name, 'n', sizeof name - 1);
    name[255] = '\0';
    assert_fails(file_publish(directory, name, "x", 1), STATUS_IO, "shorter name");
    name[233] = '\0'; /* with a dot, a dot, 16 digits and ".tmp": 255 */
    assert_ok(file_publish(directory, name, "x", 1));
}

static void naming_a_file_written_elsewhere_keeps_it_on_failure(void **state) {
    (void)state;
    assert_ok(file_publish(directory, ".temp", "whole", 5));
    assert_ok(file_publish(directory, "taken", "other", 5));
    assert_fails(file_name_and_sync(directory, ".temp", "taken"), STATUS_EXISTS, "taken");
    fail_at(CALL_RENAME, 1, EIO);
    assert_fails(file_name_and_sync(directory, ".temp", "a"), STATUS_IO, "cannot name a");
    assert_holds(".temp", "whole");
    assert_holds("taken", "other");
    syncs = 0;
    assert_ok(file_name_and_sync(directory, ".temp", "a"));
    assert_int_equal(syncs, 1);
    assert_holds("a", "whole");
    assert_int_equal(entries_in(directory), 2);
}

/* ---- reading, directories */

static void reading_refuses_what_is_too_large_or_no_file(void **state) {
    (void)state;
    char *data = NULL;
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_fails(file_read(directory, "a", 4, &data, NULL), STATUS_USAGE, "a has 5 bytes");
    assert_ok(file_read(directory, "a", 5, &data, NULL));
    free(data);
    assert_fails(file_read(directory, "b", 5, &data, NULL), STATUS_IO, "No such file");
    assert_fails(file_read(directory, ".", 5, &data, NULL), STATUS_USAGE,
                 "not a regular file");
    char pipe_path[96];
    snprintf(pipe_path, sizeof pipe_path, "%s/pipe", root);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_fails(file_read(directory, "pipe", 5, &data, NULL), STATUS_USAGE,
                 "not a regular file");
    fail_at(CALL_READ, 1, EIO);
    assert_fails(file_read(directory, "a", 5, &data, NULL), STATUS_IO, "cannot read a");
}

static void what_a_user_names_may_be_a_link_and_what_is_our_own_may_not(void **state) {
    (void)state;
    char *data = NULL, link_path[96];
    int fd;
    snprintf(link_path, sizeof link_path, "%s/link", root);
    assert_ok(file_publish(directory, "a", "hello", 5));
    assert_int_equal(symlinkat("a", directory, "link"), 0);
    assert_ok(file_read(AT_FDCWD, link_path, 5, &data, NULL));
    free(data);
    assert_fails(file_read(directory, "link", 5, &data, NULL), STATUS_USAGE,
                 "link is a symbolic link");
    assert_fails(file_open(directory, "link", O_WRONLY | O_CREAT, &fd), STATUS_USAGE,
                 "link is a symbolic link");
    assert_int_equal(fd, -1);
    assert_int_equal(mkfifoat(directory, "pipe", 0600), 0);
    assert_fails(file_open(directory, "pipe", O_WRONLY | O_APPEND, &fd), STATUS_USAGE,
                 "pipe is not a regular file");
    assert_fails(file_open(directory, ".", O_RDONLY, &fd), STATUS_USAGE,
                 "not a regular file");
    assert_ok(file_open(directory, "new", O_WRONLY | O_CREAT, &fd));
    close(fd);
}

static void transfers_at_an_offset_know_the_end_of_the_file(void **state) {
    (void)state;
    char bytes[4] = {0};
    int fd = openat(directory, "a", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(file_write_at(fd, "abcd", 4, 6), 0);
    assert_int_equal(file_read_at(fd, bytes, 4, 6), 0);
    assert_memory_equal(bytes, "abcd", 4);
    errno = 0;
    assert_int_equal(file_read_at(fd, bytes, 4, 7), -1);
    assert_int_equal(errno, EIO);
    close(fd);
}

/* Directories on the way to the root one, with itself. */
static int depth_of_root(void) {
    int depth = 0;
    for (const char *at = root; *at != '\0'; at++)
        depth += *at == '/' && at[1] != '/' && at[1] != '\0';
    return depth;
}

static void directories_are_made_with_their_parents(void **state) {
    (void)state;
    char path[128];
    struct stat about;
    int above = depth_of_root();
    snprintf(path, sizeof path, "%s/one//two/three/", root);
    syncs = 0;
    assert_ok(file_make_directory(path));
    assert_int_equal(syncs, above + 3);
    assert_int_equal(stat(path, &about), 0);
    assert_true(S_ISDIR(about.st_mode));
    syncs = 0;
    assert_ok(file_make_directory(path)); /* whoever made it may have been killed */
    assert_int_equal(syncs, above + 3);
    fail_at(CALL_SYNC, above + 3, EIO);
    assert_fails(file_make_directory(path), STATUS_IO, "three");
    fail_at(CALL_SYNC, above + 3, EROFS); /* it was there, and this one cannot lose it */
    assert_ok(file_make_directory(path));
    assert_int_equal(plan.fired, 1);
    assert_ok(file_publish(directory, "file", "x", 1));
    snprintf(path, sizeof path, "%s/file/below", root);
    assert_fails(file_make_directory(path), STATUS_IO, "Not a directory");
    snprintf(path, sizeof path, "%s/file", root);
    assert_fails(file_make_directory(path), STATUS_IO, "Not a directory");
    assert_fails(file_make_directory(""), STATUS_IO, "0 bytes");
    snprintf(path, sizeof path, "%s/unsynced", root);
    fail_at(CALL_SYNC, above + 1, EROFS);
    assert_fails(file_make_directory(path), STATUS_IO, "unsynced");
}

static void every_error_has_a_fix(void **state) {
    (void)state;
    for (int error = 0; error < 140; error++)
        assert_true(strlen(file_fix_for(error)) > 10);
    assert_non_null(strstr(file_fix_for(ENOSPC), "space"));
    assert_non_null(strstr(file_fix_for(EACCES), "permissions"));
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void) {
    const struct CMUnitTest tests[] = {
        EACH(a_published_file_is_whole_and_alone),
        EACH(an_existing_name_is_never_replaced),
        EACH(replacing_is_whole_too),
        EACH(any_failed_call_leaves_the_directory_as_before),
        EACH(a_failed_sync_is_never_tried_again),
        EACH(a_failed_sync_of_the_directory_leaves_the_name),
        EACH(without_rename_flags_a_link_does_it),
        EACH(a_link_whose_answer_was_lost_is_recognised),
        EACH(interrupted_and_short_transfers_go_on),
        EACH(what_a_killed_process_left_blocks_nobody),
        EACH(a_sweep_takes_the_temporaries_of_one_name_and_nothing_else),
        EACH(names_that_are_too_long_are_refused),
        EACH(naming_a_file_written_elsewhere_keeps_it_on_failure),
        EACH(reading_refuses_what_is_too_large_or_no_file),
        EACH(what_a_user_names_may_be_a_link_and_what_is_our_own_may_not),
        EACH(transfers_at_an_offset_know_the_end_of_the_file),
        EACH(directories_are_made_with_their_parents),
        cmocka_unit_test(every_error_has_a_fix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
