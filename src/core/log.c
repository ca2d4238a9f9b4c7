/* Writes each log line with one write(2), so that lines of several ranks never mix. */
#include "src/core/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int my_rank = -1;
static _Atomic long long my_step = -1;
static LogLevel my_level = LOG_INFO;
static bool colour;
static void (*before_line)(void);
static void (*after_line)(void);

void log_open(int rank) {
    my_rank = rank;
    const char *no_color = getenv("NO_COLOR");
    colour = isatty(STDERR_FILENO) && (no_color == NULL || no_color[0] == '\0');
    const char *level = getenv("REKINDLE_LOG");
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; level != NULL && i < 4; i++)
        if (strcmp(level, names[i]) == 0) my_level = (LogLevel)i;
}

void log_set_step(long long step) {
    my_step = step;
}

void log_set_level(LogLevel level) {
    my_level = level;
}

void log_set_line_hooks(void (*before)(void), void (*after)(void)) {
    before_line = before;
    after_line = after;
}

bool log_reports(void) {
    return my_rank <= 0;
}

void log_line(LogLevel level, const char *format, ...) {
    if (level > my_level) return;
    static const char *const colours[] = {"\033[31m", "\033[33m", "", "\033[2m"};
    static const char *const words[] = {"error: ", "warning: ", "", ""};
    char text[2048];
    int used = 0;
    if (colour) used += snprintf(text, sizeof text, "%s", colours[level]);
    long long step = my_step;
    if (my_rank >= 0 && step >= 0)
        used += snprintf(text + used, sizeof text - (size_t)used, "[rank %d step %lld] ",
                         my_rank, step);
    else if (my_rank >= 0)
        used += snprintf(text + used, sizeof text - (size_t)used, "[rank %d] ", my_rank);
    used += snprintf(text + used, sizeof text - (size_t)used, "%s", words[level]);
    va_list arguments;
    va_start(arguments, format);
    int body = vsnprintf(text + used, sizeof text - (size_t)used - 8, format, arguments);
    va_end(arguments);
    if (body > 0) used += body;
    if (used > (int)sizeof text - 9) used = (int)sizeof text - 9;
    if (colour && colours[level][0] != '\0')
        used += snprintf(text + used, sizeof text - (size_t)used, "\033[0m");
    text[used++] = '\n';
    if (before_line != NULL) before_line();
    for (int done = 0; done < used;) {
        ssize_t wrote = write(STDERR_FILENO, text + done, (size_t)(used - done));
        if (wrote <= 0) break; /* a lost log line must not stop a run */
        done += (int)wrote;
    }
    if (after_line != NULL) after_line();
}
