/* LD_PRELOAD library whose wall clock jumps: each reading is off by the next of a list of offsets, in turn. The
 * monotonic clock is as it is.
 *
 *   CLOCK_OFFSETS  seconds, "315360000,-315360000"
 *   CLOCK_REPORT   file that gets, at the end, the number of readings that were off */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { OFFSETS = 16 };
static long long offsets[OFFSETS];
static int offset_count;
static atomic_int readings;

__attribute__((constructor)) static void begin(void) {
    const char *list = getenv("CLOCK_OFFSETS");
    char *end;
    for (; list != NULL && *list != '\0' && offset_count < OFFSETS; list = end) {
        offsets[offset_count++] = strtoll(list, &end, 10);
        if (*end == ',') end++;
    }
}

__attribute__((destructor)) static void finish(void) {
    const char *report = getenv("CLOCK_REPORT");
    if (report == NULL) return;
    int fd = open(report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) dprintf(fd, "%d\n", atomic_load(&readings));
}

static long long offset(void) {
    if (offset_count == 0) return 0;
    return offsets[(unsigned)atomic_fetch_add(&readings, 1) % (unsigned)offset_count];
}

#define EXPORT __attribute__((visibility("default")))

EXPORT int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return result;
}

EXPORT time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) *out = now.tv_sec;
    return now.tv_sec;
}

EXPORT int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    *now = (struct timeval){exact.tv_sec, exact.tv_nsec / 1000};
    return 0;
}
