/* Child launches of this program: start one, wait for it, find its ranks, leave nothing behind. For a
 * process without MPI and without threads. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

typedef enum { PROCESS_RUNNING, PROCESS_ENDED, PROCESS_INTERRUPTED } ProcessState;

typedef struct {
    pid_t pid; /* of the launcher, or of the program itself */
    int code;  /* once ended: as a shell gives it, 128 + signal for a signal */
} Process;

/* Call it once, first. From then on SIGINT, SIGTERM and SIGHUP are only seen by process_wait, and
 * whatever a launch leaves behind becomes this process's child. */
Status process_prepare(void);

/* Starts argv (searched in PATH) in a process group of its own, without input, both outputs appended
 * to `log`. It gets SIGTERM when this process dies.
 * Errors: STATUS_IO; a program that cannot be executed ends with code 127 */
Status process_start(char *const argv[], const char *log, Process *out);

/* Waits until the launch has ended, or so many seconds. *signal: what interrupted the wait. */
ProcessState process_wait(Process *process, double seconds, int *signal);

/* SIGTERM and `grace` seconds for the launch, then SIGKILL to all that is left of it. Returns when no
 * child of ours is left. A launch that has ended is allowed. */
void process_end(Process *process, double grace);

/* The pid of rank `rank`: a descendant of the launch that executes the file `program`. 0: there is none
 * (yet). */
pid_t process_find_rank(const Process *process, const struct stat *program, int rank);
