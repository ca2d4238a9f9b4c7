/* `rekindle checkpoints ls`: what there is of a run, over all places that may hold some of it. */
#include "src/cli/checkpoints.h"

#include "src/checkpoint/local.h"
#include "src/core/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What the argument says about the run. */
typedef struct {
    const char *place; /* run directory, directory of checkpoints, or address in a store */
    bool
        may_be_missing; /* only a run file names it: the run may not have begun, or be lost */
    Config *config;     /* NULL: nothing more is known */
} Run;

/* ---- tiers */

static const char *first_place(const Run *run) {
    return run->place;
}

static Status look_first(const Run *run, const char *place, Catalog *out) {
    struct stat about;
    *out = (Catalog){.directory = -1};
    if (run->may_be_missing && stat(place, &about) != 0 && errno == ENOENT)
        return STATUS_OK;
    return checkpoints_catalog(place, out);
}

static const char *mirror_place(const Run *run) {
    bool any = run->config != NULL && run->config->checkpoint.mirror[0] != '\0';
    return any ? run->config->checkpoint.mirror : NULL;
}

/* Who lists a directory does not want to wait long for what is not there. */
static Status look_at_mirror(const Run *run, const char *place, Catalog *out) {
    (void)run;
    return checkpoints_stored(place, &(StoreOptions){.attempts = 2, .patience_s = 10}, out);
}

static const char *memory_place(const Run *run) {
    bool any = run->config != NULL && run->config->checkpoint.local.dir[0] != '\0' &&
               !store_url_is(run->place);
    return any ? run->config->checkpoint.local.dir : NULL;
}

/* This host's alone: the others' memory cannot be seen from here. */
static Status look_at_memory(const Run *run, const char *place, Catalog *out) {
    return local_catalog(place, run->place, out);
}

/* The first decides the exit code; of each further one a failure is only told. */
static const struct {
    const char *name;
    const char *(*place)(const Run *run); /* NULL: this run has none */
    Status (*look)(const Run *run, const char *place, Catalog *out);
} tiers[] = {
    {"directory", first_place, look_first},
    {"mirror", mirror_place, look_at_mirror},
    {"memory", memory_place, look_at_memory},
};
enum { TIERS = sizeof tiers / sizeof *tiers };

/* ---- printing */

static const char *verdict_name(const CatalogItem *item) {
    static const char *const names[] = {"valid", "damaged", "superseded"};
    return catalog_is_newer_format(item) ? "newer" : names[item->verdict];
}

static json_t *item_json(const CatalogItem *item, const char *tier, bool best) {
    json_t *json =
        item->verdict == CHECKPOINT_REJECTED
            ? json_pack("{s:s, s:I, s:I}", "file", item->name, "generation",
                        (json_int_t)item->generation, "step", (json_int_t)item->step)
            : checkpoints_block_json(item->name, &item->block);
    json_object_set_new(json, "verdict", json_string(verdict_name(item)));
    json_object_set_new(json, "reason", json_string(item->reason));
    json_object_set_new(json, "pinned", json_boolean(item->pinned));
    json_object_set_new(json, "best", json_boolean(best));
    json_object_set_new(json, "tier", json_string(tier));
    /* the name's, where a kept file's own block says an older one */
    json_object_set_new(json, "generation", json_integer(item->generation));
    return json;
}

/* {"loss":0.31,"accuracy":0.912} → loss 0.31 accuracy 0.912 */
static void metrics_for_people(const char *metrics, char *out, size_t bytes) {
    json_t *object = json_loads(metrics, 0, NULL), *value;
    const char *key;
    size_t length = 0;
    out[0] = '\0';
    json_object_foreach(object, key, value) {
        if (!json_is_number(value) || length >= bytes) continue;
        length += (size_t)snprintf(out + length, bytes - length, "%s%s %.5g",
                                   length > 0 ? " " : "", key, json_number_value(value));
    }
    json_decref(object);
}

static void print_item(const CatalogItem *item, bool best) {
    char size[32] = "-", ratio[32] = "-", metrics[160] = "", digest[DIGEST_TEXT] = "-";
    const UserBlock *block = &item->block;
    if (checkpoints_ratio(block) > 0)
        snprintf(ratio, sizeof ratio, "%.2f", checkpoints_ratio(block));
    if (item->verdict != CHECKPOINT_REJECTED) {
        checkpoints_size(block->bytes, size);
        metrics_for_people(block->metrics, metrics, sizeof metrics);
        digest_print(block->state_digest, digest);
    }
    printf("%-28s %10lld %6lld %10s %6s  %-10s  %-12.12s  %s%s%s%s%s\n", item->name,
           (long long)item->step, (long long)block->epoch, size, ratio, verdict_name(item),
           digest, metrics, metrics[0] != '\0' && item->reason[0] != '\0' ? "; " : "",
           item->reason, item->pinned ? "; pinned" : "", best ? "; best" : "");
}

static void print_table(const char *place, const Catalog *catalog, int best) {
    if (catalog->count == 0) {
        printf("no checkpoints in %s\n", place);
        return;
    }
    printf("%-28s %10s %6s %10s %6s  %-10s  %-12s  %s\n", "FILE", "STEP", "EPOCH", "SIZE",
           "RATIO", "VERDICT", "STATE", "METRICS");
    for (int i = 0; i < catalog->count; i++)
        print_item(&catalog->items[i], i == best);
}

/* ---- the listing */

/* all: where JSON collects; NULL for people. */
static Status list_tier(const Run *run, int tier, json_t *all) {
    const char *place = tiers[tier].place(run);
    Catalog catalog;
    if (place == NULL) return STATUS_OK;
    if (all == NULL && tier > 0) printf("\n%s %s\n", tiers[tier].name, place);
    fflush(stdout); /* before a store is waited for */
    Status status = tiers[tier].look(run, place, &catalog);
    if (status != STATUS_OK && tier > 0) {
        fprintf(all == NULL ? stdout : stderr, "the %s %s cannot be listed: %s\n",
                tiers[tier].name, place, status_failure()->what);
        return STATUS_OK;
    }
    TRY(status);
    int best = -1; /* what retention keeps in the directory; elsewhere nobody chooses */
    if (run->config != NULL && tier == 0) {
        Retention retention = catalog_retention(run->config);
        best = catalog_best(&catalog, &retention);
    }
    for (int i = 0; i < catalog.count && all != NULL; i++)
        json_array_append_new(all,
                              item_json(&catalog.items[i], tiers[tier].name, i == best));
    if (all == NULL) print_table(place, &catalog, best);
    catalog_close(&catalog);
    return STATUS_OK;
}

static Status list_run(const Run *run, bool as_json) {
    json_t *all = as_json ? json_array() : NULL;
    Status status = STATUS_OK;
    for (int i = 0; i < TIERS && status == STATUS_OK; i++)
        status = list_tier(run, i, all);
    if (status == STATUS_OK && as_json)
        checkpoints_print_json(all);
    else
        json_decref(all);
    return status;
}

static Status read_run_file(const char *path, Run *out) {
    out->config = calloc(1, sizeof *out->config);
    if (out->config == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory");
    out->place = out->config->run.dir;
    out->may_be_missing = true;
    return config_load(path, NULL, 0, out->config);
}

Status checkpoints_list(const CheckpointsArguments *arguments) {
    Run run = {.place = arguments->paths[0]};
    struct stat about;
    bool there = !store_url_is(run.place) && stat(run.place, &about) == 0;
    Status status = STATUS_OK;
    if (there && S_ISREG(about.st_mode))
        status = read_run_file(run.place, &run);
    else if (there && checkpoints_run_config(run.place, &run.config) != STATUS_OK)
        fprintf(stderr, "whether the run has a mirror cannot be told: %s\n",
                status_failure()->what);
    if (status == STATUS_OK) status = list_run(&run, arguments->json);
    free(run.config);
    return status;
}
