/* Asking for a GPU where there is none, or no module, or a wrong one, ends with a text that says what to do.
 *
 * The module is looked for beside the program, so each test puts a copy of this program into a folder of
 * its own, with what it needs beside it, and lets the copy open a device. */
#include "tests/support/test.h"

#include "kernels/load.h"
#include "src/core/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/rekindle-load-XXXXXX";
static const char *modules; /* the folder of the modules that the build made */
static const char *real;    /* the real module, or empty */

/* ---- the copy: opens a device and prints what came of it */

static int open_and_tell(const char *device) {
    BackendOptions options = {.workers = 3};
    Backend *backend = NULL;
    log_open(0);
    Status status = backend_open(device, &options, &backend);
    if (status == STATUS_OK) {
        printf("opened %s\n", backend->ops->name);
        backend->ops->close(backend);
        return 0;
    }
    printf("%s | %s\n", status_failure()->what, status_failure()->fix);
    return status_exit_code(status);
}

/* ---- the tests */

static void copy_file(const char *from, const char *to) {
    static char bytes[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t got; (got = read(in, bytes, sizeof bytes)) > 0;)
        assert_int_equal(write(out, bytes, (size_t)got), got);
    close(in);
    assert_int_equal(close(out), 0);
}

static char *in_folder(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state) {
    (void)state;
    if (mkdtemp(folder) == NULL || mkdir(in_folder("bin"), 0755) != 0 ||
        mkdir(in_folder("lib"), 0755) != 0 || mkdir(in_folder("lib/rekindle"), 0755) != 0)
        return -1;
    copy_file("/proc/self/exe", in_folder("bin/program"));
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(in_folder("bin/program"));
    rmdir(in_folder("bin"));
    rmdir(in_folder("lib/rekindle"));
    rmdir(in_folder("lib"));
    return rmdir(folder);
}

/* Runs the copy, with `module` as its module (NULL: none) in `place`, and gives its exit code and what it
 * printed. */
static int run_copy(const char *device, const char *module, const char *place,
                    char text[4096]) {
    char command[PATH_MAX + 64];
    if (module != NULL) assert_int_equal(symlink(module, in_folder(place)), 0);
    snprintf(command, sizeof command, "%s open %s 2>&1", in_folder("bin/program"), device);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    text[fread(text, 1, 4095, pipe)] = '\0';
    int code = WEXITSTATUS(pclose(pipe));
    if (module != NULL) assert_int_equal(unlink(in_folder(place)), 0);
    return code;
}

#define BESIDE    "bin/rekindle_cuda.so"
#define INSTALLED "lib/rekindle/rekindle_cuda.so"

static void assert_text(const char *text, const char *expected) {
    if (strstr(text, expected) == NULL) fail_msg("\"%s\" not in: %s", expected, text);
}

static const char *module_named(const char *name) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", modules, name);
    return path;
}

static void without_a_module_cuda_is_refused_with_what_to_do(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_copy("cuda", NULL, NULL, text), 2);
    assert_text(text, "this build has no CUDA module");
    assert_text(text, "set device: cpu");
}

static void a_module_that_does_not_load_is_named_with_the_reason(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_copy("cuda", "/proc/self/status", BESIDE, text), 2);
    assert_text(text, "cannot load the CUDA module");
    assert_text(text, BESIDE);
    assert_text(text, "LD_LIBRARY_PATH");
}

static void a_foreign_library_is_no_module(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_copy("cuda", module_named("foreign.so"), BESIDE, text), 2);
    assert_text(text, "is no CUDA module of this program");
}

static void a_failure_inside_the_module_is_the_programs_own(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_copy("cuda", module_named("failing.so"), BESIDE, text), 1);
    assert_text(text, "device with 3 workers is gone | plug it in");
}

static void an_installed_module_is_found(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_copy("cuda", module_named("failing.so"), INSTALLED, text), 1);
    assert_text(text, "is gone");
}

/* With another driver in the real one's place: the loader looks into this folder first. */
static int run_auto(const char *driver, const char *module, char text[4096]) {
    char path[2 * PATH_MAX], before[PATH_MAX] = "";
    const char *given = getenv("LD_LIBRARY_PATH");
    if (given != NULL) snprintf(before, sizeof before, "%s", given);
    snprintf(path, sizeof path, "%s:%s", driver == NULL ? "" : module_named(driver),
             before);
    if (driver != NULL) assert_int_equal(setenv("LD_LIBRARY_PATH", path, 1), 0);
    int code = run_copy("auto", module == NULL ? NULL : module_named(module), BESIDE, text);
    if (given == NULL)
        unsetenv("LD_LIBRARY_PATH");
    else
        assert_int_equal(setenv("LD_LIBRARY_PATH", before, 1), 0);
    return code;
}

static void without_a_gpu_auto_takes_the_cpu_and_says_so(void **state) {
    (void)state;
    static const char *const drivers[] = {NULL, "driver_none", "driver_broken"};
    char text[4096];
    for (int i = cuda_device_count() > 0 ? 1 : 0; i < 3; i++) {
        assert_int_equal(run_auto(drivers[i], "failing.so", text), 0);
        assert_text(text, "device: auto finds no GPU and takes the CPU");
        assert_text(text, "opened cpu");
    }
}

static void with_a_gpu_auto_takes_it(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_auto("driver_one", "failing.so", text), 1);
    assert_text(text, "device with 3 workers is gone");
}

static void with_a_gpu_but_no_module_auto_takes_the_cpu_and_warns(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_auto("driver_one", NULL, text), 0);
    assert_text(text, "warning: device: auto takes the CPU: there is a GPU");
    assert_text(text, "opened cpu");
}

static void with_a_gpu_a_module_that_does_not_load_is_no_reason_for_the_cpu(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(run_auto("driver_one", "foreign.so", text), 2);
    assert_text(text, "is no CUDA module of this program");
}

static void without_a_gpu_the_real_module_loads_and_says_so(void **state) {
    (void)state;
    char text[4096];
    if (real[0] == '\0' || cuda_device_count() > 0) skip();
    assert_int_equal(run_copy("cuda", real, BESIDE, text), 2);
    assert_text(text, "no CUDA device is visible");
    assert_text(text, "set device: cpu");
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "open") == 0) return open_and_tell(argv[2]);
    if (argc < 2) {
        fprintf(stderr, "usage: test_load MODULES [REAL_MODULE]\n");
        return 2;
    }
    modules = argv[1];
    real = argc > 2 ? argv[2] : "";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_module_cuda_is_refused_with_what_to_do),
        cmocka_unit_test(a_module_that_does_not_load_is_named_with_the_reason),
        cmocka_unit_test(a_foreign_library_is_no_module),
        cmocka_unit_test(a_failure_inside_the_module_is_the_programs_own),
        cmocka_unit_test(an_installed_module_is_found),
        cmocka_unit_test(without_a_gpu_auto_takes_the_cpu_and_says_so),
        cmocka_unit_test(with_a_gpu_auto_takes_it),
        cmocka_unit_test(with_a_gpu_but_no_module_auto_takes_the_cpu_and_warns),
        cmocka_unit_test(with_a_gpu_a_module_that_does_not_load_is_no_reason_for_the_cpu),
        cmocka_unit_test(without_a_gpu_the_real_module_loads_and_says_so),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
