/* Measures the reductions against MPI_Allreduce, interleaved, with memcpy's speed beside:
 *   mpirun -n 2 bench_reduce [--json FILE] [--max-mib N]
 * A time is that of the slowest rank, the median over ROUNDS, and includes that each rank reads the
 * whole result once, as an optimizer does: otherwise a way that leaves it in another core's cache
 * would look too good. Results are checked before. */
#include "bench/support/measure.h"
#include "dist/buffer.h"
#include "dist/collective_mpi.h"
#include "dist/exchange.h"
#include "dist/world.h"
#include "src/core/clock.h"

#include <jansson.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 15, WAYS = 7, MOST_SHARDS = 64 };

typedef enum { BY_EXCHANGE, BY_ALLREDUCE, BY_MEMCPY } Kind;

typedef struct {
    const char *name;
    Kind kind;
    ReductionMode mode;
    Transport transport;
    int shards; /* 0: as many as ranks */
} Way;

static const Way ways[WAYS] = {
    {"exact V=ranks, shared", BY_EXCHANGE, REDUCTION_EXACT, TRANSPORT_SHARED, 0},
    {"exact V=8, shared", BY_EXCHANGE, REDUCTION_EXACT, TRANSPORT_SHARED, 8},
    {"exact V=ranks, messages", BY_EXCHANGE, REDUCTION_EXACT, TRANSPORT_MESSAGES, 0},
    {"exact V=8, messages", BY_EXCHANGE, REDUCTION_EXACT, TRANSPORT_MESSAGES, 8},
    {"fast", BY_EXCHANGE, REDUCTION_FAST, TRANSPORT_BEST, 0},
    {"MPI_Allreduce", BY_ALLREDUCE, REDUCTION_FAST, TRANSPORT_BEST, 0},
    {"memcpy, each rank", BY_MEMCPY, REDUCTION_FAST, TRANSPORT_BEST, 0},
};

static Collective *world;
static const uint8_t all_present[MOST_SHARDS] = {[0 ... MOST_SHARDS - 1] = 1};

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    world->ops->abort(world, 1);
}

/* Small whole numbers: every order of additions gives the same, so one check serves all ways. */
static float shard_value(int shard, int64_t i) {
    return (float)((i + 13 * shard) % 1021);
}

typedef struct {
    const Way *way;
    Reduction *reduction; /* or: */
    float *from, *to;
    int64_t length;
    double seconds[ROUNDS];
} Case;

static void open_case(Case *at, const Way *way, int64_t length) {
    *at = (Case){.way = way, .length = length};
    int shards = way->shards == 0 ? world->size : way->shards;
    if (way->kind == BY_EXCHANGE) {
        stop_unless(exchange_open(world, way->mode, way->transport, shards, length,
                                  &at->reduction));
        for (int n = 0; n < at->reduction->node_count; n++) {
            for (int64_t i = 0; i < length; i++) {
                float sum = 0;
                for (int s = at->reduction->nodes[n].first; s < at->reduction->nodes[n].end;
                     s++)
                    sum += shard_value(s, i);
                at->reduction->nodes[n].data[i] = sum;
            }
        }
        return;
    }
    at->from = buffer_create(length); /* in huge pages, which MPI likes */
    at->to = buffer_create(length);
    if (at->from == NULL || at->to == NULL)
        stop_unless(FAIL(STATUS_MEMORY, "use --max-mib", "no memory"));
    for (int64_t i = 0; i < length; i++)
        at->from[i] = shard_value(world->rank, i);
}

static void close_case(Case *at) {
    exchange_close(at->reduction);
    free(at->from);
    free(at->to);
}

static const float *result_of(const Case *at) {
    return at->reduction != NULL ? at->reduction->sum : at->to;
}

static void run_once(Case *at) {
    if (at->way->kind == BY_EXCHANGE)
        stop_unless(exchange_reduce(world, at->reduction, all_present));
    else if (at->way->kind == BY_ALLREDUCE)
        MPI_Allreduce(at->from, at->to, (int)at->length, MPI_FLOAT, MPI_SUM,
                      ((CollectiveMpi *)world)->comm);
    else
        memcpy(at->to, at->from, (size_t)at->length * sizeof(float));
}

static void check(Case *at) {
    run_once(at);
    int shards = at->way->shards == 0 ? world->size : at->way->shards;
    const float *sum = result_of(at);
    Status status = STATUS_OK;
    for (int64_t i = 0; i < at->length && status == STATUS_OK; i++) {
        float expected = at->way->kind == BY_MEMCPY ? shard_value(world->rank, i) : 0;
        for (int s = 0; at->way->kind != BY_MEMCPY && s < shards; s++)
            expected += shard_value(s, i);
        if (sum[i] != expected)
            status = FAIL(STATUS_CORRUPT, NULL, "%s: element %lld is %g, not %g",
                          at->way->name, (long long)i, (double)sum[i], (double)expected);
    }
    stop_unless(world->ops->agree(world, status));
}

static volatile uint32_t seen; /* keeps the reading from being optimised away */

static void read_back(const float *sum, int64_t length) {
    const uint32_t *words = (const uint32_t *)(const void *)sum;
    uint32_t all = 0;
    for (int64_t i = 0; i < length; i++)
        all ^= words[i];
    seen = all;
}

/* Seconds of one run on the slowest rank. */
static double measure(Case *at, int repeats) {
    MPI_Barrier(((CollectiveMpi *)world)->comm);
    double start = clock_seconds();
    for (int i = 0; i < repeats; i++) {
        run_once(at);
        read_back(result_of(at), at->length);
    }
    return measure_slowest(world, (clock_seconds() - start) / repeats);
}

/* All ways at one size; prints a line a way and adds them to `results`. */
static void measure_size(size_t bytes, json_t *results) {
    Case cases[WAYS];
    for (int w = 0; w < WAYS; w++) {
        open_case(&cases[w], &ways[w], (int64_t)(bytes / sizeof(float)));
        check(&cases[w]);
    }
    int repeats = bytes >= (4 << 20) ? 1 : (int)((4 << 20) / bytes);
    for (int round = 0; round < ROUNDS; round++)
        for (int w = 0; w < WAYS; w++)
            cases[w].seconds[round] = measure(&cases[w], repeats);
    double allreduce = 0;
    for (int w = WAYS - 1; w >= 0; w--) {
        double seconds = measure_median(cases[w].seconds, ROUNDS);
        if (ways[w].kind == BY_ALLREDUCE) allreduce = seconds;
        if (world->rank == 0) {
            printf("%-24s %9zu KiB  %d ranks  cpu  %10.1f us  %6.2f GB/s", ways[w].name,
                   bytes >> 10, world->size, 1e6 * seconds, (double)bytes / seconds / 1e9);
            if (ways[w].kind == BY_EXCHANGE)
                printf("  %5.2f x faster than MPI_Allreduce", allreduce / seconds);
            printf("\n");
            json_t *result =
                json_pack("{s:s, s:I, s:i, s:f}", "way", ways[w].name, "bytes",
                          (json_int_t)bytes, "ranks", world->size, "seconds", seconds);
            if (ways[w].kind == BY_EXCHANGE)
                json_object_set_new(result, "faster_than_allreduce",
                                    json_real(allreduce / seconds));
            json_array_append_new(results, result);
        }
        close_case(&cases[w]);
    }
}

int main(int argc, char **argv) {
    const char *path = NULL;
    size_t most = 128;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0) path = argv[i + 1];
        if (strcmp(argv[i], "--max-mib") == 0) most = strtoul(argv[i + 1], NULL, 10);
    }
    if (!world_is_launched()) {
        fprintf(stderr, "usage: mpirun -n RANKS %s [--json FILE] [--max-mib N]\n", argv[0]);
        return 2;
    }
    setenv("OMPI_MCA_mpi_yield_when_idle", "0",
           0); /* MPI_Allreduce at its best: it spins */
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    char processor[128];
    measure_processor(processor, sizeof processor);
    double load = 0; /* what else ran here */
    getloadavg(&load, 1);
    json_t *results = json_array();
    for (size_t bytes = 64 << 10; bytes <= most << 20; bytes *= bytes >= 64 << 20 ? 2 : 4)
        measure_size(bytes, results);
    json_t *report =
        json_pack("{s:s, s:s, s:i, s:f, s:i, s:i, s:o}", "bench", "reduce", "processor",
                  processor, "cores", (int)sysconf(_SC_NPROCESSORS_ONLN), "load_before",
                  load, "ranks", world->size, "rounds", ROUNDS, "results", results);
    int failed = world->rank == 0 && path != NULL &&
                 json_dump_file(report, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0;
    if (failed) fprintf(stderr, "cannot write %s\n", path);
    json_decref(report);
    world_finish(world);
    return failed;
}
