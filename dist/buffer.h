/* Large aligned float buffers that belong to one rank. */
#pragma once

#include <stdint.h>

/* `count` zeros, 64-byte aligned, every page touched by the calling thread (so that it lies next
 * to its core and the first step pays no page faults); NULL without memory. Free with free().
 * Ranks: local */
float *buffer_create(int64_t count);
