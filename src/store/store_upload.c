/* Putting a file: in one message, or in parts that outlive an interruption.
 *
 *   (nothing) --begin--> PARTS --all sent, completed--> the object stands
 *                          |
 *                          '--interrupted--> found by the next upload of the key, parts and all
 *
 * Every part is hashed from the file each time; one that the store holds already counts only when its tag
 * is that hash. */
#include "src/store/store.h"

#include "src/store/request.h"
#include "src/store/upload.h"
#include "src/store/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { PARTS_MAX = 10000, PART_XML = STORE_TAG + 80 };
static const char NEW_ONLY[] = "if-none-match: *";

typedef struct {
    Store *store;
    const char *key;
    int fd;
    int64_t bytes, part_bytes;
    int parts;
    UploadPart *sent; /* per part; a size of 0: not there */
    char id[UPLOAD_ID];
    StoreUpload *report;
} Upload;

static Status refuse_taken(const Upload *upload) {
    return FAIL(STATUS_EXISTS, "choose another prefix, or delete what is there",
                "s3://%s/%.300s exists and is never replaced", upload->store->bucket,
                upload->key);
}

static Status refuse_if_there(const Upload *upload) {
    StoreObject object;
    TRY(store_head(upload->store, upload->key, &object));
    return object.exists ? refuse_taken(upload) : STATUS_OK;
}

/* The store must know what it was given: the tag of plain bytes is their MD5. */
static Status check_tag(const Upload *upload, const Request *request, const Answer *answer,
                        const RequestHashes *hashes) {
    if (!request_tag_is_plain(answer->tag))
        return request_distrust(upload->store, request, "no ETag, or a strange one");
    if (answer->keyed || upload_tag_is(answer->tag, hashes->md5)) return STATUS_OK;
    return request_distrust(upload->store, request,
                            "its ETag is not the MD5 of what was sent");
}

/* Sends what may answer "not implemented" to the condition, and then without it. */
static Status send_new(const Upload *upload, Request *request, Answer *answer) {
    request->headers[0] = upload->report->unconditional ? NULL : NEW_ONLY;
    TRY(request_send(upload->store, request, answer));
    if (answer->code != 501 || request->headers[0] == NULL) return STATUS_OK;
    upload->report->unconditional = true;
    request->headers[0] = NULL;
    request_end(answer);
    return request_send(upload->store, request, answer);
}

static Status judge_new(const Upload *upload, const Request *request,
                        const Answer *answer) {
    if (answer->code == 412) return refuse_taken(upload);
    if (answer->code == 409)
        return FAIL(STATUS_IO, "try again later",
                    "s3://%s/%.300s is being written by somebody else, too (HTTP 409)",
                    upload->store->bucket, upload->key);
    return answer->code == 200 ? STATUS_OK : request_refuse(upload->store, request, answer);
}

static Status put_whole(Upload *upload) {
    RequestHashes hashes;
    TRY(request_hash_file(upload->fd, 0, upload->bytes, &hashes));
    Request request = {.method = "PUT",
                       .what = "put",
                       .key = upload->key,
                       .fd = upload->fd,
                       .bytes = upload->bytes,
                       .sha256 = hashes.sha256};
    Answer answer = {.text = NULL};
    Status status = send_new(upload, &request, &answer);
    if (status == STATUS_OK) status = judge_new(upload, &request, &answer);
    if (status == STATUS_OK) status = check_tag(upload, &request, &answer, &hashes);
    request_end(&answer);
    return status;
}

/* ---- in parts */

static int64_t part_size(const Upload *upload, int index) {
    int64_t start = index * upload->part_bytes;
    return upload->bytes - start < upload->part_bytes ? upload->bytes - start
                                                      : upload->part_bytes;
}

static Status send_part(Upload *upload, int index) {
    RequestHashes hashes;
    int64_t offset = index * upload->part_bytes, bytes = part_size(upload, index);
    UploadPart *part = &upload->sent[index];
    TRY(request_hash_file(upload->fd, offset, bytes, &hashes));
    if (part->bytes == bytes && upload_tag_is(part->tag, hashes.md5)) {
        upload->report->parts_found++;
        return STATUS_OK;
    }
    char query[UPLOAD_QUERY], what[48];
    snprintf(query, sizeof query, "partNumber=%d&uploadId=", index + 1);
    if (!request_encode(upload->id, query, sizeof query))
        return FAIL(STATUS_CORRUPT, NULL, "an upload's id is too long");
    snprintf(what, sizeof what, "put part %d of %d of", index + 1, upload->parts);
    Request request = {.method = "PUT",
                       .what = what,
                       .key = upload->key,
                       .query = query,
                       .fd = upload->fd,
                       .offset = offset,
                       .bytes = bytes,
                       .sha256 = hashes.sha256};
    Answer answer;
    Status status = request_send(upload->store, &request, &answer);
    if (status == STATUS_OK && answer.code != 200)
        status = request_refuse(upload->store, &request, &answer);
    if (status == STATUS_OK) status = check_tag(upload, &request, &answer, &hashes);
    if (status == STATUS_OK) {
        part->bytes = bytes;
        memcpy(part->tag, answer.tag, sizeof part->tag);
    }
    request_end(&answer);
    return status;
}

static char *completion_text(const Upload *upload) {
    size_t size = (size_t)upload->parts * PART_XML + 64;
    char *text = malloc(size);
    if (text == NULL) return NULL;
    size_t used = (size_t)snprintf(text, size, "<CompleteMultipartUpload>");
    for (int i = 0; i < upload->parts; i++)
        used += (size_t)snprintf(text + used, size - used,
                                 "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>",
                                 i + 1, upload->sent[i].tag);
    snprintf(text + used, size - used, "</CompleteMultipartUpload>");
    return text;
}

/* A completion can be answered with 200 and still have failed. */
typedef struct {
    bool completed;
    char error[64];
} Completion;

static Status take_completion(void *context, const char *path, const char *text) {
    Completion *completion = context;
    if (strcmp(path, "CompleteMultipartUploadResult") == 0) completion->completed = true;
    if (text != NULL && strcmp(path, "Error/Code") == 0)
        snprintf(completion->error, sizeof completion->error, "%.63s", text);
    return STATUS_OK;
}

static Status complete_once(Upload *upload, Request *request, bool *again) {
    Answer answer = {.text = NULL};
    Completion completion = {.completed = false};
    Status status = send_new(upload, request, &answer);
    if (status == STATUS_OK && answer.code == 404) { /* completed already, if it is there */
        status = refuse_if_there(upload);
        if (status == STATUS_OK) status = request_refuse(upload->store, request, &answer);
    } else if (status == STATUS_OK) {
        status = judge_new(upload, request, &answer);
        if (status == STATUS_OK)
            status = xml_read(answer.text == NULL ? "" : answer.text, answer.length,
                              take_completion, &completion);
        if (status == STATUS_CORRUPT)
            status = request_distrust(upload->store, request, "it is no XML as it must be");
        if (status == STATUS_OK && !completion.completed) {
            *again = completion.error[0] != '\0';
            status = FAIL(STATUS_IO, "try again later",
                          "cannot complete s3://%s/%.300s: HTTP 200, but: %s",
                          upload->store->bucket, upload->key,
                          *again ? completion.error : "no result");
        }
    }
    request_end(&answer);
    return status;
}

static Status complete(Upload *upload) {
    char query[UPLOAD_QUERY] = "uploadId=";
    if (!request_encode(upload->id, query, sizeof query))
        return FAIL(STATUS_CORRUPT, NULL, "an upload's id is too long");
    char *text = completion_text(upload);
    if (text == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to complete an upload");
    Request request = {.method = "POST",
                       .what = "complete",
                       .key = upload->key,
                       .query = query,
                       .data = text,
                       .bytes = (int64_t)strlen(text)};
    Status status = refuse_if_there(upload);
    for (int i = 1; status == STATUS_OK; i++) {
        bool again = false;
        status = complete_once(upload, &request, &again);
        if (status == STATUS_OK || !again || i == upload->store->options.attempts) break;
        request_pause(upload->store, i);
        status = STATUS_OK;
    }
    free(text);
    return status;
}

static Status put_parts(Upload *upload) {
    upload->report->parts = upload->parts;
    upload->sent = calloc((size_t)upload->parts, sizeof *upload->sent);
    if (upload->sent == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for %d parts", upload->parts);
    TRY(upload_find(upload->store, upload->key, upload->id,
                    &upload->report->uploads_dropped));
    if (upload->id[0] != '\0')
        TRY(upload_list_parts(upload->store, upload->key, upload->id, upload->sent,
                              upload->parts));
    if (upload->id[0] == '\0') TRY(upload_begin(upload->store, upload->key, upload->id));
    for (int i = 0; i < upload->parts; i++)
        TRY(send_part(upload, i));
    return complete(upload);
}

/* The object as it stands is as long as what was sent. */
static Status check_length(const Upload *upload) {
    StoreObject object;
    TRY(store_head(upload->store, upload->key, &object));
    if (object.exists && object.bytes == upload->bytes) return STATUS_OK;
    return FAIL(STATUS_IO, "check the store",
                "s3://%s/%.300s was put with %lld bytes, but %s", upload->store->bucket,
                upload->key, (long long)upload->bytes,
                object.exists ? "has another length" : "is not there");
}

Status store_upload(Store *store, const char *key, int fd, int64_t bytes,
                    StoreUpload *report) {
    *report = (StoreUpload){.parts = 0};
    Upload upload = {.store = store,
                     .key = key,
                     .fd = fd,
                     .bytes = bytes,
                     .part_bytes = store->options.part_bytes,
                     .report = report};
    TRY(refuse_if_there(&upload));
    Status status;
    if (bytes <= upload.part_bytes) {
        status = put_whole(&upload);
    } else {
        enum { WHOLE_MIB = 1 << 20 };
        int64_t least = (bytes + PARTS_MAX - 1) / PARTS_MAX;
        if (upload.part_bytes < least)
            upload.part_bytes = (least + WHOLE_MIB - 1) / WHOLE_MIB * WHOLE_MIB;
        upload.parts = (int)((bytes + upload.part_bytes - 1) / upload.part_bytes);
        status = put_parts(&upload);
        free(upload.sent);
    }
    return status == STATUS_OK ? check_length(&upload) : status;
}
