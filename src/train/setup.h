/* What a launch stands on: data, model, state and device, opened in the order that a restore demands.
 * Training and evaluation share it. */
#pragma once

#include "src/backend.h"
#include "src/checkpoint/restore.h"
#include "src/collective.h"
#include "src/core/config.h"
#include "src/data/data.h"
#include "src/model/graph.h"
#include "src/train/scalars.h"
#include "src/train/workers.h"

typedef struct {
    const Config *config;
    Collective *world; /* the launch's own */
    Collective
        *collective; /* the one that sums the device's memory: `world`, or on top of it */
    Data data;
    State *state;
    Graph *graph;
    Scalars scalars;
    char *identity; /* the run's identity with the data's digest */
    RestoreResult restored;
    Backend *backend;
    Workers *workers;
    ShardRange mine; /* this rank's shards */
} Setup;

/* Reads the data, describes the model, restores as config->resume says (or leaves the state zero:
 * restored.restored is false), opens the device that the run was begun on, with room for the state: the
 * caller calls residence_upload once the host's values are those to begin with. `weights_only`: an
 * evaluation, which does not ask for the run's identity to be the same.
 * Ranks: collective. Memory: setup_close, also after a failure
 * Errors: the first failing rank's, on every rank */
Status setup_open(const Config *config, Collective *collective, bool weights_only,
                  Setup *out);
void setup_close(Setup *setup);

/* What a loader of this rank needs, for training or for evaluation. */
LoaderOptions setup_loader(const Setup *setup, bool training);
