/* A module that opens nothing: its failure must be the program's newest one, although the module brings
 * its own copy of the code that keeps it. */
#include "src/backend.h"

Status rekindle_cuda_open(const BackendOptions *options, Backend **out);

Status rekindle_cuda_open(const BackendOptions *options, Backend **out) {
    (void)out;
    return FAIL(STATUS_DEVICE, "plug it in", "device with %d workers is gone",
                options->workers);
}
