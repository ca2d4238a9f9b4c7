/* The system's clocks in the forms that we use. */
#include "src/core/clock.h"

#include <time.h>

static double read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double clock_seconds(void) {
    return read_clock(CLOCK_MONOTONIC);
}

double clock_unix(void) {
    return read_clock(CLOCK_REALTIME);
}

void clock_utc(char text[CLOCK_UTC_TEXT]) {
    time_t seconds = time(NULL);
    struct tm parts = {0};
    gmtime_r(&seconds, &parts);
    strftime(text, CLOCK_UTC_TEXT, "%Y-%m-%dT%H:%M:%SZ", &parts);
}
