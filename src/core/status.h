/* How failure is reported: one code that travels up, one text that says who, what, where and
 * what to do. The finder calls FAIL once; everyone above uses TRY; src/cli prints and exits. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    STATUS_OK = 0,
    STATUS_USAGE,       /* wrong flag, configuration, data file: exit 2, never relaunched */
    STATUS_UNSUPPORTED, /* asked for something this build or machine has not: exit 2 */
    STATUS_NO_CHECKPOINT, /* checkpoints exist but none is valid, or one was demanded: exit 3 */
    STATUS_WATCHDOG,      /* a rank made no progress: exit 4 */
    STATUS_STOPPED,       /* stopped on request with the state saved: exit 75 */
    STATUS_IO,            /* a system call on a file failed */
    STATUS_EXISTS,        /* the name is there already and is never replaced */
    STATUS_CORRUPT, /* bytes do not match their digest, or their structure is impossible */
    STATUS_MEMORY,  /* no memory */
    STATUS_COMM,    /* the ranks can no longer talk: only an abort may follow */
    STATUS_DEVICE,  /* a device or its library failed */
    STATUS_NOT_FINITE, /* loss or gradient is NaN or infinite */
    STATUS_LOST_OWNER, /* another launch owns the run directory now */
} Status;

/* One failure, whole, so that it can be carried between threads and ranks. */
typedef struct {
    Status code;
    char who[96];    /* "rank 2 on node7"; empty outside of a launch */
    char what[2048]; /* "cannot open /no/dir/x: No such file or directory" */
    char where[160];
    char fix[384]; /* what to do */
} Failure;

#define FAIL(code, fix, ...) \
    status_fail((code), __FILE__, __LINE__, __func__, (fix), __VA_ARGS__)
#define TRY(call)                           \
    do {                                    \
        Status try_ = (call);               \
        if (try_ != STATUS_OK) return try_; \
    } while (0)

/* Records this thread's failure and returns its code. `fix` may be NULL when there is nothing
 * a user can do, and for STATUS_MEMORY, which has one of its own. Ranks: local */
Status status_fail(Status code, const char *file, int line, const char *function,
                   const char *fix, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* This thread's newest failure. Valid until the thread's next FAIL. Ranks: local */
const Failure *status_failure(void);

/* Makes `failure` this thread's newest one and returns its code: a worker's failure carried to
 * the main thread, or another rank's carried here. Ranks: local */
Status status_adopt(const Failure *failure);

/* Names this process in all later failures ("rank 2 on node7"). Call it before threads start. */
void status_set_who(const char *who);

/* Prints the newest failure to stderr in three lines: who and what, where, fix. */
void status_print(const Failure *failure);

/* The documented exit code of the program for a status. */
int status_exit_code(Status code);

#ifdef __cplusplus
}
#endif
