/* The run's own optimizer and schedule on parameters and gradients that come from outside. */
#include "src/train/optimizer.h"

#include "src/train/residence.h"
#include "src/train/schedule.h"
#include "tests/parity/driver.h"
#include "tests/parity/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "g3.0": the gradient of parameter 0 in step 3. */
static const Tensor *find_gradient(int step, int parameter) {
    char name[RECORD_NAME];
    snprintf(name, sizeof name, "g%d.%d", step, parameter);
    return records_find(name);
}

static Status declare_parameters(const Config *config, State *state, int *count) {
    for (*count = 0;; ++*count) {
        char name[RECORD_NAME], path[STATE_PATH_MAX];
        snprintf(name, sizeof name, "p%d", *count);
        const Tensor *initial = records_find(name);
        if (initial == NULL) break;
        snprintf(path, sizeof path, "model/%s", name);
        TRY(state_declare(state, ARENA_PARAMETER, path, DTYPE_F32, initial->rank,
                          initial->shape, NULL));
    }
    int parameters = *count;
    TRY(optimizer_declare(config, state));
    TRY(state_allocate(state));
    for (int i = 0; i < parameters; i++) {
        char name[RECORD_NAME];
        snprintf(name, sizeof name, "p%d", i);
        memcpy(state_data(state, i), records_find(name)->data, state->entries[i].bytes);
    }
    return STATUS_OK;
}

/* One step on the device; the parameters are then on the host. */
static Status run_step(Optimizer *optimizer, State *state, Backend *backend,
                       const StepValues *host_values, const float *host_gradient,
                       double *norm) {
    const BackendOps *ops = backend->ops;
    size_t bytes = state->arenas[ARENA_PARAMETER].bytes;
    float *gradient, *metrics;
    StepValues *values;
    StepVerdict *verdict, told;
    TRY(ops->allocate(backend, bytes, (void **)&gradient));
    TRY(ops->allocate(backend, METRICS * sizeof *metrics, (void **)&metrics));
    TRY(ops->allocate(backend, sizeof *values, (void **)&values));
    TRY(ops->allocate(backend, sizeof *verdict, (void **)&verdict));
    TRY(ops->copy_in(backend, gradient, host_gradient, bytes));
    TRY(ops->copy_in(backend, values, host_values, sizeof *values));
    TRY(ops->zero(backend, 0, metrics, METRICS * sizeof *metrics));
    TRY(optimizer_judge(optimizer, gradient, metrics, verdict));
    TRY(optimizer_apply(optimizer, gradient, values, verdict, NULL));
    TRY(ops->copy_out(backend, &told, verdict, sizeof told));
    *norm = told.norm;
    TRY(residence_fetch(state, backend));
    TRY(residence_fetched(state, backend));
    void *all[] = {gradient, metrics, values, verdict};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ops->release(backend, all[i]);
    return STATUS_OK;
}

static void write_parameters(const State *state, int count, int step, double norm) {
    char name[RECORD_NAME];
    for (int i = 0; i < count; i++) {
        const Entry *entry = &state->entries[i];
        snprintf(name, sizeof name, "p%d.%d", step, i);
        records_write(name, entry->rank, entry->shape, state_data(state, i));
    }
    float rounded = (float)norm;
    snprintf(name, sizeof name, "norm%d", step);
    records_write(name, 0, NULL, &rounded);
}

Status optimizer_run(const char *device, const char *config_path) {
    static Config config; /* large: kept off the stack */
    TRY(config_load(config_path, NULL, 0, &config));
    State *state;
    int count;
    TRY(state_create(&state));
    TRY(declare_parameters(&config, state, &count));
    BackendOptions two = {.workers = 2};
    Backend *backend;
    Workers *workers;
    Optimizer *optimizer;
    TRY(backend_open(device, &two, &backend));
    TRY(workers_open(backend->workers, &workers));
    TRY(residence_open(state, backend));
    TRY(residence_upload(state, backend));
    TRY(optimizer_open(&config, state, backend, workers, &optimizer));
    size_t bytes = state->arenas[ARENA_PARAMETER].bytes;
    float *gradient = calloc(1, bytes);
    if (gradient == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a gradient");
    int steps = (int)option("steps", 1);
    Horizon horizon = {.total_steps = steps, .steps_per_epoch = steps};
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < count; i++) {
            const Tensor *g = find_gradient(step, i);
            if (g == NULL)
                return FAIL(STATUS_USAGE, NULL, "no gradient %d of step %d", i, step);
            memcpy((char *)gradient + state->entries[i].offset, g->data,
                   state->entries[i].bytes);
        }
        double norm;
        StepValues values =
            optimizer_values(&config, step, schedule_rate(&config, horizon, step));
        TRY(run_step(optimizer, state, backend, &values, gradient, &norm));
        write_parameters(state, count, step, norm);
    }
    return STATUS_OK;
}

Status schedule_run(const char *config_path) {
    static Config config;
    TRY(config_load(config_path, NULL, 0, &config));
    Horizon horizon = {.total_steps = (int64_t)option("total", 1),
                       .steps_per_epoch = (int64_t)option("epoch", 1)};
    for (int64_t step = 0; step < horizon.total_steps; step++)
        printf("%.17g\n", schedule_rate(&config, horizon, step));
    return STATUS_OK;
}
