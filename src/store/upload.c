/* Unfinished uploads, as the store knows them. */
#include "src/store/upload.h"

#include "src/core/config.h"
#include "src/store/request.h"
#include "src/store/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { PAGES_MAX = 1000, STALE_MAX = 64 };

bool upload_tag_is(const char *tag, const char *md5) {
    size_t length = strlen(md5);
    return strlen(tag) == length + 2 && strncasecmp(tag + 1, md5, length) == 0;
}

static bool copy(const char *text, char *out, size_t size) {
    size_t length = strlen(text);
    if (length >= size) return false;
    memcpy(out, text, length + 1);
    return true;
}

/* The answer must be this XML. */
static Status read_answer(Store *store, const Request *request, const Answer *answer,
                          XmlVisit visit, void *context) {
    if (answer->code != 200) return request_refuse(store, request, answer);
    Status status =
        xml_read(answer->text == NULL ? "" : answer->text, answer->length, visit, context);
    if (status != STATUS_CORRUPT) return status;
    return request_distrust(store, request, "it is no XML as it must be");
}

/* ---- beginning */

static Status take_id(void *context, const char *path, const char *text) {
    if (text != NULL && strcmp(path, "InitiateMultipartUploadResult/UploadId") == 0 &&
        !copy(text, context, UPLOAD_ID))
        *(char *)context = '\0';
    return STATUS_OK;
}

Status upload_begin(Store *store, const char *key, char id[UPLOAD_ID]) {
    Request request = {
        .method = "POST", .what = "begin an upload of", .key = key, .query = "uploads="};
    Answer answer;
    id[0] = '\0';
    Status status = request_send(store, &request, &answer);
    if (status == STATUS_OK) status = read_answer(store, &request, &answer, take_id, id);
    request_end(&answer);
    if (status == STATUS_OK && id[0] == '\0')
        status = request_distrust(store, &request, "no UploadId, or one too long");
    return status;
}

/* ---- finding */

typedef struct {
    char key[STORE_KEY], id[UPLOAD_ID];
} Stale;

/* A listing of uploads under a prefix. */
typedef struct {
    const char *key;  /* the one to be continued; NULL: none */
    long long oldest; /* by the store's clock: what began before is stale */
    char next_key[STORE_KEY], next_id[UPLOAD_ID];
    bool more, ended, wrong;
    /* the element being read */
    char this_key[STORE_KEY], this_id[UPLOAD_ID];
    long long this_begun;
    /* found */
    char id[UPLOAD_ID];
    long long begun;
    Stale *stale;
    int stale_count;
} Uploads;

static long long parse_time(const char *text) {
    struct tm parts = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    return end == NULL ? 0 : (long long)timegm(&parts);
}

static void end_upload(Uploads *uploads) {
    bool named = uploads->this_key[0] != '\0' && uploads->this_id[0] != '\0';
    bool ours =
        named && uploads->key != NULL && strcmp(uploads->this_key, uploads->key) == 0;
    bool stale = named && uploads->this_begun > 0 && uploads->this_begun < uploads->oldest;
    if (ours && (uploads->id[0] == '\0' || uploads->this_begun > uploads->begun)) {
        strcpy(uploads->id, uploads->this_id);
        uploads->begun = uploads->this_begun;
    }
    if (stale && (ours || uploads->key == NULL) && uploads->stale_count < STALE_MAX) {
        Stale *one = &uploads->stale[uploads->stale_count++];
        strcpy(one->key, uploads->this_key);
        strcpy(one->id, uploads->this_id);
    }
    uploads->wrong |= !named;
    uploads->this_key[0] = uploads->this_id[0] = '\0';
    uploads->this_begun = 0;
}

static Status take_upload(void *context, const char *path, const char *text) {
    Uploads *uploads = context;
    static const char root[] = "ListMultipartUploadsResult";
    size_t length = sizeof root - 1;
    if (strncmp(path, root, length) != 0) return STATUS_OK;
    const char *leaf = path[length] == '/' ? path + length + 1 : "";
    if (text == NULL) {
        if (leaf[0] == '\0') uploads->ended = true;
        if (strcmp(leaf, "Upload") == 0) end_upload(uploads);
        return STATUS_OK;
    }
    bool good = true;
    if (strcmp(leaf, "Upload/Key") == 0)
        good = copy(text, uploads->this_key, sizeof uploads->this_key);
    else if (strcmp(leaf, "Upload/UploadId") == 0)
        good = copy(text, uploads->this_id, sizeof uploads->this_id);
    else if (strcmp(leaf, "Upload/Initiated") == 0)
        uploads->this_begun = parse_time(text);
    else if (strcmp(leaf, "IsTruncated") == 0)
        uploads->more = strcmp(text, "true") == 0;
    else if (strcmp(leaf, "NextKeyMarker") == 0)
        good = copy(text, uploads->next_key, sizeof uploads->next_key);
    else if (strcmp(leaf, "NextUploadIdMarker") == 0)
        good = copy(text, uploads->next_id, sizeof uploads->next_id);
    uploads->wrong |= !good;
    return STATUS_OK;
}

static bool uploads_query(const Uploads *uploads, const char *prefix, char *out,
                          size_t size) {
    bool first = uploads->next_key[0] == '\0';
    snprintf(out, size, first ? "prefix=" : "key-marker=");
    if (!first) {
        if (!request_encode(uploads->next_key, out, size)) return false;
        strncat(out, "&prefix=", size - strlen(out) - 1);
    }
    if (!request_encode(prefix, out, size)) return false;
    if (!first) {
        strncat(out, "&upload-id-marker=", size - strlen(out) - 1);
        if (!request_encode(uploads->next_id, out, size)) return false;
    }
    strncat(out, "&uploads=", size - strlen(out) - 1);
    return strlen(out) + 1 < size;
}

static Status list_uploads(Store *store, const char *prefix, Uploads *uploads) {
    char query[3 * (2 * STORE_KEY + UPLOAD_ID) + 64];
    Request request = {
        .method = "GET", .what = "list the uploads of", .key = "", .query = query};
    for (int i = 0; i < PAGES_MAX; i++) {
        if (!uploads_query(uploads, prefix, query, sizeof query))
            return FAIL(STATUS_USAGE, "use a shorter prefix", "the key %.200s is too long",
                        prefix);
        uploads->more = uploads->ended = false;
        Answer answer;
        Status status = request_send(store, &request, &answer);
        uploads->oldest = answer.date - store->options.stale_s;
        if (status == STATUS_OK)
            status = read_answer(store, &request, &answer, take_upload, uploads);
        request_end(&answer);
        TRY(status);
        if (!uploads->ended || uploads->wrong)
            return request_distrust(store, &request, "it is no listing of uploads");
        if (!uploads->more) return STATUS_OK;
        if (uploads->next_key[0] == '\0')
            return request_distrust(store, &request, "it does not say how to go on");
    }
    return request_distrust(store, &request, "the listing does not end");
}

static Status drop(Store *store, const Stale *stale) {
    char query[UPLOAD_QUERY] = "uploadId=";
    if (!request_encode(stale->id, query, sizeof query)) return STATUS_OK;
    Request request = {.method = "DELETE",
                       .what = "drop an unfinished upload of",
                       .key = stale->key,
                       .query = query};
    Answer answer;
    Status status = request_send(store, &request, &answer);
    request_end(&answer);
    return status;
}

/* Lists, and drops what is stale but for the one that will be continued. */
static Status find(Store *store, const char *prefix, Uploads *uploads, int *dropped) {
    *dropped = 0;
    uploads->stale = calloc(STALE_MAX, sizeof *uploads->stale);
    if (uploads->stale == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list the uploads of %.200s", prefix);
    Status status = list_uploads(store, prefix, uploads);
    if (status == STATUS_USAGE) status = STATUS_OK; /* not for us to list: begin anew */
    for (int i = 0; i < uploads->stale_count && status == STATUS_OK; i++) {
        if (strcmp(uploads->stale[i].id, uploads->id) == 0) continue;
        status = drop(store, &uploads->stale[i]);
        *dropped += status == STATUS_OK;
    }
    free(uploads->stale);
    return status;
}

Status upload_find(Store *store, const char *key, char id[UPLOAD_ID], int *dropped) {
    Uploads *uploads = calloc(1, sizeof *uploads);
    if (uploads == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list the uploads of %.200s", key);
    uploads->key = key;
    Status status = find(store, key, uploads, dropped);
    strcpy(id, uploads->id);
    free(uploads);
    return status;
}

Status store_drop_stale(Store *store, const char *prefix, int *dropped) {
    Uploads *uploads = calloc(1, sizeof *uploads);
    if (uploads == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list the uploads of %.200s", prefix);
    Status status = find(store, prefix, uploads, dropped);
    free(uploads);
    return status;
}

/* ---- parts */

typedef struct {
    UploadPart *parts;
    int count;
    int64_t number, bytes, marker;
    char tag[STORE_TAG];
    bool more, ended, wrong;
} Parts;

static void end_part(Parts *parts) {
    parts->wrong |= parts->number < 1 || parts->bytes < 0;
    if (parts->number >= 1 && parts->number <= parts->count) {
        UploadPart *part = &parts->parts[parts->number - 1];
        part->bytes = parts->bytes;
        memcpy(part->tag, parts->tag, sizeof part->tag);
        if (!request_tag_is_plain(part->tag)) part->bytes = 0; /* it is sent anew */
    }
    parts->number = parts->bytes = 0;
    parts->tag[0] = '\0';
}

static Status take_part(void *context, const char *path, const char *text) {
    Parts *parts = context;
    static const char root[] = "ListPartsResult";
    size_t length = sizeof root - 1;
    if (strncmp(path, root, length) != 0) return STATUS_OK;
    const char *leaf = path[length] == '/' ? path + length + 1 : "";
    if (text == NULL) {
        if (leaf[0] == '\0') parts->ended = true;
        if (strcmp(leaf, "Part") == 0) end_part(parts);
        return STATUS_OK;
    }
    bool good = true;
    if (strcmp(leaf, "Part/PartNumber") == 0)
        good = parse_int64(text, &parts->number);
    else if (strcmp(leaf, "Part/Size") == 0)
        good = parse_int64(text, &parts->bytes);
    else if (strcmp(leaf, "Part/ETag") == 0)
        good = copy(text, parts->tag, sizeof parts->tag);
    else if (strcmp(leaf, "NextPartNumberMarker") == 0)
        good = parse_int64(text, &parts->marker);
    else if (strcmp(leaf, "IsTruncated") == 0)
        parts->more = strcmp(text, "true") == 0;
    parts->wrong |= !good;
    return STATUS_OK;
}

Status upload_list_parts(Store *store, const char *key, char id[UPLOAD_ID],
                         UploadPart *parts, int count) {
    Parts found = {.parts = parts, .count = count};
    char query[UPLOAD_QUERY];
    Request request = {
        .method = "GET", .what = "list the parts of", .key = key, .query = query};
    for (int64_t before = 0;; before = found.marker) {
        if (before == 0)
            snprintf(query, sizeof query, "uploadId=");
        else
            snprintf(query, sizeof query,
                     "part-number-marker=%lld&uploadId=", (long long)before);
        if (!request_encode(id, query, sizeof query))
            return request_distrust(store, &request, "an upload's id is too long");
        found.more = found.ended = false;
        Answer answer;
        Status status = request_send(store, &request, &answer);
        bool gone = status == STATUS_OK && answer.code == 404;
        if (status == STATUS_OK && !gone)
            status = read_answer(store, &request, &answer, take_part, &found);
        request_end(&answer);
        if (gone) {
            id[0] = '\0';
            memset(parts, 0, (size_t)count * sizeof *parts);
            return STATUS_OK;
        }
        TRY(status);
        if (!found.ended || found.wrong || (found.more && found.marker <= before))
            return request_distrust(store, &request, "it is no listing of parts");
        if (!found.more) return STATUS_OK;
    }
}
