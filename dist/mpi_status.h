/* MPI's error codes as ours: the one place where they are translated. */
#pragma once

#include "src/core/status.h"

#include <mpi.h>

/* Returns STATUS_COMM with MPI's own text unless the call succeeded. After it only an abort may
 * follow: the other ranks are somewhere else. */
#define TRY_MPI(call)                                                              \
    do {                                                                           \
        int try_mpi_ = (call);                                                     \
        if (try_mpi_ != MPI_SUCCESS)                                               \
            return mpi_status_fail(try_mpi_, #call, __FILE__, __LINE__, __func__); \
    } while (0)

/* Records STATUS_COMM for a failed call. Ranks: local */
Status mpi_status_fail(int mpi_code, const char *call, const char *file, int line,
                       const char *function);
