/* Brings the chosen checkpoint to every rank, and turns to the next one when it does not prove itself. The
 * bytes travel in restore_stream.c, from the rank that can read the file: rank 0, or who holds it. */
#include "src/checkpoint/restore_search.h"

#include "src/checkpoint/restore_stream.h"
#include "src/core/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what hosts hold */

static bool looks_at_hosts(const Search *search) {
    const RestoreRequest *request = search->request;
    return request->local_dir != NULL && request->local_dir[0] != '\0' &&
           !request->read_only && search->resume != RESUME_PATH;
}

/* Collective. */
static Status gather_held(Collective *collective, Search *search) {
    if (!looks_at_hosts(search)) return STATUS_OK;
    TRY(restore_held_gather(collective, search->request->local_dir,
                            search->request->run_dir, &search->catalog, &search->held));
    if (search->resume != RESUME_NONE) return STATUS_OK;
    return collective->ops->agree(collective, search_refuse_to_hide(search));
}

/* On the rank that holds the candidate. */
static Status open_held(Search *search) {
    const Pick *pick = &search->pick;
    int folder;
    TRY(local_open_folder(search->request->local_dir, &search->held.run, pick->folder,
                          &folder, search->held_path, sizeof search->held_path));
    Status opened = search_open(search, folder, pick->name);
    close(folder);
    TRY(opened);
    memcpy(search->name, pick->name, sizeof search->name);
    size_t length = strlen(search->held_path);
    snprintf(search->held_path + length, sizeof search->held_path - length, "/%s",
             pick->name);
    return search_look(search);
}

/* ---- the outcome, everywhere */

/* What the rank that reads tells of the choice, before any tensor moves. */
typedef struct {
    bool restored;
    char name[CATALOG_NAME];
    char path[sizeof((RestoreResult *)NULL)->path];
    UserBlock block;
} Choice;

static Choice describe_choice(const Search *search) {
    Choice choice;
    memset(&choice, 0, sizeof choice); /* padding too: it travels */
    if (search->reader == NULL) return choice;
    choice.restored = true;
    memcpy(choice.name, search->name, sizeof choice.name);
    choice.block = *checkpoint_reader_block(search->reader);
    if (search->pick.held) {
        snprintf(choice.path, sizeof choice.path, "%.1023s", search->held_path);
    } else if (search->download.path[0] != '\0') {
        snprintf(choice.path, sizeof choice.path, "%s", search->download.path);
    } else if (search->resume == RESUME_PATH) {
        char home[PATH_MAX], own[PATH_MAX];
        size_t length = (size_t)(search->path_name - search->path) - 1;
        snprintf(own, sizeof own, "%s/checkpoints", search->request->run_dir);
        bool inside = realpath(own, home) != NULL && strlen(home) == length &&
                      memcmp(home, search->path, length) == 0;
        if (!inside || strlen(search->path_name) >= sizeof choice.name)
            snprintf(choice.path, sizeof choice.path, "%.1023s", search->path);
    }
    return choice;
}

static Status share_text(Collective *collective, const Search *search, const char *which,
                         char **out) {
    const char *text =
        search->reader == NULL ? NULL : checkpoint_reader_text(search->reader, which);
    uint64_t bytes = text == NULL ? 1 : strlen(text) + 1;
    int root = search->pick.rank;
    TRY(collective->ops->broadcast(collective, &bytes, sizeof bytes, root));
    free(*out);
    *out = calloc(1, bytes);
    Status mine = *out != NULL ? STATUS_OK
                               : FAIL(STATUS_MEMORY, NULL,
                                      "no memory for a checkpoint's %s (%llu bytes)", which,
                                      (unsigned long long)bytes);
    TRY(collective->ops->agree(collective, mine));
    if (text != NULL) memcpy(*out, text, bytes);
    return collective->ops->broadcast(collective, *out, bytes, root);
}

static Status share_choice(Collective *collective, const Search *search,
                           RestoreResult *result) {
    Choice choice = describe_choice(search);
    TRY(collective->ops->broadcast(collective, &choice, sizeof choice, search->pick.rank));
    result->restored = choice.restored;
    result->held = search->pick.held;
    result->holder = search->pick.rank;
    memcpy(result->holder_host, search->pick.host, sizeof result->holder_host);
    memcpy(result->name, choice.name, sizeof result->name);
    memcpy(result->path, choice.path, sizeof result->path);
    result->block = choice.block;
    TRY(share_text(collective, search, "identity", &result->identity));
    TRY(share_text(collective, search, "config", &result->config));
    return share_text(collective, search, "lineage", &result->lineage);
}

/* The candidate is bad, or cannot be read, so all ranks found: another turn. */
static Status try_another(Collective *collective, Search *search, Status why) {
    Status mine = collective->rank == 0 ? search_after_failure(search, why) : STATUS_OK;
    checkpoint_reader_close(search->reader);
    search->reader = NULL;
    return collective->ops->agree(collective, mine);
}

/* One turn: choose, move, compare. *done when there is nothing more to try. */
static Status try_candidate(Collective *collective, Search *search, State *state,
                            RestoreResult *result, bool *done) {
    Status mine = collective->rank == 0 ? search_choose(search) : STATUS_OK;
    TRY(collective->ops->agree(collective, mine));
    *done = false;
    if (looks_at_hosts(search))
        TRY(collective->ops->broadcast(collective, &search->pick, sizeof search->pick, 0));
    if (search->pick.held) {
        bool here = collective->rank == search->pick.rank;
        Status opened =
            collective->ops->agree(collective, here ? open_held(search) : STATUS_OK);
        if (opened == STATUS_CORRUPT || opened == STATUS_IO)
            return try_another(collective, search, opened);
        TRY(opened);
    }
    TRY(share_choice(collective, search, result));
    *done = !result->restored;
    if (*done) return STATUS_OK;
    bool file_failed = false;
    double start = clock_seconds();
    Status moved = restore_stream(collective, search->pick.rank, search->reader, state,
                                  &result->block, &file_failed);
    result->moving = clock_seconds() - start;
    *done = !file_failed;
    return file_failed ? try_another(collective, search, moved) : moved;
}

Status restore_newest(Collective *collective, const RestoreRequest *request, State *state,
                      RestoreResult *result) {
    *result = (RestoreResult){.restored = false};
    Search search = {
        .request = request,
        .result = result,
        .state = state,
        .resume = search_mode(request->resume),
        .catalog.directory = -1,
        .path_directory = -1,
    };
    double start = clock_seconds();
    Status mine = collective->rank == 0 ? search_begin(&search) : STATUS_OK;
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome == STATUS_OK) outcome = gather_held(collective, &search);
    for (bool done = false; outcome == STATUS_OK && !done;)
        outcome = try_candidate(collective, &search, state, result, &done);
    checkpoint_reader_close(search.reader);
    if (search.path_directory >= 0) close(search.path_directory);
    catalog_close(&search.catalog);
    free(search.held.items);
    if (outcome == STATUS_OK && !request->read_only)
        result->download = search.download;
    else
        restore_store_drop(&search.download);
    result->seconds = clock_seconds() - start;
    return outcome;
}

void restore_result_free(RestoreResult *result) {
    free(result->identity);
    free(result->config);
    free(result->lineage);
    free(result->passed_over);
    restore_store_drop(&result->download);
    *result = (RestoreResult){.restored = false};
}

OwnerClaim restore_claim(const RestoreResult *result) {
    OwnerClaim claim = {.seen = result->seen,
                        .restored_step = -1,
                        .saved_anew = result->held,
                        .above_generation = result->above_generation};
    if (!result->restored) return claim;
    memcpy(claim.restored_from, result->name, sizeof claim.restored_from);
    memcpy(claim.restored_path, result->path, sizeof claim.restored_path);
    claim.restored_step = result->block.step;
    claim.restored_digest = result->block.state_digest;
    return claim;
}

void restore_mark_passed_over(const RestoreResult *result, const Owner *owner) {
    for (int i = 0; i < result->passed_over_count; i++)
        if (!result->passed_over[i].unread)
            catalog_mark_rejected(owner, result->passed_over[i].name,
                                  result->passed_over[i].reason);
}
