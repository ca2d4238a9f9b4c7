/* Reads YAML by libfyaml's stream of events, one key at a time, so that nothing is believed before the
 * table has said what may stand there; and writes a configuration back.
 *
 * A configuration needs little of YAML. What could hide a value from its reader (anchors, aliases, tags,
 * directives, tabs, a second document) is refused. */
#include "src/core/config_table.h"

#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTION_LIMIT = 16, PATH_TEXT = 64, SHOWN_TEXT = 80 };

typedef struct {
    struct fy_parser *parser;
    struct fy_diag *diagnostics;
    const char *file;
    Config *config;
    Origin *origins;
    Origin here; /* of the newest event that has a place */
    char sections[SECTION_LIMIT][PATH_TEXT];
    int section_count;
} Reader;

/* An event, copied out of the parser. */
typedef struct {
    enum fy_event_type type;
    Origin origin;
    char text[CONFIG_TEXT + 1]; /* of a scalar, cut at the end if `length` is larger */
    size_t length;
    bool quoted, nothing; /* nothing: the value was left out */
} Item;

void config_yaml_place(const char *file, Origin origin, char text[CONFIG_PLACE_TEXT]) {
    if (origin.set < 0)
        strcpy(text, "default");
    else if (origin.set > 0)
        snprintf(text, CONFIG_PLACE_TEXT, "--set #%d", origin.set);
    else if (origin.line == 0)
        snprintf(text, CONFIG_PLACE_TEXT, "%.*s", CONFIG_TEXT, file);
    else
        snprintf(text, CONFIG_PLACE_TEXT, "%.*s:%d:%d", CONFIG_TEXT, file, origin.line,
                 origin.column);
}

static Status check_bytes(const Reader *reader, const char *data, size_t size) {
    Origin origin = {reader->here.set, 1, 1};
    const unsigned char *bytes = (const unsigned char *)data;
    for (size_t i = 0; i < size;) {
        const char *trouble = config_text_trouble(bytes + i, size - i, origin.column == 1);
        if (trouble != NULL) {
            char place[CONFIG_PLACE_TEXT];
            config_yaml_place(reader->file, origin, place);
            return FAIL(STATUS_USAGE, "save it as plain UTF-8 and indent with spaces",
                        "%s: found %s (byte 0x%02x), expected plain text", place, trouble,
                        bytes[i]);
        }
        origin.column++;
        if (bytes[i] == '\n') {
            origin.line++;
            origin.column = 1;
        }
        i += config_text_length(bytes + i, size - i);
    }
    return STATUS_OK;
}

/* ---- events */

static Status refuse_syntax(const Reader *reader) {
    char place[CONFIG_PLACE_TEXT];
    void *previous = NULL;
    struct fy_diag_error *error = fy_diag_errors_iterate(reader->diagnostics, &previous);
    Origin origin = reader->here;
    if (error != NULL) {
        origin.line = error->line;
        origin.column = error->column;
    }
    config_yaml_place(reader->file, origin, place);
    return FAIL(
        STATUS_USAGE, "correct the YAML there; texts with any of : # [ ] { } , need quotes",
        "%s: not YAML: %s", place, error != NULL ? error->msg : "the text cannot be read");
}

static Status refuse_feature(const Reader *reader, Origin origin, const char *feature) {
    char place[CONFIG_PLACE_TEXT];
    config_yaml_place(reader->file, origin, place);
    return FAIL(STATUS_USAGE, "write the value out where it is needed",
                "%s: found %s, expected a plain value", place, feature);
}

static void copy_scalar(struct fy_token *token, Item *item) {
    size_t length = 0;
    const char *text = token == NULL ? NULL : fy_token_get_text(token, &length);
    item->nothing = text == NULL;
    if (text == NULL) length = 0;
    item->length = length;
    size_t kept = length < sizeof item->text ? length : sizeof item->text - 1;
    if (kept > 0) memcpy(item->text, text, kept);
    item->text[kept] = '\0';
    item->quoted = token != NULL && fy_token_scalar_style(token) != FYSS_PLAIN;
    /* the parser's mark is behind the opening quote */
    if (token != NULL && (fy_token_scalar_style(token) == FYSS_SINGLE_QUOTED ||
                          fy_token_scalar_style(token) == FYSS_DOUBLE_QUOTED))
        item->origin.column--;
    if (!item->quoted && length == 0) item->nothing = true;
}

static Status next_item(Reader *reader, Item *item) {
    struct fy_event *event = fy_parser_parse(reader->parser);
    if (event == NULL) return refuse_syntax(reader);
    *item = (Item){.type = event->type, .origin = reader->here};
    const struct fy_mark *mark = fy_event_start_mark(event);
    if (mark != NULL && mark->line >= 0) {
        item->origin.line = mark->line + 1;
        item->origin.column = mark->column + 1;
    }
    struct fy_token *anchor = NULL, *tag = NULL;
    switch (event->type) {
    case FYET_SCALAR:
        anchor = event->scalar.anchor;
        tag = event->scalar.tag;
        copy_scalar(event->scalar.value, item);
        break;
    case FYET_MAPPING_START:
        anchor = event->mapping_start.anchor;
        tag = event->mapping_start.tag;
        break;
    case FYET_SEQUENCE_START:
        anchor = event->sequence_start.anchor;
        tag = event->sequence_start.tag;
        break;
    default:
        break;
    }
    bool anchored = anchor != NULL, tagged = tag != NULL; /* they die with the event */
    fy_parser_event_free(reader->parser, event);
    if (item->type == FYET_ALIAS)
        item->origin.column--; /* the mark is behind the asterisk */
    reader->here = item->origin;
    if (anchored) return refuse_feature(reader, item->origin, "an anchor (&)");
    if (tagged) return refuse_feature(reader, item->origin, "a tag (!)");
    if (item->type == FYET_ALIAS)
        return refuse_feature(reader, item->origin, "an alias (*)");
    return STATUS_OK;
}

/* ---- what was found, for messages */

/* At most SHOWN_TEXT bytes, cut between characters, control characters as '?'. */
static void show_text(const char *text, size_t length, char shown[SHOWN_TEXT]) {
    enum { KEEP = SHOWN_TEXT - 8 };
    size_t kept = length < KEEP ? length : KEEP;
    while (kept < length && kept > 0 && ((unsigned char)text[kept] & 0xc0) == 0x80)
        kept--;
    snprintf(shown, SHOWN_TEXT, "\"%.*s\"%s", (int)kept, text, kept < length ? " …" : "");
    for (char *at = shown; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
}

static void show_item(const Item *item, char shown[SHOWN_TEXT]) {
    if (item->type == FYET_MAPPING_START)
        strcpy(shown, "a mapping");
    else if (item->type == FYET_SEQUENCE_START)
        strcpy(shown, "a list");
    else if (item->type != FYET_SCALAR || item->nothing)
        strcpy(shown, "nothing");
    else
        show_text(item->text, strlen(item->text), shown);
}

static Status refuse_value(const Reader *reader, const ConfigKey *key, const Item *item) {
    char place[CONFIG_PLACE_TEXT], shown[SHOWN_TEXT], expected[256], size[48] = "";
    config_yaml_place(reader->file, item->origin, place);
    show_item(item, shown);
    if (item->type == FYET_SCALAR && item->length >= CONFIG_TEXT)
        snprintf(size, sizeof size, " (%zu bytes)", item->length);
    config_value_expected(key, expected, sizeof expected);
    bool number_in_quotes =
        item->quoted && key->type != KEY_TEXT && key->type != KEY_CHOICE;
    return FAIL(STATUS_USAGE,
                number_in_quotes ? "write the value without quotes"
                : item->nothing  ? "write a value; an empty text is \"\", an empty list []"
                : key->min < key->max
                    ? "write a decimal number in that range: 10, 0.5, 1e-3"
                    : "correct the value there",
                "%s: %s: found %s%s%s, expected %s", place, key->name, shown,
                number_in_quotes ? " in quotes" : "", size, expected);
}

/* ---- the walk */

static bool is_null_word(const Item *item) {
    static const char *const words[] = {"~", "null", "Null", "NULL"};
    for (size_t i = 0; !item->quoted && i < sizeof words / sizeof *words; i++)
        if (strcmp(item->text, words[i]) == 0) return true;
    return item->nothing;
}

static Status add_scalar(Reader *reader, const ConfigKey *key, const Item *item) {
    bool whole = item->type == FYET_SCALAR && strlen(item->text) == item->length;
    if (!whole || is_null_word(item) ||
        !config_value_add(key, reader->config, item->text, item->quoted))
        return refuse_value(reader, key, item);
    return STATUS_OK;
}

static Status read_value(Reader *reader, int index, const Item *item) {
    int count;
    const ConfigKey *key = &config_table(&count)[index];
    Origin *origin = &reader->origins[index];
    if (origin->set == reader->here.set) {
        char place[CONFIG_PLACE_TEXT], first[CONFIG_PLACE_TEXT];
        config_yaml_place(reader->file, item->origin, place);
        config_yaml_place(reader->file, *origin, first);
        return FAIL(STATUS_USAGE, "remove one of the two",
                    "%s: %s: found a second value, expected each key once (first: %s)",
                    place, key->name, first);
    }
    *origin = item->origin;
    if (config_value_is_list(key)) config_value_clear(key, reader->config);
    if (item->type != FYET_SEQUENCE_START) return add_scalar(reader, key, item);
    if (!config_value_is_list(key)) return refuse_value(reader, key, item);
    for (;;) {
        Item element;
        TRY(next_item(reader, &element));
        if (element.type == FYET_SEQUENCE_END) return STATUS_OK;
        TRY(add_scalar(reader, key, &element));
    }
}

static Status refuse_unknown(const Reader *reader, const char *path, const Item *item) {
    char place[CONFIG_PLACE_TEXT], shown[SHOWN_TEXT], fix[128];
    config_yaml_place(reader->file, item->origin, place);
    show_text(path, strlen(path), shown);
    const char *nearest = config_table_nearest(path);
    if (nearest != NULL)
        snprintf(fix, sizeof fix, "did you mean %s?", nearest);
    else
        snprintf(fix, sizeof fix, "rekindle train --help lists the known keys");
    return FAIL(STATUS_USAGE, fix, "%s: %s: unknown key", place, shown);
}

static Status read_mapping(Reader *reader, const char *prefix);

/* `named` is where the key stands, `item` its value's first event. */
static Status read_node(Reader *reader, const char *path, const Item *named,
                        const Item *item) {
    int index = config_table_find(path);
    if (index >= 0) return read_value(reader, index, item);
    if (!config_table_is_section(path)) return refuse_unknown(reader, path, named);
    char place[CONFIG_PLACE_TEXT], shown[SHOWN_TEXT];
    if (item->type != FYET_MAPPING_START) {
        config_yaml_place(reader->file, item->origin, place);
        show_item(item, shown);
        return FAIL(STATUS_USAGE,
                    "write its keys below it, indented, or in braces: {key: value}",
                    "%s: %s: found %s, expected a mapping of keys", place, path, shown);
    }
    for (int i = 0; i < reader->section_count; i++) {
        if (strcmp(reader->sections[i], path) != 0) continue;
        config_yaml_place(reader->file, named->origin, place);
        return FAIL(STATUS_USAGE, "join the two",
                    "%s: %s: found a second mapping, expected each key once", place, path);
    }
    snprintf(reader->sections[reader->section_count++], PATH_TEXT, "%s", path);
    return read_mapping(reader, path);
}

static Status read_mapping(Reader *reader, const char *prefix) {
    for (;;) {
        Item key, value;
        TRY(next_item(reader, &key));
        if (key.type == FYET_MAPPING_END) return STATUS_OK;
        char path[CONFIG_TEXT + PATH_TEXT + 2];
        if (key.type != FYET_SCALAR || key.nothing || strlen(key.text) != key.length ||
            strchr(key.text, '.') != NULL) {
            char place[CONFIG_PLACE_TEXT], shown[SHOWN_TEXT];
            config_yaml_place(reader->file, key.origin, place);
            show_item(&key, shown);
            return FAIL(STATUS_USAGE, "write one key a line, sections as nested mappings",
                        "%s: found %s, expected a key%s%s", place, shown,
                        prefix[0] != '\0' ? " of " : "", prefix);
        }
        snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "",
                 key.text);
        TRY(next_item(reader, &value));
        TRY(read_node(reader, path, &key, &value));
    }
}

static Status expect(Reader *reader, enum fy_event_type type, const char *expected) {
    Item item;
    TRY(next_item(reader, &item));
    if (item.type == type) return STATUS_OK;
    char place[CONFIG_PLACE_TEXT];
    config_yaml_place(reader->file, item.origin, place);
    return FAIL(STATUS_USAGE, "check that this is the text that was meant",
                "%s: expected %s", place, expected);
}

static Status read_stream(Reader *reader, const char *path) {
    Item root;
    TRY(expect(reader, FYET_STREAM_START, "a configuration"));
    TRY(expect(reader, FYET_DOCUMENT_START, "a value, found nothing (the text is empty)"));
    TRY(next_item(reader, &root));
    if (path[0] != '\0') {
        TRY(read_node(reader, path, &root, &root));
    } else if (root.type == FYET_MAPPING_START) {
        TRY(read_mapping(reader, ""));
    } else {
        char place[CONFIG_PLACE_TEXT], shown[SHOWN_TEXT];
        config_yaml_place(reader->file, root.origin, place);
        show_item(&root, shown);
        return FAIL(STATUS_USAGE, "begin with lines like \"run: {name: first}\"",
                    "%s: found %s, expected a mapping of sections", place, shown);
    }
    TRY(expect(reader, FYET_DOCUMENT_END, "one document and nothing after it"));
    return expect(reader, FYET_STREAM_END, "one document, found a second one");
}

/* libfyaml must not write to our terminal: its errors are collected, and this takes the rest. */
static void drop_output(struct fy_diag *diagnostics, void *user, const char *text,
                        size_t size) {
    (void)diagnostics, (void)user, (void)text, (void)size;
}

Status config_yaml_read(const char *file, int set, const char *path, const char *data,
                        size_t size, Config *config, Origin *origins) {
    Reader reader = {
        .file = file, .config = config, .origins = origins, .here = {set, 1, 1}};
    TRY(check_bytes(&reader, data, size));
    struct fy_diag_cfg diagnostics;
    fy_diag_cfg_default(&diagnostics);
    diagnostics.fp = NULL;
    diagnostics.output_fn = drop_output;
    diagnostics.colorize = false;
    reader.diagnostics = fy_diag_create(&diagnostics);
    if (reader.diagnostics == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to read the configuration");
    fy_diag_set_collect_errors(reader.diagnostics, true);
    struct fy_parse_cfg settings = {
        .flags = FYPCF_JSON_NONE | FYPCF_DEFAULT_VERSION_1_2 | FYPCF_DISABLE_RECYCLING,
        .diag = reader.diagnostics,
    };
    reader.parser = fy_parser_create(&settings);
    Status status;
    if (reader.parser == NULL || fy_parser_set_string(reader.parser, data, size) != 0)
        status = FAIL(STATUS_MEMORY, NULL, "no memory to read the configuration");
    else
        status = read_stream(&reader, path);
    if (reader.parser != NULL) fy_parser_destroy(reader.parser);
    fy_diag_destroy(reader.diagnostics);
    return status;
}

/* ---- writing */

Status config_to_yaml(const Config *config, char **out) {
    size_t size;
    FILE *text = open_memstream(out, &size);
    if (text == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to write the configuration");
    int count;
    const ConfigKey *keys = config_table(&count);
    const char *previous = "";
    for (int i = 0; i < count; i++) {
        /* a line for each section that the previous key was not in, then the key */
        const char *name = keys[i].name, *start = name;
        int depth = 0;
        for (const char *dot; (dot = strchr(start, '.')) != NULL;
             start = dot + 1, depth++) {
            size_t length = (size_t)(dot + 1 - name);
            if (strncmp(name, previous, length) != 0)
                fprintf(text, "%*s%.*s:\n", 2 * depth, "", (int)(dot - start), start);
        }
        char value[CONFIG_VALUE_TEXT];
        config_value_print(&keys[i], config, SPELL_YAML, value);
        fprintf(text, "%*s%s: %s\n", 2 * depth, "", start, value);
        previous = name;
    }
    bool failed = ferror(text) != 0;
    if (fclose(text) != 0 || failed) {
        free(*out);
        return FAIL(STATUS_MEMORY, NULL, "no memory to write the configuration");
    }
    return STATUS_OK;
}
