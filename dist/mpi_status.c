/* Gives a failed MPI call its name and MPI's own explanation. */
#include "dist/mpi_status.h"

#include <string.h>

Status mpi_status_fail(int mpi_code, const char *call, const char *file, int line,
                       const char *function) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(mpi_code, text, &length) != MPI_SUCCESS)
        strcpy(text, "an error without a text");
    return status_fail(
        STATUS_COMM, file, line, function,
        "see above what the launcher says about the other ranks, then relaunch",
        "%.*s failed: %s", (int)strcspn(call, "("), call, text);
}
