/* Opens the device that a configuration asks for. */
#include "kernels/load.h"

#include "src/backend.h"

#include <string.h>

Status backend_open(const char *name, const BackendOptions *options, Backend **out) {
    *out = NULL;
    if (strcmp(name, "cpu") == 0 || strcmp(name, "auto") == 0)
        return cpu_open(options, out);
    if (strcmp(name, "reference") == 0) return reference_open(options, out);
    return FAIL(STATUS_UNSUPPORTED, "set device: cpu", "there is no device \"%s\" here",
                name);
}
