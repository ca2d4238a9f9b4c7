/* A launch's life: its arguments, the moment of the kill, and what it left. */
#include "src/cli/verify_launch.h"

#include "src/cli/cli.h"
#include "src/cli/process.h"
#include "src/core/clock.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Looking for the moment of a kill: often enough to hit a step of a small model. */
#define LOOK_S 0.002
/* After a rank's death the launcher ends the others: at once, or something is wrong. */
#define END_S   60.0
#define GRACE_S 5.0

enum { ARGUMENTS = 2 * CLI_SETS + 32, TAIL = 4096, LEDGER_LIMIT = 1 << 28 };

/* ---- arguments */

typedef struct {
    const char *list[ARGUMENTS + 1];
    int count;
    char ranks[16], run_dir[CONFIG_TEXT + 16], every_steps[64];
} Arguments;

static void add(Arguments *self, const char *argument) {
    if (self->count < ARGUMENTS) self->list[self->count++] = argument;
}

static void set(Arguments *self, const char *assignment) {
    add(self, "--set");
    add(self, assignment);
}

static void make_arguments(const LaunchPlan *plan, const char *run_dir, int ranks,
                           Arguments *out) {
    memset(out, 0, sizeof *out);
    if (plan->launcher != NULL) {
        snprintf(out->ranks, sizeof out->ranks, "%d", ranks);
        const char *const launcher[] = {plan->launcher, "-n", out->ranks, "--oversubscribe",
                                        /* a killed rank ends the launch at once */
                                        "--mca", "odls_base_sigkill_timeout", "0"};
        for (size_t i = 0; i < sizeof launcher / sizeof *launcher; i++)
            add(out, launcher[i]);
    }
    add(out, plan->program);
    add(out, "train");
    add(out, plan->run_file);
    for (int i = 0; i < plan->set_count; i++)
        set(out, plan->sets[i]);
    /* ours come last and win. A line of metrics each step shows the kill's place and compares more */
    snprintf(out->run_dir, sizeof out->run_dir, "run.dir=%s", run_dir);
    set(out, out->run_dir);
    set(out, "resume=auto");
    set(out, "log.every_steps=1");
    set(out, "log.progress=none");
    if (plan->every_steps > 0) {
        snprintf(out->every_steps, sizeof out->every_steps, "checkpoint.every_steps=%lld",
                 (long long)plan->every_steps);
        set(out, out->every_steps);
    }
}

/* ---- what the run directory tells */

/* The step in the newest whole line of metrics.jsonl; 0: there is none. */
static int64_t newest_step(const char *run_dir) {
    char path[CONFIG_TEXT + 32], text[TAIL + 1];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return 0;
    off_t size = lseek(fd, 0, SEEK_END);
    ssize_t got = pread(fd, text, TAIL, size > TAIL ? size - TAIL : 0);
    close(fd);
    if (got <= 0) return 0;
    text[got] = '\0';
    char *end = strrchr(text, '\n');
    if (end == NULL) return 0;
    *end = '\0';
    char *begin = strrchr(text, '\n');
    json_t *line = json_loads(begin == NULL ? text : begin + 1, 0, NULL);
    json_int_t step = json_integer_value(json_object_get(line, "step"));
    json_decref(line);
    return step;
}

/* The restore that the newest launch in the ledger tells of, when there are more launches than before.
 * Returns how many there are. */
static int read_ledger(const char *run_dir, int launches_before,
                       char restored_from[CATALOG_NAME]) {
    char *text;
    size_t size;
    int directory = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), launches = 0;
    restored_from[0] = '\0';
    if (directory < 0) return 0;
    Status status = file_read(directory, "ledger.jsonl", LEDGER_LIMIT, &text, &size);
    close(directory);
    if (status != STATUS_OK) return 0; /* not begun yet */
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        json_t *object = json_loads(line, 0, NULL);
        const char *event = json_string_value(json_object_get(object, "event"));
        const char *file = json_string_value(json_object_get(object, "file"));
        if (event != NULL && strcmp(event, "launch") == 0) launches++;
        if (event != NULL && strcmp(event, "restore") == 0 && file != NULL &&
            launches > launches_before)
            snprintf(restored_from, CATALOG_NAME, "%s", file);
        json_decref(object);
    }
    free(text);
    return launches;
}

static Status find_saved_step(const char *run_dir, int64_t *step) {
    Catalog catalog;
    *step = -1;
    TRY(catalog_open(run_dir, &catalog));
    for (int i = 0; i < catalog.count && *step < 0; i++)
        if (catalog.items[i].verdict == CHECKPOINT_VALID) *step = catalog.items[i].step;
    catalog_close(&catalog);
    return STATUS_OK;
}

/* ---- the launch */

typedef struct {
    const LaunchOrder *order;
    LaunchResult *result;
    const char *run_dir;
    Process process;
    struct stat program;
    double started;
    bool sent; /* SIGKILL, to the rank */
} Launch;

/* Sends the signal once its moment has come and the rank is there. */
static void kill_when_due(Launch *self) {
    const LaunchOrder *order = self->order;
    LaunchResult *result = self->result;
    int64_t step = newest_step(self->run_dir);
    double passed = clock_seconds() - self->started;
    if (step > 0 && result->first_step_s == 0) result->first_step_s = passed;
    if (order->after_a_step && result->first_step_s == 0) return;
    double waited = passed - (order->after_a_step ? result->first_step_s : 0);
    if (waited < order->delay_s && step < order->latest_step) return;
    pid_t pid = process_find_rank(&self->process, &self->program, order->victim);
    if (pid == 0 || kill(pid, SIGKILL) != 0) return; /* not born yet, or over: look again */
    self->sent = true;
    result->step = step;
    result->seconds = passed;
}

static Status watch(Launch *self, int *signal) {
    LaunchResult *result = self->result;
    for (;;) {
        bool looking = !self->sent && (self->order->kill || result->first_step_s == 0);
        double patience = looking ? LOOK_S : self->sent ? END_S : 3600.0;
        switch (process_wait(&self->process, patience, signal)) {
        case PROCESS_ENDED:
            return STATUS_OK;
        case PROCESS_INTERRUPTED:
            return FAIL(STATUS_STOPPED, NULL, "interrupted by %s", strsignal(*signal));
        case PROCESS_RUNNING:
            break;
        }
        if (self->sent)
            return FAIL(STATUS_WATCHDOG, NULL,
                        "the launch goes on %.0f s after its rank %d was killed", END_S,
                        self->order->victim);
        if (self->order->kill)
            kill_when_due(self);
        else if (result->first_step_s == 0 && newest_step(self->run_dir) > 0)
            result->first_step_s = clock_seconds() - self->started;
    }
}

static Status judge(Launch *self, int launches_before) {
    LaunchResult *result = self->result;
    result->code = self->process.code;
    result->killed = self->sent && result->code != 0;
    if (!self->sent) {
        result->seconds = clock_seconds() - self->started;
        result->step = newest_step(self->run_dir);
    }
    result->trained = read_ledger(self->run_dir, launches_before, result->restored_from) >
                      launches_before;
    if (!result->trained) result->step = 0; /* the line is from the launch before */
    if (result->code == 2)
        return FAIL(STATUS_USAGE, "its text is in the log of the launches",
                    "rekindle train refused this configuration (exit code 2)");
    return find_saved_step(self->run_dir, &result->saved_step);
}

Status verify_launch(const LaunchPlan *plan, const char *run_dir, const LaunchOrder *order,
                     LaunchResult *result, int *signal) {
    memset(result, 0, sizeof *result);
    Launch self = {.order = order, .result = result, .run_dir = run_dir};
    Arguments arguments;
    char ignored[CATALOG_NAME];
    make_arguments(plan, run_dir, order->ranks, &arguments);
    int launches_before = read_ledger(run_dir, 0, ignored);
    if (stat(plan->program, &self.program) != 0)
        return FAIL(STATUS_USAGE, "name an executable with --program", "cannot find %s: %s",
                    plan->program, strerror(errno));
    TRY(process_start((char *const *)arguments.list, plan->log, &self.process));
    self.started = clock_seconds();
    Status status = watch(&self, signal);
    process_end(&self.process, GRACE_S);
    return status == STATUS_OK ? judge(&self, launches_before) : status;
}
