/* Measures a durable save and a restore against direct writes and reads of the same bytes, interleaved:
 *   mpirun -n RANKS bench_checkpoint DIR [--rounds N]
 *   mpirun -n RANKS bench_checkpoint DIR --control PATH      (by bench/checkpoint.py)
 * DIR lies on the disk that is meant, with 3 GB free. A time is that of the slowest rank, the median over
 * the rounds. A save runs from the call on every rank until the name is durable; deleting an old
 * file, which a run does afterwards, is measured by itself. A restore runs from the call until every rank
 * holds the proved state. Each file is read once after it was written, past the page cache: a disk of a
 * virtual machine is faster the second time. What is saved is restored and compared before anything is
 * timed.
 *
 * With --control rank r reads commands from the FIFO PATH.r, where it sleeps between them, about a state of the
 * last size; rank 0 answers on standard output with one line of JSON each:
 *   check                   saves, proves the file, restores, and compares every bit on every rank
 *   time WAY                seconds of one of the ways (their numbers are in the description that it begins with)
 *   memory save             bytes that a process's first save takes beyond the state, at most, the worst rank's
 *   memory restore FILE     … its first restore, of another launch's file
 *   quit
 *
 * On a machine with other work, start it under `chrt --rr 1`: saves and restores need the processor, direct
 * access to the disk hardly does. */
#include "bench/support/ceiling.h"
#include "bench/support/measure.h"
#include "dist/world.h"
#include "src/checkpoint/restore.h"
#include "src/checkpoint/saver.h"
#include "src/core/clock.h"
#include "src/core/rng.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WAYS = 9,
    SIZES = 2,
    MOST_ROUNDS = 99,
    FEWEST_ROUNDS = 9,
    LAYERS = 16,
    KEEP_ALL = 1 << 20
};

/* Parameters: three times four bytes each. The second one's state has 528 MiB. */
static const int64_t sizes[SIZES] = {8 << 20, 44 << 20};

typedef enum { RAW_WRITE, SAVE, RAW_READ, RESTORE, DELETE, COPY } Kind;

typedef struct {
    const char *name;
    Kind kind;
    int threads; /* of the machine's own ways */
} Way;

static const Way ways[WAYS] = {
    {"direct write", RAW_WRITE, 1},
    {"direct write, two in flight", RAW_WRITE, 2},
    {"save", SAVE, 0},
    {"direct read", RAW_READ, 1},
    {"direct read, two in flight", RAW_READ, 2},
    {"restore", RESTORE, 0},
    {"delete an old file", DELETE, 0},
    {"memcpy of the state", COPY, 1},
    {"memcpy of the state, two threads", COPY, 2},
};

static Collective *world;
static char run_dir[512];
static Owner owner; /* rank 0 */
static State *state;
static Saver *saver;              /* NULL: before the first save */
static SaverEvent newest;         /* what was saved last … */
static char before[CATALOG_NAME]; /* … and before it */
static int64_t step;
static char *copy; /* NULL: before the first copy */

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    world->ops->abort(world, 1);
}

/* ---- the state: weights of a few layers and AdamW's two moments */

static void make_state(int64_t parameters) {
    static const char *const names[] = {"model", "optimizer/m", "optimizer/v"};
    static const ArenaKind arenas[] = {ARENA_PARAMETER, ARENA_MOMENT1, ARENA_MOMENT2};
    stop_unless(state_create(&state));
    for (int kind = 0; kind < 3; kind++)
        for (int layer = 0; layer < LAYERS; layer++) {
            char path[STATE_PATH_MAX];
            const int64_t bias[] = {1024},
                          weight[] = {parameters / LAYERS / 1024 - 1, 1024};
            snprintf(path, sizeof path, "%s/layer%02d.weight", names[kind], layer);
            stop_unless(
                state_declare(state, arenas[kind], path, DTYPE_F32, 2, weight, NULL));
            snprintf(path, sizeof path, "%s/layer%02d.bias", names[kind], layer);
            stop_unless(state_declare(state, arenas[kind], path, DTYPE_F32, 1, bias, NULL));
        }
    stop_unless(
        state_declare(state, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL, NULL));
    stop_unless(state_allocate(state));
}

static void fill_state(void) {
    for (int kind = 0; kind < ARENA_SCALAR; kind++) {
        float *values = state->arenas[kind].data;
        size_t count = state->arenas[kind].bytes / sizeof(float);
        Rng rng = rng_at(7, RNG_TEST, 0, (uint32_t)kind);
        for (size_t i = 0; i < count; i += 4) {
            uint32_t words[4];
            rng_block(rng, 0, (uint32_t)(i / 4), words);
            for (size_t j = i; j < i + 4 && j < count; j++)
                values[j] = (float)(words[j - i] >> 8);
        }
    }
}

static void empty_state(void) {
    for (int kind = 0; kind < ARENA_COUNT; kind++)
        if (state->arenas[kind].data != NULL)
            memset(state->arenas[kind].data, 0, state->arenas[kind].bytes);
}

static size_t state_bytes(void) {
    size_t bytes = 0;
    for (int kind = 0; kind < ARENA_COUNT; kind++)
        bytes += state->arenas[kind].bytes;
    return bytes;
}

static void close_state(void) {
    saver_close(saver);
    saver = NULL;
    state_destroy(state);
    free(copy);
    copy = NULL;
}

/* ---- the ways */

static void open_saver(void) {
    static const CheckpointText text = {"{}", "run: {}\n", "[]"};
    const SaverOptions options = {.max_failures = 1, .keep.keep_last = KEEP_ALL};
    stop_unless(saver_open(world, world->rank == 0 ? &owner : NULL, state, &text, &options,
                           &saver));
}

static void save(void) {
    UserBlock what = {.step = ++step};
    memcpy(before, newest.name, sizeof before);
    stop_unless(saver_begin(saver, state, &what));
    stop_unless(saver_finish(saver));
    saver_poll(saver, &newest);
    if (newest.status != STATUS_OK) stop_unless(status_adopt(&newest.failure));
}

static void restore_from(const char *where, int64_t expected_step) {
    RestoreRequest request = {.run_dir = run_dir, .resume = where};
    RestoreResult result;
    stop_unless(restore_newest(world, &request, state, &result));
    if (expected_step >= 0 && result.block.step != expected_step)
        stop_unless(FAIL(STATUS_CORRUPT, NULL, "restored step %lld instead of %lld",
                         (long long)result.block.step, (long long)expected_step));
    restore_result_free(&result);
}

static void copy_state(int threads) {
    char *to = copy;
    for (int kind = 0; kind < ARENA_COUNT; kind++) {
        ceiling_copy(to, state->arenas[kind].data, state->arenas[kind].bytes, threads);
        to += state->arenas[kind].bytes;
    }
}

static const char *raw_name(const Way *way) {
    return way->threads == 1 ? "raw.one" : "raw.two";
}

static void run_way(const Way *way) {
    bool first = world->rank == 0;
    if (way->kind == RAW_WRITE && first)
        stop_unless(
            ceiling_write(owner.directory, raw_name(way), newest.bytes, way->threads));
    if (way->kind == SAVE) save();
    if (way->kind == RAW_READ && first)
        stop_unless(
            ceiling_read(owner.directory, raw_name(way), newest.bytes, way->threads));
    if (way->kind == RESTORE) restore_from("must", step);
    if (way->kind == DELETE && first) unlinkat(owner.directory, before, 0);
    if (way->kind == COPY) copy_state(way->threads);
}

/* Seconds on the slowest rank. */
static double measure(const Way *way) {
    if (way->kind == RESTORE) empty_state(); /* touched, as it is after state_allocate */
    if (way->kind == RAW_WRITE && world->rank == 0)
        unlinkat(owner.directory, raw_name(way), 0);
    if (way->kind == COPY && copy == NULL) copy = ceiling_memory(state_bytes());
    if (way->kind == COPY && copy == NULL)
        stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory for a copy of the state"));
    stop_unless(world->ops->barrier(world));
    double start = clock_seconds();
    run_way(way);
    double seconds = clock_seconds() - start;
    measure_wait_asleep(world);
    return measure_slowest(world, seconds);
}

/* A save comes back with every bit, on every rank. */
static void check(void) {
    Digest saved = state_digest(state);
    if (saver == NULL) open_saver();
    save();
    UserBlock block;
    if (world->rank == 0)
        stop_unless(checkpoint_verify(owner.directory, newest.name, &block));
    empty_state();
    restore_from("must", step);
    Status same = digest_equal(saved, state_digest(state))
                      ? STATUS_OK
                      : FAIL(STATUS_CORRUPT, NULL, "a restored state is not the saved one");
    stop_unless(world->ops->agree(world, same));
}

static void delete_files(void) {
    if (world->rank != 0) return;
    for (int w = 0; w < WAYS; w++)
        if (ways[w].kind == RAW_WRITE) unlinkat(owner.directory, raw_name(&ways[w]), 0);
    unlinkat(owner.directory, newest.name, 0);
    unlinkat(owner.directory, before, 0);
}

/* ---- by itself: a table */

static double faster(double a, double b) {
    return a < b ? a : b;
}

static void print_table(int64_t parameters, double (*seconds)[MOST_ROUNDS], int rounds) {
    double medians[WAYS];
    for (int w = 0; w < WAYS; w++) {
        medians[w] = measure_median(seconds[w], rounds);
        printf("%-33s %4lld M parameters  %7.1f MiB  %d ranks  cpu  %8.1f ms  %5.2f "
               "GB/s\n",
               ways[w].name, (long long)parameters >> 20, (double)newest.bytes / (1 << 20),
               world->size, 1e3 * medians[w], (double)newest.bytes / medians[w] / 1e9);
    }
    printf("save ÷ the faster direct write %.2f, restore ÷ the faster direct read %.2f\n",
           medians[2] / faster(medians[0], medians[1]),
           medians[5] / faster(medians[3], medians[4]));
    fflush(stdout);
}

static void measure_size(int64_t parameters, int rounds) {
    static double seconds[WAYS][MOST_ROUNDS];
    make_state(parameters);
    fill_state();
    check();
    for (int round = -1; round < rounds; round++) /* the first one only warms up */
        for (int w = 0; w < WAYS; w++)
            seconds[w][round < 0 ? 0 : round] = measure(&ways[w]);
    if (world->rank == 0) print_table(parameters, seconds, rounds);
    delete_files();
    close_state();
}

/* ---- on command */

/* Bytes that this process has (`peak`: has had) in memory. */
static double resident_bytes(bool peak) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[128];
    double kib = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, peak ? "VmHWM:" : "VmRSS:", 6) == 0) kib = atof(line + 6);
    if (file != NULL) fclose(file);
    return 1024 * kib;
}

/* What the first save, or the first restore, of this process takes at most, on the worst rank. */
static void answer_memory(const char *what, const char *file) {
    empty_state(); /* no page of it may first be touched below */
    double already = resident_bytes(false);
    if (strcmp(what, "save") == 0) {
        open_saver();
        save();
    } else {
        restore_from(file, -1);
    }
    double most = measure_slowest(world, resident_bytes(true) - already);
    measure_answer(world, json_pack("{s:f}", "bytes", most));
}

static void describe(void) {
    json_t *names = json_array();
    for (int w = 0; w < WAYS; w++)
        json_array_append_new(names, json_string(ways[w].name));
    measure_answer(world,
                   json_pack("{s:i, s:I, s:I, s:i, s:o}", "ranks", world->size,
                             "parameters", (json_int_t)sizes[SIZES - 1], "bytes",
                             (json_int_t)state_bytes(), "layers", LAYERS, "ways", names));
}

static void obey(FILE *commands) {
    char line[1024];
    while (fgets(line, sizeof line, commands) != NULL) {
        char verb[16], what[16], file[960] = "";
        int words = sscanf(line, "%15s %15s %959s", verb, what, file);
        int way = words == 2 ? atoi(what) : WAYS;
        if (words == 1 && strcmp(verb, "check") == 0) {
            check();
            measure_answer(world, json_pack("{s:s, s:I}", "name", newest.name, "bytes",
                                            (json_int_t)newest.bytes));
        } else if (way >= 0 && way < WAYS && strcmp(verb, "time") == 0) {
            double seconds = measure(&ways[way]);
            measure_answer(
                world, json_pack("{s:f, s:s}", "seconds", seconds, "name", newest.name));
        } else if (words >= 2 && strcmp(verb, "memory") == 0) {
            answer_memory(what, file);
        } else if (words == 1 && strcmp(verb, "quit") == 0) {
            return;
        } else {
            stop_unless(FAIL(STATUS_USAGE, NULL, "unknown command: %s", line));
        }
    }
}

static void obey_commands(const char *control) {
    make_state(sizes[SIZES - 1]);
    fill_state();
    describe();
    FILE *commands = measure_open_commands(world, control);
    if (commands == NULL)
        stop_unless(FAIL(STATUS_IO, NULL, "cannot read commands: %s", control));
    obey(commands);
    fclose(commands);
    delete_files();
    close_state();
}

int main(int argc, char **argv) {
    const char *control = NULL;
    int rounds = FEWEST_ROUNDS;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--control") == 0) control = argv[i + 1];
        if (strcmp(argv[i], "--rounds") == 0) rounds = atoi(argv[i + 1]);
    }
    if (argc < 2 || !world_is_launched() || rounds < FEWEST_ROUNDS ||
        rounds > MOST_ROUNDS) {
        fprintf(stderr,
                "usage: mpirun -n RANKS %s DIR [--rounds %d..%d] [--control PATH]\n",
                argv[0], FEWEST_ROUNDS, MOST_ROUNDS);
        return 2;
    }
    snprintf(run_dir, sizeof run_dir, "%s", argv[1]);
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    const OwnerClaim fresh = {.restored_step = -1};
    if (world->rank == 0) stop_unless(owner_take(run_dir, &fresh, OWNER_WATCH_S, &owner));
    if (control != NULL) {
        obey_commands(control);
    } else {
        for (int i = 0; i < SIZES; i++)
            measure_size(sizes[i], rounds);
    }
    if (world->rank == 0) owner_release(&owner);
    world_finish(world);
    return 0;
}
