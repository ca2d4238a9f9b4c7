/* `rekindle train` and `rekindle eval`: one launch over all ranks. */
#include "src/cli/cli.h"

#include "dist/signals.h"
#include "dist/world.h"
#include "src/core/fault.h"
#include "src/core/log.h"
#include "src/train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char train_help[] =
    "usage: rekindle train RUN.yaml [--set KEY=VALUE]... [--resume MODE] [--threads N]\n"
    "       mpirun -q -n 4 rekindle train RUN.yaml    (srun likewise; -q: mpirun adds no "
    "page of\n"
    "                                                 its own to a stop or a fault)\n"
    "\n"
    "Trains until the run is complete. Killed or stopped, it goes on from its newest "
    "valid\n"
    "checkpoint when it is launched again, on any number of ranks up to train.shards, and "
    "ends\n"
    "with the very bits of the run that was never interrupted.\n"
    "\n"
    "  --set KEY=VALUE   sets a key of the run file, e.g. --set train.epochs=3\n"
    "  --resume MODE     auto (default): go on if there is a checkpoint, else begin\n"
    "                    none: begin; refused where checkpoints exist\n"
    "                    must: go on, or exit 3;  PATH or s3://BUCKET/PREFIX[/NAME.h5]: "
    "go on\n"
    "                    from this file\n"
    "  --threads N       worker threads a rank\n"
    "\n"
    "SIGTERM or SIGUSR1 to any rank: all agree on a step, save, exit 75. SIGUSR2: save and "
    "go on.\n"
    "Before the job ends (SLURM_JOB_END_TIME) or after fault.stop_after seconds: saves in "
    "time, "
    "exit 75.\n"
    "Exit codes: 0 finished, 2 usage or configuration, 3 no valid checkpoint, 75 stopped "
    "with the\n"
    "state saved, anything else a fault.\n"
    "Environment: REKINDLE_LOG=error|warn|info|debug, "
    "REKINDLE_FAULT=rank:R,step:S,at:POINT,\n"
    "NO_COLOR.\n";

static const char eval_help[] =
    "usage: rekindle eval RUN.yaml [--from PATH|s3://…] [--set KEY=VALUE]...\n"
    "       mpirun -n 4 rekindle eval RUN.yaml\n"
    "\n"
    "Evaluates the newest checkpoint of the run (or the one that --from names) on the "
    "configured\n"
    "validation data, on any number of ranks. Nothing is written.\n";

static const char keys_title[] = "\nKeys of the run file:\n";

static int print_help(const char *text) {
    if (!world_is_first()) return 0;
    char *keys;
    if (config_describe(&keys) != STATUS_OK) return cli_fail();
    printf("%s%s%s", text, keys_title, keys);
    free(keys);
    return 0;
}

/* Every rank reads the configuration (NULL: there was no memory for it); the first that cannot speaks for
 * all. */
static Status read_config(Collective *collective, int argc, char **argv,
                          const char *command, RunArguments *arguments, Config *config) {
    Status mine = config != NULL
                      ? run_arguments_parse(argc, argv, command, arguments)
                      : FAIL(STATUS_MEMORY, NULL, "no memory for the configuration");
    if (mine == STATUS_OK)
        mine =
            config_load(arguments->run_file, arguments->sets, arguments->set_count, config);
    if (mine == STATUS_OK && strcmp(command, "eval") == 0)
        snprintf(config->resume, sizeof config->resume, "%s",
                 arguments->from != NULL ? arguments->from : "must");
    return collective->ops->agree(collective, mine);
}

static void report_training(const TrainOutcome *outcome) {
    char digest[DIGEST_TEXT];
    digest_print(outcome->state_digest, digest);
    LOG_I("finished: %lld steps, loss %.4f, accuracy %.4f (best %.4f at step %lld)",
          (long long)outcome->step, outcome->evaluation.loss, outcome->evaluation.accuracy,
          outcome->best_accuracy, (long long)outcome->best_step);
    LOG_I("state_digest %s", digest);
}

static void report_evaluation(const TrainOutcome *outcome) {
    printf("{\"checkpoint\": \"%s\", \"step\": %lld, \"samples\": %lld, \"loss\": %.9g, "
           "\"accuracy\": %.9g, \"top5\": %.9g}\n",
           outcome->checkpoint, (long long)outcome->step,
           (long long)outcome->evaluation.samples, outcome->evaluation.loss,
           outcome->evaluation.accuracy, outcome->evaluation.top5);
}

/* One launch: the world around a command. All ranks leave together with one code. */
static int launch(int argc, char **argv, const char *command) {
    signals_install(); /* before MPI starts: a signal that comes early must not kill the launch */
    Collective *collective;
    if (world_start(&argc, &argv, &collective) != STATUS_OK) return cli_fail();
    log_open(world_is_launched() ? collective->rank : -1);
    fault_open(collective->rank);
    fault_await_signals(signals_waiting);
    bool train = strcmp(command, "train") == 0;
    RunArguments arguments;
    Config *config = calloc(1, sizeof *config);
    TrainOutcome outcome;
    Status status = read_config(collective, argc, argv, command, &arguments, config);
    if (status == STATUS_OK)
        status = train ? train_run(config, collective, signals_take, &outcome)
                       : train_evaluate(config, collective, signals_take, &outcome);
    int code = status_exit_code(status);
    log_set_step(-1);
    if (status == STATUS_COMM) {
        status_print(status_failure());
        collective->ops->abort(collective, code);
    }
    if (collective->rank == 0) {
        if (status == STATUS_OK && train) report_training(&outcome);
        if (status == STATUS_OK && !train) report_evaluation(&outcome);
        if (status == STATUS_STOPPED)
            LOG_I("%s; %s", status_failure()->what, status_failure()->fix);
        else if (status != STATUS_OK)
            status_print(status_failure());
        fflush(stdout);
    }
    free(config);
    fault_point("finish");
    world_finish(collective);
    return code;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

int train_main(int argc, char **argv) {
    return wants_help(argc, argv) ? print_help(train_help) : launch(argc, argv, "train");
}

int eval_main(int argc, char **argv) {
    return wants_help(argc, argv) ? print_help(eval_help) : launch(argc, argv, "eval");
}
