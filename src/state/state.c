/* The registry and its arenas. */
#include "src/state/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

Status state_create(State **out) {
    *out = calloc(1, sizeof **out);
    return *out != NULL ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for the registry");
}

void state_destroy(State *state) {
    if (state == NULL) return;
    for (int i = 0; i < ARENA_COUNT; i++)
        free(state->arenas[i].data);
    free(state->entries);
    free(state->by_path);
    free(state);
}

static bool path_is_plain(const char *path) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789_./-";
    return path[0] != '\0' && path[0] != '/' && path[strspn(path, allowed)] == '\0';
}

Status state_declare(State *state, ArenaKind arena, const char *path, DType dtype, int rank,
                     const int64_t *shape, int *index) {
    if (strlen(path) >= STATE_PATH_MAX || !path_is_plain(path))
        return FAIL(STATUS_USAGE,
                    "use a shorter name of letters, digits, '_', '.', '-', '/'",
                    "no entry of the state can be called \"%.200s\"", path);
    if (state->allocated || rank < 0 || rank > TENSOR_RANK_MAX)
        return FAIL(STATUS_USAGE, NULL, "entry %s cannot be declared (rank %d%s)", path,
                    rank, state->allocated ? ", state already allocated" : "");
    if (state_find(state, path) >= 0)
        return FAIL(STATUS_USAGE, "give each layer its own name",
                    "entry %s is declared twice", path);
    if (state->count == state->capacity) {
        int capacity = state->capacity == 0 ? 64 : 2 * state->capacity;
        Entry *entries = realloc(state->entries, (size_t)capacity * sizeof *entries);
        if (entries == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory for entry %s", path);
        state->entries = entries;
        state->capacity = capacity;
    }
    Entry entry = {
        .dtype = dtype, .rank = rank, .arena = arena, .bytes = dtype_size(dtype)};
    strcpy(entry.path, path);
    for (int i = 0; i < TENSOR_RANK_MAX; i++)
        entry.shape[i] = i < rank ? shape[i] : 1;
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 1 ||
            __builtin_mul_overflow(entry.bytes, (size_t)shape[i], &entry.bytes))
            return FAIL(STATUS_USAGE, "check the sizes in the model section",
                        "entry %s has an impossible dimension %lld", path,
                        (long long)shape[i]);
    }
    Arena *home = &state->arenas[arena];
    entry.offset = home->bytes;
    size_t end;
    if (__builtin_add_overflow(home->bytes, entry.bytes, &end) ||
        __builtin_add_overflow(end, STATE_PAGE,
                               &end)) /* room to round up, here and when allocated */
        return FAIL(STATUS_USAGE, "check the sizes in the model section",
                    "entry %s does not fit into memory (%zu bytes)", path, entry.bytes);
    home->bytes += (entry.bytes + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT * STATE_ALIGNMENT;
    if (index != NULL) *index = state->count;
    state->entries[state->count++] = entry;
    return STATUS_OK;
}

static int compare_paths(const void *a, const void *b, void *entries) {
    return strcmp(((const Entry *)entries)[*(const int *)a].path,
                  ((const Entry *)entries)[*(const int *)b].path);
}

static Status sort_entries(State *state) {
    state->by_path = malloc((size_t)(state->count + 1) * sizeof *state->by_path);
    if (state->by_path == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the registry");
    for (int i = 0; i < state->count; i++)
        state->by_path[i] = i;
    qsort_r(state->by_path, (size_t)state->count, sizeof *state->by_path, compare_paths,
            state->entries);
    return STATUS_OK;
}

void *state_allocate_arena(size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    size_t whole = (bytes + STATE_PAGE - 1) / STATE_PAGE * STATE_PAGE;
    bool large = whole >= HUGE_PAGE;
    void *data = NULL; /* aligned_alloc wants a multiple of the alignment */
    if (posix_memalign(&data, large ? HUGE_PAGE : STATE_PAGE, whole) != 0) return NULL;
    if (large) madvise(data, whole, MADV_HUGEPAGE); /* or not: no matter */
    return data;
}

void state_exchange(State *state, Arena other[ARENA_COUNT]) {
    for (int i = 0; i < ARENA_SCALAR; i++) {
        Arena here = state->arenas[i];
        state->arenas[i] = other[i];
        other[i] = here;
    }
}

Status state_allocate(State *state) {
    TRY(sort_entries(state));
    for (int i = 0; i < ARENA_COUNT; i++) {
        Arena *arena = &state->arenas[i];
        if (arena->bytes == 0) continue;
        arena->data = state_allocate_arena(arena->bytes);
        if (arena->data == NULL)
            return FAIL(STATUS_MEMORY, "use a smaller model or a machine with more memory",
                        "no memory for the state (%zu MiB)", arena->bytes >> 20);
        memset(arena->data, 0, (arena->bytes + STATE_PAGE - 1) / STATE_PAGE * STATE_PAGE);
    }
    state->allocated = true;
    return STATUS_OK;
}

int state_find(const State *state, const char *path) {
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->entries[i].path, path) == 0) return i;
    return -1;
}

void *state_data(const State *state, int index) {
    const Entry *entry = &state->entries[index];
    return (char *)state->arenas[entry->arena].data + entry->offset;
}
