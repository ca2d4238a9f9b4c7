/* What the driver can be asked for; each subcommand reads records from stdin and writes its results to
 * stdout. */
#pragma once

#include "src/core/status.h"

/* Runs one operation of a device's table forward and backward. */
Status layer_run(const char *device, const char *op);

/* Applies the configured optimizer: inputs "p0", "p1" … and, for each step s, "g<s>.0", "g<s>.1" …;
 * outputs "p<s>.0" … and "norm<s>" after each step. */
Status optimizer_run(const char *device, const char *config_path);

/* Prints the rates of all steps of a horizon, one a line. */
Status schedule_run(const char *config_path);
