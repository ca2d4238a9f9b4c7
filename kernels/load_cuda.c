/* Opens the GPU's module. The program itself links no CUDA: a run on the CPU loads none of it, and a machine
 * without it runs the same program. */
#include "kernels/load.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MODULE "rekindle_cuda.so"

typedef Status (*CudaOpen)(const BackendOptions *options, Backend **out);

/* The places where the module may lie: beside the program (a build), or as it is installed. */
static const char *const places[] = {"", "../lib/rekindle/"};
enum { PLACES = sizeof places / sizeof *places };

/* "/opt/bin/rekindle" → "/opt/bin/"; false when the system does not tell. */
static bool program_folder(char folder[PATH_MAX]) {
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (length < 0) return false;
    folder[length] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash == NULL) return false;
    slash[1] = '\0';
    return true;
}

bool cuda_module_find(char path[PATH_MAX]) {
    char folder[PATH_MAX];
    if (!program_folder(folder)) return false;
    for (int i = 0; i < PLACES; i++)
        if (snprintf(path, PATH_MAX, "%s%s" MODULE, folder, places[i]) < PATH_MAX &&
            access(path, F_OK) == 0)
            return true;
    return false;
}

int cuda_device_count(void) {
    typedef int (*Init)(unsigned flags);
    typedef int (*Count)(int *count);
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == NULL) return 0;
    Init init = (Init)dlsym(driver, "cuInit");
    Count device_count = (Count)dlsym(driver, "cuDeviceGetCount");
    int count = 0;
    if (init == NULL || device_count == NULL || init(0) != 0 || device_count(&count) != 0)
        count = 0;
    if (count == 0) dlclose(driver); /* else the module needs it in a moment */
    return count;
}

Status cuda_open(const BackendOptions *options, Backend **out) {
    char path[PATH_MAX];
    *out = NULL;
    if (!cuda_module_find(path))
        return FAIL(STATUS_UNSUPPORTED,
                    "set device: cpu, or build where the CUDA toolkit, cuDNN and NCCL are "
                    "(cmake says what it misses)",
                    "this build has no CUDA module: there is no " MODULE
                    " beside the program or in ../lib/rekindle");
    /* Never closed: the libraries behind it leave threads and exit handlers. What it calls of ours is
     * the program's own, so that there is one newest failure and one log. */
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL)
        return FAIL(STATUS_UNSUPPORTED,
                    "set device: cpu, or install the library that is missing (or name its "
                    "folder in LD_LIBRARY_PATH)",
                    "cannot load the CUDA module: %s", dlerror());
    CudaOpen open = (CudaOpen)dlsym(module, "rekindle_cuda_open");
    if (open == NULL)
        return FAIL(STATUS_UNSUPPORTED,
                    "build and install the program and its module together",
                    "%s is no CUDA module of this program", path);
    return open(options, out);
}
