/* A point where a test can kill this process: REKINDLE_FAULT="rank:1,step:7,at:reduce" makes rank 1 send itself
 * SIGKILL when it passes fault_point("reduce") in step 7; with pass:3 it does so when it passes for the third time.
 * With send:TERM (USR1, USR2) it is that signal, once; with to:launcher the parent process gets it, and the rank
 * waits until it is passed on. Without the variable a point costs one comparison. Keys may be left out: any rank,
 * any step. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Reads the variable. Call it once the rank is known. A wrong text ends the program with exit 2:
 * a fault test whose fault cannot fire would prove nothing. */
void fault_open(int rank);

/* How to see that a signal sent by fault_point has come: the program handles signals on a thread of its
 * own. Without it fault_point does not wait. */
void fault_await_signals(bool (*arrived)(void));

void fault_set_step(int64_t step);

/* Points: start, restore, data, gradient, reduce, optimizer, evaluate, save, after_commit, held, finish; and on the
 * thread that saves, whose step is the one that training has come to: persist, before_commit. Any thread */
void fault_point(const char *at);
