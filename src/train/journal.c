/* Append-only JSON lines. */
#include "src/train/journal.h"

#include "src/core/file.h"
#include "src/core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Journal {
    int directory, metrics, ledger;
};

enum { METRICS_LIMIT = 1 << 30 };

/* Keeps the lines up to `step`; a torn last line (the writer was killed) goes, too. */
static size_t keep_lines(char *text, int64_t step, int64_t evaluated) {
    size_t kept = 0;
    for (char *line = text; *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end == NULL) break;
        size_t length = (size_t)(end - line);
        json_t *parsed = json_loadb(line, length, 0, NULL);
        json_t *value = json_object_get(parsed, "step");
        const char *kind = json_string_value(json_object_get(parsed, "kind"));
        bool evaluation = kind != NULL && strcmp(kind, "evaluation") == 0;
        if (json_is_integer(value) &&
            json_integer_value(value) <= (evaluation ? evaluated : step)) {
            memmove(text + kept, line, length + 1);
            kept += length + 1;
        }
        json_decref(parsed);
        line = end + 1;
    }
    return kept;
}

static Status rewind_metrics(int directory, int64_t step, int64_t evaluated) {
    file_sweep(directory, "metrics.jsonl");
    if (faccessat(directory, "metrics.jsonl", F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT
                   ? STATUS_OK
                   : FAIL(STATUS_IO, file_fix_for(errno),
                          "cannot look for metrics.jsonl in run.dir: %s", strerror(errno));
    char *text;
    TRY(file_read(directory, "metrics.jsonl", METRICS_LIMIT, &text, NULL));
    size_t kept = keep_lines(text, step, evaluated);
    /* a new file even when every line stays: what an earlier launch still has open is not ours */
    Status status = file_replace(directory, "metrics.jsonl", text, kept);
    free(text);
    return status;
}

static Status open_lines(int directory, const char *name, int *out) {
    return file_open(directory, name, O_WRONLY | O_CREAT | O_APPEND, out);
}

Status journal_open(const char *run_dir, int64_t step, int64_t evaluated, Journal **out) {
    *out = NULL;
    Journal *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the journal");
    self->metrics = self->ledger = -1;
    self->directory = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = self->directory >= 0
                        ? rewind_metrics(self->directory, step, evaluated)
                        : FAIL(STATUS_IO, file_fix_for(errno), "cannot open run.dir %s: %s",
                               run_dir, strerror(errno));
    if (status == STATUS_OK)
        status = open_lines(self->directory, "metrics.jsonl", &self->metrics);
    if (status == STATUS_OK)
        status = open_lines(self->directory, "ledger.jsonl", &self->ledger);
    if (status == STATUS_OK) status = file_sync_directory(self->directory, "metrics.jsonl");
    if (status != STATUS_OK) {
        journal_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void journal_close(Journal *self) {
    if (self == NULL) return;
    if (self->metrics >= 0) close(self->metrics);
    if (self->ledger >= 0) close(self->ledger);
    if (self->directory >= 0) close(self->directory);
    free(self);
}

/* Writes at the end, in one call where the system lets us, so that lines of two writers do not mix;
 * 0, or -1 with errno. */
static int write_end(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t wrote = write(fd, bytes, size);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote == 0) errno = EIO; /* no progress and no reason: never spin on it */
        if (wrote <= 0) return -1;
        bytes += wrote;
        size -= (size_t)wrote;
    }
    return 0;
}

static Status append(int fd, const char *name, const char *json) {
    size_t length = strlen(json);
    char *line = malloc(length + 1);
    if (line == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a line of %s", name);
    memcpy(line, json, length);
    line[length] = '\n';
    off_t end = lseek(fd, 0, SEEK_END);
    int written = write_end(fd, line, length + 1), error = errno;
    free(line);
    if (written == 0) return STATUS_OK;
    /* half a line would spoil the next one, too; where even this fails, a resume drops both */
    if (end >= 0 && ftruncate(fd, end) != 0) LOG_D("%s keeps half a line", name);
    return FAIL(STATUS_IO, file_fix_for(error), "cannot write %s: %s", name,
                strerror(error));
}

Status journal_metric(Journal *self, const char *json) {
    return append(self->metrics, "metrics.jsonl", json);
}

Status journal_event(Journal *self, const char *json) {
    return append(self->ledger, "ledger.jsonl", json);
}

Status journal_sync(Journal *self) {
    if (fsync(self->metrics) == 0) return STATUS_OK;
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot sync metrics.jsonl: %s",
                strerror(errno));
}
