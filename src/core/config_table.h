/* The table of configuration keys: the one place that says which keys exist, what they may hold, and
 * where in the struct they live. Reading, writing, checking, identity and --help all walk it.
 * Only src/core/config*.c include this. */
#pragma once

#include "src/core/config.h"

typedef enum {
    KEY_INTEGER,  /* int64_t */
    KEY_UNSIGNED, /* uint64_t */
    KEY_NUMBER,   /* double */
    KEY_TRUTH,    /* bool */
    KEY_TEXT,     /* char[size] */
    KEY_CHOICE,   /* char[size], one of choices */
    KEY_FLAGS,    /* one bool per choice, side by side in order of choices */
    KEY_INTEGERS, /* ConfigList */
    KEY_NUMBERS,  /* ConfigList */
} KeyType;

typedef enum { SCOPE_FREE, SCOPE_IDENTITY } KeyScope;

/* Which ends of [min, max] are left out. */
typedef enum { RANGE_CLOSED = 0, RANGE_ABOVE_MIN = 1, RANGE_BELOW_MAX = 2 } KeyRange;

typedef struct {
    const char *name; /* "train.batch": dotted path in the file and in the struct */
    KeyType type;
    KeyScope scope;
    size_t offset, size; /* in Config */
    double min, max;     /* of numbers, or of a list's elements */
    KeyRange range;
    const char
        *initial; /* the default, spelled as in the file; "" for empty text or list */
    const char *const *choices; /* NULL-terminated */
    const char *help;
} ConfigKey;

/* All keys, grouped by section. */
const ConfigKey *config_table(int *count);

/* The key's index, or -1. */
int config_table_find(const char *name);

/* True for "model", "data.train" …: a mapping that holds keys. */
bool config_table_is_section(const char *name);

/* The known key or section that `name` most likely meant, or NULL when nothing is near. */
const char *config_table_nearest(const char *name);

/* ---- values (config_value.c) */
enum { CONFIG_VALUE_TEXT = 2 * CONFIG_TEXT + 64 };

bool config_value_is_list(const ConfigKey *key);

/* Makes the value empty (lists, flags, text) or zero, before values are added. */
void config_value_clear(const ConfigKey *key, Config *config);

/* Sets a scalar, or appends an element to a list or flag. False if the text is not such a value, is out
 * of range, or too long; `quoted`: it stood in quotes, so it is text and nothing else. */
bool config_value_add(const ConfigKey *key, Config *config, const char *text, bool quoted);

/* Fills in the defaults of the table. */
void config_value_defaults(Config *config);

/* What config_value_add would have taken: "an integer from 1 to 4096". */
void config_value_expected(const ConfigKey *key, char *text, size_t size);

/* The value in its one spelling: for the file (texts in quotes), or bare for identity. */
typedef enum { SPELL_BARE, SPELL_YAML } Spelling;
void config_value_print(const ConfigKey *key, const Config *config, Spelling spelling,
                        char text[CONFIG_VALUE_TEXT]);

/* The fewest digits that parse_double reads back to the same number. */
void config_value_print_number(double value, char text[32]);

/* ---- characters (config_text.c) */

/* The bytes of the UTF-8 character that begins at `at` with `left` bytes to go, or 0 when there is none:
 * overlong forms, surrogates and cut sequences are refused. */
size_t config_text_length(const unsigned char *at, size_t left);

/* What makes the character at `at` unfit for a configuration file ("a tab"), or NULL. */
const char *config_text_trouble(const unsigned char *at, size_t left, bool line_start);

/* One line of fit characters: what can be written to a file and read back. */
bool config_text_is_plain(const char *text);

/* ---- reading (config_yaml.c) */

/* Where a key got its value. */
typedef struct {
    int set; /* -1: the default; 0: the file; k: the k-th --set */
    int line, column;
} Origin;

/* Reads one source over `config`: the file's bytes (set 0), or the value of the set-th --set for the
 * key or section `path`. origins has one element per key of the table.
 * Errors: STATUS_USAGE naming the place, STATUS_MEMORY */
Status config_yaml_read(const char *file, int set, const char *path, const char *data,
                        size_t size, Config *config, Origin *origins);

/* "fashion.yaml:7:13", "--set #2" or "default". */
enum { CONFIG_PLACE_TEXT = CONFIG_TEXT + 64 };
void config_yaml_place(const char *file, Origin origin, char text[CONFIG_PLACE_TEXT]);

/* ---- what keys demand of each other (config_check.c) */
Status config_check(const Config *config, const char *file, const Origin *origins);
