/* Ranks that sum device memory step after step, as a launch does: a rank that cannot go on prints why and
 * ends all. collective_failures.py makes the double fail in it, once everywhere.
 *
 *   collective_steps exact|fast|leave PATIENCE_S
 *
 * leave: in the third step the last rank has nothing to give, and all agree to end while the others'
 * devices wait for it. */
#include "dist/world.h"
#include "kernels/cuda/cuda.h"
#include "src/collective.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Status rekindle_cuda_open(const BackendOptions *options, Backend **out);

enum { SHARDS = 6, LENGTH = 4800, STEPS = 5 };

static Collective *world, *gpus;
static Backend *backend;
static Reduction *reduction;
static float *prepared, *result; /* device: the nodes, and behind them the sum */

/* In two parts; what a node sums is its shards' count. */
static Status give_step(void *context) {
    (void)context;
    uint8_t present[SHARDS];
    memset(present, 1, sizeof present);
    for (int n = 0; n < reduction->node_count; n++)
        TRY(vendor_copy(cuda_of(backend)->work, reduction->nodes[n].data,
                        prepared + (int64_t)n * LENGTH, LENGTH * sizeof(float)));
    if (reduction->queued)
        TRY(gpus->ops->reduce_part(gpus, reduction, present, LENGTH / 2, LENGTH / 2));
    TRY(gpus->ops->reduce(gpus, reduction, present));
    return vendor_copy(cuda_of(backend)->work, result, reduction->sum,
                       LENGTH * sizeof(float));
}

static Status run_step(bool leave) {
    static float found[LENGTH];
    bool gives = !leave || world->rank < world->size - 1;
    Status mine =
        gives ? backend->ops->repeat(backend, reduction->queued ? 1 : 0, give_step, NULL)
              : FAIL(STATUS_IO, "free some space", "no data for this step");
    if (leave) return gpus->ops->agree(gpus, mine);
    TRY(mine);
    TRY(backend->ops->copy_out(backend, found, result, sizeof found));
    for (int i = 0; i < LENGTH; i++)
        if (found[i] != (float)SHARDS)
            return FAIL(STATUS_CORRUPT, NULL, "element %d of the sum is %g", i,
                        (double)found[i]);
    return STATUS_OK;
}

/* What this rank does alone once the reduction stands. */
static Status fill_nodes(void) {
    static float node[LENGTH];
    size_t bytes = sizeof node, nodes = (size_t)reduction->node_count;
    TRY(backend->ops->allocate(backend, bytes * (nodes + 1), (void **)&prepared));
    result = prepared + (int64_t)nodes * LENGTH;
    for (int n = 0; n < reduction->node_count; n++) {
        for (int i = 0; i < LENGTH; i++)
            node[i] = (float)(reduction->nodes[n].end - reduction->nodes[n].first);
        TRY(backend->ops->copy_in(backend, prepared + (int64_t)n * LENGTH, node, bytes));
    }
    return STATUS_OK;
}

static Status prepare(ReductionMode mode) {
    TRY(gpus->ops->reduction_open(gpus, mode, SHARDS, LENGTH, &reduction));
    return gpus->ops->agree(gpus, fill_nodes());
}

int main(int argc, char **argv) {
    if (argc != 3 || world_start(&argc, &argv, &world) != STATUS_OK) return 1;
    BackendOptions options = {
        .workers = 1, .host_rank = world->host_rank, .patience_s = atof(argv[2])};
    Status status = rekindle_cuda_open(&options, &backend);
    status = world->ops->agree(world, status);
    if (status == STATUS_OK) status = backend->ops->open_collective(backend, world, &gpus);
    if (status == STATUS_OK)
        status = prepare(strcmp(argv[1], "fast") == 0 ? REDUCTION_FAST : REDUCTION_EXACT);
    bool leave = strcmp(argv[1], "leave") == 0;
    if (status == STATUS_OK) {
        for (int step = 0; step < STEPS && status == STATUS_OK; step++)
            status = run_step(leave && step == 2);
        if (status != STATUS_OK && !leave) { /* this rank's own */
            status_print(status_failure());
            gpus->ops->abort(gpus, status_exit_code(status));
        }
    }
    if (status != STATUS_OK && world->rank == 0) /* agreed on: all leave, one says why */
        status_print(status_failure());
    if (gpus != NULL) {
        gpus->ops->reduction_close(gpus, reduction);
        gpus->ops->close(gpus);
    }
    if (backend != NULL) {
        backend->ops->release(backend, prepared);
        backend->ops->close(backend);
    }
    if (status == STATUS_OK && world->rank == 0) puts("all steps are done");
    world_finish(world);
    return status_exit_code(status);
}
