/* Opens what training and evaluation stand on. */
#include "src/train/setup.h"

#include "src/core/fault.h"
#include "src/core/log.h"
#include "src/model/model.h"
#include "src/train/lineage.h"
#include "src/train/optimizer.h"
#include "src/train/residence.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Status describe(Setup *self) {
    const Dataset *images = &self->data.sets[0];
    TRY(state_create(&self->state));
    self->graph = malloc(sizeof *self->graph);
    if (self->graph == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the model");
    TRY(model_build(self->config, images->channels, images->height, images->width,
                    self->state, self->graph));
    TRY(optimizer_declare(self->config, self->state));
    TRY(scalars_declare(self->state));
    TRY(state_allocate(self->state));
    self->scalars = scalars_find(self->state);
    TRY(config_identity(self->config, &self->identity));
    char digest[DIGEST_TEXT];
    digest_print(self->data.digest, digest);
    return config_identity_add(&self->identity, "data.digest", digest);
}

static Status accept_identity(void *context, const UserBlock *block, const char *identity,
                              const char *name) {
    const Setup *self = context;
    (void)block;
    return config_check_identity(self->identity, identity, name);
}

/* Cores that this process may use, shared with the other ranks of its host unless the launcher has
 * bound each rank to its own. */
static int worker_count(const Setup *self) {
    if (self->config->train.threads > 0) return (int)self->config->train.threads;
    cpu_set_t allowed;
    int online = (int)sysconf(_SC_NPROCESSORS_ONLN), usable = online;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) usable = CPU_COUNT(&allowed);
    int ranks_here =
        (self->collective->size + self->collective->hosts - 1) / self->collective->hosts;
    int count = usable < online ? usable : online / ranks_here;
    if (count > self->mine.count) count = self->mine.count;
    return count < 1 ? 1 : count;
}

/* "cpu avx2 onednn-2.6.3 kernels-3" → "avx2"; empty when there is none. */
static void isa_of(const char *kind, char *isa, size_t size) {
    const char *begin = strchr(kind, ' ');
    begin = begin == NULL ? "" : begin + 1;
    snprintf(isa, size, "%.*s", (int)strcspn(begin, " "), begin);
}

static Precision precision_of(const Config *config) {
    if (strcmp(config->train.precision, "bf16") == 0) return PRECISION_BF16;
    return strcmp(config->train.precision, "tf32") == 0 ? PRECISION_TF32 : PRECISION_FP32;
}

static Status open_device(Setup *self, bool weights_only) {
    const char *device = self->config->device;
    const char *recorded = self->restored.restored ? self->restored.block.device_kind : "";
    char isa[32];
    isa_of(recorded, isa, sizeof isa);
    bool same_device = strncmp(recorded, "cpu ", 4) == 0;
    char *plans = NULL, *plans_kind = NULL;
    if (self->restored.restored)
        TRY(lineage_find_plans(self->restored.lineage, &plans_kind, &plans));
    BackendOptions options = {.workers = worker_count(self),
                              .isa = same_device && isa[0] != '\0' ? isa : NULL,
                              .precision = precision_of(self->config),
                              .host_rank = self->world->host_rank,
                              .plans = plans,
                              .plans_kind = plans_kind,
                              .patience_s = self->config->fault.hang_timeout};
    Status opened = backend_open(device, &options, &self->backend);
    if (opened == STATUS_UNSUPPORTED && weights_only && options.isa != NULL) {
        options.isa = NULL; /* weights can be evaluated anywhere; what changed is said */
        opened = backend_open(device, &options, &self->backend);
    }
    free(plans);
    free(plans_kind);
    TRY(opened);
    if (recorded[0] != '\0' && strcmp(recorded, self->backend->kind) != 0) {
        if (self->collective->rank == 0)
            LOG_W("device kind changes from \"%s\" to \"%s\": from here on the bits are "
                  "those of the "
                  "new one",
                  recorded, self->backend->kind);
    }
    TRY(residence_open(self->state, self->backend));
    return workers_open(self->backend->workers, &self->workers);
}

/* One kind of device on all ranks, or the bits would depend on who computes what. */
static Status compare_devices(Setup *self) {
    Collective *collective = self->collective;
    size_t width = sizeof self->backend->kind;
    char *kinds = calloc((size_t)collective->size, width);
    Status mine =
        kinds != NULL ? STATUS_OK : FAIL(STATUS_MEMORY, NULL, "no memory for device kinds");
    TRY(collective->ops->agree(collective, mine));
    Status status = collective->ops->gather(collective, self->backend->kind, width, kinds);
    for (int rank = 1; rank < collective->size && status == STATUS_OK; rank++)
        if (strcmp(kinds, kinds + (size_t)rank * width) != 0)
            status = FAIL(STATUS_UNSUPPORTED,
                          "launch on devices of one kind; processors can be limited to one "
                          "by ONEDNN_MAX_CPU_ISA at the run's first launch",
                          "rank 0 computes on \"%s\" but rank %d on \"%s\"", kinds, rank,
                          kinds + (size_t)rank * width);
    free(kinds);
    return status;
}

Status setup_open(const Config *config, Collective *collective, bool weights_only,
                  Setup *out) {
    memset(out, 0, sizeof *out);
    out->config = config;
    out->world = out->collective = collective;
    Status mine = STATUS_OK;
    if (collective->size > config->train.shards)
        mine =
            FAIL(STATUS_USAGE, "launch fewer ranks, or begin a run with more train.shards",
                 "%d ranks cannot share %lld shards: a shard is the unit of arithmetic",
                 collective->size, (long long)config->train.shards);
    if (mine == STATUS_OK) mine = data_open(config, &out->data);
    out->mine = shard_range((int)config->train.shards, collective->rank, collective->size);
    if (mine == STATUS_OK) mine = describe(out);
    TRY(collective->ops->agree(collective, mine));
    fault_point("start");
    RestoreRequest request = {.run_dir = config->run.dir,
                              .resume = config->resume,
                              .mirror = config->checkpoint.mirror,
                              .read_only = weights_only,
                              .local_dir = config->checkpoint.local.dir,
                              .accept = weights_only ? NULL : accept_identity,
                              .context = out};
    TRY(restore_newest(collective, &request, out->state, &out->restored));
    fault_point("restore");
    TRY(collective->ops->agree(collective, open_device(out, weights_only)));
    TRY(compare_devices(out));
    return out->backend->ops->open_collective(out->backend, collective, &out->collective);
}

void setup_close(Setup *self) {
    workers_close(self->workers);
    if (self->collective != NULL && self->collective != self->world)
        self->collective->ops->close(self->collective);
    if (self->backend != NULL) {
        residence_close(self->state, self->backend);
        self->backend->ops->close(self->backend);
    }
    restore_result_free(&self->restored);
    free(self->identity);
    free(self->graph);
    state_destroy(self->state);
    data_close(&self->data);
}

LoaderOptions setup_loader(const Setup *self, bool training) {
    LoaderOptions options = data_loader_options(self->config, &self->data, training);
    options.seed = *self->scalars.seed;
    options.first_shard = self->mine.first;
    options.shard_count = self->mine.count;
    options.epoch = training ? *self->scalars.epoch : 0;
    options.position = training ? *self->scalars.position : 0;
    return options;
}
