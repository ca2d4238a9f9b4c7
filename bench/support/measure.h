/* What the benchmarks' programs share: medians, the slowest rank's time, who they are run by, and obeying commands
 * from a script that also has somebody else to ask. */
#pragma once

#include "src/collective.h"

#include <jansson.h>
#include <stdio.h>

/* The middle value; sorts them. */
double measure_median(double *values, int count);

/* The longest of all ranks' times. Ranks: collective */
double measure_slowest(const Collective *world, double seconds);

/* Waits for all ranks asleep: who waited by spinning would take the processor from those that still work.
 * Ranks: collective */
void measure_wait_asleep(const Collective *world);

/* The processor's name, or "unknown". */
void measure_processor(char *name, size_t size);

/* Prints an object as one line of JSON, on rank 0 alone. Memory: frees it */
void measure_answer(const Collective *world, json_t *object);

/* Opens the FIFO CONTROL.<rank>, where a rank sleeps between its commands. NULL: it cannot be read. */
FILE *measure_open_commands(const Collective *world, const char *control);
