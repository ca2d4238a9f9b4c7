/* How the parity tests' Python side and the driver exchange arrays: on stdin and stdout, one after the
 * other, each a line "name rank d0 d1 …" and then its floats in row-major order. */
#pragma once

#include "src/core/status.h"
#include "src/state/tensor.h"

enum { RECORD_NAME = 40 };

typedef struct {
    char name[RECORD_NAME];
    Tensor tensor; /* canonical, in host memory */
} Record;

/* Reads stdin to its end, once. Errors: STATUS_USAGE for what is not a record, STATUS_MEMORY */
Status records_read(void);

/* The array of that name; NULL when the input has none. */
const Tensor *records_find(const char *name);

/* Writes one record to stdout. */
void records_write(const char *name, int rank, const int64_t *shape, const float *data);

/* ---- arguments of the form name=value */

void options_set(int argc, char **argv);
double option(const char *name, double otherwise);
