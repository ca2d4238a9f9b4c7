/* The two clocks: one that only goes forward, for durations, and the calendar's, for people. */
#pragma once

enum { CLOCK_UTC_TEXT = 32 };

/* Seconds since some moment, by a clock that is never set. Not for signal handlers. Any thread */
double clock_seconds(void);

/* Seconds since 1970 by the calendar's clock, which may be set: for what others name by it. Any thread */
double clock_unix(void);

/* Now, as 2026-01-31T12:00:00Z. For people; nothing may be decided by it. Any thread */
void clock_utc(char text[CLOCK_UTC_TEXT]);
