/* Log lines: `[rank 3 step 120] text`, one write each, on stderr. Only rank 0 reports progress;
 * every rank may report its own trouble. */
#pragma once

#include <stdbool.h>

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

/* Sets the identity that lines carry and reads the level from REKINDLE_LOG
 * (error|warn|info|debug, default info) and colour from NO_COLOR and whether stderr is a
 * terminal. rank -1: outside of a launch (lines carry no rank). Ranks: local */
void log_open(int rank);

/* The step that later lines carry; -1 for none. Ranks: local */
void log_set_step(long long step);

void log_set_level(LogLevel level);

/* Hooks that surround every line: the live progress line hides itself and comes back.
 * NULL for none. Ranks: local */
void log_set_line_hooks(void (*before)(void), void (*after)(void));

/* Whether this process reports what all ranks do alike: rank 0, or outside of a launch. */
bool log_reports(void);

void log_line(LogLevel level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define LOG_E(...) log_line(LOG_ERROR, __VA_ARGS__)
#define LOG_W(...) log_line(LOG_WARN, __VA_ARGS__)
#define LOG_I(...) log_line(LOG_INFO, __VA_ARGS__)
#define LOG_D(...) log_line(LOG_DEBUG, __VA_ARGS__)
