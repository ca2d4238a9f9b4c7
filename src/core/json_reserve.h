/* jansson's memory, which does not run out in the middle of a text. */
#pragma once

#include <jansson.h>
#include <stddef.h>

/* json_dumps for callers that free what they get with free. NULL: no memory, or no value. */
char *json_reserve_print(const json_t *value, size_t flags);
