/* What is held, as a catalogue: for people who list it, and for a restore that puts it beside others. */
#include "src/checkpoint/local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void local_judge(const Catalog *catalog, const LocalFile *file, CatalogItem *out) {
    memcpy(out->name, file->name, sizeof out->name);
    out->generation = file->generation;
    out->step = file->step;
    out->block.state_digest = file->state_digest;
    out->code = file->code;
    if (file->code != STATUS_OK) {
        out->verdict = CHECKPOINT_REJECTED;
        snprintf(out->reason, sizeof out->reason, "%s", file->reason);
        return;
    }
    catalog_limit(catalog, out);
}

/* All that the file says of itself. It may go at any moment, as what is held does. */
static void read_block(const char *dir, const LocalRun *run, const LocalFile *file,
                       CatalogItem *item) {
    int folder;
    char path[1024];
    Status read = local_open_folder(dir, run, file->folder, &folder, path, sizeof path);
    if (read == STATUS_OK) {
        read = checkpoint_read_user_block(folder, file->name, &item->block);
        close(folder);
    }
    if (read == STATUS_OK) return;
    item->verdict = CHECKPOINT_REJECTED;
    item->code = read;
    snprintf(item->reason, sizeof item->reason, "%.255s",
             catalog_reason(file->name, status_failure()->what));
}

static Status list(const char *dir, const char *run_dir, const Catalog *catalog,
                   Catalog *out) {
    LocalRun run;
    LocalFile files[LOCAL_FILES];
    int count;
    TRY(local_describe(run_dir, catalog, &run));
    TRY(local_list(dir, &run, files, &count));
    out->items = calloc((size_t)count + 1, sizeof *out->items);
    if (out->items == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list %d snapshots", count);
    for (int i = 0; i < count; i++) {
        CatalogItem *item = &out->items[out->count++];
        local_judge(catalog, &files[i], item);
        if (item->verdict != CHECKPOINT_REJECTED) read_block(dir, &run, &files[i], item);
    }
    return STATUS_OK;
}

Status local_catalog(const char *dir, const char *run_dir, Catalog *out) {
    Catalog catalog;
    *out = (Catalog){.directory = -1};
    TRY(catalog_open(run_dir, &catalog));
    Status status = list(dir, run_dir, &catalog, out);
    catalog_close(&catalog);
    return status;
}
