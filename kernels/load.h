/* The devices: two that are linked in, and one that is loaded when it is asked for. */
#pragma once

#include "src/backend.h"

#include <limits.h>
#include <stdbool.h>

Status cpu_open(const BackendOptions *options, Backend **out);
Status reference_open(const BackendOptions *options, Backend **out);

/* Loads the GPU's module and opens the device.
 *
 * Errors:  STATUS_UNSUPPORTED when there is no module, when it or a library that it needs cannot be
 *          loaded, or when it finds no GPU */
Status cuda_open(const BackendOptions *options, Backend **out);
/* Whether the module's file is there. */
bool cuda_module_find(char path[PATH_MAX]);
/* How many GPUs the driver reports; 0 without a driver. Loads the driver alone, not the module. */
int cuda_device_count(void);
