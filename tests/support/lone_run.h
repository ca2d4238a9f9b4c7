/* Whole steps on one rank without MPI, on a device in host memory or on one that keeps its memory apart
 * (apart.h): for tests of what a step leaves behind. */
#pragma once

#include "tests/support/apart.h"

#include "src/model/model.h"
#include "src/train/optimizer.h"
#include "src/train/residence.h"
#include "src/train/step.h"

#include <math.h>

enum { SIDE = 12, CLASSES = 10, SHARDS = 4, BATCH = 24, LAST = 10, STEPS = 7, BAD = 3 };

/* ---- one rank */

typedef struct {
    Collective base;
    Backend *backend;
    bool queued;
    int64_t part;
    int parts;
} Lone;

static inline Status lone_agree(Collective *self, Status mine) {
    (void)self;
    return mine;
}

static inline Status lone_control(Collective *self, uint32_t *bits) {
    (void)self, (void)bits;
    return STATUS_OK;
}

static inline Status lone_gather(Collective *self, const void *mine, size_t bytes,
                                 void *all) {
    (void)self;
    memcpy(all, mine, bytes);
    return STATUS_OK;
}

static inline Status lone_reduction_open(Collective *self, ReductionMode mode, int shards,
                                         int64_t length, Reduction **out) {
    (void)mode;
    Lone *lone = (Lone *)self;
    Reduction *reduction = *out = calloc(1, sizeof *reduction);
    reduction->queued = lone->queued;
    reduction->part = lone->part;
    reduction->mine.count = reduction->shards = shards;
    reduction->length = length;
    reduction->node_count = 1;
    reduction->nodes[0].end = shards;
    TRY(lone->backend->ops->allocate(lone->backend, (size_t)length * sizeof(float),
                                     (void **)&reduction->nodes[0].data));
    reduction->sum = reduction->nodes[0].data;
    return STATUS_OK;
}

static inline Status lone_reduce_part(Collective *self, Reduction *reduction,
                                      const uint8_t *present, int64_t first,
                                      int64_t count) {
    (void)reduction, (void)present, (void)first, (void)count;
    ((Lone *)self)->parts++;
    return STATUS_OK;
}

static inline Status lone_reduce(Collective *self, Reduction *reduction,
                                 const uint8_t *present) {
    (void)reduction, (void)present;
    assert_int_equal(apart.repeating, ((Lone *)self)->queued);
    return STATUS_OK;
}

static inline void lone_reduction_close(Collective *self, Reduction *reduction) {
    Backend *backend = ((Lone *)self)->backend;
    backend->ops->release(backend, reduction->nodes[0].data);
    free(reduction);
}

static const CollectiveOps lone_ops = {
    .name = "lone",
    .agree = lone_agree,
    .control = lone_control,
    .gather = lone_gather,
    .reduction_open = lone_reduction_open,
    .reduce_part = lone_reduce_part,
    .reduce = lone_reduce,
    .reduction_close = lone_reduction_close,
};

/* ---- a run */

typedef struct {
    Config config;
    Graph graph;
    Lone lone;
    Setup setup;
    Step *step;
    ShardBatch shards[SHARDS];
    float *images;
    int32_t *labels;
} Run;

static inline Run *open_with(const char *optimizer, double momentum, bool is_apart,
                             bool queued, int64_t part) {
    Run *run = calloc(1, sizeof *run);
    Config *config = &run->config;
    strcpy(config->model.arch, "mlp");
    config->model.classes = CLASSES;
    config->model.widths = (ConfigList){3, {SIDE * SIDE, 32, CLASSES}};
    config->model.batch_norm = true;
    config->model.dropout = 0.25;
    config->train.batch = BATCH;
    config->train.shards = SHARDS;
    strcpy(config->train.reduction, "exact");
    strcpy(config->optimizer.kind, optimizer);
    config->optimizer.momentum = momentum;
    config->optimizer.beta1 = 0.9;
    config->optimizer.beta2 = 0.99;
    config->optimizer.epsilon = 1e-8;
    config->optimizer.weight_decay = 0.1;
    config->optimizer.clip_norm = 0.5;
    Setup *setup = &run->setup;
    BackendOptions options = {.workers = 1};
    assert_ok(is_apart ? apart_open("reference", &setup->backend)
                       : backend_open("reference", &options, &setup->backend));
    run->lone = (Lone){.base = {.ops = &lone_ops, .size = 1, .hosts = 1},
                       .backend = setup->backend,
                       .queued = queued,
                       .part = part};
    setup->config = config;
    setup->world = setup->collective = &run->lone.base;
    setup->graph = &run->graph;
    setup->mine = (ShardRange){0, SHARDS};
    assert_ok(state_create(&setup->state));
    assert_ok(model_build(config, 1, SIDE, SIDE, setup->state, &run->graph));
    assert_ok(optimizer_declare(config, setup->state));
    assert_ok(state_declare(setup->state, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL,
                            NULL));
    assert_ok(state_allocate(setup->state));
    graph_initialise(&run->graph, 11);
    assert_ok(residence_open(setup->state, setup->backend));
    assert_ok(residence_upload(setup->state, setup->backend));
    if (is_apart) /* who computes with the host's copy is seen */
        for (int i = 0; i < ARENA_SCALAR; i++)
            memset(setup->state->arenas[i].data, 0xff, setup->state->arenas[i].bytes);
    assert_ok(workers_open(1, &setup->workers));
    assert_ok(step_open(setup, &run->step));
    run->images = aligned_alloc(64, BATCH * SIDE * SIDE * sizeof(float));
    run->labels = calloc(BATCH, sizeof(int32_t));
    return run;
}

static inline Run *open_run(bool is_apart, bool queued, int64_t part) {
    return open_with("adamw", 0, is_apart, queued, part);
}

static inline Run *open_run_of(const char *optimizer, double momentum) {
    return open_with(optimizer, momentum, false, false, 0);
}

static inline void close_run(Run *run, bool is_apart) {
    Setup *setup = &run->setup;
    step_close(run->step);
    workers_close(setup->workers);
    residence_close(setup->state, setup->backend);
    if (is_apart)
        apart_close(setup->backend);
    else
        setup->backend->ops->close(setup->backend);
    state_destroy(setup->state);
    free(run->images);
    free(run->labels);
    free(run);
}

/* Batch number `number`; one in three is an epoch's last and short. */
static inline Batch make_batch(Run *run, int number) {
    int64_t count = number % 3 == 2 ? LAST : BATCH;
    Rng rng = rng_at(5, RNG_TEST, 0, (uint32_t)number);
    for (int64_t row = 0; row < count; row++) {
        for (int i = 0; i < SIDE * SIDE; i++)
            run->images[row * SIDE * SIDE + i] =
                2 * rng_uniform(rng, (uint32_t)row, (uint32_t)i) - 1;
        run->labels[row] = (int32_t)rng_below(rng, (uint32_t)row, 9999, CLASSES);
    }
    for (int s = 0; s < SHARDS; s++) {
        Rows rows = shard_rows(count, SHARDS, s);
        run->shards[s] = (ShardBatch){.shard = s,
                                      .first = rows.first,
                                      .count = rows.count,
                                      .images = run->images + rows.first * SIDE * SIDE,
                                      .labels = run->labels + rows.first};
    }
    return (Batch){.count = count, .shard_count = SHARDS, .shards = run->shards};
}

static inline void give_step_to(Run *run, int number, bool bad, Arena *target) {
    Batch batch = make_batch(run, number);
    if (bad) run->images[5] = NAN;
    assert_ok(step_gradient(run->step, &batch, 3, number, 0.01 / (1 + number)));
    if (!run->setup.backend->ops->host_memory) /* it has been taken */
        memset(run->images, 0xff, BATCH * SIDE * SIDE * sizeof(float));
    assert_ok(step_reduce(run->step));
    assert_ok(step_update(run->step, target));
}

static inline void give_step(Run *run, int number, bool bad) {
    give_step_to(run, number, bad, NULL);
}

typedef struct {
    StepResult results[STEPS];
    Digest after_fourth, end;
} Trained;

static inline Digest state_now(Run *run) {
    Setup *setup = &run->setup;
    assert_ok(residence_fetch(setup->state, setup->backend));
    assert_ok(residence_fetched(setup->state, setup->backend));
    return state_digest(setup->state);
}

/* Every step is collected at once. */
static inline Trained train_in_step(Run *run) {
    Trained trained;
    for (int i = 0; i < STEPS; i++) {
        give_step(run, i, false);
        assert_ok(step_collect(run->step, &trained.results[i]));
        if (i == 3) trained.after_fourth = state_now(run);
    }
    trained.end = state_now(run);
    return trained;
}

/* Every step is collected when the next one is given, but for the fourth: there a snapshot is begun, and is
 * still under way when the fifth is given. */
static inline Trained train_behind(Run *run) {
    Setup *setup = &run->setup;
    Trained trained;
    give_step(run, 0, false);
    for (int i = 0; i < STEPS; i++) {
        if (i == 3) {
            assert_ok(step_collect(run->step, &trained.results[i]));
            assert_ok(residence_fetch(setup->state, setup->backend));
        }
        if (i + 1 < STEPS) give_step(run, i + 1, false);
        if (i == 3) {
            assert_ok(residence_fetched(setup->state, setup->backend));
            trained.after_fourth = state_digest(setup->state);
        } else {
            assert_ok(step_collect(run->step, &trained.results[i]));
        }
    }
    trained.end = state_now(run);
    return trained;
}

static inline void assert_same(const Trained *got, const Trained *want) {
    for (int i = 0; i < STEPS; i++) {
        assert_int_equal(got->results[i].number, i);
        assert_int_equal(got->results[i].samples, want->results[i].samples);
        assert_true(got->results[i].loss == want->results[i].loss);
        assert_true(got->results[i].norm == want->results[i].norm);
        assert_true(got->results[i].lr == want->results[i].lr);
        assert_true(got->results[i].correct == want->results[i].correct);
    }
    assert_true(digest_equal(got->after_fourth, want->after_fourth));
    assert_true(digest_equal(got->end, want->end));
}

static inline Trained on_the_host(void) {
    Run *run = open_run(false, false, 0);
    Trained trained = train_in_step(run);
    close_run(run, false);
    return trained;
}
