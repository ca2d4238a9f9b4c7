/* Whole steps and evaluations on a device that keeps its memory apart and works behind the host: the bits
 * and the failures are those of a device whose memory is the host's. */
#include "tests/support/apart.h"

#include "src/model/model.h"
#include "src/train/evaluate.h"
#include "src/train/optimizer.h"
#include "src/train/residence.h"
#include "src/train/step.h"

#include <math.h>
#include <stdio.h>

enum { SIDE = 12, CLASSES = 10, SHARDS = 4, BATCH = 24, LAST = 10, STEPS = 7, BAD = 3 };

/* ---- one rank */

typedef struct {
    Collective base;
    Backend *backend;
    bool queued;
    int64_t part;
    int parts;
} Lone;

static Status lone_agree(Collective *self, Status mine) {
    (void)self;
    return mine;
}

static Status lone_control(Collective *self, uint32_t *bits) {
    (void)self, (void)bits;
    return STATUS_OK;
}

static Status lone_gather(Collective *self, const void *mine, size_t bytes, void *all) {
    (void)self;
    memcpy(all, mine, bytes);
    return STATUS_OK;
}

static Status lone_reduction_open(Collective *self, ReductionMode mode, int shards,
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

static Status lone_reduce_part(Collective *self, Reduction *reduction,
                               const uint8_t *present, int64_t first, int64_t count) {
    (void)reduction, (void)present, (void)first, (void)count;
    ((Lone *)self)->parts++;
    return STATUS_OK;
}

static Status lone_reduce(Collective *self, Reduction *reduction, const uint8_t *present) {
    (void)reduction, (void)present;
    assert_int_equal(apart.repeating, ((Lone *)self)->queued);
    return STATUS_OK;
}

static void lone_reduction_close(Collective *self, Reduction *reduction) {
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

static Run *open_run(bool is_apart, bool queued, int64_t part) {
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
    strcpy(config->optimizer.kind, "adamw");
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

static void close_run(Run *run, bool is_apart) {
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
static Batch make_batch(Run *run, int number) {
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

static void give_step(Run *run, int number, bool bad) {
    Batch batch = make_batch(run, number);
    if (bad) run->images[5] = NAN;
    assert_ok(step_gradient(run->step, &batch, 3, number, 0.01 / (1 + number)));
    if (!run->setup.backend->ops->host_memory) /* it has been taken */
        memset(run->images, 0xff, BATCH * SIDE * SIDE * sizeof(float));
    assert_ok(step_reduce(run->step));
    assert_ok(step_update(run->step, NULL));
}

typedef struct {
    StepResult results[STEPS];
    Digest after_fourth, end;
} Trained;

static Digest state_now(Run *run) {
    Setup *setup = &run->setup;
    assert_ok(residence_fetch(setup->state, setup->backend));
    assert_ok(residence_fetched(setup->state, setup->backend));
    return state_digest(setup->state);
}

/* Every step is collected at once. */
static Trained train_in_step(Run *run) {
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
static Trained train_behind(Run *run) {
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

static void assert_same(const Trained *got, const Trained *want) {
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

static Trained on_the_host(void) {
    Run *run = open_run(false, false, 0);
    Trained trained = train_in_step(run);
    close_run(run, false);
    return trained;
}

static void a_device_apart_gives_the_bits_of_one_in_host_memory(void **state) {
    (void)state;
    Trained want = on_the_host();
    for (int queued = 0; queued < 2; queued++)
        for (int64_t part = 0; part <= 16; part += 16) {
            Run *run = open_run(true, queued, part);
            Trained got = train_in_step(run);
            assert_int_equal(run->lone.parts > 0, part > 0);
            close_run(run, true);
            assert_same(&got, &want);
        }
}

static void steps_that_are_given_before_the_last_is_known_change_no_bit(void **state) {
    (void)state;
    Trained want = on_the_host();
    for (int queued = 0; queued < 2; queued++) {
        Run *run = open_run(true, queued, 0);
        Trained got = train_behind(run);
        close_run(run, true);
        assert_same(&got, &want);
    }
}

/* Full batches and short ones: two numbers each, neither 0 nor one of the other. */
static void steps_of_one_size_are_repeated_under_their_own_numbers(void **state) {
    (void)state;
    Run *run = open_run(true, true, 0);
    train_in_step(run);
    assert_int_equal(apart.key_count, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(apart.keys[i] != 0);
        assert_int_equal(apart.runs[i], i < 2 ? 5 : 2);
    }
    close_run(run, true);
}

static void a_full_batch_is_two_copies_and_the_values_a_third(void **state) {
    (void)state;
    Run *run = open_run(true, true, 0);
    StepResult result;
    for (int i = 0; i < 2; i++) {
        int before = apart.copies_in;
        give_step(run, i, false);
        assert_int_equal(apart.copies_in - before, 3);
        assert_ok(step_collect(run->step, &result));
    }
    close_run(run, true);
}

static void a_step_that_is_not_finite_is_named_though_the_next_is_given(void **state) {
    (void)state;
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        Run *run = open_run(is_apart, is_apart, 0);
        StepResult result;
        Digest before = {0, 0};
        for (int i = 0; i < BAD; i++) {
            give_step(run, i, false);
            assert_ok(step_collect(run->step, &result));
        }
        before = state_now(run);
        give_step(run, BAD, true);
        Digest after = state_now(run);
        assert_true(digest_equal(before, after)); /* it changed nothing */
        if (is_apart) give_step(run, BAD + 1, false);
        assert_fails(step_collect(run->step, &result), STATUS_NOT_FINITE, "step 4: loss");
        close_run(run, is_apart); /* with a step not collected */
    }
}

/* ---- evaluation */

static uint32_t nothing_asked(void) {
    return 0;
}

static Evaluation evaluated(bool is_apart) {
    enum { SAMPLES = 100 };
    Run *run = open_run(is_apart, false, 0);
    uint8_t *pixels = malloc(SAMPLES * SIDE * SIDE), labels[SAMPLES];
    Rng rng = rng_at(9, RNG_TEST, 0, 0);
    for (uint32_t i = 0; i < SAMPLES * SIDE * SIDE; i++)
        pixels[i] = (uint8_t)rng_word(rng, 0, i);
    for (uint32_t i = 0; i < SAMPLES; i++)
        labels[i] = (uint8_t)rng_below(rng, 1, i, CLASSES);
    const Dataset set = {SAMPLES, 1, SIDE, SIDE, CLASSES, pixels, labels, {0, 0}};
    const Samples samples = {&set, NULL, SAMPLES};
    const LoaderOptions options = {.samples = &samples,
                                   .batch = BATCH,
                                   .shards = SHARDS,
                                   .shard_count = SHARDS,
                                   .std = {1, 1, 1, 1}};
    Evaluator *evaluator;
    Requests requests = {.take = nothing_asked};
    Evaluation twice[2];
    Setup *setup = &run->setup;
    assert_ok(evaluator_open(&run->graph, setup->state, setup->backend, setup->workers,
                             setup->collective, &options, &evaluator));
    for (int i = 0; i < 2; i++) {
        uint32_t bits;
        bool stopped;
        assert_ok(evaluator_run(evaluator, &requests, &bits, &stopped, &twice[i]));
        assert_false(stopped);
    }
    assert_memory_equal(&twice[0], &twice[1], sizeof twice[0]);
    assert_int_equal(twice[0].samples, SAMPLES);
    evaluator_close(evaluator);
    close_run(run, is_apart);
    free(pixels);
    return twice[0];
}

static void an_evaluation_apart_gives_the_same_numbers(void **state) {
    (void)state;
    Evaluation want = evaluated(false), got = evaluated(true);
    assert_true(isfinite(want.loss) && want.loss > 0);
    assert_memory_equal(&got, &want, sizeof got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_apart_gives_the_bits_of_one_in_host_memory),
        cmocka_unit_test(steps_that_are_given_before_the_last_is_known_change_no_bit),
        cmocka_unit_test(steps_of_one_size_are_repeated_under_their_own_numbers),
        cmocka_unit_test(a_full_batch_is_two_copies_and_the_values_a_third),
        cmocka_unit_test(a_step_that_is_not_finite_is_named_though_the_next_is_given),
        cmocka_unit_test(an_evaluation_apart_gives_the_same_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
