/* Keeps each thread's newest failure and turns codes into the documented exit codes. */
#include "src/core/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local Failure newest;
static char process_name[sizeof newest.who];

/* __FILE__ is as the compiler was called; users should see the path from the root. */
static const char *from_root(const char *file) {
    static const char *const rooms[] = {"/src/",    "/dist/",  "/kernels/",
                                        "/launch/", "/tests/", "/bench/"};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        const char *at = strstr(file, rooms[i]);
        if (at != NULL) return at + 1;
    }
    return file;
}

Status status_fail(Status code, const char *file, int line, const char *function,
                   const char *fix, const char *format, ...) {
    int saved_errno = errno; /* clean-up after FAIL may still want it */
    newest.code = code;
    snprintf(newest.who, sizeof newest.who, "%s", process_name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(newest.what, sizeof newest.what, format, arguments);
    va_end(arguments);
    snprintf(newest.where, sizeof newest.where, "%s (%s:%d)", function, from_root(file),
             line);
    if (fix == NULL && code == STATUS_MEMORY)
        fix = "free memory on this machine, or raise the launch's limit (ulimit -v, a "
              "container's or Slurm's --mem)";
    snprintf(newest.fix, sizeof newest.fix, "%s", fix == NULL ? "" : fix);
    errno = saved_errno;
    return code;
}

const Failure *status_failure(void) {
    return &newest;
}

Status status_adopt(const Failure *failure) {
    if (failure != &newest) newest = *failure;
    return newest.code;
}

void status_set_who(const char *who) {
    snprintf(process_name, sizeof process_name, "%s", who);
}

void status_print(const Failure *failure) {
    char text[sizeof(Failure) + 64];
    int length =
        snprintf(text, sizeof text, "rekindle: %s%s%s\n  where: %s\n", failure->who,
                 failure->who[0] ? ": " : "", failure->what, failure->where);
    if (failure->fix[0] != '\0' && length > 0 && (size_t)length < sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, "  fix:   %s\n",
                 failure->fix);
    fputs(text, stderr); /* one call: lines of several ranks do not mix */
}

int status_exit_code(Status code) {
    switch (code) {
    case STATUS_OK:
        return 0;
    case STATUS_USAGE:
    case STATUS_UNSUPPORTED:
        return 2;
    case STATUS_NO_CHECKPOINT:
        return 3;
    case STATUS_WATCHDOG:
        return 4;
    case STATUS_STOPPED:
        return 75;
    default:
        return 1;
    }
}
