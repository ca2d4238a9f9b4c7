/* `rekindle checkpoints pin`, `unpin` and `prune`: what stays, and what may go. */
#include "src/cli/checkpoints.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- pins */

static Status change_pins(const CheckpointsArguments *arguments,
                          Status (*change)(int directory, const char *name),
                          const char *done) {
    for (int i = 0; i < arguments->count; i++) {
        ChosenCheckpoint chosen;
        if (store_url_is(arguments->paths[i]))
            return FAIL(STATUS_USAGE, "name a file of a run directory",
                        "%s: an object store has no pins", arguments->paths[i]);
        TRY(checkpoints_choose(arguments->paths[i], &chosen));
        Status status = change(chosen.directory, chosen.name);
        checkpoints_release(&chosen);
        TRY(status);
        printf("%s %s\n", done, chosen.name);
    }
    return STATUS_OK;
}

Status checkpoints_pin(const CheckpointsArguments *arguments) {
    return change_pins(arguments, catalog_pin, "pinned");
}

Status checkpoints_unpin(const CheckpointsArguments *arguments) {
    return change_pins(arguments, catalog_unpin, "unpinned");
}

/* ---- prune */

typedef struct {
    Catalog catalog;
    bool *goes;
    const char **why;
    Retention retention;
} Pruning;

/* What the run keeps is said by the configuration that it was last launched with. */
static Status load_retention(const char *run_dir, Retention *out) {
    Config *config;
    TRY(checkpoints_run_config(run_dir, &config));
    if (config == NULL)
        return FAIL(STATUS_USAGE, "name a run directory",
                    "%s holds no config.yaml that says what to keep", run_dir);
    *out = catalog_retention(config);
    free(config);
    return STATUS_OK;
}

static Status choose_what_goes(const char *run_dir, Pruning *pruning) {
    TRY(load_retention(run_dir, &pruning->retention));
    TRY(catalog_open(run_dir, &pruning->catalog));
    for (int i = 0; i < pruning->catalog.count; i++)
        if (catalog_is_newer_format(&pruning->catalog.items[i]))
            return FAIL(STATUS_USAGE, "let the newer Rekindle prune this run", "%s",
                        pruning->catalog.items[i].reason);
    size_t count = (size_t)pruning->catalog.count + 1;
    pruning->goes = calloc(count, sizeof *pruning->goes);
    pruning->why = calloc(count, sizeof *pruning->why);
    if (pruning->goes == NULL || pruning->why == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to choose from %zu files", count - 1);
    catalog_choose(&pruning->catalog, 0, &pruning->retention, RETENTION_ALONE,
                   pruning->goes, pruning->why);
    return STATUS_OK;
}

static void tell(const Pruning *pruning, bool as_json, bool dry_run) {
    json_t *all = json_array();
    int going = 0;
    for (int i = 0; i < pruning->catalog.count; i++) {
        const char *name = pruning->catalog.items[i].name;
        going += pruning->goes[i];
        if (as_json)
            json_array_append_new(all, json_pack("{s:s, s:b, s:s}", "file", name, "goes",
                                                 pruning->goes[i], "why",
                                                 pruning->goes[i] ? "" : pruning->why[i]));
        else if (pruning->goes[i])
            printf("%s  %s\n", dry_run ? "would go" : "goes    ", name);
        else
            printf("stays     %s  %s\n", name, pruning->why[i]);
    }
    if (as_json)
        checkpoints_print_json(all);
    else
        json_decref(all);
    if (!as_json && going == 0) printf("nothing to delete\n");
}

/* Only an owner may delete: so this is a launch that trains nothing, and leaves at once. Whoever owns the
 * directory and lives is not disturbed. */
static Status prune_as_owner(const char *run_dir, const Pruning *pruning) {
    const Catalog *catalog = &pruning->catalog;
    OwnerClaim claim = {.restored_step = -1};
    for (int i = 0; i < catalog->count && claim.restored_from[0] == '\0'; i++) {
        const CatalogItem *item = &catalog->items[i];
        if (item->verdict != CHECKPOINT_VALID || item->marked) continue;
        memcpy(claim.restored_from, item->name, sizeof claim.restored_from);
        claim.restored_step = item->step;
        claim.restored_digest = item->block.state_digest;
    }
    claim.seen = (CatalogSeen){.looked = true,
                               .owner_generation = catalog->newest_generation,
                               .generation = catalog->items[0].generation,
                               .step = catalog->items[0].step};
    Owner owner;
    TRY(owner_take(run_dir, &claim, OWNER_WATCH_S, &owner));
    catalog_sweep(&owner);
    Status status = catalog_prune(&owner, &pruning->retention, RETENTION_ALONE);
    owner_release(&owner);
    return status;
}

Status checkpoints_prune(const CheckpointsArguments *arguments) {
    const char *run_dir = arguments->paths[0];
    Pruning pruning = {.catalog.directory = -1};
    Status status = choose_what_goes(run_dir, &pruning);
    int going = 0;
    for (int i = 0; i < pruning.catalog.count && status == STATUS_OK; i++)
        going += pruning.goes[i];
    if (status == STATUS_OK && going > 0 && !arguments->dry_run)
        status = prune_as_owner(run_dir, &pruning);
    if (status == STATUS_OK) tell(&pruning, arguments->json, arguments->dry_run);
    free(pruning.goes);
    free(pruning.why);
    catalog_close(&pruning.catalog);
    return status;
}
