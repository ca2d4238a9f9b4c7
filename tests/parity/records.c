/* Arrays and options of the driver's command line. */
#include "tests/parity/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Record *records;
static int record_count;
static int option_count;
static char **options;

static Status read_values(Record *record) {
    size_t count = (size_t)tensor_elements(&record->tensor);
    record->tensor.data = malloc((count + 1) * sizeof(float));
    if (record->tensor.data == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the array %s", record->name);
    if (fread(record->tensor.data, sizeof(float), count, stdin) != count)
        return FAIL(STATUS_USAGE, NULL, "the array %s ends early", record->name);
    return STATUS_OK;
}

Status records_read(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        Record record = {.tensor = {.shape = {1, 1, 1, 1}}};
        int used;
        if (sscanf(line, "%39s %d%n", record.name, &record.tensor.rank, &used) != 2 ||
            record.tensor.rank < 0 || record.tensor.rank > TENSOR_RANK_MAX)
            return FAIL(STATUS_USAGE, NULL, "not a record: %s", line);
        const char *rest = line + used;
        for (int i = 0; i < record.tensor.rank; i++) {
            char *end;
            record.tensor.shape[i] = strtoll(rest, &end, 10);
            if (end == rest)
                return FAIL(STATUS_USAGE, NULL, "not a record's shape: %s", line);
            rest = end;
        }
        TRY(read_values(&record));
        records = realloc(records, (size_t)(record_count + 1) * sizeof *records);
        if (records == NULL) abort();
        records[record_count++] = record;
    }
    return STATUS_OK;
}

const Tensor *records_find(const char *name) {
    for (int i = 0; i < record_count; i++)
        if (strcmp(records[i].name, name) == 0) return &records[i].tensor;
    return NULL;
}

void records_write(const char *name, int rank, const int64_t *shape, const float *data) {
    size_t count = 1;
    printf("%s %d", name, rank);
    for (int i = 0; i < rank; i++) {
        printf(" %lld", (long long)shape[i]);
        count *= (size_t)shape[i];
    }
    putchar('\n');
    fwrite(data, sizeof(float), count, stdout);
}

void options_set(int argc, char **argv) {
    option_count = argc;
    options = argv;
}

double option(const char *name, double otherwise) {
    size_t length = strlen(name);
    for (int i = 0; i < option_count; i++)
        if (strncmp(options[i], name, length) == 0 && options[i][length] == '=')
            return strtod(options[i] + length + 1, NULL);
    return otherwise;
}
