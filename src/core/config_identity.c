/* What makes a run that run: its identity as JSON, and the refusal to resume as another one. */
#include "src/core/config_table.h"

#include "src/core/json_reserve.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Status no_memory(void) {
    return FAIL(STATUS_MEMORY, NULL, "no memory for the run's identity");
}

static Status print(json_t *identity, char **out) {
    char *text = json_reserve_print(identity, JSON_SORT_KEYS | JSON_INDENT(1));
    json_decref(identity);
    if (text == NULL) return no_memory();
    *out = text;
    return STATUS_OK;
}

/* Whose identity cannot be read is said in `whose`; the caller owns *out. */
static Status read(const char *text, const char *whose, json_t **out) {
    json_error_t error;
    json_t *identity = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    const char *key;
    json_t *value;
    bool texts = json_is_object(identity);
    if (texts)
        json_object_foreach(identity, key, value) texts = texts && json_is_string(value);
    if (!texts) {
        json_decref(identity);
        return FAIL(STATUS_CORRUPT, "restore an older checkpoint",
                    "the identity in %s is no JSON object of texts%s%s", whose,
                    identity == NULL ? ": " : "", identity == NULL ? error.text : "");
    }
    *out = identity;
    return STATUS_OK;
}

Status config_identity(const Config *config, char **out) {
    json_t *identity = json_object();
    if (identity == NULL) return no_memory();
    int count;
    const ConfigKey *keys = config_table(&count);
    for (int i = 0; i < count; i++) {
        char value[CONFIG_VALUE_TEXT];
        if (keys[i].scope != SCOPE_IDENTITY) continue;
        config_value_print(&keys[i], config, SPELL_BARE, value);
        if (json_object_set_new(identity, keys[i].name, json_string(value)) == 0) continue;
        json_decref(identity);
        return no_memory();
    }
    return print(identity, out);
}

Status config_identity_add(char **identity, const char *key, const char *value) {
    json_t *object;
    char *text = NULL;
    TRY(read(*identity, "this launch", &object));
    if (json_object_set_new(object, key, json_string(value)) != 0) {
        json_decref(object);
        return no_memory();
    }
    TRY(print(object, &text));
    free(*identity);
    *identity = text;
    return STATUS_OK;
}

/* ---- comparing */

typedef struct {
    char text[1700]; /* as much as fits the failure's text, with the sentence around it */
    int listed, unlisted;
} Changes;

static void add_change(Changes *changes, const char *key, const char *now,
                       const char *before) {
    char line[320];
    size_t used = strlen(changes->text);
    int length = snprintf(
        line, sizeof line, "\n    %.64s: %.100s here, %.100s in the checkpoint", key,
        now != NULL ? now : "(not there)", before != NULL ? before : "(not there)");
    if (used + (size_t)length < sizeof changes->text) {
        memcpy(changes->text + used, line, (size_t)length + 1);
        changes->listed++;
    } else {
        changes->unlisted++;
    }
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* A checkpoint from before a key existed was trained with what is now the key's default. */
static void compare(const json_t *now, const json_t *before, const json_t *initial,
                    Changes *changes) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)now, key, value) {
        const char *stored = text_of(before, key);
        const char *meant = stored != NULL ? stored : text_of(initial, key);
        if (meant == NULL || strcmp(meant, json_string_value(value)) != 0)
            add_change(changes, key, json_string_value(value), stored);
    }
    json_object_foreach((json_t *)before, key, value) if (text_of(now, key) == NULL)
        add_change(changes, key, NULL, json_string_value(value));
}

static Status read_defaults(json_t **out) {
    Config initial;
    char *text;
    config_value_defaults(&initial);
    TRY(config_identity(&initial, &text));
    Status status = read(text, "the defaults", out);
    free(text);
    return status;
}

Status config_check_identity(const char *identity, const char *stored_identity,
                             const char *checkpoint_name) {
    json_t *now = NULL, *before = NULL, *initial = NULL;
    Changes changes = {0};
    Status status = read(identity, "this launch", &now);
    if (status == STATUS_OK) status = read(stored_identity, checkpoint_name, &before);
    if (status == STATUS_OK) status = read_defaults(&initial);
    if (status == STATUS_OK) compare(now, before, initial, &changes);
    json_decref(now);
    json_decref(before);
    json_decref(initial);
    if (status != STATUS_OK || changes.listed == 0) return status;
    char more[48] = "";
    if (changes.unlisted > 0)
        snprintf(more, sizeof more, "\n    and %d more", changes.unlisted);
    return FAIL(
        STATUS_USAGE,
        "set them back to go on with this run, or start a new run in another run.dir",
        "this is not the run that wrote %.128s: %d identity key%s changed:%s%s",
        checkpoint_name, changes.listed + changes.unlisted,
        changes.listed + changes.unlisted == 1 ? "" : "s", changes.text, more);
}
