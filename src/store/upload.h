/* Uploads in parts that have begun: begin one, find what an interruption left, drop what nobody will
 * finish. For store_upload.c. */
#pragma once

#include "src/store/store.h"

enum { UPLOAD_ID = 1025, UPLOAD_QUERY = 3 * UPLOAD_ID + 128 };

/* A part that the store holds. */
typedef struct {
    int64_t bytes; /* 0: it does not */
    char tag[STORE_TAG];
} UploadPart;

/* The tag is this MD5, in whatever case. */
bool upload_tag_is(const char *tag, const char *md5);

/* Errors: the store's */
Status upload_begin(Store *store, const char *key, char id[UPLOAD_ID]);

/* The id of the newest unfinished upload of exactly this key, empty for none. Others of it that are stale
 * are dropped and counted. A store that will not list them has none. */
Status upload_find(Store *store, const char *key, char id[UPLOAD_ID], int *dropped);

/* Fills in the parts that the store holds; those beyond `count` do not belong to this file and are left
 * alone. An upload that is gone meanwhile: id becomes empty. */
Status upload_list_parts(Store *store, const char *key, char id[UPLOAD_ID],
                         UploadPart *parts, int count);
