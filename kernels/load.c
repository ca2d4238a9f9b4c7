/* Opens the device that a configuration asks for. */
#include "kernels/load.h"

#include "src/backend.h"
#include "src/core/log.h"

#include <string.h>

/* The GPU where there is one and this build can use it. Nothing else is a reason to compute elsewhere: a
 * module that is there and does not load is a mistake that the user wants to hear of. */
static Status auto_open(const BackendOptions *options, Backend **out) {
    char path[PATH_MAX];
    if (cuda_device_count() == 0) {
        if (log_reports()) LOG_I("device: auto finds no GPU and takes the CPU");
        return cpu_open(options, out);
    }
    if (!cuda_module_find(path)) {
        if (log_reports())
            LOG_W("device: auto takes the CPU: there is a GPU, but this build has no CUDA "
                  "module");
        return cpu_open(options, out);
    }
    return cuda_open(options, out);
}

Status backend_open(const char *name, const BackendOptions *options, Backend **out) {
    *out = NULL;
    if (strcmp(name, "cpu") == 0) return cpu_open(options, out);
    if (strcmp(name, "auto") == 0) return auto_open(options, out);
    if (strcmp(name, "cuda") == 0) return cuda_open(options, out);
    if (strcmp(name, "reference") == 0) return reference_open(options, out);
    return FAIL(STATUS_UNSUPPORTED, "set device: cpu", "there is no device \"%s\" here",
                name);
}
