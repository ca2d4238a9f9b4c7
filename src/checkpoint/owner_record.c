/* The text of an owner record, and whether the process that wrote it still lives. Wall clocks of two
 * hosts are never compared: a heartbeat is watched by the watcher's own monotonic clock. */
#include "src/checkpoint/owner.h"

#include "src/checkpoint/listing.h"
#include "src/core/clock.h"
#include "src/core/config.h"
#include "src/core/file.h"
#include "src/core/json_reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RECORD_LIMIT = 64 << 10, WATCH_MS = 50 };

void owner_name(int64_t generation, const char *suffix, char name[CATALOG_NAME]) {
    snprintf(name, CATALOG_NAME, "owner.g%04lld%s", (long long)generation, suffix);
}

/* ---- what the system says of a process */

/* The start time of a process that runs: field 22 of its stat; false when it is gone or a corpse
 * that only waits for its parent. */
static bool process_start(int64_t pid, int64_t *start) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = '\0';
    const char *at =
        strrchr(text, ')'); /* the name in field 2 may hold anything, ')' too */
    char condition;
    long long ticks;
    if (at == NULL ||
        sscanf(at + 1,
               " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
               "%*s %lld",
               &condition, &ticks) != 2)
        return false;
    *start = ticks;
    return condition != 'Z' && condition != 'X';
}

static void boot_id(char *out, size_t bytes) {
    out[0] = '\0';
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t length = read(fd, out, bytes - 1);
    close(fd);
    out[length > 0 ? length : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

static void copy_text(char *out, size_t bytes, const char *text) {
    snprintf(out, bytes, "%s", text == NULL ? "" : text);
}

void owner_describe_self(OwnerRecord *out) {
    *out = (OwnerRecord){.readable = true, .pid = getpid(), .restored_step = -1};
    if (gethostname(out->host, sizeof out->host - 1) != 0) strcpy(out->host, "unknown");
    boot_id(out->boot_id, sizeof out->boot_id);
    ssize_t length =
        readlink("/proc/self/ns/pid", out->pid_namespace, sizeof out->pid_namespace - 1);
    out->pid_namespace[length > 0 ? length : 0] = '\0';
    if (!process_start(out->pid, &out->pid_start)) out->pid_start = 0;
    copy_text(out->job, sizeof out->job, getenv("SLURM_JOB_ID"));
    const char *restarts = getenv("SLURM_RESTART_COUNT"); /* unset, not 0, the first time */
    if (restarts == NULL || !parse_int64(restarts, &out->restart_count))
        out->restart_count = 0;
    clock_utc(out->created_at);
}

/* ---- the text */

/* 32 hex digits over the record in one canonical form: what a flipped bit cannot pass. */
static bool record_checksum(const json_t *record, char text[DIGEST_TEXT]) {
    char *canonical = json_reserve_print(record, JSON_COMPACT | JSON_SORT_KEYS);
    if (canonical == NULL) return false;
    digest_print(digest_of(canonical, strlen(canonical)), text);
    free(canonical);
    return true;
}

/* [[generation, step], …] */
static json_t *format_limits(const OwnerRecord *record) {
    json_t *limits = json_array();
    for (int i = 0; i < record->limit_count; i++)
        json_array_append_new(limits,
                              json_pack("[I, I]", (json_int_t)record->limits[i].generation,
                                        (json_int_t)record->limits[i].step));
    return limits;
}

char *owner_format(const OwnerRecord *record) {
    char digest[DIGEST_TEXT], checksum[DIGEST_TEXT];
    digest_print(record->restored_digest, digest);
    json_t *restored =
        record->fresh ? json_null()
                      : json_pack("{s:s, s:I, s:s}", "file", record->restored_from, "step",
                                  (json_int_t)record->restored_step, "digest", digest);
    json_t *text = json_pack(
        "{s:i, s:I, s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:o, s:s, s:o}", "format", 1,
        "generation", (json_int_t)record->generation, "host", record->host, "pid",
        (json_int_t)record->pid, "pid_start", (json_int_t)record->pid_start, "boot_id",
        record->boot_id, "pid_namespace", record->pid_namespace, "job", record->job,
        "restart_count", (json_int_t)record->restart_count, "restored_from", restored,
        "created_at", record->created_at, "limits", format_limits(record));
    char *out = NULL;
    if (text != NULL && record_checksum(text, checksum) &&
        json_object_set_new(text, "checksum", json_string(checksum)) == 0)
        out = json_reserve_print(text, JSON_INDENT(2));
    json_decref(text);
    return out;
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* Records of older programs have none. */
static bool take_limits(const json_t *limits, OwnerRecord *out) {
    if (limits == NULL) return true;
    if (!json_is_array(limits) || json_array_size(limits) > OWNER_LIMITS) return false;
    size_t i;
    const json_t *pair;
    json_array_foreach(limits, i, pair) {
        const json_t *generation = json_array_get(pair, 0), *step = json_array_get(pair, 1);
        if (!json_is_integer(generation) || !json_is_integer(step)) return false;
        out->limits[out->limit_count++] =
            (OwnerLimit){json_integer_value(generation), json_integer_value(step)};
    }
    return true;
}

static const char NO_MEMORY[] = "there is no memory to read it";

/* Fills a record from checked JSON; NULL, or what is wrong. */
static const char *take_fields(json_t *text, OwnerRecord *out) {
    char expected[DIGEST_TEXT], found[DIGEST_TEXT];
    copy_text(found, sizeof found, text_of(text, "checksum"));
    json_object_del(text, "checksum");
    if (!record_checksum(text, expected)) return NO_MEMORY;
    if (strcmp(found, expected) != 0) return "its checksum is wrong";
    if (json_integer_value(json_object_get(text, "format")) != 1)
        return "its format is not 1";
    if (json_integer_value(json_object_get(text, "generation")) != out->generation)
        return "it belongs to another generation";
    copy_text(out->host, sizeof out->host, text_of(text, "host"));
    copy_text(out->boot_id, sizeof out->boot_id, text_of(text, "boot_id"));
    copy_text(out->pid_namespace, sizeof out->pid_namespace,
              text_of(text, "pid_namespace"));
    copy_text(out->job, sizeof out->job, text_of(text, "job"));
    copy_text(out->created_at, sizeof out->created_at, text_of(text, "created_at"));
    out->pid = json_integer_value(json_object_get(text, "pid"));
    out->pid_start = json_integer_value(json_object_get(text, "pid_start"));
    out->restart_count = json_integer_value(json_object_get(text, "restart_count"));
    const json_t *restored = json_object_get(text, "restored_from");
    if (!take_limits(json_object_get(text, "limits"), out)) return "its limits are none";
    out->fresh = !json_is_object(restored);
    if (out->fresh) return NULL;
    copy_text(out->restored_from, sizeof out->restored_from, text_of(restored, "file"));
    out->restored_step = json_integer_value(json_object_get(restored, "step"));
    const char *digest = text_of(restored, "digest");
    return digest != NULL && digest_parse(digest, &out->restored_digest)
               ? NULL
               : "its digest is not one";
}

void owner_read(int directory, int64_t generation, OwnerRecord *out) {
    *out = (OwnerRecord){.generation = generation, .restored_step = -1};
    char name[CATALOG_NAME], *bytes = NULL;
    size_t size;
    owner_name(generation, "", name);
    if (file_read(directory, name, RECORD_LIMIT, &bytes, &size) != STATUS_OK) {
        out->starved = status_failure()->code == STATUS_MEMORY;
        out->io_failed = out->starved || status_failure()->code == STATUS_IO;
        snprintf(out->unreadable_why, sizeof out->unreadable_why, "%.199s",
                 status_failure()->what);
        return;
    }
    out->digest = digest_of(bytes, size);
    json_error_t error;
    json_t *text = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &error);
    free(bytes);
    const char *wrong = text == NULL ? error.text : take_fields(text, out);
    if (wrong == NO_MEMORY) out->starved = out->io_failed = true;
    copy_text(out->unreadable_why, sizeof out->unreadable_why, wrong);
    out->readable = wrong == NULL;
    json_decref(text);
}

/* ---- limits */

/* Keeps room: the oldest goes first. */
static void add_limit(OwnerRecord *record, OwnerLimit limit) {
    if (record->limit_count == OWNER_LIMITS) {
        record->limit_count--;
        memmove(record->limits, record->limits + 1,
                (size_t)record->limit_count * sizeof *record->limits);
    }
    record->limits[record->limit_count++] = limit;
}

/* Of two limits, the later launch's makes the earlier's needless when it lies no higher. */
static void drop_implied(OwnerRecord *record, int64_t step) {
    while (record->limit_count > 0 && record->limits[record->limit_count - 1].step >= step)
        record->limit_count--;
}

void owner_inherit(OwnerRecord *record, const OwnerRecord *older) {
    for (int i = 0; i <= older->limit_count; i++) {
        OwnerLimit limit = i < older->limit_count
                               ? older->limits[i]
                               : (OwnerLimit){older->generation, older->restored_step};
        int count = record->limit_count;
        bool known = count > 0 && record->limits[count - 1].generation >= limit.generation;
        if (known) continue; /* from a record between */
        drop_implied(record, limit.step);
        add_limit(record, limit);
    }
}

void owner_settle_limits(OwnerRecord *record) {
    drop_implied(record, record->restored_step);
}

bool owner_implies(const OwnerRecord *record, const OwnerRecord *older) {
    if (record->generation <= older->generation) return false;
    if (record->restored_step <= older->restored_step) return true;
    for (int i = 0; i < record->limit_count; i++)
        if (record->limits[i].generation >= older->generation &&
            record->limits[i].step <= older->restored_step)
            return true;
    /* full: what lies before the oldest of so many launches was given up */
    return record->limit_count == OWNER_LIMITS &&
           older->generation < record->limits[0].generation;
}

/* ---- does it live? */

/* Errors: there is a heartbeat and it cannot be read, so that nothing is known */
static Status read_beat(int directory, int64_t generation, char out[64]) {
    char name[CATALOG_NAME], *text;
    size_t size;
    owner_name(generation, ".beat", name);
    memset(out, 0, 64);
    if (faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
        return STATUS_OK;
    /* opened anew each time: that is what makes a network file system look at the server */
    TRY(file_read(directory, name, 63, &text, &size));
    memcpy(out, text, size);
    free(text);
    return STATUS_OK;
}

/* A killed process needs a moment to die, and its launcher may return before. */
static bool process_stays(const OwnerRecord *record, double watch_s) {
    for (double end = clock_seconds() + watch_s;;) {
        int64_t start;
        if (!process_start(record->pid, &start) || start != record->pid_start) return false;
        if (clock_seconds() >= end) return true;
        nanosleep(&(struct timespec){0, WATCH_MS * 1000000L}, NULL);
    }
}

typedef enum { BEAT_STANDS, BEAT_MOVES, BEAT_UNKNOWN } Beat;

/* Standing still is said only of a heartbeat that could be read each time; else status_failure tells why. */
static Beat watch_beat(int directory, const OwnerRecord *record, double watch_s) {
    char first[64], later[64];
    Status known = read_beat(directory, record->generation, first);
    for (double end = clock_seconds() + watch_s;
         known == STATUS_OK && clock_seconds() < end;) {
        nanosleep(&(struct timespec){0, WATCH_MS * 1000000L}, NULL);
        known = read_beat(directory, record->generation, later);
        if (known == STATUS_OK && memcmp(first, later, sizeof first) != 0)
            return BEAT_MOVES;
    }
    return known == STATUS_OK ? BEAT_STANDS : BEAT_UNKNOWN;
}

bool owner_lives(int directory, const OwnerRecord *record, double watch_s, char *why,
                 size_t why_bytes) {
    char name[CATALOG_NAME];
    int64_t vouched;
    const char *dead = getenv("REKINDLE_OWNER_DEAD");
    if (dead != NULL && parse_int64(dead, &vouched) && vouched == record->generation)
        return false;
    owner_name(record->generation, ".end", name);
    if (faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) return false;
    if (!record->readable) {
        snprintf(why, why_bytes, "its record cannot be believed (%s)",
                 record->unreadable_why);
        return true;
    }
    OwnerRecord self;
    owner_describe_self(&self);
    if (record->job[0] != '\0' && strcmp(record->job, self.job) == 0 &&
        self.restart_count > record->restart_count)
        return false; /* the scheduler requeued the job: it ended the earlier launch first */
    if (strcmp(record->boot_id, self.boot_id) == 0 && self.boot_id[0] != '\0' &&
        strcmp(record->pid_namespace, self.pid_namespace) == 0) {
        if (!process_stays(record, watch_s)) return false;
        snprintf(why, why_bytes, "process %lld on %s runs", (long long)record->pid,
                 record->host);
        return true;
    }
    Beat beat = watch_beat(directory, record, watch_s);
    if (beat == BEAT_STANDS) return false;
    if (beat == BEAT_UNKNOWN)
        snprintf(why, why_bytes, "its heartbeat cannot be read: %.200s",
                 status_failure()->what);
    else
        snprintf(why, why_bytes, "process %lld on %s still shows its heartbeat",
                 (long long)record->pid, record->host);
    return true;
}
