/* Self-inflicted SIGKILL at a named point, for tests. */
#include "src/core/fault.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool armed;
static char wanted_point[32];
static long long wanted_step = -1, current_step = -1;

void fault_open(int rank) {
    const char *text = getenv("REKINDLE_FAULT");
    if (text == NULL || text[0] == '\0') return;
    long long wanted_rank = -1;
    char copy[128];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *save = NULL, *part = strtok_r(copy, ",", &save); part != NULL;
         part = strtok_r(NULL, ",", &save)) {
        if (sscanf(part, "rank:%lld", &wanted_rank) == 1) continue;
        if (sscanf(part, "step:%lld", &wanted_step) == 1) continue;
        if (sscanf(part, "at:%31s", wanted_point) == 1) continue;
        fprintf(
            stderr,
            "rekindle: REKINDLE_FAULT=%s: expected rank:R,step:S,at:POINT, not \"%s\"\n",
            text, part);
        _exit(2);
    }
    armed = wanted_point[0] != '\0' && (wanted_rank < 0 || wanted_rank == rank);
}

void fault_set_step(int64_t step) {
    current_step = step;
}

void fault_point(const char *at) {
    if (!armed || (wanted_step >= 0 && wanted_step != current_step) ||
        strcmp(at, wanted_point) != 0)
        return;
    static const char text[] = "rekindle: REKINDLE_FAULT fires: SIGKILL to this rank\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    kill(getpid(), SIGKILL);
    pause();
}
