/* What tests may ask of the double itself, beside the seam (kernels/cuda/vendor.h).
 *
 * Environment, read by the first call of the seam and after double_reset:
 *   GPU_DOUBLE_DEVICES=n       devices that the process sees (4)
 *   GPU_DOUBLE_MEMORY=bytes    of a device (16 GiB)
 *   GPU_DOUBLE_SEED=n          of the orders of blocks, warps and lanes (1); even: what a queue waits for
 *                              runs as early as it may, odd: as late
 *   GPU_DOUBLE_PLAN=double-2   the libraries' first choice of a plan (double-1); they differ in bits
 *   GPU_DOUBLE_FAIL=[rank:R,]function:occurrence[;...]
 *                              that call fails: STATUS_DEVICE, STATUS_MEMORY of allocations,
 *                              STATUS_COMM of communicators. Launches are called "launch"
 *   GPU_DOUBLE_FAIL_LATE=...   the same, but the call succeeds and the queue's next wait fails; of a
 *                              communicator: its next poll
 *   GPU_DOUBLE_HANG=...        the same for exchanges: it never completes
 *   GPU_DOUBLE_COUNT=file      vendor_close writes "function calls" lines there; a launched rank but
 *                              the first to file.RANK
 *   GPU_DOUBLE_LEAKS=fatal     vendor_close aborts when something was not released
 *
 * Each injection that fires prints "gpu_double: injected ..." on stderr. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Reads the environment again and counts calls from zero. */
void double_reset(void);
/* Calls of the function so far ("vendor_copy_in", "launch"). */
int double_calls(const char *function);
/* Injections that fired so far. */
int double_fired(void);
/* Things that the last vendor_close found not released. */
int double_leaks(void);
/* Reads device memory as it is now: what nobody has waited for has not happened. */
void double_peek(void *host, const void *device, size_t bytes);
/* Runs all work that was given. */
void double_drain(void);

#ifdef __cplusplus
}
#endif
