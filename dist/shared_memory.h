/* Memory that the ranks of one host share. It has no name in any file system: whatever kills the
 * ranks, nothing stays behind, and a small /dev/shm (64 MiB in many containers) does not matter. */
#pragma once

#include "src/collective.h"

typedef struct {
    void *bytes; /* page aligned; the same memory on each rank, at any address */
    size_t size;
} SharedMemory;

/* Maps `size` zero bytes that all ranks see. Each rank brings in the pages of its own part
 * [first, end), both multiples of the page size, so that they lie next to its core, and so that
 * missing memory shows here. Collective; all ranks of `collective` must be on one host.
 * Memory: until shared_memory_close
 * Errors: agreed on: STATUS_MEMORY; STATUS_UNSUPPORTED where ranks cannot see each other */
Status shared_memory_open(Collective *collective, size_t size, size_t first, size_t end,
                          SharedMemory *out);
void shared_memory_close(SharedMemory *memory);
