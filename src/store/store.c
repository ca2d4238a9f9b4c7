/* Opening a store, and what one message does: ask for an object, read it, delete it. */
#include "src/store/store.h"

#include "src/core/config.h"
#include "src/core/file.h"
#include "src/store/request.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOWNLOAD_BYTES = 16 << 20 }; /* asked for at once, and repeated at most */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode library;

static void open_library(void) {
    library = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static Status fill_options(const StoreOptions *given, StoreOptions *out) {
    const char *attempts = getenv("AWS_MAX_ATTEMPTS");
    const char *patience = getenv("REKINDLE_STORE_PATIENCE");
    int64_t count = 5;
    double seconds = 60;
    if (attempts != NULL && (!parse_int64(attempts, &count) || count < 1 || count > 100))
        return FAIL(STATUS_USAGE, "set it to a number from 1 to 100",
                    "AWS_MAX_ATTEMPTS is \"%.60s\"", attempts);
    if (patience != NULL &&
        (!parse_double(patience, &seconds) || seconds < 1 || seconds > 86400))
        return FAIL(STATUS_USAGE, "set it to seconds, from 1 to 86400",
                    "REKINDLE_STORE_PATIENCE is \"%.60s\"", patience);
    *out = given == NULL ? (StoreOptions){0} : *given;
    if (out->attempts == 0) out->attempts = (int)count;
    if (out->patience_s <= 0) out->patience_s = seconds;
    if (out->back_off_s <= 0) out->back_off_s = 0.25;
    if (out->part_bytes <= 0) out->part_bytes = 8 << 20;
    if (out->stale_s <= 0) out->stale_s = 86400;
    return STATUS_OK;
}

Status store_open(const char *bucket, const StoreOptions *options, Store **out) {
    *out = NULL;
    pthread_once(&once, open_library);
    if (library != CURLE_OK)
        return FAIL(STATUS_UNSUPPORTED, "reinstall libcurl", "libcurl does not start: %s",
                    curl_easy_strerror(library));
    Store *store = calloc(1, sizeof *store);
    if (store == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for an object store");
    snprintf(store->bucket, sizeof store->bucket, "%s", bucket);
    Status status = fill_options(options, &store->options);
    if (status == STATUS_OK) status = account_open(bucket, &store->account);
    if (status == STATUS_OK) {
        store->curl = curl_easy_init();
        if (store->curl == NULL)
            status = FAIL(STATUS_MEMORY, NULL, "no memory for an object store");
    }
    if (status == STATUS_OK)
        *out = store;
    else
        store_close(store);
    return status;
}

void store_close(Store *store) {
    if (store == NULL) return;
    curl_easy_cleanup(store->curl);
    account_close(store->account);
    free(store);
}

Status store_head(Store *store, const char *key, StoreObject *out) {
    Request request = {.method = "HEAD", .what = "look at", .key = key};
    Answer answer;
    *out = (StoreObject){.exists = false};
    Status status = request_send(store, &request, &answer);
    request_end(&answer);
    TRY(status);
    if (answer.code == 404) return STATUS_OK;
    if (answer.code != 200) return request_refuse(store, &request, &answer);
    if (answer.bytes < 0) return request_distrust(store, &request, "no Content-Length");
    if (!request_tag_is_plain(answer.tag))
        return request_distrust(store, &request, "no ETag, or a strange one");
    out->exists = true;
    out->bytes = answer.bytes;
    memcpy(out->tag, answer.tag, sizeof out->tag);
    return STATUS_OK;
}

/* ---- reading */

/* Where a range's bytes go: memory, or a file. */
typedef struct {
    char *data;
    int fd;
    int64_t offset; /* in the file */
    int64_t wanted, taken;
    int error; /* errno of the file */
} Landing;

static bool land(void *context, const char *bytes, size_t count) {
    Landing *landing = context;
    if ((int64_t)count > landing->wanted - landing->taken) return false;
    if (landing->data != NULL)
        memcpy(landing->data + landing->taken, bytes, count);
    else if (file_write_at(landing->fd, bytes, count, landing->offset + landing->taken) !=
             0)
        landing->error = errno;
    landing->taken += (int64_t)count;
    return landing->error == 0;
}

static void land_again(void *context) {
    ((Landing *)context)->taken = 0;
}

static Status judge_range(Store *store, const Request *request, const Answer *answer,
                          const Landing *landing, const StoreObject *object,
                          int64_t offset) {
    if (answer->code == 404 || answer->code == 412)
        return FAIL(STATUS_CORRUPT, "start again",
                    "s3://%s/%.300s was changed or deleted while it was being read",
                    store->bucket, request->key);
    if (answer->code != 206 && answer->code != 200)
        return request_refuse(store, request, answer);
    if (answer->code != 206 || answer->first != offset ||
        answer->last != offset + landing->wanted - 1 || answer->whole != object->bytes)
        return request_distrust(store, request, "it is not the range that was asked for");
    if (landing->taken != landing->wanted)
        return request_distrust(store, request, "it holds fewer bytes than were asked for");
    return STATUS_OK;
}

static Status read_range(Store *store, const char *key, const StoreObject *object,
                         int64_t offset, Landing *landing) {
    char range[80], match[STORE_TAG + 16];
    snprintf(range, sizeof range, "range: bytes=%lld-%lld", (long long)offset,
             (long long)(offset + landing->wanted - 1));
    snprintf(match, sizeof match, "if-match: %s", object->tag);
    RequestSink sink = {.take = land, .again = land_again, .context = landing};
    Request request = {.method = "GET",
                       .what = "read",
                       .key = key,
                       .headers = {range, match},
                       .sink = &sink};
    Answer answer;
    Status status = request_send(store, &request, &answer);
    if (landing->error != 0)
        status = FAIL(STATUS_IO, file_fix_for(landing->error),
                      "cannot write what s3://%s/%.300s holds: %s", store->bucket, key,
                      strerror(landing->error));
    else if (status == STATUS_OK)
        status = judge_range(store, &request, &answer, landing, object, offset);
    request_end(&answer);
    return status;
}

Status store_read(Store *store, const char *key, const StoreObject *object, int64_t offset,
                  void *data, size_t size) {
    if (offset < 0 || (int64_t)size > object->bytes - offset)
        return FAIL(STATUS_CORRUPT, "name another object",
                    "s3://%s/%.300s ends at offset %lld, before the %zu bytes at %lld",
                    store->bucket, key, (long long)object->bytes, size, (long long)offset);
    if (size == 0) return STATUS_OK;
    Landing landing = {.data = data, .wanted = (int64_t)size};
    return read_range(store, key, object, offset, &landing);
}

Status store_download(Store *store, const char *key, const StoreObject *object, int fd) {
    for (int64_t offset = 0; offset < object->bytes;) {
        int64_t left = object->bytes - offset;
        Landing landing = {.fd = fd,
                           .offset = offset,
                           .wanted = left < DOWNLOAD_BYTES ? left : DOWNLOAD_BYTES};
        TRY(read_range(store, key, object, offset, &landing));
        offset += landing.wanted;
    }
    return STATUS_OK;
}

Status store_delete(Store *store, const char *key) {
    Request request = {.method = "DELETE", .what = "delete", .key = key};
    Answer answer;
    Status status = request_send(store, &request, &answer);
    if (status == STATUS_OK && answer.code >= 300 && answer.code != 404)
        status = request_refuse(store, &request, &answer);
    request_end(&answer);
    return status;
}
