/* Compares two run directories, file against file by entries' paths: nothing is taken from a digest
 * that the files carry, all values are read. */
#include "src/cli/compare_runs.h"

#include "src/checkpoint/catalog.h"
#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { METRICS_LIMIT = 1 << 30 };

/* Keys of metrics.jsonl that tell how fast something went. */
static const char *const timings[] = {"samples_per_second"};

/* The first difference is kept: later ones mostly follow from it. */
__attribute__((format(printf, 2, 3))) static void differ(RunComparison *out,
                                                         const char *format, ...) {
    if (!out->identical) return;
    out->identical = false;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out->difference, sizeof out->difference, format, arguments);
    va_end(arguments);
}

/* ---- two checkpoints */

static void print_value(DType dtype, const void *at, char text[48]) {
    float f32;
    double f64;
    int64_t i64;
    uint64_t u64;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(&f32, at, sizeof f32);
        snprintf(text, 48, "%a (%.9g)", (double)f32, (double)f32);
        return;
    case DTYPE_F64:
        memcpy(&f64, at, sizeof f64);
        snprintf(text, 48, "%a (%.17g)", f64, f64);
        return;
    case DTYPE_I64:
        memcpy(&i64, at, sizeof i64);
        snprintf(text, 48, "%" PRId64, i64);
        return;
    case DTYPE_U64:
        memcpy(&u64, at, sizeof u64);
        snprintf(text, 48, "%" PRIu64, u64);
        return;
    }
}

static void print_shape(const Entry *entry, char text[128]) {
    int at = snprintf(text, 128, "%s (", dtype_name(entry->dtype));
    for (int i = 0; i < entry->rank; i++)
        at += snprintf(text + at, 128 - (size_t)at, i == 0 ? "%" PRId64 : ", %" PRId64,
                       entry->shape[i]);
    snprintf(text + at, 128 - (size_t)at, ")");
}

static void compare_entry(const State *a, int in_a, const State *b, int in_b, int64_t step,
                          RunComparison *out) {
    const Entry *entry = &a->entries[in_a], *other = &b->entries[in_b];
    if (entry->dtype != other->dtype || entry->rank != other->rank ||
        memcmp(entry->shape, other->shape, sizeof entry->shape) != 0) {
        char shape_a[128], shape_b[128];
        print_shape(entry, shape_a);
        print_shape(other, shape_b);
        differ(out, "step %" PRId64 ": %s is %s in one run and %s in the other", step,
               entry->path, shape_a, shape_b);
        return;
    }
    const char *left = state_data(a, in_a), *right = state_data(b, in_b);
    if (memcmp(left, right, entry->bytes) == 0) return;
    size_t size = dtype_size(entry->dtype), count = entry->bytes / size;
    size_t first = count, different = 0;
    for (size_t i = 0; i < count; i++)
        if (memcmp(left + i * size, right + i * size, size) != 0 && different++ == 0)
            first = i;
    char value_a[48], value_b[48];
    print_value(entry->dtype, left + first * size, value_a);
    print_value(entry->dtype, right + first * size, value_b);
    differ(out,
           "step %" PRId64 ": %s, element %zu: %s in one run, %s in the other (%zu of %zu "
           "elements of this entry differ)",
           step, entry->path, first, value_a, value_b, different, count);
}

static void compare_states(const State *a, const State *b, int64_t step,
                           RunComparison *out) {
    for (int i = 0; i < a->count; i++) {
        int j = state_find(b, a->entries[i].path);
        if (j < 0)
            differ(out, "step %" PRId64 ": only one run has %s", step, a->entries[i].path);
        else
            compare_entry(a, i, b, j, step, out);
    }
    for (int j = 0; j < b->count; j++)
        if (state_find(a, b->entries[j].path) < 0)
            differ(out, "step %" PRId64 ": only one run has %s", step, b->entries[j].path);
}

static Status compare_checkpoints(const Catalog *a, const CatalogItem *in_a,
                                  const Catalog *b, const CatalogItem *in_b,
                                  RunComparison *out) {
    State *state_a, *state_b;
    TRY(checkpoint_read_state(a->directory, in_a->name, &state_a));
    Status status = checkpoint_read_state(b->directory, in_b->name, &state_b);
    if (status == STATUS_OK) {
        compare_states(state_a, state_b, in_a->step, out);
        out->checkpoints++;
        out->entries = state_a->count;
        state_destroy(state_b);
    }
    state_destroy(state_a);
    return status;
}

/* ---- metrics.jsonl */

static Status read_lines(const char *run_dir, char **text) {
    size_t size;
    int directory = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", run_dir,
                    strerror(errno));
    Status status = file_read(directory, "metrics.jsonl", METRICS_LIMIT, text, &size);
    close(directory);
    return status;
}

/* Cuts the next line off; NULL at the end. */
static char *next_line(char **rest) {
    char *line;
    do {
        line = strsep(rest, "\n");
    } while (line != NULL && line[0] == '\0');
    return line;
}

static json_t *without_timings(const char *line) {
    json_t *object = json_loads(line, 0, NULL);
    for (size_t i = 0; i < sizeof timings / sizeof *timings && object != NULL; i++)
        json_object_del(object, timings[i]);
    return object;
}

static void compare_lines(char *a, char *b, RunComparison *out) {
    for (;;) {
        char *in_a = next_line(&a), *in_b = next_line(&b);
        if (in_a == NULL && in_b == NULL) return;
        if (in_a == NULL || in_b == NULL) {
            differ(out, "metrics: only one run has %s", in_a == NULL ? in_b : in_a);
            return;
        }
        json_t *object_a = without_timings(in_a), *object_b = without_timings(in_b);
        if (object_a == NULL || !json_equal(object_a, object_b))
            differ(out, "metrics: %s in one run, %s in the other", in_a, in_b);
        json_decref(object_a);
        json_decref(object_b);
        out->lines++;
    }
}

static Status compare_metrics(const char *a, const char *b, RunComparison *out) {
    char *text_a, *text_b;
    TRY(read_lines(a, &text_a));
    Status status = read_lines(b, &text_b);
    if (status == STATUS_OK) {
        compare_lines(text_a, text_b, out);
        free(text_b);
    }
    free(text_a);
    return status;
}

/* ---- two runs */

/* The valid checkpoint of this step that counts, or of the last step there is (step −1). */
static const CatalogItem *checkpoint_of(const Catalog *catalog, int64_t step) {
    for (int i = 0; i < catalog->count; i++)
        if (catalog->items[i].verdict == CHECKPOINT_VALID &&
            (step < 0 || catalog->items[i].step == step))
            return &catalog->items[i];
    return NULL;
}

static Status compare_catalogs(const Catalog *a, const Catalog *b, const char *names[2],
                               RunComparison *out) {
    const CatalogItem *last_a = checkpoint_of(a, -1), *last_b = checkpoint_of(b, -1);
    if (last_a == NULL || last_b == NULL)
        return FAIL(STATUS_NO_CHECKPOINT, "train first, or name another directory",
                    "%s holds no valid checkpoint", names[last_a == NULL ? 0 : 1]);
    out->step = last_a->step;
    out->state_digest = last_a->block.state_digest;
    if (last_a->step != last_b->step)
        differ(out, "one run ended at step %" PRId64 ", the other at step %" PRId64,
               last_a->step, last_b->step);
    /* oldest first: the first difference is the one that the others follow from */
    for (int i = a->count - 1; i >= 0; i--) {
        const CatalogItem *in_a = &a->items[i];
        const CatalogItem *in_b = checkpoint_of(b, in_a->step);
        if (in_b != NULL && in_a == checkpoint_of(a, in_a->step))
            TRY(compare_checkpoints(a, in_a, b, in_b, out));
    }
    return STATUS_OK;
}

Status compare_runs(const char *a, const char *b, RunComparison *out) {
    memset(out, 0, sizeof *out);
    out->identical = true;
    Catalog catalog_a, catalog_b;
    TRY(catalog_open(a, &catalog_a));
    Status status = catalog_open(b, &catalog_b);
    if (status == STATUS_OK) {
        status = compare_catalogs(&catalog_a, &catalog_b, (const char *[2]){a, b}, out);
        catalog_close(&catalog_b);
    }
    catalog_close(&catalog_a);
    return status == STATUS_OK ? compare_metrics(a, b, out) : status;
}
