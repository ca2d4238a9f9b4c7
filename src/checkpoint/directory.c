/* Opens the checkpoints directory of a run, and looks at who may write there. */
#include "src/checkpoint/directory.h"

#include "src/core/file.h"
#include "src/core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static Status path_of(const char *run_dir, char path[PATH_MAX]) {
    if (snprintf(path, PATH_MAX, "%s/checkpoints", run_dir) < PATH_MAX) return STATUS_OK;
    return FAIL(STATUS_USAGE, "use a shorter run.dir",
                "the run directory's path is too long");
}

/* Whether checkpoints/ is a link, and one to follow. */
static Status check_link(const char *run_dir, const char *path, bool *is_link) {
    struct stat link, about;
    *is_link = lstat(path, &link) == 0 && S_ISLNK(link.st_mode);
    if (!*is_link) return STATUS_OK;
    bool owners = link.st_uid == geteuid() || link.st_uid == 0 ||
                  (stat(run_dir, &about) == 0 && about.st_uid == link.st_uid);
    if (!owners)
        return FAIL(STATUS_USAGE, "take it away, or make the link yourself",
                    "%s is a symbolic link of user %u, which is not followed", path,
                    (unsigned)link.st_uid);
    if (stat(path, &about) == 0 || errno == EACCES) return STATUS_OK; /* open tells */
    return FAIL(STATUS_USAGE, "mount what it leads to, or take the link away",
                "%s is a symbolic link that leads nowhere: %s", path, strerror(errno));
}

Status directory_open(const char *run_dir, int *out) {
    char path[PATH_MAX];
    bool is_link;
    *out = -1;
    TRY(path_of(run_dir, path));
    TRY(check_link(run_dir, path, &is_link));
    *out = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (is_link ? 0 : O_NOFOLLOW));
    if (*out >= 0 || errno == ENOENT) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", path,
                strerror(errno));
}

Status directory_make(const char *run_dir, int *out) {
    char path[PATH_MAX];
    bool is_link;
    *out = -1;
    TRY(path_of(run_dir, path));
    TRY(check_link(run_dir, path, &is_link));
    TRY(file_make_directory(path));
    TRY(directory_open(run_dir, out));
    if (*out >= 0) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(ENOENT), "%s is gone again", path);
}

/* With the sticky bit, who may write can add names and nothing more. */
static void warn_if_open(const char *path, const struct stat *about) {
    if ((about->st_mode & S_IWOTH) == 0 || (about->st_mode & S_ISVTX) != 0) return;
    LOG_W("every user may replace or delete what is in %s (mode %04o): chmod o-w %s, or "
          "chmod +t",
          path, (unsigned)about->st_mode & 07777, path);
}

Status directory_check(const char *run_dir, int directory) {
    char path[PATH_MAX];
    struct stat run, own;
    TRY(path_of(run_dir, path));
    if (faccessat(directory, ".", W_OK | X_OK, AT_EACCESS) != 0)
        return FAIL(errno == EACCES ? STATUS_USAGE : STATUS_IO, file_fix_for(errno),
                    "cannot write in %s: %s", path, strerror(errno));
    if (stat(run_dir, &run) == 0) warn_if_open(run_dir, &run);
    if (fstat(directory, &own) == 0) warn_if_open(path, &own);
    return STATUS_OK;
}
