/* Measures a durable save and a restore against direct writes and reads of the same bytes, interleaved:
 *   mpirun -n RANKS bench_checkpoint DIR [--json FILE] [--rounds N]
 * DIR lies on the disk that is meant, with 2 GB free. A time is that of the slowest rank, the median over
 * the rounds. A save runs from the call on every rank until the name is durable; deleting an old
 * file, which a run does afterwards, is measured by itself. A restore runs from the call until every rank
 * holds the proved state. Each file is read once after it was written, past the page cache: a disk of a
 * virtual machine is faster the second time. What is saved is restored and compared before anything is
 * timed.
 *
 * On a machine with other work, start it under `chrt --rr 1`: saves and restores need the processor, direct
 * access to the disk hardly does. */
#include "dist/collective_mpi.h"
#include "dist/world.h"
#include "src/checkpoint/restore.h"
#include "src/checkpoint/saver.h"
#include "src/core/file.h"
#include "src/core/rng.h"

#include <fcntl.h>
#include <jansson.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    WAYS = 8,
    SIZES = 2,
    MOST_ROUNDS = 99,
    FEWEST_ROUNDS = 9,
    LAYERS = 16,
    KEEP_ALL = 1 << 20
};
enum { RAW_PIECE = 8 << 20, MOST_IN_FLIGHT = 2 };

typedef enum { RAW_WRITE, SAVE, RAW_READ, RESTORE, DELETE, COPY } Kind;

typedef struct {
    const char *name;
    Kind kind;
    int in_flight; /* of 8 MiB requests */
} Way;

static const Way ways[WAYS] = {
    {"direct write", RAW_WRITE, 1},
    {"direct write, two in flight", RAW_WRITE, 2},
    {"save", SAVE, 0},
    {"direct read", RAW_READ, 1},
    {"direct read, two in flight", RAW_READ, 2},
    {"restore", RESTORE, 0},
    {"delete an old file", DELETE, 0},
    {"memcpy of the state, each rank", COPY, 0},
};

static Collective *world;
static char run_dir[512];
static Owner owner; /* rank 0 */
static State *state;
static Saver *saver;
static SaverEvent newest;         /* what was saved last … */
static char before[CATALOG_NAME]; /* … and before it */
static int64_t step;
static void *copy;

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    world->ops->abort(world, 1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
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
        Rng rng = rng_at(7, RNG_TEST, 0, (uint32_t)kind);
        for (size_t i = 0; i < state->arenas[kind].bytes / sizeof(float); i++)
            values[i] = (float)(rng_word(rng, 0, (uint32_t)i) >> 8);
    }
}

static void empty_state(void) {
    for (int kind = 0; kind < ARENA_COUNT; kind++)
        if (state->arenas[kind].data != NULL)
            memset(state->arenas[kind].data, 0, state->arenas[kind].bytes);
}

/* ---- the disk's own speed */

typedef struct {
    int fd;
    bool writes;
    int64_t from, to;
    unsigned char *buffer;
    int error;
} Stretch;

static void *move_stretch(void *argument) {
    Stretch *self = argument;
    for (int64_t at = self->from; at < self->to && self->error == 0; at += RAW_PIECE) {
        size_t bytes = self->to - at < RAW_PIECE ? (size_t)(self->to - at) : RAW_PIECE;
        self->error = self->writes ? file_write_at(self->fd, self->buffer, bytes, at)
                                   : file_read_at(self->fd, self->buffer, bytes, at);
    }
    return NULL;
}

static unsigned char *raw_buffers[MOST_IN_FLIGHT];

static int raw_open(const char *name, int flags) {
    int fd = openat(owner.directory, name, flags | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        stop_unless(FAIL(STATUS_IO, "use a DIR whose file system knows O_DIRECT",
                         "cannot open %s for direct input and output", name));
    return fd;
}

/* Moves as many bytes as the newest checkpoint has, each thread its own part of the file. */
static void move_raw(int fd, bool writes, int in_flight) {
    Stretch parts[MOST_IN_FLIGHT];
    pthread_t threads[MOST_IN_FLIGHT];
    int64_t half = newest.bytes / in_flight / RAW_PIECE * RAW_PIECE;
    for (int i = 0; i < in_flight; i++) {
        int64_t end = i + 1 == in_flight ? newest.bytes : (i + 1) * half;
        parts[i] = (Stretch){fd, writes, i * half, end, raw_buffers[i], 0};
        if (i > 0) pthread_create(&threads[i], NULL, move_stretch, &parts[i]);
    }
    move_stretch(&parts[0]);
    for (int i = 1; i < in_flight; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < in_flight; i++)
        if (parts[i].error != 0) stop_unless(FAIL(STATUS_IO, NULL, "direct access failed"));
}

static const char *const raw_names[] = {"", "raw.one", "raw.two"};

static void write_raw(int in_flight) {
    if (world->rank != 0) return;
    int fd = raw_open(raw_names[in_flight], O_WRONLY | O_CREAT | O_EXCL);
    if (fallocate(fd, 0, 0, newest.bytes) != 0)
        stop_unless(FAIL(STATUS_IO, NULL, "no room"));
    move_raw(fd, true, in_flight);
    if (fsync(fd) != 0) stop_unless(FAIL(STATUS_IO, NULL, "fsync failed"));
    close(fd);
}

static void read_raw(int in_flight) {
    if (world->rank != 0) return;
    int fd = raw_open(raw_names[in_flight], O_RDONLY);
    move_raw(fd, false, in_flight);
    close(fd);
}

/* ---- the ways */

static void save(void) {
    UserBlock what = {.step = ++step};
    memcpy(before, newest.name, sizeof before);
    stop_unless(saver_begin(saver, &what));
    stop_unless(saver_finish(saver));
    stop_unless(saver_poll(saver, &newest));
    if (newest.status != STATUS_OK) stop_unless(status_adopt(&newest.failure));
}

static void restore(void) {
    RestoreRequest request = {.run_dir = run_dir, .resume = "must"};
    RestoreResult result;
    stop_unless(restore_newest(world, &request, state, &result));
    if (result.block.step != step)
        stop_unless(FAIL(STATUS_CORRUPT, NULL, "restored step %lld instead of %lld",
                         (long long)result.block.step, (long long)step));
    restore_result_free(&result);
}

static void copy_state(void) {
    char *to = copy;
    for (int kind = 0; kind < ARENA_COUNT; kind++) {
        if (state->arenas[kind].bytes == 0) continue;
        memcpy(to, state->arenas[kind].data, state->arenas[kind].bytes);
        to += state->arenas[kind].bytes;
    }
}

static void run_way(const Way *way) {
    if (way->kind == RAW_WRITE) write_raw(way->in_flight);
    if (way->kind == SAVE) save();
    if (way->kind == RAW_READ) read_raw(way->in_flight);
    if (way->kind == RESTORE) restore();
    if (way->kind == DELETE && world->rank == 0) unlinkat(owner.directory, before, 0);
    if (way->kind == COPY) copy_state();
}

/* Who waited by spinning would take the processor from the disk's own work. */
static void wait_asleep(MPI_Comm comm) {
    MPI_Request request;
    int over = 0;
    for (MPI_Ibarrier(comm, &request); !over; MPI_Test(&request, &over, MPI_STATUS_IGNORE))
        usleep(200);
}

/* Seconds on the slowest rank. */
static double measure(const Way *way) {
    MPI_Comm comm = ((CollectiveMpi *)world)->comm;
    if (way->kind == RESTORE) empty_state(); /* touched, as it is after state_allocate */
    if (way->kind == RAW_WRITE && world->rank == 0)
        unlinkat(owner.directory, raw_names[way->in_flight], 0);
    MPI_Barrier(comm);
    double start = now();
    run_way(way);
    double seconds = now() - start;
    wait_asleep(comm);
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, comm);
    return seconds;
}

/* A save comes back with every bit, on every rank. */
static void check(void) {
    Digest saved = state_digest(state);
    save();
    UserBlock block;
    if (world->rank == 0)
        stop_unless(checkpoint_verify(owner.directory, newest.name, &block));
    empty_state();
    restore();
    Status same = digest_equal(saved, state_digest(state))
                      ? STATUS_OK
                      : FAIL(STATUS_CORRUPT, NULL, "a restored state is not the saved one");
    stop_unless(world->ops->agree(world, same));
}

static double faster(double a, double b) {
    return a < b ? a : b;
}

static void measure_size(int64_t parameters, int rounds, json_t *results) {
    static const CheckpointText text = {"{}", "run: {}\n", "[]"};
    static double seconds[WAYS][MOST_ROUNDS];
    double medians[WAYS];
    size_t bytes = 0;
    make_state(parameters);
    fill_state();
    const SaverOptions options = {.max_failures = 1, .keep.keep_last = KEEP_ALL};
    stop_unless(saver_open(world, world->rank == 0 ? &owner : NULL, state, &text, &options,
                           &saver));
    for (int kind = 0; kind < ARENA_COUNT; kind++)
        bytes += state->arenas[kind].bytes;
    copy = malloc(bytes);
    if (copy == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory"));
    copy_state();
    check();
    for (int round = -1; round < rounds; round++) /* the first one only warms up */
        for (int w = 0; w < WAYS; w++)
            seconds[w][round < 0 ? 0 : round] = measure(&ways[w]);
    for (int w = 0; w < WAYS; w++)
        medians[w] = median(seconds[w], rounds);
    double write = faster(medians[0], medians[1]), read = faster(medians[3], medians[4]);
    json_t *result =
        json_pack("{s:I, s:I, s:f, s:f}", "parameters", (json_int_t)parameters, "bytes",
                  (json_int_t)newest.bytes, "save_over_direct_write", medians[2] / write,
                  "restore_over_direct_read", medians[5] / read);
    for (int w = 0; w < WAYS; w++) {
        json_object_set_new(result, ways[w].name, json_real(medians[w]));
        if (world->rank == 0)
            printf("%-31s %4lld M parameters  %7.1f MiB  %d ranks  cpu  %8.1f ms  %5.2f "
                   "GB/s\n",
                   ways[w].name, (long long)parameters >> 20,
                   (double)newest.bytes / (1 << 20), world->size, 1e3 * medians[w],
                   (double)newest.bytes / medians[w] / 1e9);
    }
    if (world->rank == 0)
        printf(
            "save ÷ the faster direct write %.2f, restore ÷ the faster direct read %.2f\n",
            medians[2] / write, medians[5] / read);
    json_array_append_new(results, result);
    if (world->rank == 0)
        for (int i = 1; i <= MOST_IN_FLIGHT; i++)
            unlinkat(owner.directory, raw_names[i], 0);
    saver_close(saver);
    state_destroy(state);
    free(copy);
}

/* Adds this run to the file's list, in the place of an older one on as many ranks. */
static int store(const char *path, json_t *run) {
    json_t *report = json_load_file(path, 0, NULL);
    json_t *runs = json_object_get(report, "runs");
    if (!json_is_array(runs)) {
        json_decref(report);
        runs = json_array();
        report = json_pack("{s:s, s:o}", "bench", "checkpoint", "runs", runs);
    }
    for (size_t i = json_array_size(runs); i-- > 0;)
        if (json_integer_value(json_object_get(json_array_get(runs, i), "ranks")) ==
            world->size)
            json_array_remove(runs, i);
    json_array_append(runs, run);
    int failed = json_dump_file(report, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    if (failed != 0) fprintf(stderr, "cannot write %s\n", path);
    json_decref(report);
    return failed;
}

int main(int argc, char **argv) {
    const char *path = NULL;
    int rounds = FEWEST_ROUNDS;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0) path = argv[i + 1];
        if (strcmp(argv[i], "--rounds") == 0) rounds = atoi(argv[i + 1]);
    }
    if (argc < 2 || !world_is_launched() || rounds < FEWEST_ROUNDS ||
        rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: mpirun -n RANKS %s DIR [--json FILE] [--rounds %d..%d]\n",
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
    for (int i = 0; i < MOST_IN_FLIGHT; i++) {
        raw_buffers[i] = aligned_alloc(2 << 20, RAW_PIECE);
        madvise(raw_buffers[i], RAW_PIECE, MADV_HUGEPAGE); /* fewer, longer requests */
        for (size_t at = 0; at < RAW_PIECE; at++)
            raw_buffers[i][at] = (unsigned char)(at * at >> 7);
    }
    double load = 0; /* what else runs here */
    getloadavg(&load, 1);
    json_t *results = json_array();
    static const int64_t sizes[SIZES] = {8 << 20, 32 << 20};
    for (int i = 0; i < SIZES; i++)
        measure_size(sizes[i], rounds, results);
    json_t *run = json_pack("{s:i, s:i, s:f, s:i, s:o}", "ranks", world->size, "cores",
                            (int)sysconf(_SC_NPROCESSORS_ONLN), "load_before", load,
                            "rounds", rounds, "results", results);
    int failed = world->rank == 0 && path != NULL ? store(path, run) : 0;
    json_decref(run);
    if (world->rank == 0) owner_release(&owner);
    world_finish(world);
    return failed != 0;
}
