/* Gathers the plans of all ranks. Mostly they are the same, and then only their digests travel. */
#include "src/train/plans.h"

#include "src/state/state.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t length;
    Digest digest;
} Told;

/* A line up to its " = " says for what the plan is. */
static size_t key_length(const char *line) {
    const char *end = strstr(line, " = ");
    return end != NULL ? (size_t)(end - line) : strlen(line);
}

static int by_key(const void *a, const void *b) {
    const char *left = *(char *const *)a, *right = *(char *const *)b;
    size_t left_length = key_length(left), right_length = key_length(right);
    size_t both = left_length < right_length ? left_length : right_length;
    int order = memcmp(left, right, both);
    return order != 0 ? order : (left_length > right_length) - (left_length < right_length);
}

static Status no_memory(void) {
    return FAIL(STATUS_MEMORY, "free some memory", "no memory to gather the ranks' plans");
}

/* The lines of `text`, which is cut at its line ends, sorted and each key once. */
static Status sorted_lines(char *text, char **out) {
    size_t length = strlen(text), lines = 0;
    for (const char *at = text; *at != '\0'; at++)
        lines += *at == '\n';
    char **line = calloc(lines + 1, sizeof *line), *joined = malloc(length + 1);
    if (line == NULL || joined == NULL) {
        free(line);
        free(joined);
        return no_memory();
    }
    char *rest = text;
    for (size_t i = 0; i < lines; i++) {
        line[i] = rest;
        rest = strchr(rest, '\n');
        *rest++ = '\0';
    }
    qsort(line, lines, sizeof *line, by_key);
    char *end = joined;
    for (size_t i = 0; i < lines; i++)
        if (i == 0 || by_key(&line[i - 1], &line[i]) != 0) {
            end = stpcpy(end, line[i]);
            *end++ = '\n';
        }
    *end = '\0';
    free(line);
    *out = joined;
    return STATUS_OK;
}

/* Whether no lower rank told the same. */
static bool is_first_to_tell(const Told *told, int rank) {
    for (int other = 0; other < rank; other++)
        if (memcmp(&told[other], &told[rank], sizeof *told) == 0) return false;
    return true;
}

/* Room for one text of each kind, and where each begins. */
static size_t lengths(const Told *told, int size) {
    size_t sum = 0;
    for (int rank = 0; rank < size; rank++)
        if (is_first_to_tell(told, rank)) sum += (size_t)told[rank].length;
    return sum;
}

static Status exchange_texts(Collective *collective, const Told *told, const char *mine,
                             char *all) {
    for (int rank = 0; rank < collective->size; rank++) {
        if (!is_first_to_tell(told, rank)) continue;
        size_t length = (size_t)told[rank].length;
        if (rank == collective->rank) memcpy(all, mine, length);
        TRY(collective->ops->broadcast(collective, all, length, rank));
        all += length;
    }
    *all = '\0';
    return STATUS_OK;
}

static Status gather_with(Collective *collective, const char *mine, Told *told,
                          char **out) {
    Told self;
    memset(&self, 0, sizeof self);
    self.length = (int64_t)strlen(mine);
    self.digest = digest_of(mine, strlen(mine));
    TRY(collective->ops->gather(collective, &self, sizeof self, told));
    char *all = malloc(lengths(told, collective->size) + 1);
    Status status =
        collective->ops->agree(collective, all != NULL ? STATUS_OK : no_memory());
    if (status == STATUS_OK) status = exchange_texts(collective, told, mine, all);
    if (status == STATUS_OK)
        status = collective->ops->agree(
            collective, collective->rank == 0 ? sorted_lines(all, out) : STATUS_OK);
    free(all);
    return status;
}

Status plans_gather(Backend *backend, Collective *collective, char **out) {
    *out = NULL;
    const char *mine = backend->ops->plans(backend);
    Told *told = calloc((size_t)collective->size, sizeof *told);
    Status status =
        collective->ops->agree(collective, told != NULL ? STATUS_OK : no_memory());
    if (status == STATUS_OK) status = gather_with(collective, mine, told, out);
    free(told);
    if (status != STATUS_OK) {
        free(*out);
        *out = NULL;
    }
    return status;
}
