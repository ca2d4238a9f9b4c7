/* A thread that does one job at a time, beside the thread that gives them (THREAD_FREE). */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>

typedef struct Task Task;

/* Starts the thread. Ranks: local. Memory: *out is the caller's: task_close
 * Errors: STATUS_MEMORY, also where no thread can be had */
Status task_open(Task **out);

/* Waits for the job, then ends the thread. NULL is allowed. */
void task_close(Task *task);

/* Gives the thread a job; the one before is over. `task` NULL: the caller does it, now. What the job wrote
 * is there for the caller once task_is_over or task_wait says that it is over. */
void task_begin(Task *task, void (*job)(void *context), void *context);

/* Whether no job is running. Costs nothing. NULL: true */
bool task_is_over(const Task *task);

void task_wait(Task *task); /* until task_is_over */
