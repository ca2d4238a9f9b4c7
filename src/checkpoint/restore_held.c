/* Gathers what hosts hold, and tells which of it counts. */
#include "src/checkpoint/restore_held.h"

#include "src/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one rank tells: nothing, unless it is its host's first. */
typedef struct {
    char host[64];
    int count;
    LocalFile files[LOCAL_FILES];
} Told;

static void describe_run(const char *run_dir, const Catalog *catalog, LocalRun *run) {
    if (local_describe(run_dir, catalog, run) == STATUS_OK) return;
    memset(run, 0, sizeof *run);
    LOG_W("snapshots held in memory are not looked for: %s", status_failure()->what);
}

static void list_host(const Collective *collective, const char *dir, const LocalRun *run,
                      Told *told) {
    memset(told, 0, sizeof *told); /* padding too: it travels */
    if (collective->host_rank != 0) return;
    snprintf(told->host, sizeof told->host, "%s", collective->host);
    if (local_list(dir, run, told->files, &told->count) == STATUS_OK) return;
    told->count = 0;
    LOG_W("%s holds no snapshots that can be used: %s (%s)", collective->host,
          status_failure()->what, status_failure()->fix);
}

static int newest_first(const void *a, const void *b) {
    const RestoreHeld *first = a, *second = b;
    int order = catalog_newest_first(&first->item, &second->item);
    return order != 0 ? order : first->rank - second->rank;
}

static void fill(const Collective *collective, const Catalog *catalog, const Told *all,
                 RestoreHeldList *out) {
    for (int rank = 0; rank < collective->size; rank++)
        for (int i = 0; i < all[rank].count; i++) {
            RestoreHeld *held = &out->items[out->count++];
            held->rank = rank;
            memcpy(held->host, all[rank].host, sizeof held->host);
            memcpy(held->folder, all[rank].files[i].folder, sizeof held->folder);
            local_judge(catalog, &all[rank].files[i], &held->item);
        }
    qsort(out->items, (size_t)out->count, sizeof *out->items, newest_first);
}

/* Rank 0: room for all that was told. */
static Status make_items(const Told *all, int size, RestoreHeldList *out) {
    size_t count = 1; /* never zero bytes */
    for (int rank = 0; rank < size; rank++)
        count += (size_t)all[rank].count;
    out->items = calloc(count, sizeof *out->items);
    return out->items != NULL ? STATUS_OK
                              : FAIL(STATUS_MEMORY, NULL,
                                     "no memory for %zu snapshots that are held", count);
}

Status restore_held_gather(Collective *collective, const char *dir, const char *run_dir,
                           const Catalog *catalog, RestoreHeldList *out) {
    memset(out, 0, sizeof *out);
    const CollectiveOps *ops = collective->ops;
    bool first = collective->rank == 0;
    Told *all = calloc((size_t)collective->size, sizeof *all);
    Told *own = malloc(sizeof *own);
    Status mine =
        all != NULL && own != NULL
            ? STATUS_OK
            : FAIL(STATUS_MEMORY, NULL, "no memory to hear of %d ranks", collective->size);
    Status outcome = ops->agree(collective, mine);
    if (outcome == STATUS_OK) {
        if (first) describe_run(run_dir, catalog, &out->run);
        outcome = ops->broadcast(collective, &out->run, sizeof out->run, 0);
    }
    if (outcome == STATUS_OK) {
        list_host(collective, dir, &out->run, own);
        outcome = ops->gather(collective, own, sizeof *own, all);
    }
    if (outcome == STATUS_OK) {
        mine = first ? make_items(all, collective->size, out) : STATUS_OK;
        outcome = ops->agree(collective, mine);
    }
    if (outcome == STATUS_OK && first) fill(collective, catalog, all, out);
    free(own);
    free(all);
    return outcome;
}
