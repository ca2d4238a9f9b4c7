/* Children by fork and /proc: a launcher's ranks are no children of ours, so they are looked up. */
#include "src/cli/process.h"

#include "src/core/clock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 65536, ENVIRONMENT = 1 << 20 };

static sigset_t watched, before;

Status process_prepare(void) {
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &watched, &before) != 0 ||
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        return FAIL(STATUS_IO, NULL, "cannot prepare for child processes: %s",
                    strerror(errno));
    return STATUS_OK;
}

/* In the child: never returns. */
static void execute(char *const argv[], int log, pid_t parent) {
    setpgid(0, 0); /* the terminal's Ctrl-C is for us: we end the launch in order */
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    if (getppid() != parent) _exit(127); /* died before the line above */
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, &before, NULL);
    execvp(argv[0], argv);
    fprintf(stderr, "rekindle: cannot execute %s: %s\n", argv[0], strerror(errno));
    fflush(stderr);
    _exit(127);
}

Status process_start(char *const argv[], const char *log, Process *out) {
    *out = (Process){0, 0};
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return FAIL(STATUS_IO, NULL, "cannot open %s: %s", log, strerror(errno));
    fflush(NULL); /* the child must not write our buffers a second time */
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) execute(argv, fd, parent);
    int error = errno;
    close(fd);
    if (pid < 0)
        return FAIL(STATUS_IO, "end other processes", "cannot start a process: %s",
                    strerror(error));
    out->pid = pid;
    return STATUS_OK;
}

/* Collects what has ended: the launch, and what it left to us. True once the launch has ended. */
static bool reap(Process *process) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == process->pid) {
            process->pid = 0;
            process->code =
                WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
    return process->pid == 0;
}

ProcessState process_wait(Process *process, double seconds, int *signal) {
    double end = clock_seconds() + seconds;
    while (!reap(process)) {
        double left = end - clock_seconds();
        if (left <= 0) return PROCESS_RUNNING;
        struct timespec time = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        int got = sigtimedwait(&watched, NULL, &time);
        if (got > 0 && got != SIGCHLD) {
            *signal = got;
            return PROCESS_INTERRUPTED;
        }
    }
    return PROCESS_ENDED;
}

/* ---- /proc */

typedef struct {
    pid_t pid, parent;
    bool below; /* descends from the process asked for */
} Listed;

/* The parent, from /proc/PID/stat: "pid (name) state parent …", where the name may hold anything. */
static pid_t parent_of(const char *pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) return 0;
    text[size] = '\0';
    const char *name_end = strrchr(text, ')');
    char state;
    int parent;
    if (name_end == NULL || sscanf(name_end + 1, " %c %d", &state, &parent) != 2) return 0;
    return parent;
}

/* All descendants of `root`, itself not among them. Memory: *out is the caller's (free) */
static int list_descendants(pid_t root, pid_t **out) {
    *out = NULL;
    DIR *proc = opendir("/proc");
    Listed *all = calloc(PROCESSES, sizeof *all);
    int count = 0, found = 0;
    if (proc != NULL && all != NULL)
        for (struct dirent *entry; (entry = readdir(proc)) != NULL && count < PROCESSES;)
            if (isdigit((unsigned char)entry->d_name[0]))
                all[count++] =
                    (Listed){atoi(entry->d_name), parent_of(entry->d_name), false};
    if (proc != NULL) closedir(proc);
    for (bool grown = true; grown;) {
        grown = false;
        for (int i = 0; i < count; i++) {
            if (all[i].below) continue;
            bool below = all[i].parent == root;
            for (int j = 0; j < count && !below; j++)
                below = all[j].below && all[j].pid == all[i].parent;
            if (below) all[i].below = grown = true;
        }
    }
    pid_t *pids = count > 0 ? malloc((size_t)count * sizeof *pids) : NULL;
    for (int i = 0; pids != NULL && i < count; i++)
        if (all[i].below) pids[found++] = all[i].pid;
    free(all);
    *out = pids;
    return found;
}

void process_end(Process *process, double grace) {
    int ignored;
    if (process->pid != 0) {
        kill(process->pid, SIGTERM);
        double end = clock_seconds() + grace;
        while (clock_seconds() < end && process_wait(process, end - clock_seconds(),
                                                     &ignored) == PROCESS_INTERRUPTED)
            continue; /* asked to stop again: that is what is going on */
    }
    for (;;) {
        reap(process);
        pid_t *pids;
        int count = list_descendants(getpid(), &pids);
        for (int i = 0; i < count; i++)
            kill(pids[i], SIGKILL);
        free(pids);
        if (count == 0) return;
        struct timespec moment = {0, 1000000};
        nanosleep(&moment, NULL);
    }
}

static bool executes(pid_t pid, const struct stat *program) {
    char path[64];
    struct stat found;
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    return stat(path, &found) == 0 && found.st_dev == program->st_dev &&
           found.st_ino == program->st_ino;
}

/* The rank that the launcher gave to a process; 0 for one that was started alone. */
static int rank_of(pid_t pid) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK="};
    static char text[ENVIRONMENT];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t size = 0;
    for (ssize_t got; (got = read(fd, text + size, sizeof text - 1 - size)) > 0;)
        size += (size_t)got;
    close(fd);
    if (size == 0) return -1;
    text[size] = '\0';
    for (size_t name = 0; name < sizeof names / sizeof *names; name++)
        for (const char *at = text; at < text + size; at += strlen(at) + 1)
            if (strncmp(at, names[name], strlen(names[name])) == 0)
                return atoi(at + strlen(names[name]));
    return 0;
}

pid_t process_find_rank(const Process *process, const struct stat *program, int rank) {
    if (process->pid == 0) return 0;
    if (executes(process->pid, program)) return rank == 0 ? process->pid : 0;
    pid_t *pids, found = 0;
    int count = list_descendants(process->pid, &pids);
    for (int i = 0; i < count && found == 0; i++)
        if (executes(pids[i], program) && rank_of(pids[i]) == rank) found = pids[i];
    free(pids);
    return found;
}
