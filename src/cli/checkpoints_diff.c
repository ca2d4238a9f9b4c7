/* `rekindle checkpoints diff`: where two checkpoints' states differ, entry by entry, bit by bit. */
#include "src/cli/checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    ENTRY_EQUAL,
    ENTRY_DIFFERENT,
    ENTRY_SHAPE,
    ENTRY_ONLY_A,
    ENTRY_ONLY_B
} Relation;

static const char *const relation_names[] = {"equal", "different", "shape differs",
                                             "missing in B", "missing in A"};

typedef struct {
    const char *path;
    Relation relation;
    int64_t first;     /* element, flat index in the order of the shape */
    double a, b;       /* its values */
    double most;       /* largest |a - b|; NaN when some element has none */
    int64_t different; /* elements */
    int64_t elements;
} Difference;

static Status load(const char *path, State **out, char name[NAME_MAX + 1]) {
    ChosenCheckpoint chosen;
    TRY(checkpoints_choose(path, &chosen));
    strcpy(name, chosen.name);
    Status status = checkpoint_read_state(chosen.directory, chosen.name, out);
    checkpoints_release(&chosen);
    return checkpoints_damaged(status);
}

static double element_value(DType dtype, const unsigned char *at) {
    union {
        float f32;
        double f64;
        int64_t i64;
        uint64_t u64;
    } value;
    memcpy(&value, at, dtype_size(dtype));
    switch (dtype) {
    case DTYPE_F32:
        return (double)value.f32;
    case DTYPE_F64:
        return value.f64;
    case DTYPE_I64:
        return (double)value.i64;
    default:
        return (double)value.u64;
    }
}

static Difference compare_entries(const State *a, int in_a, const State *b, int in_b) {
    const Entry *entry = in_a >= 0 ? &a->entries[in_a] : &b->entries[in_b];
    size_t size = dtype_size(entry->dtype);
    Difference result = {.path = entry->path, .elements = (int64_t)(entry->bytes / size)};
    if (in_a < 0 || in_b < 0) {
        result.relation = in_a < 0 ? ENTRY_ONLY_B : ENTRY_ONLY_A;
        return result;
    }
    const Entry *other = &b->entries[in_b];
    if (entry->dtype != other->dtype || entry->rank != other->rank ||
        memcmp(entry->shape, other->shape, sizeof entry->shape) != 0) {
        result.relation = ENTRY_SHAPE;
        return result;
    }
    const unsigned char *left = state_data(a, in_a), *right = state_data(b, in_b);
    for (int64_t i = 0; i < result.elements; i++, left += size, right += size) {
        if (memcmp(left, right, size) == 0) continue;
        double x = element_value(entry->dtype, left),
               y = element_value(entry->dtype, right);
        if (result.different++ == 0) {
            result.relation = ENTRY_DIFFERENT;
            result.first = i;
            result.a = x;
            result.b = y;
        }
        double distance = fabs(x - y);
        if (isnan(distance) || distance > result.most) result.most = distance;
    }
    return result;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const Difference *)a)->path, ((const Difference *)b)->path);
}

static Status compare_states(const State *a, const State *b, Difference **out, int *count) {
    *count = 0;
    *out = calloc((size_t)(a->count + b->count + 1), sizeof **out);
    if (*out == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to compare %d entries", a->count);
    for (int i = 0; i < a->count; i++)
        (*out)[(*count)++] = compare_entries(a, i, b, state_find(b, a->entries[i].path));
    for (int i = 0; i < b->count; i++)
        if (state_find(a, b->entries[i].path) < 0)
            (*out)[(*count)++] = compare_entries(a, -1, b, i);
    qsort(*out, (size_t)*count, sizeof **out, by_path);
    return STATUS_OK;
}

/* ---- telling */

static json_t *number_or_null(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static void print_as_json(const char *const names[2], const char *const digests[2],
                          const Difference *differences, int count, bool equal) {
    json_t *entries = json_array();
    for (int i = 0; i < count; i++) {
        const Difference *one = &differences[i];
        json_t *entry = json_pack("{s:s, s:s}", "path", one->path, "relation",
                                  relation_names[one->relation]);
        if (one->relation == ENTRY_DIFFERENT) {
            json_object_set_new(entry, "elements", json_integer(one->elements));
            json_object_set_new(entry, "different", json_integer(one->different));
            json_object_set_new(entry, "first_index", json_integer(one->first));
            json_object_set_new(entry, "a", number_or_null(one->a));
            json_object_set_new(entry, "b", number_or_null(one->b));
            json_object_set_new(entry, "max_abs_difference", number_or_null(one->most));
        }
        json_array_append_new(entries, entry);
    }
    checkpoints_print_json(json_pack("{s:b, s:{s:s, s:s}, s:{s:s, s:s}, s:o}", "equal",
                                     equal, "a", "file", names[0], "state_digest",
                                     digests[0], "b", "file", names[1], "state_digest",
                                     digests[1], "entries", entries));
}

static void print_as_table(const char *const names[2], const char *const digests[2],
                           const Difference *differences, int count, int different) {
    int width = 5;
    for (int i = 0; i < count; i++)
        if ((int)strlen(differences[i].path) > width)
            width = (int)strlen(differences[i].path);
    printf("A  %s  state %s\nB  %s  state %s\n\n", names[0], digests[0], names[1],
           digests[1]);
    for (int i = 0; i < count; i++) {
        const Difference *one = &differences[i];
        printf("%-*s  %s", width, one->path, relation_names[one->relation]);
        if (one->relation == ENTRY_DIFFERENT)
            printf(": %lld of %lld elements, first [%lld] %.9g and %.9g, max |A-B| %.3g",
                   (long long)one->different, (long long)one->elements,
                   (long long)one->first, one->a, one->b, one->most);
        putchar('\n');
    }
    printf("\n%d entries, %d not equal\n", count, different);
}

Status checkpoints_diff(const CheckpointsArguments *arguments, bool *differ) {
    State *states[2] = {NULL, NULL};
    char names[2][NAME_MAX + 1], digests[2][DIGEST_TEXT];
    Difference *differences = NULL;
    int count = 0, different = 0;
    Status status = STATUS_OK;
    for (int i = 0; i < 2 && status == STATUS_OK; i++) {
        status = load(arguments->paths[i], &states[i], names[i]);
        if (status == STATUS_OK) digest_print(state_digest(states[i]), digests[i]);
    }
    if (status == STATUS_OK)
        status = compare_states(states[0], states[1], &differences, &count);
    if (status == STATUS_OK) {
        const char *const name[2] = {names[0], names[1]};
        const char *const digest[2] = {digests[0], digests[1]};
        for (int i = 0; i < count; i++)
            different += differences[i].relation != ENTRY_EQUAL;
        if (arguments->json)
            print_as_json(name, digest, differences, count, different == 0);
        else
            print_as_table(name, digest, differences, count, different);
    }
    *differ = different > 0;
    free(differences);
    state_destroy(states[0]);
    state_destroy(states[1]);
    return status;
}
