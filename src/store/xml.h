/* The few answers of a store that are XML: each leaf as a path and a text. For the files of this room. */
#pragma once

#include "src/core/status.h"

#include <stddef.h>

/* Takes a leaf, e.g. "ListBucketResult/Contents/Key" with its text, and (text NULL) the end of an
 * element that held others. */
typedef Status (*XmlVisit)(void *context, const char *path, const char *text);

/* Reads a whole document. Names lose their namespace; texts are cut of nothing. Document types,
 * more than 8 levels, or texts above 4 KiB are refused.
 * Errors: STATUS_CORRUPT with line and reason; what visit returns */
Status xml_read(const char *document, size_t bytes, XmlVisit visit, void *context);
