/* Encodes, checks and decodes the user block: the commit record in front of every checkpoint. A file
 * whose user block is not right does not exist for readers. */
#include "src/checkpoint/userblock.h"

#include "src/checkpoint/format.h"
#include "src/core/file.h"
#include "src/core/json_reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char FORMAT_NAME[] = "rekindle-checkpoint";
static const char CHECKSUM_KEY[] = "\"checksum\": \"";
static const char METRICS_LINE[] = "  \"metrics\": ";
enum { CHECKSUM_HEX = DIGEST_TEXT - 1, SMALLEST_REGION = 4096, LARGEST_REGION = 1 << 30 };

/* The text under construction; `lost` once something did not fit or memory ran out. */
typedef struct {
    char *text;
    size_t length;
    bool lost;
    bool starved; /* for want of memory */
} Writer;

static void append(Writer *writer, const char *piece) {
    size_t length = piece == NULL ? CHECKPOINT_USER_BLOCK : strlen(piece);
    if (writer->lost || writer->length + length >= CHECKPOINT_USER_BLOCK) {
        writer->lost = true;
        return;
    }
    memcpy(writer->text + writer->length, piece, length);
    writer->length += length;
}

/* One line `"key": value,`; takes the value's reference. */
static void put(Writer *writer, const char *key, json_t *value) {
    char *dumped = json_reserve_print(value, JSON_ENCODE_ANY | JSON_COMPACT);
    append(writer, "  \"");
    append(writer, key);
    append(writer, "\": ");
    append(writer, dumped);
    append(writer, ",\n");
    writer->starved |= dumped == NULL && value != NULL;
    free(dumped);
    json_decref(value);
}

static void put_integer(Writer *writer, const char *key, int64_t value) {
    put(writer, key, json_integer(value));
}

static void put_text(Writer *writer, const char *key, const char *value) {
    json_t *string = json_string(value);
    if (string ==
        NULL) { /* not UTF-8, as when a long note was cut: a save does not fail for that */
        char ascii[512];
        size_t length = strnlen(value, sizeof ascii - 1);
        for (size_t i = 0; i < length; i++)
            ascii[i] = (unsigned char)value[i] < 0x80 ? value[i] : '?';
        ascii[length] = '\0';
        string = json_string(ascii);
    }
    put(writer, key, string);
}

/* Verbatim but for line ends, so that every digit stays as its writer chose it. */
static void put_metrics(Writer *writer, const char *metrics) {
    char line[sizeof((UserBlock *)0)->metrics];
    snprintf(line, sizeof line, "%s", metrics);
    for (char *at = line; (at = strpbrk(at, "\r\n\t")) != NULL;)
        *at = ' ';
    append(writer, METRICS_LINE);
    append(writer, line);
    append(writer, ",\n");
}

static void put_digest(Writer *writer, const char *key, Digest value) {
    char text[DIGEST_TEXT];
    digest_print(value, text);
    put_text(writer, key, text);
}

/* The checksum covers all 4,096 bytes, its own 32 digits taken as zeros. */
static Digest checksum_of(const char text[CHECKPOINT_USER_BLOCK], size_t digits) {
    char copy[CHECKPOINT_USER_BLOCK];
    memcpy(copy, text, sizeof copy);
    memset(copy + digits, '0', CHECKSUM_HEX);
    return digest_of(copy, sizeof copy);
}

Status userblock_encode(const UserBlock *block, char text[CHECKPOINT_USER_BLOCK]) {
    const char *metrics_text = block->metrics[0] == '\0' ? "{}" : block->metrics;
    json_t *metrics = json_loads(metrics_text, JSON_REJECT_DUPLICATES, NULL);
    bool is_object = json_is_object(metrics);
    json_decref(metrics);
    if (!is_object)
        return FAIL(STATUS_USAGE, "metrics must be finite numbers",
                    "the metrics are no JSON object: %s", metrics_text);
    Writer writer = {.text = text};
    append(&writer, "{\n");
    put_text(&writer, "format", FORMAT_NAME);
    put_integer(&writer, "version", block->version);
    put_text(&writer, "run", block->run);
    put_integer(&writer, "generation", block->generation);
    put_integer(&writer, "step", block->step);
    put_integer(&writer, "epoch", block->epoch);
    put_metrics(&writer, metrics_text);
    put_text(&writer, "created_at", block->created_at);
    put_text(&writer, "author", block->author);
    put_text(&writer, "note", block->note);
    put_text(&writer, "parent", block->parent);
    put_digest(&writer, "parent_digest", block->parent_digest);
    put_integer(&writer, "ranks", block->ranks);
    put_text(&writer, "device_kind", block->device_kind);
    put_text(&writer, "writer", block->writer);
    if (format_has_packing(block->version)) {
        put_text(&writer, "compression", block->compression);
        put_integer(&writer, "value_bytes", block->value_bytes);
    }
    put_integer(&writer, "bytes", block->bytes);
    put_integer(&writer, "metadata_bytes", block->metadata_bytes);
    put_digest(&writer, "metadata_digest", block->metadata_digest);
    put_digest(&writer, "state_digest", block->state_digest);
    append(&writer, "  ");
    append(&writer, CHECKSUM_KEY);
    size_t digits = writer.length;
    append(&writer, "00000000000000000000000000000000\"\n}\n");
    if (writer.starved) return FAIL(STATUS_MEMORY, NULL, "no memory for a user block");
    if (writer.lost)
        return FAIL(STATUS_USAGE, "shorten run.note, run.author or the metrics",
                    "the user block would be longer than %d bytes", CHECKPOINT_USER_BLOCK);
    memset(text + writer.length, ' ', CHECKPOINT_USER_BLOCK - writer.length);
    text[CHECKPOINT_USER_BLOCK - 1] = '\n';
    char sum[DIGEST_TEXT];
    digest_print(checksum_of(text, digits), sum);
    memcpy(text + digits, sum, CHECKSUM_HEX);
    return STATUS_OK;
}

/* ---- decoding: every getter notes the first field that is not as it must be */
typedef struct {
    const json_t *object;
    const char *bad; /* the first wrong field; NULL while all is well */
} Fields;

static void get_text(Fields *fields, const char *key, char *out, size_t size) {
    const json_t *value = json_object_get(fields->object, key);
    if (!json_is_string(value) || json_string_length(value) >= size) {
        if (fields->bad == NULL) fields->bad = key;
        return;
    }
    memcpy(out, json_string_value(value), json_string_length(value) + 1);
}

static int64_t get_integer(Fields *fields, const char *key, int64_t low, int64_t high) {
    const json_t *value = json_object_get(fields->object, key);
    if (!json_is_integer(value) || json_integer_value(value) < low ||
        json_integer_value(value) > high) {
        if (fields->bad == NULL) fields->bad = key;
        return low;
    }
    return json_integer_value(value);
}

static Digest get_digest(Fields *fields, const char *key) {
    Digest digest = {0, 0};
    const char *text = json_string_value(json_object_get(fields->object, key));
    if ((text == NULL || !digest_parse(text, &digest)) && fields->bad == NULL)
        fields->bad = key;
    return digest;
}

/* The line as it was written; the parser has seen it already. */
static void get_metrics(Fields *fields, const char *text, char *out, size_t size) {
    const char *line =
        memmem(text, CHECKPOINT_USER_BLOCK, METRICS_LINE, strlen(METRICS_LINE));
    const char *start = line == NULL ? text : line + strlen(METRICS_LINE);
    const char *end = memchr(start, '\n', (size_t)(text + CHECKPOINT_USER_BLOCK - start));
    if (!json_is_object(json_object_get(fields->object, "metrics")) || line == NULL ||
        end - start < 3 || end[-1] != ',' || (size_t)(end - start) > size) {
        if (fields->bad == NULL) fields->bad = "metrics";
        return;
    }
    size_t length = (size_t)(end - start) - 1;
    memcpy(out, start, length);
    out[length] = '\0';
}

static void read_fields(Fields *fields, const char *text, UserBlock *out) {
    out->version = (int)get_integer(fields, "version", 1, INT_MAX);
    get_text(fields, "run", out->run, sizeof out->run);
    out->generation = get_integer(fields, "generation", 0, INT64_MAX);
    out->step = get_integer(fields, "step", 0, INT64_MAX);
    out->epoch = get_integer(fields, "epoch", 0, INT64_MAX);
    get_metrics(fields, text, out->metrics, sizeof out->metrics);
    get_text(fields, "created_at", out->created_at, sizeof out->created_at);
    get_text(fields, "author", out->author, sizeof out->author);
    get_text(fields, "note", out->note, sizeof out->note);
    get_text(fields, "parent", out->parent, sizeof out->parent);
    out->parent_digest = get_digest(fields, "parent_digest");
    out->ranks = (int)get_integer(fields, "ranks", 0, INT_MAX);
    get_text(fields, "device_kind", out->device_kind, sizeof out->device_kind);
    get_text(fields, "writer", out->writer, sizeof out->writer);
    if (format_has_packing(out->version)) {
        get_text(fields, "compression", out->compression, sizeof out->compression);
        out->value_bytes = get_integer(fields, "value_bytes", 0, INT64_MAX);
    }
    out->bytes =
        get_integer(fields, "bytes", CHECKPOINT_USER_BLOCK + SMALLEST_REGION, INT64_MAX);
    out->metadata_bytes =
        get_integer(fields, "metadata_bytes", SMALLEST_REGION, LARGEST_REGION);
    out->metadata_digest = get_digest(fields, "metadata_digest");
    out->state_digest = get_digest(fields, "state_digest");
    format_fill_missing(out);
    if (fields->bad == NULL && out->metadata_bytes > out->bytes - CHECKPOINT_USER_BLOCK)
        fields->bad = "metadata_bytes";
}

/* Offset of the checksum's first digit, or 0 when there is none where the text ends. */
static size_t find_checksum(const char text[CHECKPOINT_USER_BLOCK]) {
    size_t end = CHECKPOINT_USER_BLOCK;
    while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\n'))
        end--;
    static const char closing[] = "\"\n}";
    size_t tail = CHECKSUM_HEX + sizeof closing - 1, key = sizeof CHECKSUM_KEY - 1;
    if (end < tail + key) return 0;
    size_t digits = end - tail;
    bool framed = memcmp(text + digits - key, CHECKSUM_KEY, key) == 0 &&
                  memcmp(text + digits + CHECKSUM_HEX, closing, sizeof closing - 1) == 0;
    return framed ? digits : 0;
}

Status userblock_decode(const char text[CHECKPOINT_USER_BLOCK], const char *name,
                        UserBlock *out) {
    static const char fix[] = "an older checkpoint is used instead, if there is one";
    *out = (UserBlock){0};
    size_t digits = find_checksum(text);
    if (digits == 0)
        return FAIL(STATUS_CORRUPT, fix,
                    "%s: no user block of Rekindle in its first %d bytes (offset 0)", name,
                    CHECKPOINT_USER_BLOCK);
    char sum[DIGEST_TEXT] = {0};
    Digest claimed;
    memcpy(sum, text + digits, CHECKSUM_HEX);
    if (!digest_parse(sum, &claimed) || !digest_equal(claimed, checksum_of(text, digits)))
        return FAIL(STATUS_CORRUPT, fix,
                    "%s: the user block's checksum is wrong (offset 0)", name);
    json_t *object = json_loadb(text, CHECKPOINT_USER_BLOCK, JSON_REJECT_DUPLICATES, NULL);
    Fields fields = {.object = object};
    char format[sizeof FORMAT_NAME] = "";
    get_text(&fields, "format", format, sizeof format);
    int64_t version = get_integer(&fields, "version", 1, INT_MAX);
    Status status = STATUS_OK;
    if (fields.bad != NULL || strcmp(format, FORMAT_NAME) != 0) {
        status = FAIL(STATUS_CORRUPT, fix, "%s: the user block is not a \"%s\" (offset 0)",
                      name, FORMAT_NAME);
    } else if (!format_is_known(version)) {
        char writer[sizeof out->writer] = "";
        get_text(&fields, "writer", writer, sizeof writer);
        writer[strcspn(writer, ",")] = '\0'; /* "rekindle 0.1.0, hdf5 1.10.8" */
        status = FAIL(
            STATUS_USAGE, "use that program, or a newer one, for this run directory",
            "%s was written by a newer Rekindle (format %lld, this one reads up to %d); "
            "what wrote it reads it: %s",
            name, (long long)version, CHECKPOINT_FORMAT_VERSION,
            writer[0] != '\0' ? writer : "it does not say its version");
    } else {
        read_fields(&fields, text, out);
        if (fields.bad != NULL)
            status = FAIL(
                STATUS_CORRUPT, fix,
                "%s: field \"%s\" of the user block is missing or impossible (offset 0)",
                name, fields.bad);
    }
    json_decref(object);
    return status;
}

static Status check_file(int fd, const char *name, UserBlock *out) {
    static const char fix[] = "an older checkpoint is used instead, if there is one";
    struct stat info;
    if (fstat(fd, &info) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot look at %s: %s", name,
                    strerror(errno));
    if (!S_ISREG(info.st_mode))
        return FAIL(STATUS_CORRUPT, fix, "%s is not a regular file", name);
    if (info.st_size < CHECKPOINT_USER_BLOCK)
        return FAIL(STATUS_CORRUPT, fix, "%s ends at offset %lld, inside its user block",
                    name, (long long)info.st_size);
    char text[CHECKPOINT_USER_BLOCK];
    if (file_read_at(fd, text, sizeof text, 0) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot read %s (offset 0): %s", name,
                    strerror(errno));
    TRY(userblock_decode(text, name, out));
    if (info.st_size != out->bytes)
        return FAIL(STATUS_CORRUPT, fix, "%s is %lld bytes long, but was written with %lld",
                    name, (long long)info.st_size, (long long)out->bytes);
    return STATUS_OK;
}

Status userblock_open(int directory, const char *name, int *fd, UserBlock *out) {
    /* not to wait when somebody put a pipe there */
    *fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && errno == ELOOP)
        return FAIL(STATUS_CORRUPT, "put the file itself there",
                    "%s is a symbolic link, which is never followed", name);
    if (*fd < 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot open %s: %s", name,
                    strerror(errno));
    Status status = check_file(*fd, name, out);
    if (status != STATUS_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

Status checkpoint_read_user_block(int directory, const char *name, UserBlock *out) {
    int fd;
    TRY(userblock_open(directory, name, &fd, out));
    close(fd);
    return STATUS_OK;
}
