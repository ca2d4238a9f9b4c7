/* `rekindle verify-resume`: proves on the user's own run that kills change no bit. One run goes through
 * undisturbed; a second one is killed at random moments and relaunched on other numbers of ranks; then
 * every value of both is compared. */
#include "src/cli/cli.h"

#include "src/cli/compare_runs.h"
#include "src/cli/process.h"
#include "src/cli/verify_launch.h"
#include "src/core/file.h"
#include "src/core/json_reserve.h"
#include "src/core/rng.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { RANK_COUNTS = 16, KILLS_MOST = 10000, ATTEMPTS = 5, CHECKPOINTS_WANTED = 10 };

enum { EXIT_IDENTICAL = 0, EXIT_DIFFERENT = 1, EXIT_USAGE = 2, EXIT_NO_VERDICT = 5 };

static const char help[] =
    "usage: rekindle verify-resume RUN.yaml [--ranks 1,2,4] [--kills K] [options]\n"
    "       rekindle verify-resume --compare RUN_DIR RUN_DIR\n"
    "\n"
    "Trains your run twice in a scratch directory beside its run.dir: once undisturbed, on "
    "the first\n"
    "number of ranks, and once with SIGKILL to random ranks at random moments, each "
    "relaunch on the\n"
    "next number of ranks. Then compares every value of every checkpoint that both hold "
    "for the same\n"
    "step, and every line of metrics. Your run.dir is not touched.\n"
    "\n"
    "  --ranks LIST      numbers of ranks to cycle through (default 1,2)\n"
    "  --kills K         kills (default 3)\n"
    "  --seed S          of the kills: which ranks, which moments (default: random, "
    "printed)\n"
    "  --set KEY=VALUE   as for rekindle train, e.g. --set train.epochs=2\n"
    "  --keep DIR        work in this new directory and leave it there\n"
    "  --launcher PATH   mpirun (default), or \"none\": one rank, without MPI\n"
    "  --program PATH    the rekindle to prove (default: this one)\n"
    "  --json            one JSON object\n"
    "  --compare A B     train nothing: compare two run directories\n"
    "\n"
    "Exit codes: 0 identical, 1 different, 2 usage or configuration, 5 no verdict: a "
    "launch "
    "failed by\n"
    "itself, or the comparison could not be made.\n";

typedef struct {
    RunArguments run;
    int ranks[RANK_COUNTS];
    int rank_counts;
    int kills;
    uint64_t seed;
    const char *keep, *launcher, *program;
    const char *compare[2]; /* both or none */
    bool json;
} Options;

typedef struct {
    const Options *options;
    LaunchPlan plan;
    char scratch[CONFIG_TEXT], log[CONFIG_TEXT + 32];
    char undisturbed[CONFIG_TEXT + 32], disturbed[CONFIG_TEXT + 32];
    int64_t total_steps;    /* of the undisturbed run */
    double start_s, step_s; /* its time until the first step, and for a step */
    uint32_t draws;
    int64_t chosen_interval; /* checkpoint.every_steps that we chose; 0: the user's own */
    json_t *launches;
    int launch_count, signal;
    int restores; /* launches of the disturbed run that went on from a checkpoint */
} Proof;

/* ---- arguments */

static Status parse_ranks(const char *text, Options *out) {
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    out->rank_counts = 0;
    for (char *save = NULL, *part = strtok_r(copy, ",", &save); part != NULL;
         part = strtok_r(NULL, ",", &save)) {
        int64_t ranks;
        if (!parse_int64(part, &ranks) || ranks < 1 || ranks > 4096 ||
            out->rank_counts == RANK_COUNTS)
            return FAIL(STATUS_USAGE, "for example --ranks 1,2,4",
                        "--ranks %s: expected up to %d numbers from 1 to 4096", text,
                        RANK_COUNTS);
        out->ranks[out->rank_counts++] = (int)ranks;
    }
    return out->rank_counts > 0
               ? STATUS_OK
               : FAIL(STATUS_USAGE, "for example --ranks 1,2,4", "--ranks is empty");
}

/* Takes our own options out of argv; the rest is what every command with a run file knows. */
static Status parse(int argc, char **argv, Options *out) {
    memset(out, 0, sizeof *out);
    *out = (Options){.ranks = {1, 2}, .rank_counts = 2, .kills = 3, .launcher = "mpirun"};
    if (getrandom(&out->seed, sizeof out->seed, 0) != sizeof out->seed) out->seed = 1;
    out->seed >>= 32; /* short enough to type again */
    char **rest = calloc((size_t)argc + 1, sizeof *rest);
    if (rest == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the arguments");
    int rest_count = 0;
    Status status = STATUS_OK;
    for (int i = 0; i < argc && status == STATUS_OK; i++) {
        bool missing = false;
        const char *value, *argument = argv[i];
        int64_t kills;
        if ((value = run_arguments_value(argc, argv, &i, "--ranks", &missing)) != NULL)
            status = parse_ranks(value, out);
        else if ((value = run_arguments_value(argc, argv, &i, "--kills", &missing)) != NULL)
            if (parse_int64(value, &kills) && kills >= 1 && kills <= KILLS_MOST)
                out->kills = (int)kills;
            else
                status =
                    FAIL(STATUS_USAGE, "for example --kills 5",
                         "--kills %s: expected a number from 1 to %d", value, KILLS_MOST);
        else if ((value = run_arguments_value(argc, argv, &i, "--seed", &missing)) != NULL)
            status = parse_uint64(value, &out->seed)
                         ? STATUS_OK
                         : FAIL(STATUS_USAGE, "for example --seed 7",
                                "--seed %s: expected a whole number", value);
        else if ((value = run_arguments_value(argc, argv, &i, "--keep", &missing)) != NULL)
            out->keep = value;
        else if ((value = run_arguments_value(argc, argv, &i, "--launcher", &missing)) !=
                 NULL)
            out->launcher = value;
        else if ((value = run_arguments_value(argc, argv, &i, "--program", &missing)) !=
                 NULL)
            out->program = value;
        else if (strcmp(argument, "--json") == 0)
            out->json = true;
        else if (strcmp(argument, "--compare") == 0) {
            missing = i + 2 >= argc;
            for (int j = 0; j < 2 && !missing; j++)
                out->compare[j] = argv[++i];
        } else if (!missing)
            rest[rest_count++] = argv[i];
        if (missing)
            status = FAIL(
                STATUS_USAGE, "see: rekindle verify-resume --help", "%s needs %s", argument,
                strcmp(argument, "--compare") == 0 ? "two run directories" : "a value");
    }
    if (status == STATUS_OK && (out->compare[0] == NULL || rest_count > 0))
        status = run_arguments_parse(rest_count, rest, "verify-resume", &out->run);
    if (status == STATUS_OK && out->compare[0] != NULL && rest_count > 0 && !out->run.help)
        status = FAIL(STATUS_USAGE, "see: rekindle verify-resume --help",
                      "--compare takes two run directories and no run file");
    free(rest);
    return status;
}

/* ---- the scratch directory */

static int remove_one(const char *path, const struct stat *about, int kind,
                      struct FTW *where) {
    (void)about, (void)kind, (void)where;
    return remove(path);
}

static void remove_tree(const char *path) {
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* An own directory next to the run's, on the same file system. */
static Status make_scratch(Proof *self, const char *run_dir) {
    const char *keep = self->options->keep;
    if (keep != NULL) {
        if (access(keep, F_OK) == 0)
            return FAIL(STATUS_USAGE, "name one that is not there yet", "%s exists", keep);
        TRY(file_make_directory(keep));
        snprintf(self->scratch, sizeof self->scratch, "%s", keep);
    } else {
        char parent[CONFIG_TEXT];
        snprintf(parent, sizeof parent, "%s", run_dir);
        size_t length = strlen(parent);
        while (length > 1 && parent[length - 1] == '/')
            parent[--length] = '\0';
        char *slash = strrchr(parent, '/');
        if (slash == NULL)
            strcpy(parent, ".");
        else
            slash[slash == parent ? 1 : 0] = '\0';
        TRY(file_make_directory(parent));
        if (snprintf(self->scratch, sizeof self->scratch, "%s/verify-resume-XXXXXX",
                     parent) >= (int)sizeof self->scratch - 64)
            return FAIL(STATUS_USAGE, "use a shorter run.dir", "run.dir is too long");
        if (mkdtemp(self->scratch) == NULL)
            return FAIL(STATUS_IO, file_fix_for(errno), "cannot make a directory in %s: %s",
                        parent, strerror(errno));
    }
    snprintf(self->log, sizeof self->log, "%s/launches.log", self->scratch);
    snprintf(self->undisturbed, sizeof self->undisturbed, "%s/undisturbed", self->scratch);
    snprintf(self->disturbed, sizeof self->disturbed, "%s/disturbed", self->scratch);
    self->plan.log = self->log;
    return STATUS_OK;
}

/* ---- launches */

static double draw(Proof *self) {
    Rng rng = rng_at(self->options->seed, RNG_TEST, 0, 0);
    return (double)rng_uniform(rng, 0, self->draws++);
}

/* One line, or one object, for a launch that is over. */
static void tell_launch(Proof *self, const LaunchOrder *order, const LaunchResult *result) {
    self->launch_count++;
    self->restores += result->restored_from[0] != '\0';
    json_t *object =
        json_pack("{s:i, s:i, s:f, s:b, s:I, s:s}", "ranks", order->ranks, "exit_code",
                  result->code, "seconds", result->seconds, "trained", result->trained,
                  "step", (json_int_t)result->step, "restored_from", result->restored_from);
    if (result->killed)
        json_object_set_new(object, "killed_rank", json_integer(order->victim));
    json_array_append_new(self->launches, object);
    if (self->options->json) return;
    char from[CATALOG_NAME + 16] = "fresh start", end[96] = "ran to its end";
    if (!result->trained)
        strcpy(from, "before it trained");
    else if (result->restored_from[0] != '\0')
        snprintf(from, sizeof from, "restored %s", result->restored_from);
    if (result->killed) snprintf(end, sizeof end, "SIGKILL to rank %d", order->victim);
    printf("launch %d: %d rank%s, %s; %s at step %" PRId64 " after %.2f s\n",
           self->launch_count, order->ranks, order->ranks == 1 ? "" : "s", from, end,
           result->step, result->seconds);
    fflush(stdout);
}

static Status failed_by_itself(const LaunchResult *result) {
    return FAIL(STATUS_IO, "the end of the log of the launches tells why",
                "a launch ended by itself with exit code %d", result->code);
}

static Status run_undisturbed(Proof *self) {
    LaunchOrder order = {.ranks = self->options->ranks[0]};
    LaunchResult result;
    TRY(verify_launch(&self->plan, self->undisturbed, &order, &result, &self->signal));
    tell_launch(self, &order, &result);
    if (result.code != 0) return failed_by_itself(&result);
    if (result.saved_step < 2)
        return FAIL(STATUS_USAGE, "train longer", "the run has less than two steps");
    self->total_steps = result.saved_step;
    self->start_s = result.first_step_s;
    self->step_s = (result.seconds - result.first_step_s) / (double)self->total_steps;
    return STATUS_OK;
}

/* The kill number `kill`. One in four (never the first) falls into the launch's start, where ranks meet and
 * restore; the others fall between the first step and the step at which it is high time. */
static LaunchOrder plan_kill(Proof *self, int kill, int64_t from_step, double haste) {
    const Options *options = self->options;
    int ranks = options->ranks[kill % options->rank_counts];
    int64_t latest = self->total_steps * (kill + 1) / (options->kills + 1);
    if (latest < 1) latest = 1;
    double share = latest > from_step ? (double)(latest - from_step) * self->step_s : 0;
    int victim = (int)(draw(self) * ranks);
    bool early = draw(self) < 0.25 && kill > 0;
    double moment = draw(self) * haste;
    double delay =
        early ? moment * self->start_s : moment * share + (kill > 0 ? self->start_s : 0);
    return (LaunchOrder){.ranks = ranks,
                         .kill = true,
                         .victim = victim,
                         .delay_s = delay,
                         .latest_step = (int64_t)((double)latest * haste) + 1,
                         .after_a_step = kill == 0};
}

/* The disturbed run. *over: it was complete before all kills had fired. */
static Status run_disturbed(Proof *self, double haste, bool *over) {
    const Options *options = self->options;
    int64_t from_step = 0;
    LaunchResult result;
    *over = false;
    self->restores = 0;
    for (int kill = 0; kill < options->kills; kill++) {
        LaunchOrder order = plan_kill(self, kill, from_step, haste);
        TRY(verify_launch(&self->plan, self->disturbed, &order, &result, &self->signal));
        tell_launch(self, &order, &result);
        if (!result.killed && result.code != 0) return failed_by_itself(&result);
        if (!result.killed || result.saved_step >= self->total_steps) {
            *over = true;
            return STATUS_OK;
        }
        from_step = result.saved_step < 0 ? 0 : result.saved_step;
    }
    LaunchOrder last = {.ranks = options->ranks[options->kills % options->rank_counts]};
    TRY(verify_launch(&self->plan, self->disturbed, &last, &result, &self->signal));
    tell_launch(self, &last, &result);
    return result.code == 0 ? STATUS_OK : failed_by_itself(&result);
}

/* A run that was complete before its last kill proves less than was asked for: it is done again, with
 * earlier kills. */
static Status run_disturbed_until_killed(Proof *self) {
    double haste = 1;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++, haste /= 2) {
        bool over;
        TRY(run_disturbed(self, haste, &over));
        if (!over) return STATUS_OK;
        remove_tree(self->disturbed);
        if (!self->options->json)
            printf(
                "the run was complete before that kill: once more, with earlier kills\n");
    }
    return FAIL(STATUS_USAGE, "train longer (--set train.epochs=…), or ask for fewer kills",
                "the run is too short for %d kills: it takes %.2f s", self->options->kills,
                self->step_s * (double)self->total_steps);
}

/* ---- the verdict */

static json_t *verdict_object(const RunComparison *result) {
    char digest[DIGEST_TEXT];
    digest_print(result->state_digest, digest);
    return json_pack("{s:b, s:s, s:i, s:s, s:I, s:i, s:I}", "identical", result->identical,
                     "difference", result->difference, "entries", result->entries,
                     "state_digest", digest, "step", (json_int_t)result->step,
                     "checkpoints_compared", result->checkpoints, "metric_lines_compared",
                     (json_int_t)result->lines);
}

static void print_object(json_t *object) {
    char *text = json_reserve_print(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (text == NULL) abort();
    puts(text);
    free(text);
}

/* `proof` NULL: only a comparison. */
static int tell_verdict(const Options *options, Proof *proof, const RunComparison *result) {
    char ranks[256] = "", digest[DIGEST_TEXT];
    json_t *rank_list = json_array();
    for (int i = 0, at = 0; i < options->rank_counts; i++) {
        at += snprintf(ranks + at, sizeof ranks - (size_t)at, i == 0 ? "%d" : ",%d",
                       options->ranks[i]);
        json_array_append_new(rank_list, json_integer(options->ranks[i]));
    }
    digest_print(result->state_digest, digest);
    if (options->json) {
        json_t *object = verdict_object(result);
        if (proof != NULL) {
            json_object_set_new(object, "kills", json_integer(options->kills));
            json_object_set_new(object, "restores", json_integer(proof->restores));
            json_object_set(object, "ranks", rank_list);
            json_object_set_new(object, "seed", json_integer((json_int_t)options->seed));
            json_object_set_new(object, "checkpoint_every_steps_chosen",
                                json_integer(proof->chosen_interval));
            json_object_set(object, "launches", proof->launches);
        }
        print_object(object);
    } else if (!result->identical) {
        printf("DIFFERENT: %s\n", result->difference);
    } else {
        printf("identical: %d entries, state_digest %s", result->entries, digest);
        if (proof != NULL) printf(", %d kills, ranks %s", options->kills, ranks);
        printf(" (step %" PRId64 ", %d checkpoint%s and %" PRId64
               " lines of metrics compared)\n",
               result->step, result->checkpoints, result->checkpoints == 1 ? "" : "s",
               result->lines);
    }
    json_decref(rank_list);
    return result->identical ? EXIT_IDENTICAL : EXIT_DIFFERENT;
}

static int fail(Status status) {
    status_print(status_failure());
    return status == STATUS_USAGE || status == STATUS_UNSUPPORTED ? EXIT_USAGE
                                                                  : EXIT_NO_VERDICT;
}

/* ---- the proof */

/* All kills can fall before the first checkpoint: then every launch began anew. */
static void tell_restores(const Proof *self) {
    if (self->options->json) return;
    if (self->restores > 0)
        printf("%d launch%s went on from a checkpoint\n", self->restores,
               self->restores == 1 ? "" : "es");
    else
        printf(
            "no launch went on from a checkpoint, so no resume was proved: add kills, or "
            "lower checkpoint.every_steps\n");
}

static Status find_launcher(Proof *self) {
    const Options *options = self->options;
    bool alone = strcmp(options->launcher, "none") == 0;
    self->plan.launcher = alone ? NULL : options->launcher;
    for (int i = 0; alone && i < options->rank_counts; i++)
        if (options->ranks[i] != 1)
            return FAIL(STATUS_USAGE, "add --ranks 1",
                        "--launcher none starts one rank, not %d", options->ranks[i]);
    if (alone) return STATUS_OK;
    if (geteuid() == 0) { /* who starts this as root means it */
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    }
    char copy[PATH_MAX], path[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", getenv("PATH") == NULL ? "" : getenv("PATH"));
    if (strchr(options->launcher, '/') != NULL)
        return access(options->launcher, X_OK) == 0
                   ? STATUS_OK
                   : FAIL(STATUS_USAGE, "name an mpirun", "cannot execute %s: %s",
                          options->launcher, strerror(errno));
    for (char *save = NULL, *part = strtok_r(copy, ":", &save); part != NULL;
         part = strtok_r(NULL, ":", &save)) {
        snprintf(path, sizeof path, "%s/%s", part, options->launcher);
        if (access(path, X_OK) == 0) return STATUS_OK;
    }
    return FAIL(STATUS_USAGE, "install Open MPI, or add --launcher none --ranks 1",
                "there is no %s in PATH", options->launcher);
}

static Status prepare(Proof *self, const Config *config, char program[PATH_MAX]) {
    const Options *options = self->options;
    for (int i = 0; i < options->rank_counts; i++)
        if (options->ranks[i] > config->train.shards)
            return FAIL(STATUS_USAGE, "raise train.shards, or choose fewer ranks",
                        "%d ranks cannot share the %lld shards of a batch",
                        options->ranks[i], (long long)config->train.shards);
    ssize_t length = options->program == NULL
                         ? readlink("/proc/self/exe", program, PATH_MAX - 1)
                         : snprintf(program, PATH_MAX, "%s", options->program);
    if (length < 0 || length >= PATH_MAX)
        return FAIL(STATUS_IO, "name it with --program", "cannot find this program's file");
    program[length] = '\0';
    self->plan.program = program;
    self->plan.run_file = options->run.run_file;
    self->plan.sets = options->run.sets;
    self->plan.set_count = options->run.set_count;
    TRY(find_launcher(self));
    unsetenv("REKINDLE_FAULT"); /* the kills here are ours */
    TRY(process_prepare());
    return make_scratch(self, config->run.dir);
}

/* Without an interval a kill would throw the run back to its last epoch, or to its start: too little of
 * a resume to prove anything. */
static void choose_interval(Proof *self, const Config *config) {
    if (config->checkpoint.every_steps > 0) return;
    int64_t every = self->total_steps / CHECKPOINTS_WANTED;
    self->chosen_interval = self->plan.every_steps = every > 0 ? every : 1;
    if (!self->options->json)
        printf("checkpoint.every_steps is 0: the killed run saves every %" PRId64
               " steps\n",
               self->chosen_interval);
}

static Status prove(Proof *self, const Config *config, RunComparison *result) {
    if (!self->options->json)
        printf("verify-resume in %s, --seed %" PRIu64 "\n", self->scratch,
               self->options->seed);
    TRY(run_undisturbed(self));
    choose_interval(self, config);
    TRY(run_disturbed_until_killed(self));
    tell_restores(self);
    return compare_runs(self->undisturbed, self->disturbed, result);
}

static int verify(const Options *options) {
    Config *config = calloc(1, sizeof *config);
    Proof self = {.options = options, .launches = json_array()};
    if (config == NULL || self.launches == NULL) abort();
    char program[PATH_MAX];
    RunComparison result;
    Status status = config_load(options->run.run_file, options->run.sets,
                                options->run.set_count, config);
    if (status == STATUS_OK) status = prepare(&self, config, program);
    if (status == STATUS_OK) status = prove(&self, config, &result);
    bool made = self.log[0] != '\0', identical = status == STATUS_OK && result.identical;
    int code;
    if (self.signal != 0) {
        fprintf(stderr, "rekindle: interrupted by %s\n", strsignal(self.signal));
        code = 128 + self.signal;
    } else
        code = status == STATUS_OK ? tell_verdict(options, &self, &result) : fail(status);
    bool clean = options->keep == NULL && (identical || self.signal != 0);
    if (made && clean) remove_tree(self.scratch);
    fflush(stdout);
    if (made && !clean && !identical)
        fprintf(stderr, "both runs are kept in %s; the launches' output: %s\n",
                self.scratch, self.log);
    json_decref(self.launches);
    free(config);
    return code;
}

static int compare(const Options *options) {
    RunComparison result;
    Status status = compare_runs(options->compare[0], options->compare[1], &result);
    return status == STATUS_OK ? tell_verdict(options, NULL, &result) : fail(status);
}

int verify_resume_main(int argc, char **argv) {
    Options options;
    Status status = parse(argc, argv, &options);
    if (status != STATUS_OK) return fail(status);
    if (options.run.help) {
        fputs(help, stdout);
        return 0;
    }
    return options.compare[0] != NULL ? compare(&options) : verify(&options);
}
