/* Compares the ranks' digests; where they differ, finds who and where. */
#include "src/checkpoint/examination.h"

#include <stdio.h>
#include <stdlib.h>

/* The digest that most ranks hold; of equals the one of the lowest rank. */
static Digest most_common(const StateReport *reports, int size) {
    int best = 0, best_votes = 0;
    for (int i = 0; i < size; i++) {
        int votes = 0;
        for (int j = 0; j < size; j++)
            votes += digest_equal(reports[i].digest, reports[j].digest);
        if (votes > best_votes) {
            best = i;
            best_votes = votes;
        }
    }
    return reports[best].digest;
}

/* "1, 3": the ranks that hold something else. */
static void name_outliers(const StateReport *reports, int size, Digest common, char *out,
                          size_t bytes) {
    size_t length = 0;
    out[0] = '\0';
    for (int i = 0; i < size; i++)
        if (!digest_equal(reports[i].digest, common) && length < bytes)
            length += (size_t)snprintf(out + length, bytes - length, "%s%d",
                                       length > 0 ? ", " : "", i);
}

/* The lowest entry that is not the same on all ranks. Collective. */
static Status find_difference(Collective *collective, const State *state, int *index) {
    size_t count = (size_t)state->count;
    Digest *own = calloc(count + 1, sizeof *own);
    Digest *all = calloc(count * (size_t)collective->size + 1, sizeof *all);
    Status mine = STATUS_OK;
    if (own == NULL || all == NULL)
        mine = FAIL(STATUS_MEMORY, NULL, "no memory to compare %zu entries", count);
    Status outcome = collective->ops->agree(collective, mine);
    if (outcome == STATUS_OK) {
        for (size_t i = 0; i < count; i++)
            own[i] = state_entry_digest(state, (int)i);
        outcome = collective->ops->gather(collective, own, count * sizeof *own, all);
    }
    *index = -1;
    for (size_t i = 0; outcome == STATUS_OK && i < count && *index < 0; i++)
        for (size_t rank = 1; rank < (size_t)collective->size; rank++)
            if (!digest_equal(all[rank * count + i], all[i])) *index = (int)i;
    free(own);
    free(all);
    return outcome;
}

/* Collective, so that all fail with one text. */
static Status report_divergence(Collective *collective, const State *state, int64_t step,
                                const StateReport *reports) {
    char ranks[200];
    int size = collective->size, index;
    name_outliers(reports, size, most_common(reports, size), ranks, sizeof ranks);
    TRY(find_difference(collective, state, &index));
    const char *path =
        index < 0 ? "none found on a second look" : state->entries[index].path;
    Status mine = FAIL(
        STATUS_CORRUPT,
        "relaunch: the run goes on from the last checkpoint; if it happens again, test "
        "those machines' memory and devices",
        "ranks hold different states after step %lld, nothing was saved: rank(s) %s "
        "differ from the others; first entry: %s",
        (long long)step, ranks, path);
    return collective->ops->agree(collective, mine);
}

Status examination_judge(Collective *collective, const State *state, int64_t step,
                         const StateReport *own, StateReport *reports) {
    TRY(collective->ops->gather(collective, own, sizeof *own, reports));
    for (int rank = 1; rank < collective->size; rank++)
        if (!digest_equal(reports[rank].digest, reports[0].digest))
            return report_divergence(collective, state, step, reports);
    if (own->not_finite < 0) return STATUS_OK; /* as on all: their digests are equal */
    Status mine =
        FAIL(STATUS_NOT_FINITE,
             "lower optimizer.lr or set optimizer.clip_norm; what was saved before "
             "is still good",
             "entry %s is not finite after step %lld on any rank: nothing was saved",
             state->entries[own->not_finite].path, (long long)step);
    return collective->ops->agree(collective, mine);
}
