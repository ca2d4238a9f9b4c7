/* Trains on command, with and without saves behind it, for bench/checkpoint.py:
 *   mpirun -n RANKS bench_saving DIR CONTROL
 * An mlp of 44 M parameters and AdamW: a state of 507 MiB, one worker thread and one shard a rank, and the
 * boundaries as the trainer has them. DIR gets the checkpoints. Rank r reads commands from the FIFO CONTROL.r,
 * where it sleeps between them; rank 0 answers on standard output with one line of JSON each:
 *   check           trains from the first values without and with a save, and proves that both give the same bits
 *                   and that the file holds those of its boundary
 *   steps N SAVES   seconds of N steps on the slowest rank; SAVES 1: a save is begun wherever none is in flight.
 *                   Besides of each step, on rank 0: seconds of its update, and whether that wrote out of place;
 *                   of what the saver did at its control word; of beginning a save behind it
 *   copy THREADS    seconds of memcpy of the state
 *   quit */
#include "bench/support/ceiling.h"
#include "bench/support/measure.h"
#include "bench/support/training.h"
#include "dist/world.h"
#include "src/checkpoint/saver.h"
#include "src/core/clock.h"
#include "src/train/snapshot.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { BATCH = 64, WIDTH = 6272, CHECK_STEPS = 3, MOST_STEPS = 999 };
#define LEARNING_RATE 1e-3

/* What a step took of the main thread beside its gradient and its reduction. */
typedef struct {
    double update, advance, begin;
    bool out_of_place;
} StepTimes;

static Collective *world, *collective;
static Backend *device;
static TrainingData data;
static TrainingRun run;
static Owner owner; /* rank 0 */
static Saver *saver;
static Snapshot *snapshot;
static bool begun;            /* the saver has the snapshot */
static SaverEvent newest;     /* of the newest save that is over */
static int saves;             /* that are over, since the last command */
static double saving_seconds; /* of those, together */
static StepTimes times[MOST_STEPS];

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    world->ops->abort(world, 1);
}

/* ---- a step and its boundary, as src/train/trainer.c and saving.c have them */

static void poll(void) {
    SaverEvent event;
    saver_poll(saver, &event);
    if (begun && !saver_is_reading(saver)) {
        snapshot_release(snapshot);
        begun = false;
    }
    if (!event.finished) return;
    if (event.status != STATUS_OK) stop_unless(status_adopt(&event.failure));
    newest = event;
    saves++;
    saving_seconds += event.seconds;
}

static void begin_save(void) {
    UserBlock what = {.step = *run.setup.scalars.step};
    stop_unless(snapshot_take(snapshot));
    begun = true;
    stop_unless(saver_begin(saver, snapshot_state(snapshot), &what));
}

static void finish_save(void) {
    stop_unless(saver_finish(saver));
    poll();
}

static StepTimes train(bool may_save) {
    StepTimes took = {0};
    int64_t step = *run.setup.scalars.step;
    StepResult result;
    stop_unless(step_gradient(run.step, training_batch(&run, step), TRAINING_SEED, step,
                              LEARNING_RATE));
    uint32_t bits = saver_bits(saver);
    stop_unless(world->ops->control(world, &bits));
    double start = clock_seconds();
    stop_unless(saver_advance(saver, bits));
    poll();
    took.advance = clock_seconds() - start;
    stop_unless(step_reduce(run.step));
    Arena *target = snapshot_target(snapshot);
    start = clock_seconds();
    stop_unless(step_update(run.step, target));
    took.update = clock_seconds() - start;
    took.out_of_place = target != NULL;
    stop_unless(step_collect(run.step, &result));
    *run.setup.scalars.step = step + 1;
    if (!may_save || begun || saver_is_busy(saver)) return took;
    start = clock_seconds();
    begin_save();
    took.begin = clock_seconds() - start;
    return took;
}

/* ---- commands */

static void put_back(void) {
    State *state = run.setup.state;
    for (int i = 0; i < ARENA_COUNT; i++)
        if (state->arenas[i].data != NULL)
            memset(state->arenas[i].data, 0, state->arenas[i].bytes);
    graph_initialise(&run.graph, TRAINING_SEED);
}

static Digest digest_after(bool with_save, Digest *saved) {
    put_back();
    for (int i = 0; i < CHECK_STEPS; i++) {
        if (i == 1) *saved = state_digest(run.setup.state);
        train(with_save && i == 0);
    }
    finish_save();
    return state_digest(run.setup.state);
}

static void check(void) {
    Digest saved;
    UserBlock block;
    Digest without = digest_after(false, &saved), with = digest_after(true, &saved);
    Status status = STATUS_OK;
    if (!digest_equal(without, with))
        status = FAIL(STATUS_CORRUPT, NULL, "a save changed the bits of the training");
    else if (saves != 1 || !digest_equal(newest.state_digest, saved))
        status = FAIL(STATUS_CORRUPT, NULL, "saved is not the state of the boundary");
    else if (world->rank == 0)
        status = checkpoint_verify(owner.directory, newest.name, &block);
    if (status == STATUS_OK && world->rank == 0 && !digest_equal(block.state_digest, saved))
        status = FAIL(STATUS_CORRUPT, NULL, "the file holds another state");
    stop_unless(world->ops->agree(world, status));
    measure_answer(world, json_pack("{s:b}", "same", true));
}

/* Seconds of processor that this thread, or the whole process, has used. */
static double processor_seconds(int who) {
    struct rusage used;
    getrusage(who, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static json_t *list_times(int steps) {
    json_t *list = json_array();
    for (int i = 0; i < steps; i++)
        json_array_append_new(list,
                              json_pack("{s:f, s:b, s:f, s:f}", "update", times[i].update,
                                        "out_of_place", times[i].out_of_place, "advance",
                                        times[i].advance, "begin", times[i].begin));
    return list;
}

static void answer_steps(int steps, bool with_saves) {
    saves = 0;
    saving_seconds = 0;
    train(with_saves); /* brings code and data into the caches, and begins a save */
    stop_unless(world->ops->barrier(world));
    double own = processor_seconds(RUSAGE_THREAD), all = processor_seconds(RUSAGE_SELF);
    double start = clock_seconds();
    for (int i = 0; i < steps; i++)
        times[i] = train(with_saves);
    double seconds = clock_seconds() - start;
    own = processor_seconds(RUSAGE_THREAD) - own;
    all = processor_seconds(RUSAGE_SELF) - all;
    int begun_saves = saves + (saver_is_busy(saver) ? 1 : 0);
    finish_save();
    measure_answer(world,
                   json_pack("{s:f, s:f, s:f, s:i, s:f, s:o}", "seconds",
                             measure_slowest(world, seconds), "main_processor_s", own,
                             "other_processor_s", all - own, "saves", begun_saves,
                             "save_seconds", saves > 0 ? saving_seconds / saves : 0.0,
                             "steps", list_times(steps)));
}

static void answer_copy(int threads) {
    static char *copy;
    const State *state = run.setup.state;
    size_t bytes = 0;
    for (int i = 0; i < ARENA_COUNT; i++)
        bytes += state->arenas[i].bytes;
    if (copy == NULL) copy = ceiling_memory(bytes);
    if (copy == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory for a copy"));
    stop_unless(world->ops->barrier(world));
    char *to = copy;
    double start = clock_seconds();
    for (int i = 0; i < ARENA_COUNT; i++) {
        ceiling_copy(to, state->arenas[i].data, state->arenas[i].bytes, threads);
        to += state->arenas[i].bytes;
    }
    measure_answer(world, json_pack("{s:f}", "seconds",
                                    measure_slowest(world, clock_seconds() - start)));
}

static void describe(void) {
    json_int_t bytes = 0;
    for (int i = 0; i < ARENA_COUNT; i++)
        bytes += (json_int_t)run.setup.state->arenas[i].bytes;
    measure_answer(world, json_pack("{s:i, s:I, s:I, s:i, s:i}", "ranks", world->size,
                                    "bytes", bytes, "spare_bytes",
                                    (json_int_t)snapshot_spare_bytes(snapshot), "batch",
                                    BATCH, "width", WIDTH));
}

static void obey(FILE *commands) {
    char line[64];
    while (fgets(line, sizeof line, commands) != NULL) {
        char verb[16];
        int count = 0, with_saves = 0;
        int words = sscanf(line, "%15s %d %d", verb, &count, &with_saves);
        if (words == 1 && strcmp(verb, "check") == 0)
            check();
        else if (words == 3 && count <= MOST_STEPS && strcmp(verb, "steps") == 0)
            answer_steps(count, with_saves != 0);
        else if (words == 2 && count <= CEILING_MOST_THREADS && strcmp(verb, "copy") == 0)
            answer_copy(count);
        else if (words == 1 && strcmp(verb, "quit") == 0)
            return;
        else
            stop_unless(FAIL(STATUS_USAGE, NULL, "unknown command: %s", line));
    }
}

static void open_all(const char *run_dir) {
    static const CheckpointText text = {"{}", "run: {}\n", "[]"};
    const BackendOptions options = {.workers = 1, .host_rank = world->host_rank};
    const OwnerClaim fresh = {.restored_step = -1};
    const SaverOptions saving = {
        .max_failures = 1, .keep.keep_last = 1, .background = true};
    run.config.model.widths =
        (ConfigList){4, {TRAINING_PIXELS, WIDTH, WIDTH, TRAINING_CLASSES}};
    run.config.model.classes = TRAINING_CLASSES;
    run.config.train.shards = world->size;
    run.config.optimizer.beta1 = 0.9;
    run.config.optimizer.beta2 = 0.999;
    run.config.optimizer.epsilon = 1e-8;
    run.config.optimizer.weight_decay = 0.01;
    strcpy(run.config.model.arch, "mlp");
    strcpy(run.config.train.reduction, "exact");
    strcpy(run.config.optimizer.kind, "adamw");
    if (world->rank == 0) stop_unless(owner_take(run_dir, &fresh, OWNER_WATCH_S, &owner));
    stop_unless(backend_open("cpu", &options, &device));
    stop_unless(device->ops->open_collective(device, world, &collective));
    stop_unless(training_make_data(BATCH, &data));
    stop_unless(training_open(&run, &data, world, collective, device));
    stop_unless(snapshot_open(run.setup.state, device, SNAPSHOT_SPARE, &snapshot));
    stop_unless(saver_open(world, world->rank == 0 ? &owner : NULL, run.setup.state, &text,
                           &saving, &saver));
}

static void close_all(void) {
    saver_close(saver);
    snapshot_close(snapshot);
    training_close(&run);
    training_free_data(&data);
    if (collective != world) collective->ops->close(collective);
    device->ops->close(device);
    if (world->rank == 0) owner_release(&owner);
}

int main(int argc, char **argv) {
    if (argc != 3 || !world_is_launched()) {
        fprintf(stderr, "usage: mpirun -n RANKS %s DIR CONTROL (by bench/checkpoint.py)\n",
                argv[0]);
        return 2;
    }
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    open_all(argv[1]);
    describe();
    FILE *commands = measure_open_commands(world, argv[2]);
    if (commands == NULL) stop_unless(FAIL(STATUS_IO, NULL, "cannot read %s", argv[2]));
    obey(commands);
    fclose(commands);
    close_all();
    world_finish(world);
    return 0;
}
