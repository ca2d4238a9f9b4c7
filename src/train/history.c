/* The end of ledger.jsonl, line by line. What is no line of ours counts for nothing. */
#include "src/train/history.h"

#include "src/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LAUNCHES = 256, SAVES = 16 }; /* the newest ones count */
static const size_t tail_bytes = 1 << 20;
static const double longest_launch = 1e8, longest_save = 1e5; /* more is no time of ours */

typedef struct {
    int64_t generation;
    double lasted;
    bool ended;
} LaunchSeen;

/* Two rings: element i of those that stay is at i modulo their length. */
typedef struct {
    LaunchSeen launches[LAUNCHES];
    double stalls[SAVES], seconds[SAVES];
    int launch_count, save_count;
} Tail;

static const char *text_of(const json_t *line, const char *key) {
    const char *text = json_string_value(json_object_get(line, key));
    return text != NULL ? text : "";
}

/* False: no number, or none between 0 and `most`. */
static bool number_of(const json_t *line, const char *key, double most, double *out) {
    const json_t *value = json_object_get(line, key);
    *out = json_number_value(value);
    return json_is_number(value) && *out >= 0 && *out <= most;
}

static LaunchSeen *find_launch(Tail *tail, int64_t generation) {
    int first = tail->launch_count > LAUNCHES ? tail->launch_count - LAUNCHES : 0;
    for (int i = tail->launch_count - 1; i >= first; i--)
        if (tail->launches[i % LAUNCHES].generation == generation)
            return &tail->launches[i % LAUNCHES];
    return NULL;
}

static void note_save(Tail *tail, const json_t *line) {
    double stall, seconds;
    if (!json_is_true(json_object_get(line, "ok")) ||
        !number_of(line, "stall", longest_save, &stall) ||
        !number_of(line, "seconds", longest_save, &seconds))
        return;
    int at = tail->save_count++ % SAVES;
    tail->stalls[at] = stall;
    tail->seconds[at] = seconds;
}

static void note_line(Tail *tail, const json_t *line) {
    const json_t *generation = json_object_get(line, "generation");
    const char *event = text_of(line, "event");
    double at;
    if (!json_is_integer(generation) || !number_of(line, "at", longest_launch, &at)) return;
    LaunchSeen *launch = find_launch(tail, json_integer_value(generation));
    if (launch == NULL && strcmp(event, "launch") == 0) {
        launch = &tail->launches[tail->launch_count++ % LAUNCHES];
        *launch = (LaunchSeen){.generation = json_integer_value(generation)};
    }
    if (launch == NULL) return; /* it began before what is read */
    if (at > launch->lasted) launch->lasted = at;
    if (strcmp(event, "end") == 0 || strcmp(event, "stop") == 0) launch->ended = true;
    if (strcmp(event, "save") == 0) note_save(tail, line);
}

static void sum_up(const Tail *tail, History *out) {
    int saves = tail->save_count < SAVES ? tail->save_count : SAVES;
    out->launches = tail->launch_count < LAUNCHES ? tail->launch_count : LAUNCHES;
    for (int i = 0; i < out->launches; i++) {
        out->exposure += tail->launches[i].lasted;
        out->failures += !tail->launches[i].ended;
    }
    if (saves == 0) return;
    out->stall = 0;
    for (int i = 0; i < saves; i++) {
        out->stall += tail->stalls[i] / saves;
        if (tail->seconds[i] > out->longest_save) out->longest_save = tail->seconds[i];
    }
}

/* `whole`: the first line begins where the bytes do. The last one counts only with its line feed. */
static void note_lines(Tail *tail, const char *bytes, size_t size, bool whole) {
    for (const char *end, *at = bytes; size > 0;
         size -= (size_t)(end + 1 - at), at = end + 1) {
        end = memchr(at, '\n', size);
        if (end == NULL) return;
        json_t *line = whole ? json_loadb(at, (size_t)(end - at), 0, NULL) : NULL;
        note_line(tail, line);
        json_decref(line);
        whole = true;
    }
}

static Status fail_read(void) {
    return FAIL(STATUS_IO, file_fix_for(errno), "cannot read ledger.jsonl in run.dir: %s",
                strerror(errno));
}

static Status read_tail(int fd, History *out) {
    struct stat about;
    if (fstat(fd, &about) != 0) return fail_read();
    if (about.st_size == 0) return STATUS_OK;
    size_t size = (size_t)about.st_size < tail_bytes ? (size_t)about.st_size : tail_bytes;
    long long offset = (long long)about.st_size - (long long)size;
    char *bytes = malloc(size);
    Tail *tail = calloc(1, sizeof *tail);
    Status status = STATUS_OK;
    if (bytes == NULL || tail == NULL)
        status = FAIL(STATUS_MEMORY, NULL, "no memory to read ledger.jsonl");
    else if (file_read_at(fd, bytes, size, offset) != 0)
        status = fail_read();
    if (status == STATUS_OK) {
        note_lines(tail, bytes, size, offset == 0);
        sum_up(tail, out);
    }
    free(bytes);
    free(tail);
    return status;
}

Status history_read(const char *run_dir, History *out) {
    *out = (History){.stall = -1, .longest_save = -1};
    int directory = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    Status status = STATUS_OK;
    if (directory < 0)
        status = errno == ENOENT ? STATUS_OK : fail_read();
    else if (faccessat(directory, "ledger.jsonl", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        status = file_open(directory, "ledger.jsonl", O_RDONLY, &fd);
    else if (errno != ENOENT)
        status = fail_read();
    if (fd >= 0) {
        status = read_tail(fd, out);
        close(fd);
    }
    if (directory >= 0) close(directory);
    return status;
}
