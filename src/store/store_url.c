/* s3:// addresses: what they may hold, and how they are put together. */
#include "src/store/store.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char SCHEME[] = "s3://";

bool store_url_is(const char *text) {
    return strncmp(text, SCHEME, sizeof SCHEME - 1) == 0;
}

/* The rules for names that can be part of a host name. */
static bool is_bucket(const char *name, size_t length) {
    if (length < 3 || length >= STORE_BUCKET) return false;
    for (size_t i = 0; i < length; i++) {
        bool inner = name[i] == '-' || name[i] == '.';
        if (!islower((unsigned char)name[i]) && !isdigit((unsigned char)name[i]) && !inner)
            return false;
        if (inner && (i == 0 || i + 1 == length || name[i - 1] == '.')) return false;
    }
    return true;
}

/* Parts that a path would lose on its way, and bytes that no message should carry, are refused. */
static bool is_key(const char *key) {
    for (const char *at = key; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f || *at == '\\') return false;
    for (const char *part = key;;) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') ||
            (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        if (part[length] == '\0') return true;
        part += length + 1;
    }
}

Status store_url_parse(const char *text, StoreUrl *out) {
    static const char fix[] = "write s3://bucket/prefix, or s3://bucket/prefix/name";
    *out = (StoreUrl){.bucket = ""};
    if (!store_url_is(text))
        return FAIL(STATUS_USAGE, fix, "%.300s is no s3:// address", text);
    const char *bucket = text + sizeof SCHEME - 1;
    size_t length = strcspn(bucket, "/");
    if (!is_bucket(bucket, length))
        return FAIL(STATUS_USAGE, fix,
                    "%.300s names no bucket (3 to 63 lower-case letters, digits, - and .)",
                    text);
    memcpy(out->bucket, bucket, length);
    const char *key = bucket + length + (bucket[length] == '/');
    size_t key_length = strlen(key);
    if (key_length > 0 && key[key_length - 1] == '/') key_length--;
    if (key_length >= sizeof out->key)
        return FAIL(STATUS_USAGE, fix, "the address %.100s… is longer than %d bytes", text,
                    STORE_KEY);
    memcpy(out->key, key, key_length);
    if (key_length > 0 && !is_key(out->key))
        return FAIL(STATUS_USAGE, fix,
                    "%.300s has an empty, \".\" or \"..\" part, or a strange "
                    "character",
                    text);
    return STATUS_OK;
}

Status store_url_join(const char *key, const char *name, char out[STORE_KEY]) {
    int length = snprintf(out, STORE_KEY, "%s%s%s", key, key[0] == '\0' ? "" : "/", name);
    if (length < STORE_KEY) return STATUS_OK;
    return FAIL(STATUS_USAGE, "use a shorter prefix", "the key %.100s…/%.100s is too long",
                key, name);
}
