/* An S3-compatible object store (AWS, MinIO, OSS …): put, get, list, delete. It knows bytes and names,
 * not what is in them.
 *
 * Invariants
 *  1. No answer is believed further than it was checked: lengths, ranges, entity tags and XML are compared
 *     with what was asked for, and everything that is kept has a bound.
 *  2. Memory does not grow with an object's size.
 *  3. Secrets stand in one page that is left out of core dumps, and in no text.
 *  4. An object that exists is never replaced (where the store knows If-None-Match; elsewhere it is looked
 *     for first, which leaves a moment to a second writer). */
#pragma once

#include "src/core/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STORE_BUCKET = 64, STORE_KEY = 1025, STORE_TAG = 160 };

/* s3://bucket/key: the key is an object's name, or the front part of some. */
typedef struct {
    char bucket[STORE_BUCKET];
    char key
        [STORE_KEY]; /* without a slash in front or at its end; empty: the whole bucket */
} StoreUrl;

bool store_url_is(const char *text); /* begins with s3:// */

/* Errors: STATUS_USAGE for what is no bucket, or a key with empty, "." or ".." parts */
Status store_url_parse(const char *text, StoreUrl *out);

/* key + "/" + name, or name alone for an empty key. Errors: STATUS_USAGE when it is too long */
Status store_url_join(const char *key, const char *name, char out[STORE_KEY]);

typedef struct Store Store;

/* How patient a store's user is. Zeros mean the defaults. */
typedef struct {
    int attempts; /* of each request; default: AWS_MAX_ATTEMPTS, else 5 */
    double
        patience_s; /* without progress a request is given up; REKINDLE_STORE_PATIENCE, else 60 */
    double back_off_s; /* before the first repetition; doubled for each further one; 0.25 */
    int64_t part_bytes; /* of an upload in parts; 8 MiB */
    int64_t stale_s; /* unfinished uploads of others older than this are dropped; a day */
    const atomic_bool *cancel; /* when true, whatever is going on ends soon; may be NULL */
} StoreOptions;

/* Finds credentials, region and endpoint (src/store/account.h). No message is sent.
 * Memory: *out is the caller's (store_close), for one thread at a time; NULL after a failure
 * Errors: STATUS_USAGE naming what is missing or wrong; STATUS_MEMORY */
Status store_open(const char *bucket, const StoreOptions *options, Store **out);
void store_close(Store *store); /* NULL is allowed */

/* All below: STATUS_USAGE when the store refuses (403, another region), STATUS_IO when it cannot be
 * reached, fails after all attempts, or answers what cannot be right; STATUS_STOPPED when cancelled. Texts name operation, s3:// URL and reason. */

typedef struct {
    bool exists;
    int64_t bytes;
    char tag[STORE_TAG]; /* entity tag, in its quotes: names these bytes of the object */
} StoreObject;

/* A missing object is no error. */
Status store_head(Store *store, const char *key, StoreObject *out);

/* Reads [offset, offset + size) into memory. `object` is what store_head said: an object that has
 * changed since, or is shorter, is refused (STATUS_CORRUPT). */
Status store_read(Store *store, const char *key, const StoreObject *object, int64_t offset,
                  void *data, size_t size);

/* Writes the whole object to the start of a file; a broken connection goes on where it ended. */
Status store_download(Store *store, const char *key, const StoreObject *object, int fd);

/* Deletes; a missing object is no error. */
Status store_delete(Store *store, const char *key);

/* One object of a listing. */
typedef struct {
    const char *name; /* behind the prefix and its slash; contains no slash */
    int64_t bytes;
} StoreListed;

/* Lists what lies directly under a prefix (not below further slashes), page by page, in the store's
 * order. `visit` may stop it by failing. */
typedef Status (*StoreVisit)(void *context, const StoreListed *listed);
Status store_list(Store *store, const char *prefix, StoreVisit visit, void *context);

/* What an upload did. */
typedef struct {
    int parts,
        parts_found;     /* 0 for a small object; found: there from an interrupted upload */
    int uploads_dropped; /* stale ones of this key */
    bool unconditional;  /* the store does not know If-None-Match */
} StoreUpload;

/* Puts the first `bytes` bytes of a file as a new object: in one message, or in parts, going on with
 * an interrupted upload. The object appears whole or not at all.
 * Errors: STATUS_EXISTS when the key is taken (it is untouched); what was sent so far stays, to be
 * continued */
Status store_upload(Store *store, const char *key, int fd, int64_t bytes,
                    StoreUpload *report);

/* Drops the uploads in parts under a prefix that began more than options.stale_s ago. */
Status store_drop_stale(Store *store, const char *prefix, int *dropped);
