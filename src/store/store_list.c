/* Listing: page after page, each strictly read. */
#include "src/store/store.h"

#include "src/core/config.h"
#include "src/store/request.h"
#include "src/store/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_MAX = 10000, TOKEN_MAX = 2048 };

/* One page as it is being read. */
typedef struct {
    const char *front; /* prefix and slash: every name begins with it */
    StoreVisit visit;
    void *context;
    char key[STORE_KEY];
    int64_t bytes;
    bool has_key, has_bytes, visit_failed;
    bool ended;    /* the root element was a listing, and it was whole */
    int truncated; /* 1, 0, or -1 for not said */
    char token[TOKEN_MAX];
    const char *wrong;
} Page;

static bool is(const char *path, const char *leaf) {
    static const char root[] = "ListBucketResult/";
    return strncmp(path, root, sizeof root - 1) == 0 &&
           strcmp(path + sizeof root - 1, leaf) == 0;
}

static bool copy(const char *text, char *out, size_t size) {
    size_t length = strlen(text);
    if (length >= size) return false;
    memcpy(out, text, length + 1);
    return true;
}

static Status end_object(Page *page) {
    size_t front = strlen(page->front);
    if (!page->has_key || !page->has_bytes || strncmp(page->key, page->front, front) != 0) {
        page->wrong = "it lists an object without name or size, or one not asked for";
        return STATUS_OK;
    }
    page->has_key = page->has_bytes = false;
    const char *name = page->key + front;
    if (name[0] == '\0' || strchr(name, '/') != NULL) return STATUS_OK;
    Status status =
        page->visit(page->context, &(StoreListed){.name = name, .bytes = page->bytes});
    page->visit_failed = status != STATUS_OK;
    return status;
}

static Status take(void *context, const char *path, const char *text) {
    Page *page = context;
    if (text == NULL) {
        if (strcmp(path, "ListBucketResult") == 0) page->ended = true;
        return is(path, "Contents") ? end_object(page) : STATUS_OK;
    }
    if (is(path, "Contents/Key")) {
        page->has_key = copy(text, page->key, sizeof page->key);
    } else if (is(path, "Contents/Size")) {
        page->has_bytes = parse_int64(text, &page->bytes) && page->bytes >= 0;
    } else if (is(path, "IsTruncated")) {
        page->truncated = strcmp(text, "true") == 0    ? 1
                          : strcmp(text, "false") == 0 ? 0
                                                       : -1;
    } else if (is(path, "NextContinuationToken") &&
               !copy(text, page->token, sizeof page->token)) {
        page->wrong = "its continuation token is too long";
    } else if (strcmp(path, "ListBucketResult") == 0) {
        page->wrong = "it is empty";
    }
    return STATUS_OK;
}

static bool make_query(const char *front, const char *token, char *out, size_t size) {
    out[0] = '\0';
    if (token[0] != '\0') {
        snprintf(out, size, "continuation-token=");
        if (!request_encode(token, out, size)) return false;
        strncat(out, "&", size - strlen(out) - 1);
    }
    strncat(out, "delimiter=%2F&list-type=2&prefix=", size - strlen(out) - 1);
    return request_encode(front, out, size);
}

/* Why the page cannot be right; NULL: it can. */
static const char *judge(const Page *page, const char *before) {
    if (page->wrong != NULL) return page->wrong;
    if (!page->ended) return "it is no listing";
    if (page->truncated < 0) return "it does not say whether there is more";
    if (page->truncated == 1 && page->token[0] == '\0')
        return "it does not say how to go on";
    if (page->truncated == 1 && strcmp(page->token, before) == 0)
        return "it goes in a circle";
    return NULL;
}

static Status read_page(Store *store, const Request *request, Page *page,
                        const char *before) {
    Answer answer;
    Status status = request_send(store, request, &answer);
    if (status == STATUS_OK && answer.code != 200)
        status = request_refuse(store, request, &answer);
    if (status == STATUS_OK)
        status =
            xml_read(answer.text == NULL ? "" : answer.text, answer.length, take, page);
    if (status == STATUS_CORRUPT && !page->visit_failed && answer.code == 200) {
        char why[300];
        snprintf(why, sizeof why, "%.299s", status_failure()->what);
        status = request_distrust(store, request, why);
    }
    request_end(&answer);
    TRY(status);
    const char *wrong = judge(page, before);
    return wrong == NULL ? STATUS_OK : request_distrust(store, request, wrong);
}

static Status list_all(Store *store, const char *prefix, Page *page, char *query,
                       size_t size) {
    char front[STORE_KEY + 1], before[TOKEN_MAX] = "";
    snprintf(front, sizeof front, "%s%s", prefix, prefix[0] == '\0' ? "" : "/");
    Request request = {.method = "GET", .what = "list", .key = "", .query = query};
    StoreVisit visit = page->visit;
    void *context = page->context;
    for (int i = 0; i < PAGES_MAX; i++) {
        if (!make_query(front, before, query, size))
            return FAIL(STATUS_USAGE, "use a shorter prefix",
                        "the prefix %.200s is too long", prefix);
        *page = (Page){.front = front, .visit = visit, .context = context, .truncated = -1};
        TRY(read_page(store, &request, page, before));
        if (page->truncated == 0) return STATUS_OK;
        memcpy(before, page->token, sizeof before);
    }
    return request_distrust(store, &request, "the listing does not end");
}

Status store_list(Store *store, const char *prefix, StoreVisit visit, void *context) {
    enum { QUERY_MAX = 3 * (STORE_KEY + TOKEN_MAX) + 64 };
    Page *page = calloc(1, sizeof *page);
    char *query = calloc(1, QUERY_MAX);
    Status status = STATUS_MEMORY;
    if (page == NULL || query == NULL) {
        status = FAIL(STATUS_MEMORY, NULL, "no memory to list s3://%s", store->bucket);
    } else {
        page->visit = visit;
        page->context = context;
        status = list_all(store, prefix, page, query, QUERY_MAX);
    }
    free(page);
    free(query);
    return status;
}
