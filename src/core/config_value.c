/* One key's value: from text into the struct, and from the struct into its one spelling. */
#include "src/core/config_table.h"

#include <stdio.h>
#include <string.h>

static void *field_of(const ConfigKey *key, Config *config) {
    return (char *)config + key->offset;
}

bool config_value_is_list(const ConfigKey *key) {
    return key->type == KEY_FLAGS || key->type == KEY_INTEGERS || key->type == KEY_NUMBERS;
}

void config_value_clear(const ConfigKey *key, Config *config) {
    memset(field_of(key, config), 0, key->size);
}

static bool in_range(const ConfigKey *key, double value) {
    if (value < key->min || value > key->max) return false;
    if ((key->range & RANGE_ABOVE_MIN) != 0 && value == key->min) return false;
    return (key->range & RANGE_BELOW_MAX) == 0 || value != key->max;
}

static int choice_of(const ConfigKey *key, const char *text) {
    for (int i = 0; key->choices[i] != NULL; i++)
        if (strcmp(key->choices[i], text) == 0) return i;
    return -1;
}

static bool append(const ConfigKey *key, ConfigList *list, double value) {
    if (list->count == CONFIG_LIST || !in_range(key, value)) return false;
    list->values[list->count++] = value + 0.0; /* -0 becomes 0: one spelling per value */
    return true;
}

bool config_value_add(const ConfigKey *key, Config *config, const char *text, bool quoted) {
    void *field = field_of(key, config);
    bool is_text =
        key->type == KEY_TEXT || key->type == KEY_CHOICE || key->type == KEY_FLAGS;
    if (quoted && !is_text) return false;
    int64_t integer;
    double number;
    switch (key->type) {
    case KEY_INTEGER:
        if (!parse_int64(text, &integer) || !in_range(key, (double)integer)) return false;
        memcpy(field, &integer, sizeof integer);
        return true;
    case KEY_UNSIGNED:
        return parse_uint64(text, field);
    case KEY_NUMBER:
        if (!parse_double(text, &number) || !in_range(key, number)) return false;
        number += 0.0;
        memcpy(field, &number, sizeof number);
        return true;
    case KEY_TRUTH:
        return parse_bool(text, field);
    case KEY_CHOICE:
    case KEY_TEXT:
        if (key->type == KEY_CHOICE && choice_of(key, text) < 0) return false;
        if (strlen(text) >= key->size || !config_text_is_plain(text)) return false;
        memset(field, 0, key->size); /* equal configurations are equal bytes */
        memcpy(field, text, strlen(text));
        return true;
    case KEY_FLAGS: {
        int choice = choice_of(key, text);
        bool *flags = field;
        if (choice < 0 || flags[choice]) return false;
        flags[choice] = true;
        return true;
    }
    case KEY_INTEGERS:
        return parse_int64(text, &integer) && append(key, field, (double)integer);
    case KEY_NUMBERS:
        return parse_double(text, &number) && append(key, field, number);
    }
    return false;
}

void config_value_defaults(Config *config) {
    int count;
    const ConfigKey *keys = config_table(&count);
    memset(config, 0, sizeof *config);
    for (int i = 0; i < count; i++)
        if (keys[i].initial[0] != '\0')
            config_value_add(&keys[i], config, keys[i].initial, false);
}

static void print_range(const ConfigKey *key, char *text, size_t size) {
    char min[32], max[32];
    config_value_print_number(key->min, min);
    config_value_print_number(key->max, max);
    bool whole = key->type == KEY_INTEGER || key->type == KEY_INTEGERS;
    if (whole) { /* never as 1e+06 */
        snprintf(min, sizeof min, "%.0f", key->min);
        snprintf(max, sizeof max, "%.0f", key->max);
    }
    snprintf(text, size, "%s%s %s %s",
             (key->range & RANGE_ABOVE_MIN) != 0 ? "above " : "from ", min,
             (key->range & RANGE_BELOW_MAX) != 0 ? "to below" : "to", max);
}

void config_value_expected(const ConfigKey *key, char *text, size_t size) {
    char range[96], choices[128] = "";
    print_range(key, range, sizeof range);
    for (int i = 0; key->choices != NULL && key->choices[i] != NULL; i++) {
        size_t used = strlen(choices);
        snprintf(choices + used, sizeof choices - used, "%s%s", i == 0 ? "" : ", ",
                 key->choices[i]);
    }
    switch (key->type) {
    case KEY_INTEGER:
        snprintf(text, size, "an integer %s", range);
        return;
    case KEY_UNSIGNED:
        snprintf(text, size, "an integer from 0 to %llu", (unsigned long long)UINT64_MAX);
        return;
    case KEY_NUMBER:
        snprintf(text, size, "a number %s", range);
        return;
    case KEY_TRUTH:
        snprintf(text, size, "true or false");
        return;
    case KEY_TEXT:
        snprintf(text, size, "a text of at most %zu bytes without control characters",
                 key->size - 1);
        return;
    case KEY_CHOICE:
        snprintf(text, size, "one of %s", choices);
        return;
    case KEY_FLAGS:
        snprintf(text, size, "a list of some of %s, each once", choices);
        return;
    case KEY_INTEGERS:
        snprintf(text, size, "a list of at most %d integers, each %s", CONFIG_LIST, range);
        return;
    case KEY_NUMBERS:
        snprintf(text, size, "a list of at most %d numbers, each %s", CONFIG_LIST, range);
        return;
    }
}

void config_value_print_number(double value, char text[32]) {
    double back;
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (parse_double(text, &back) && back == value) return;
    }
}

static void print_quoted(const char *from, char text[CONFIG_VALUE_TEXT]) {
    *text++ = '"';
    for (; *from != '\0'; from++) {
        if (*from == '"' || *from == '\\') *text++ = '\\';
        *text++ = *from;
    }
    *text++ = '"';
    *text = '\0';
}

static void print_list(const ConfigKey *key, const void *field,
                       char text[CONFIG_VALUE_TEXT]) {
    char *at = text;
    bool first = true;
    *at++ = '[';
    if (key->type == KEY_FLAGS) {
        const bool *flags = field;
        for (int i = 0; key->choices[i] != NULL; i++) {
            if (!flags[i]) continue;
            at += snprintf(at, 32, "%s%s", first ? "" : ", ", key->choices[i]);
            first = false;
        }
    } else {
        const ConfigList *list = field;
        for (int i = 0; i < list->count; i++) {
            char number[32];
            if (key->type == KEY_INTEGERS)
                snprintf(number, sizeof number, "%.0f", list->values[i]);
            else
                config_value_print_number(list->values[i], number);
            at += snprintf(at, 34, "%s%s", first ? "" : ", ", number);
            first = false;
        }
    }
    *at++ = ']';
    *at = '\0';
}

void config_value_print(const ConfigKey *key, const Config *config, Spelling spelling,
                        char text[CONFIG_VALUE_TEXT]) {
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case KEY_INTEGER:
        snprintf(text, CONFIG_VALUE_TEXT, "%lld", (long long)*(const int64_t *)field);
        return;
    case KEY_UNSIGNED:
        snprintf(text, CONFIG_VALUE_TEXT, "%llu",
                 (unsigned long long)*(const uint64_t *)field);
        return;
    case KEY_NUMBER:
        config_value_print_number(*(const double *)field, text);
        return;
    case KEY_TRUTH:
        strcpy(text, *(const bool *)field ? "true" : "false");
        return;
    case KEY_TEXT:
        if (spelling == SPELL_YAML)
            print_quoted(field, text);
        else
            strcpy(text, field);
        return;
    case KEY_CHOICE:
        strcpy(text, field);
        return;
    case KEY_FLAGS:
    case KEY_INTEGERS:
    case KEY_NUMBERS:
        print_list(key, field, text);
        return;
    }
}
