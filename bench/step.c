/* Runs training steps on command, for bench/step.py, which has another framework do the same:
 *   mpirun -n RANKS bench_step MODEL CONTROL DUMP [DEVICE PRECISION]
 * Rank r reads commands from the FIFO CONTROL.r, where it sleeps between them; rank 0 answers on
 * standard output with one line of JSON each. It begins with a description of the model, after it
 * has written the first weights and the batches to DUMP. Commands:
 *   losses WAY STEPS   the losses of the first steps
 *   time WAY STEPS     seconds of so many steps on the slowest rank, the first weights put back before
 *   ceilings           GFLOP/s of multiply-adds and GB/s of memcpy, all ranks at once
 *   quit */
#include "bench/support/measure.h"
#include "bench/support/training.h"
#include "dist/world.h"
#include "src/core/clock.h"
#include "src/train/residence.h"

#include <immintrin.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3 /* a GPU's third step is the first that is repeated */, WAYS = 3 };

/* Small, for the losses' sake: at 0.01 PyTorch's own float32 losses of resnet18 are up to 2 % away
 * from its float64 ones within ten steps, at 0.001 within 0.03 %. */
#define LEARNING_RATE 0.001
#define MOMENTUM      0.9

typedef struct {
    const char *name, *reduction;
    int shards; /* 0: one a rank */
} Way;

static const Way ways[WAYS] = {
    {"exact V=ranks", "exact", 0},
    {"exact V=8", "exact", 8},
    {"fast V=ranks", "fast", 0},
};

typedef struct {
    const char *arch;
    int batch, gpu_batch; /* what keeps the device busy */
    bool batch_norm;
    ConfigList widths;
} Model;

static const Model models[] = {
    {"mlp", 64, 1024, false, {3, {TRAINING_PIXELS, 256, TRAINING_CLASSES}}},
    {"lenet", 64, 1024, true, {0}},
    {"resnet20", 64, 512, true, {0}},
    {"resnet18", 32, 256, true, {0}},
};

typedef struct {
    TrainingRun at;
    void *first[ARENA_COUNT]; /* the state's first values */
} Run;

static Collective *world, *collective; /* between hosts' memories; between the devices' */
static Backend *device;
static Run runs[WAYS];
static TrainingData data;

static void stop_unless(Status status) {
    if (status == STATUS_OK) return;
    status_print(status_failure());
    world->ops->abort(world, 1);
}

static void *memory_of(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (memory == NULL) stop_unless(FAIL(STATUS_MEMORY, NULL, "no memory"));
    return memory;
}

/* ---- set up */

static void configure(Config *config, const Model *model, const Way *way) {
    *config = (Config){0};
    snprintf(config->model.arch, sizeof config->model.arch, "%s", model->arch);
    config->model.classes = TRAINING_CLASSES;
    config->model.widths = model->widths;
    config->model.batch_norm = model->batch_norm;
    config->train.shards = way->shards == 0 ? world->size : way->shards;
    snprintf(config->train.reduction, sizeof config->train.reduction, "%s", way->reduction);
    snprintf(config->optimizer.kind, sizeof config->optimizer.kind, "sgd");
    config->optimizer.momentum = MOMENTUM;
}

static void open_run(Run *run, const Model *model, const Way *way) {
    configure(&run->at.config, model, way);
    stop_unless(training_open(&run->at, &data, world, collective, device));
    for (int i = 0; i < ARENA_COUNT; i++) {
        const Arena *arena = &run->at.setup.state->arenas[i];
        run->first[i] = memory_of(arena->bytes);
        memcpy(run->first[i], arena->data, arena->bytes);
    }
}

static void close_run(Run *run) {
    training_close(&run->at);
    for (int i = 0; i < ARENA_COUNT; i++)
        free(run->first[i]);
}

/* ---- describing the model */

/* Multiply-adds of one sample through a node. */
static double node_macs(const State *state, const Node *node) {
    if (node->kind != NODE_CONV2D && node->kind != NODE_LINEAR) return 0;
    const Entry *weight = &state->entries[node->weight];
    double pixels = node->kind == NODE_CONV2D ? node->height * node->width : 1;
    return pixels * (double)weight->bytes / sizeof(float);
}

/* Two operations a multiply-add, in forward, backward weights, and, behind the first layer, backward
 * data. */
static double sample_flop(const Run *run) {
    double flop = 0;
    bool first = true;
    for (int i = 0; i < run->at.graph.count; i++) {
        double macs = node_macs(run->at.setup.state, &run->at.graph.nodes[i]);
        flop += macs * (first ? 4 : 6);
        if (macs > 0) first = false;
    }
    return flop;
}

/* Writes the weights and the batches, and lists them: [name, shape, floats before it]. */
static json_t *dump(const Run *run, const char *path) {
    const State *state = run->at.setup.state;
    FILE *file = fopen(path, "wb");
    if (file == NULL) stop_unless(FAIL(STATUS_IO, NULL, "cannot write %s", path));
    json_t *list = json_array();
    size_t written = 0, rows = (size_t)(TRAINING_BATCHES * run->at.config.train.batch);
    bool good = true;
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        if (entry->arena != ARENA_PARAMETER && entry->arena != ARENA_BUFFER) continue;
        json_t *shape = json_array();
        for (int d = 0; d < entry->rank; d++)
            json_array_append_new(shape, json_integer(entry->shape[d]));
        json_array_append_new(list,
                              json_pack("[s, o, I]", entry->path + strlen("model/"), shape,
                                        (json_int_t)(written / sizeof(float))));
        good = good && fwrite(state_data(state, i), 1, entry->bytes, file) == entry->bytes;
        written += entry->bytes;
    }
    good = good &&
           fwrite(data.images, TRAINING_PIXELS * sizeof *data.images, rows, file) == rows;
    good = good && fwrite(data.labels, sizeof *data.labels, rows, file) == rows;
    if (fclose(file) != 0 || !good)
        stop_unless(FAIL(STATUS_IO, NULL, "cannot write %s", path));
    return list;
}

static void describe(const Model *model, int batch, const char *path) {
    json_t *names = json_array();
    for (int w = 0; w < WAYS; w++)
        json_array_append_new(names, json_string(ways[w].name));
    json_t *tensors = world->rank == 0 ? dump(&runs[0], path) : json_array();
    measure_answer(
        world,
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:s, s:o, s:o}", "model",
                  model->arch, "batch", batch, "batches", TRAINING_BATCHES, "side",
                  TRAINING_SIDE, "ranks", world->size, "lr", LEARNING_RATE, "momentum",
                  MOMENTUM, "flop_per_sample", sample_flop(&runs[0]), "device",
                  runs[0].at.setup.backend->kind, "ways", names, "tensors", tensors));
}

/* ---- commands */

static void put_back(Run *run) {
    for (int i = 0; i < ARENA_COUNT; i++)
        memcpy(run->at.setup.state->arenas[i].data, run->first[i],
               run->at.setup.state->arenas[i].bytes);
    stop_unless(residence_upload(run->at.setup.state, run->at.setup.backend));
}

static double collect(Run *run) {
    StepResult result;
    stop_unless(step_collect(run->at.step, &result));
    return result.loss;
}

/* As the trainer does it, with the control word and all checks; to be collected. */
static void give_step(Run *run, int number) {
    uint32_t bits = 0;
    stop_unless(step_gradient(run->at.step, training_batch(&run->at, number), TRAINING_SEED,
                              number, LEARNING_RATE));
    stop_unless(world->ops->control(world, &bits));
    stop_unless(step_reduce(run->at.step));
    stop_unless(step_update(run->at.step, NULL));
}

static void answer_losses(Run *run, int steps) {
    json_t *losses = json_array();
    put_back(run);
    for (int i = 0; i < steps; i++) {
        give_step(run, i);
        json_array_append_new(losses, json_real(collect(run)));
    }
    measure_answer(world, json_pack("{s:o}", "losses", losses));
}

static void answer_time(Run *run, int steps) {
    put_back(run);
    for (int i = 0; i < WARM_UP; i++) { /* brings code and data into the caches */
        give_step(run, i);
        collect(run);
    }
    stop_unless(world->ops->barrier(world));
    double start = clock_seconds();
    for (int i = 0; i < steps; i++) { /* collected one behind, as in training */
        give_step(run, WARM_UP + i);
        if (i > 0) collect(run);
    }
    if (steps > 0) collect(run);
    measure_answer(world, json_pack("{s:f}", "seconds",
                                    measure_slowest(world, clock_seconds() - start)));
}

enum { CHAINS = 12, FMA_ROUNDS = 20 * 1000 * 1000, COPY = 64 << 20, COPIES = 8 };

static volatile float seen; /* keeps the arithmetic from being optimised away */

__attribute__((target("avx512f"))) static double flop_avx512(void) {
    __m512 sums[CHAINS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int round = 0; round < FMA_ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], x, y);
    for (int i = 1; i < CHAINS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    seen = _mm512_cvtss_f32(sums[0]);
    return 2.0 * 16 * CHAINS * FMA_ROUNDS;
}

static double flop_avx2(void) {
    __m256 sums[CHAINS], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int round = 0; round < FMA_ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], x, y);
    for (int i = 1; i < CHAINS; i++)
        sums[0] = _mm256_add_ps(sums[0], sums[i]);
    seen = _mm256_cvtss_f32(sums[0]);
    return 2.0 * 8 * CHAINS * FMA_ROUNDS;
}

static void answer_ceilings(void) {
    stop_unless(world->ops->barrier(world));
    double start = clock_seconds();
    double flop = __builtin_cpu_supports("avx512f") ? flop_avx512() : flop_avx2();
    double fma_seconds = measure_slowest(world, clock_seconds() - start);
    char *from = memory_of(COPY), *to = memory_of(COPY);
    memset(from, 1, COPY);
    memset(to, 1, COPY);
    stop_unless(world->ops->barrier(world));
    start = clock_seconds();
    for (int i = 0; i < COPIES; i++)
        memcpy(to, from, COPY);
    double copy_seconds = measure_slowest(world, clock_seconds() - start);
    seen = to[COPY / 2];
    free(from);
    free(to);
    measure_answer(world, json_pack("{s:f, s:f}", "fma_gflops_per_core",
                                    flop / fma_seconds / 1e9, "memcpy_gb_s_per_rank",
                                    (double)COPIES * (double)COPY / copy_seconds / 1e9));
}

static void obey(FILE *commands) {
    char line[64];
    while (fgets(line, sizeof line, commands) != NULL) {
        char verb[16];
        int way = 0, steps = 0;
        int words = sscanf(line, "%15s %d %d", verb, &way, &steps);
        bool known = way >= 0 && way < WAYS && words >= 1;
        if (known && strcmp(verb, "losses") == 0)
            answer_losses(&runs[way], steps);
        else if (known && strcmp(verb, "time") == 0)
            answer_time(&runs[way], steps);
        else if (known && strcmp(verb, "ceilings") == 0)
            answer_ceilings();
        else if (known && strcmp(verb, "quit") == 0)
            return;
        else
            stop_unless(FAIL(STATUS_USAGE, NULL, "unknown command: %s", line));
    }
}

/* The device that the arguments name; one for all ways. */
static void open_device(int argc, char **argv) {
    const char *precisions[] = {"fp32", "tf32", "bf16"};
    BackendOptions options = {.workers = 1, .host_rank = world->host_rank};
    for (int i = 0; argc == 6 && i < 3; i++)
        if (strcmp(argv[5], precisions[i]) == 0) options.precision = (Precision)i;
    stop_unless(backend_open(argc == 6 ? argv[4] : "cpu", &options, &device));
    stop_unless(device->ops->open_collective(device, world, &collective));
}

int main(int argc, char **argv) {
    const Model *model = NULL;
    for (size_t i = 0; (argc == 4 || argc == 6) && i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].arch, argv[1]) == 0) model = &models[i];
    if (model == NULL || !world_is_launched()) {
        fprintf(stderr,
                "usage: mpirun -n RANKS %s MODEL CONTROL DUMP [DEVICE PRECISION] (by "
                "bench/step.py)\n",
                argv[0]);
        return 2;
    }
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    open_device(argc, argv);
    int batch = device->ops->host_memory ? model->batch : model->gpu_batch;
    stop_unless(training_make_data(batch, &data));
    for (int w = 0; w < WAYS; w++)
        open_run(&runs[w], model, &ways[w]);
    describe(model, batch, argv[3]);
    FILE *commands = measure_open_commands(world, argv[2]);
    if (commands == NULL) stop_unless(FAIL(STATUS_IO, NULL, "cannot read %s", argv[2]));
    obey(commands);
    fclose(commands);
    for (int w = 0; w < WAYS; w++)
        close_run(&runs[w]);
    if (collective != world) collective->ops->close(collective);
    device->ops->close(device);
    training_free_data(&data);
    world_finish(world);
    return 0;
}
