/* One request to a store: signed, sent, repeated where that can help, and its answer held against
 * limits. For the files of this room. */
#pragma once

#include "src/store/account.h"
#include "src/store/store.h"

#include <curl/curl.h>

enum { REQUEST_HASH = 65, REQUEST_TEXT = 4 << 20 };

struct Store {
    char bucket[STORE_BUCKET];
    StoreOptions options; /* with defaults filled in */
    Account *account;
    CURL *curl; /* kept: its connection serves many requests */
};

/* Takes a piece of a right answer's body; false: it is not as it must be. `again`: the request is
 * being repeated, what came before does not count. */
typedef struct {
    bool (*take)(void *context, const char *bytes, size_t count);
    void (*again)(void *context);
    void *context;
} RequestSink;

typedef struct {
    const char *method;     /* GET, HEAD, PUT, POST, DELETE */
    const char *what;       /* for the failure text: "list", "send part 3 of" */
    const char *key;        /* empty: the bucket */
    const char *query;      /* sorted, encoded, "name=" without a value; NULL: none */
    const char *headers[3]; /* further ones, "Name: value", in lower case */
    /* what is sent: memory, or (data NULL) a piece of a file, with its SHA-256 */
    const char *data;
    int fd;
    int64_t offset, bytes;
    const char *sha256; /* NULL: of `data` */
    /* where a 2xx answer's body goes; NULL: kept as text, up to REQUEST_TEXT bytes */
    const RequestSink *sink;
} Request;

/* What came back. HTTP codes from 300 up are answers, too, unless request_send says otherwise. */
typedef struct {
    long code;
    char tag[STORE_TAG];
    int64_t bytes;              /* Content-Length; -1: not said */
    int64_t first, last, whole; /* Content-Range; -1: not said */
    bool keyed;                 /* encrypted by another key: tags are no MD5 then */
    char region[64];            /* x-amz-bucket-region */
    long long date;             /* the store's clock, seconds since 1970; 0: not said */
    char *text;                 /* the body, zero-terminated; NULL when it went to a sink */
    size_t length;
    char error[64], message[256]; /* out of an error's XML, made printable */
} Answer;

/* Sends a request until it is answered: connection failures, 408, 429, 5xx and S3's RequestTimeout are
 * repeated with growing, random pauses. 2xx, 404, 409, 412 and 501 are for the caller to judge.
 * Memory: answer->text is the caller's (request_end), also after a failure
 * Errors: STATUS_USAGE for 401, 403, redirections and other 4xx; STATUS_IO, also,
 * for a body that its sink refused or that is too long; STATUS_STOPPED */
Status request_send(Store *store, const Request *request, Answer *answer);
void request_end(Answer *answer);

/* FAILs for an answer that is not what the caller needs. */
Status request_refuse(const Store *store, const Request *request, const Answer *answer);

/* FAILs with STATUS_IO: the answer cannot be right because … */
Status request_distrust(const Store *store, const Request *request, const char *why);

/* The pause before a repetition: 1 for the first. Ends early when cancelled. */
void request_pause(const Store *store, int attempt);

/* An entity tag may stand in our headers and XML. */
bool request_tag_is_plain(const char *tag);

/* Appends a value to a query, percent-encoded as signatures want it. False: no room. */
bool request_encode(const char *value, char *out, size_t size);

/* SHA-256 and MD5 of a piece of a file, or of memory, as hexadecimal digits (md5 may be NULL). */
typedef struct {
    char sha256[REQUEST_HASH], md5[33];
} RequestHashes;
Status request_hash_file(int fd, int64_t offset, int64_t bytes, RequestHashes *out);
Status request_hash(const void *data, size_t bytes, RequestHashes *out);
