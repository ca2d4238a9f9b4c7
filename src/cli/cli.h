/* The commands. Each takes the arguments after its own name, prints its own errors (once) and returns
 * the documented exit code. Only this folder and main.c include from every room. */
#pragma once

#include "src/core/config.h"
#include "src/core/status.h"

#include <stdbool.h>
#include <stdint.h>

int train_main(int argc, char **argv);
int eval_main(int argc, char **argv);
int checkpoints_main(int argc, char **argv);
int verify_resume_main(int argc, char **argv);

enum { CLI_SETS = 128 };

/* What the commands that take a run file have in common:
 * COMMAND RUN.yaml [--set a.b=c]... [--resume X] [--threads N] [--from X]. */
typedef struct {
    const char *run_file;
    const char *sets[CLI_SETS];
    int set_count;
    const char *from; /* eval only; NULL: not given */
    bool help;
} RunArguments;

/* Errors: STATUS_USAGE naming the argument */
Status run_arguments_parse(int argc, char **argv, const char *command, RunArguments *out);

/* The value of argv[*index] when that is `--name value` or `--name=value`; moves *index to the last argument
 * that belongs to it. NULL: another argument, or (*missing is set) there is no value. */
const char *run_arguments_value(int argc, char **argv, int *index, const char *name,
                                bool *missing);

/* Prints the failure on stderr and gives its exit code. */
int cli_fail(void);
