/* Loads a configuration: defaults, then the file, then each `--set`, then the checks. */
#include "src/core/config_table.h"
#include "src/core/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 20, KEY_LIMIT = 128 };

static Status apply_set(const char *file, int number, const char *set, Config *config,
                        Origin *origins) {
    char path[KEY_LIMIT];
    const char *equals = strchr(set, '=');
    size_t length = equals == NULL ? 0 : (size_t)(equals - set);
    if (length == 0 || length >= sizeof path)
        return FAIL(STATUS_USAGE, "for example --set train.epochs=3",
                    "--set #%d: found \"%.60s\", expected KEY=VALUE", number, set);
    memcpy(path, set, length);
    path[length] = '\0';
    return config_yaml_read(file, number, path, equals + 1, strlen(equals + 1), config,
                            origins);
}

Status config_load(const char *path, const char *const *sets, int set_count, Config *out) {
    char *data;
    size_t size;
    if (file_read(AT_FDCWD, path, FILE_LIMIT, &data, &size) != STATUS_OK) {
        Failure failure = *status_failure();
        failure.code = STATUS_USAGE; /* a relaunch would name the same file */
        return status_adopt(&failure);
    }
    int count;
    config_table(&count);
    Origin *origins = malloc((size_t)count * sizeof *origins);
    if (origins == NULL) {
        free(data);
        return FAIL(STATUS_MEMORY, NULL, "no memory to read the configuration");
    }
    for (int i = 0; i < count; i++)
        origins[i] = (Origin){.set = -1};
    config_value_defaults(out);
    Status status = config_yaml_read(path, 0, "", data, size, out, origins);
    for (int i = 0; status == STATUS_OK && i < set_count; i++)
        status = apply_set(path, i + 1, sets[i], out, origins);
    if (status == STATUS_OK) status = config_check(out, path, origins);
    if (out->run.dir[0] == '\0')
        snprintf(out->run.dir, sizeof out->run.dir, "runs/%s", out->run.name);
    free(origins);
    free(data);
    return status;
}
