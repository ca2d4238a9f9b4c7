/* The system's clocks in the forms that we use. */
#include "src/core/clock.h"

#include <time.h>

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void clock_utc(char text[CLOCK_UTC_TEXT]) {
    time_t seconds = time(NULL);
    struct tm parts = {0};
    gmtime_r(&seconds, &parts);
    strftime(text, CLOCK_UTC_TEXT, "%Y-%m-%dT%H:%M:%SZ", &parts);
}
