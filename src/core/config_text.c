/* What characters a configuration may be made of: text that every reader shows and splits alike. */
#include "src/core/config_table.h"

#include <string.h>

size_t config_text_length(const unsigned char *at, size_t left) {
    if (at[0] < 0x80) return 1;
    size_t length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || length > left) return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    bool overlong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90);
    bool surrogate = at[0] == 0xed && at[1] > 0x9f;
    bool beyond = at[0] == 0xf4 && at[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : length;
}

const char *config_text_trouble(const unsigned char *at, size_t left, bool line_start) {
    if (config_text_length(at, left) == 0) return "bytes that are not UTF-8";
    if (at[0] == '\t') return "a tab";
    if (at[0] == '\r' && (left < 2 || at[1] != '\n'))
        return "a carriage return inside a line";
    if ((at[0] < 0x20 && at[0] != '\n' && at[0] != '\r') || at[0] == 0x7f)
        return "a control character";
    /* U+0080 … U+009F, U+2028, U+2029 and U+FEFF: invisible, and line breaks for some readers */
    if (at[0] == 0xc2 && at[1] < 0xa0) return "a control character";
    if (at[0] == 0xe2 && at[1] == 0x80 && (at[2] == 0xa8 || at[2] == 0xa9))
        return "a Unicode line separator";
    if (at[0] == 0xef && at[1] == 0xbb && at[2] == 0xbf) return "a byte order mark";
    if (line_start && at[0] == '%') return "a YAML directive";
    return NULL;
}

bool config_text_is_plain(const char *text) {
    size_t left = strlen(text);
    for (const unsigned char *at = (const unsigned char *)text; left > 0;) {
        if (*at < 0x20 || config_text_trouble(at, left, false) != NULL) return false;
        size_t length = config_text_length(at, left);
        at += length;
        left -= length;
    }
    return true;
}
