/* The arguments of commands that take a run file. */
#include "src/cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *run_arguments_value(int argc, char **argv, int *index, const char *name,
                                bool *missing) {
    size_t length = strlen(name);
    const char *argument = argv[*index];
    if (strncmp(argument, name, length) != 0) return NULL;
    if (argument[length] == '=') return argument + length + 1;
    if (argument[length] != '\0') return NULL;
    if (*index + 1 >= argc) {
        *missing = true;
        return NULL;
    }
    return argv[++*index];
}

static Status add_set(RunArguments *out, const char *prefix, const char *value) {
    if (out->set_count == CLI_SETS)
        return FAIL(STATUS_USAGE, "put them into the run file", "more than %d --set",
                    CLI_SETS);
    if (prefix[0] == '\0') {
        out->sets[out->set_count++] = value;
        return STATUS_OK;
    }
    size_t size = strlen(prefix) + strlen(value) + 4;
    char *text = malloc(size); /* lives as long as the program */
    if (text == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the arguments");
    snprintf(text, size, "%s=%s", prefix, value);
    out->sets[out->set_count++] = text;
    return STATUS_OK;
}

Status run_arguments_parse(int argc, char **argv, const char *command, RunArguments *out) {
    memset(out, 0, sizeof *out);
    char fix[96];
    snprintf(fix, sizeof fix, "see: rekindle %s --help", command);
    for (int i = 0; i < argc; i++) {
        const char *value;
        bool missing = false;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            out->help = true;
            return STATUS_OK;
        }
        const char *argument = argv[i];
        if ((value = run_arguments_value(argc, argv, &i, "--set", &missing)) != NULL)
            TRY(add_set(out, "", value));
        else if ((value = run_arguments_value(argc, argv, &i, "--resume", &missing)) !=
                 NULL)
            TRY(add_set(out, "resume", value));
        else if ((value = run_arguments_value(argc, argv, &i, "--threads", &missing)) !=
                 NULL)
            TRY(add_set(out, "train.threads", value));
        else if ((value = run_arguments_value(argc, argv, &i, "--from", &missing)) !=
                     NULL &&
                 strcmp(command, "eval") == 0)
            out->from = value;
        else if (missing)
            return FAIL(STATUS_USAGE, fix, "%s needs a value", argument);
        else if (argument[0] == '-' || out->run_file != NULL)
            return FAIL(STATUS_USAGE, fix, "unknown argument \"%s\"", argument);
        else
            out->run_file = argument;
    }
    if (out->run_file == NULL)
        return FAIL(STATUS_USAGE, fix, "rekindle %s needs a run file (YAML)", command);
    return STATUS_OK;
}

int cli_fail(void) {
    status_print(status_failure());
    return status_exit_code(status_failure()->code);
}
