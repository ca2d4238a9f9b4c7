/* A signal at a named point, for tests. */
#include "src/core/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool (*has_arrived)(void);
static bool to_launcher;
static atomic_bool armed;
static atomic_llong passes_left; /* of the wanted point, before the one that fires */
static char wanted_point[32], wanted_signal[8];
static long long wanted_step = -1;
static _Atomic long long current_step = -1;
static int signal_number = SIGKILL;

static const struct {
    const char *name;
    int number;
} signals[] = {{"KILL", SIGKILL}, {"TERM", SIGTERM}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}};

static bool find_signal(void) {
    if (wanted_signal[0] == '\0') return true;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (strcmp(wanted_signal, signals[i].name) == 0) {
            signal_number = signals[i].number;
            return true;
        }
    return false;
}

void fault_open(int rank) {
    const char *text = getenv("REKINDLE_FAULT");
    if (text == NULL || text[0] == '\0') return;
    long long wanted_rank = -1, wanted_pass = 1;
    char copy[128];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *save = NULL, *part = strtok_r(copy, ",", &save); part != NULL;
         part = strtok_r(NULL, ",", &save)) {
        if (sscanf(part, "rank:%lld", &wanted_rank) == 1) continue;
        if (sscanf(part, "step:%lld", &wanted_step) == 1) continue;
        if (sscanf(part, "at:%31s", wanted_point) == 1) continue;
        if (sscanf(part, "pass:%lld", &wanted_pass) == 1 && wanted_pass > 0) continue;
        if (sscanf(part, "send:%7s", wanted_signal) == 1 && find_signal()) continue;
        if (strcmp(part, "to:launcher") == 0) {
            to_launcher = true;
            continue;
        }
        fprintf(stderr,
                "rekindle: REKINDLE_FAULT=%s: expected "
                "rank:R,step:S,at:POINT,pass:N,send:SIGNAL,to:launcher, not \"%s\"\n",
                text, part);
        _exit(2);
    }
    passes_left = wanted_pass - 1;
    armed = wanted_point[0] != '\0' && (wanted_rank < 0 || wanted_rank == rank);
}

void fault_await_signals(bool (*arrived)(void)) {
    has_arrived = arrived;
}

void fault_set_step(int64_t step) {
    current_step = step;
}

void fault_point(const char *at) {
    if (!armed || (wanted_step >= 0 && wanted_step != current_step) ||
        strcmp(at, wanted_point) != 0 || atomic_fetch_sub(&passes_left, 1) > 0 ||
        !atomic_exchange(&armed, false)) /* once */
        return;
    char text[64];
    int length =
        snprintf(text, sizeof text, "rekindle: REKINDLE_FAULT fires: SIG%s to %s\n",
                 wanted_signal[0] != '\0' ? wanted_signal : "KILL",
                 to_launcher ? "the launcher" : "this rank");
    (void)!write(STDERR_FILENO, text, (size_t)length);
    kill(to_launcher ? getppid() : getpid(), signal_number);
    /* what is asked for counts from here on: wait until it has come (a launcher takes its time) */
    for (int i = 0; i < 10000 && has_arrived != NULL && !has_arrived(); i++) {
        struct timespec moment = {0, 1000000};
        nanosleep(&moment, NULL);
    }
}
