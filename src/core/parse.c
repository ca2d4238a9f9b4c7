/* Strict reading of numbers and truth values: the whole text, in one spelling, or nothing. */
#include "src/core/config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "0123456789";

/* The end of a run of digits without a superfluous leading zero; NULL if there is none at `text`. */
static const char *after_integer(const char *text) {
    size_t length = strspn(text, digits);
    if (length == 0 || (text[0] == '0' && length > 1)) return NULL;
    return text + length;
}

static bool is_whole_integer(const char *text) {
    const char *end = after_integer(text);
    return end != NULL && *end == '\0';
}

bool parse_int64(const char *text, int64_t *out) {
    const char *magnitude = text[0] == '-' ? text + 1 : text;
    if (!is_whole_integer(magnitude) || strcmp(text, "-0") == 0) return false;
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno != 0) return false;
    *out = value;
    return true;
}

bool parse_uint64(const char *text, uint64_t *out) {
    if (!is_whole_integer(text)) return false;
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    if (errno != 0) return false;
    *out = value;
    return true;
}

bool parse_double(const char *text, double *out) {
    const char *at = after_integer(text[0] == '-' ? text + 1 : text);
    if (at == NULL) return false;
    if (*at == '.') {
        size_t length = strspn(at + 1, digits);
        if (length == 0) return false;
        at += 1 + length;
    }
    const char *mantissa_end = at;
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-') at++;
        size_t length = strspn(at, digits);
        if (length == 0) return false;
        at += length;
    }
    if (*at != '\0') return false;
    double value = strtod(text, NULL);
    if (!isfinite(value)) return false;
    /* 1e-400 is not zero: what cannot be held is refused rather than changed */
    if (value == 0.0 && strcspn(text, "123456789") < (size_t)(mantissa_end - text))
        return false;
    *out = value;
    return true;
}

bool parse_bool(const char *text, bool *out) {
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) return false;
    *out = text[0] == 't';
    return true;
}
