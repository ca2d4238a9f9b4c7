/* The program's entry: finds the command and hands over. */
#include "src/cli/cli.h"

#include "dist/world.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"train", train_main, "train a run, or go on with it (under mpirun, srun, or alone)"},
    {"eval", eval_main, "evaluate a checkpoint"},
    {"checkpoints", checkpoints_main, "ls, show, verify, diff, copy checkpoints"},
    {"verify-resume", verify_resume_main, "prove on your own run that kills change no bit"},
};

static int usage(FILE *out, int code) {
    fputs("usage: rekindle COMMAND ...      (rekindle COMMAND --help tells more)\n\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(out, "  %-14s %s\n", commands[i].name, commands[i].summary);
    fputs("\n  --version      print the version\n", out);
    return code;
}

int main(int argc, char **argv) {
    if (argc < 2) return usage(stderr, 2);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return world_is_first() ? usage(stdout, 0) : 0;
    if (strcmp(argv[1], "--version") == 0) {
        puts("rekindle " REKINDLE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "rekindle: there is no command \"%s\"\n\n", argv[1]);
    return usage(stderr, 2);
}
