/* Hands a request to libcurl, which signs it, and takes the answer inside its bounds.
 *
 * libcurl 7.88 signs what it is given: so the payload's hash is sent by us, the query comes sorted with
 * every "=", path and values are encoded as a signature wants them, and Expect stays. */
#include "src/store/attempt.h"

#include "src/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    HEADERS_MAX = 64 << 10, /* of one answer */
    ERROR_MAX = 64 << 10,   /* of a body that explains a failure */
    SLOWEST = 1000,         /* bytes a second; below that for patience_s is no progress */
};

bool attempt_is_cancelled(const Store *store) {
    return store->options.cancel != NULL && atomic_load(store->options.cancel);
}

/* ---- libcurl's callbacks */

static bool parse_count(const char *text, size_t length, int64_t *out) {
    int64_t value = 0;
    if (length == 0 || length > 18) return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = 10 * value + (text[i] - '0');
    }
    *out = value;
    return true;
}

/* "bytes 0-4095/104857600" */
static bool parse_range(const char *text, Answer *answer) {
    static const char unit[] = "bytes ";
    if (strncasecmp(text, unit, sizeof unit - 1) != 0) return false;
    const char *first = text + sizeof unit - 1, *dash = strchr(first, '-');
    const char *slash = dash == NULL ? NULL : strchr(dash, '/');
    return slash != NULL && parse_count(first, (size_t)(dash - first), &answer->first) &&
           parse_count(dash + 1, (size_t)(slash - dash - 1), &answer->last) &&
           parse_count(slash + 1, strlen(slash + 1), &answer->whole);
}

void attempt_forget(Answer *answer) {
    answer->bytes = answer->first = answer->last = answer->whole = -1;
    answer->tag[0] = answer->region[0] = '\0';
    answer->keyed = false;
    answer->date = 0;
}

static const char *take_header(Answer *answer, const char *name, const char *value) {
    if (strcasecmp(name, "content-length") == 0)
        return parse_count(value, strlen(value), &answer->bytes)
                   ? NULL
                   : "Content-Length is no number";
    if (strcasecmp(name, "content-range") == 0)
        return parse_range(value, answer) ? NULL : "Content-Range is no range";
    if (strcasecmp(name, "etag") == 0) {
        if (strlen(value) >= sizeof answer->tag) return "ETag is too long";
        strcpy(answer->tag, value);
    } else if (strcasecmp(name, "x-amz-bucket-region") == 0) {
        /* it is printed */
        if (strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(value))
            snprintf(answer->region, sizeof answer->region, "%.63s", value);
    } else if (strcasecmp(name, "x-amz-server-side-encryption") == 0) {
        answer->keyed |= strncmp(value, "aws:kms", 7) == 0;
    } else if (strcasecmp(name, "x-amz-server-side-encryption-customer-algorithm") == 0) {
        answer->keyed = true;
    } else if (strcasecmp(name, "date") == 0) {
        time_t date = curl_getdate(value, NULL);
        answer->date = date < 0 ? 0 : (long long)date;
    }
    return NULL;
}

static size_t on_header(char *bytes, size_t one, size_t count, void *context) {
    Attempt *attempt = context;
    char line[1024];
    (void)one;
    attempt->header_bytes += count;
    if (attempt->header_bytes > HEADERS_MAX) {
        attempt->wrong = "its headers do not end";
        return 0;
    }
    if (count >= 5 && memcmp(bytes, "HTTP/", 5) == 0) attempt_forget(attempt->answer);
    size_t length = count;
    while (length > 0 && (bytes[length - 1] == '\n' || bytes[length - 1] == '\r' ||
                          bytes[length - 1] == ' '))
        length--;
    if (length >= sizeof line || memchr(bytes, '\0', length) != NULL)
        return count; /* none of those that we read */
    memcpy(line, bytes, length);
    line[length] = '\0';
    char *colon = strchr(line, ':');
    if (colon == NULL) return count;
    *colon = '\0';
    const char *value = colon + 1;
    value += strspn(value, " \t");
    attempt->wrong = take_header(attempt->answer, line, value);
    return attempt->wrong == NULL ? count : 0;
}

static bool keep_text(Attempt *attempt, const char *bytes, size_t count) {
    Answer *answer = attempt->answer;
    if (answer->length + count + 1 > attempt->capacity) {
        size_t capacity = 2 * (answer->length + count + 1);
        char *grown = realloc(answer->text, capacity);
        if (grown == NULL) return false;
        answer->text = grown;
        attempt->capacity = capacity;
    }
    memcpy(answer->text + answer->length, bytes, count);
    answer->length += count;
    answer->text[answer->length] = '\0';
    return true;
}

static size_t on_body(char *bytes, size_t one, size_t count, void *context) {
    Attempt *attempt = context;
    long code = 0;
    (void)one;
    curl_easy_getinfo(attempt->store->curl, CURLINFO_RESPONSE_CODE, &code);
    const RequestSink *sink = attempt->request->sink;
    if (code >= 300) {
        attempt->cut = attempt->answer->length + count > ERROR_MAX;
        return !attempt->cut && keep_text(attempt, bytes, count) ? count : 0;
    }
    if (sink != NULL) {
        if (sink->take(sink->context, bytes, count)) return count;
        attempt->wrong = "it holds other bytes, or more of them, than were asked for";
        return 0;
    }
    if (attempt->answer->length + count > REQUEST_TEXT) {
        attempt->wrong = "it does not end";
        return 0;
    }
    if (keep_text(attempt, bytes, count)) return count;
    attempt->wrong = "there is no memory for it";
    return 0;
}

static size_t on_send(char *bytes, size_t one, size_t room, void *context) {
    Attempt *attempt = context;
    const Request *request = attempt->request;
    int64_t left = request->bytes - attempt->sent;
    size_t count = one * room;
    if ((int64_t)count > left) count = (size_t)left;
    if (request->data != NULL)
        memcpy(bytes, request->data + attempt->sent, count);
    else if (file_read_at(request->fd, bytes, count, request->offset + attempt->sent) != 0)
        return CURL_READFUNC_ABORT;
    attempt->sent += (int64_t)count;
    return count;
}

static int on_seek(void *context, curl_off_t offset, int origin) {
    Attempt *attempt = context;
    if (origin != SEEK_SET || offset < 0 || offset > attempt->request->bytes)
        return CURL_SEEKFUNC_FAIL;
    attempt->sent = offset;
    return CURL_SEEKFUNC_OK;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c,
                       curl_off_t d) {
    const Attempt *attempt = context;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return attempt_is_cancelled(attempt->store);
}

/* ---- one attempt */

static bool add_header(struct curl_slist **list, const char *line) {
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (longer != NULL) *list = longer;
    return longer != NULL;
}

bool attempt_headers(const Store *store, const Request *request, const char *sha256,
                     struct curl_slist **list) {
    char line[sizeof store->account->token + 64];
    *list = NULL;
    snprintf(line, sizeof line, "x-amz-content-sha256: %s", sha256);
    bool whole = add_header(list, line);
    if (store->account->token[0] != '\0') {
        snprintf(line, sizeof line, "x-amz-security-token: %s", store->account->token);
        whole = whole && add_header(list, line);
        explicit_bzero(line, sizeof line);
    }
    for (size_t i = 0; i < sizeof request->headers / sizeof *request->headers; i++)
        if (request->headers[i] != NULL)
            whole = whole && add_header(list, request->headers[i]);
    return whole;
}

void attempt_end_headers(struct curl_slist *list) {
    for (struct curl_slist *at = list; at != NULL; at = at->next)
        explicit_bzero(at->data, strlen(at->data));
    curl_slist_free_all(list);
}

static void set_method(Attempt *attempt) {
    CURL *curl = attempt->store->curl;
    const Request *request = attempt->request;
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else if (strcmp(request->method, "PUT") == 0) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->bytes);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(curl, CURLOPT_READDATA, attempt);
        curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(curl, CURLOPT_SEEKDATA, attempt);
    } else if (strcmp(request->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->bytes);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS,
                         request->data == NULL ? "" : request->data);
    } else if (strcmp(request->method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
    }
}

static void set_limits(Attempt *attempt) {
    CURL *curl = attempt->store->curl;
    const Account *account = attempt->store->account;
    double patience = attempt->store->options.patience_s;
    long seconds = patience < 1 ? 1 : (long)patience;
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, account->plain ? "http" : "https");
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    if (account->plain) curl_easy_setopt(curl, CURLOPT_PROXY, "");
    if (account->authorities[0] != '\0')
        curl_easy_setopt(curl, CURLOPT_CAINFO, account->authorities);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, seconds < 15 ? seconds : 15L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)SLOWEST);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, seconds);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, attempt);
}

CURLcode attempt_perform(Attempt *attempt, const char *url, struct curl_slist *headers) {
    CURL *curl = attempt->store->curl;
    const Account *account = attempt->store->account;
    char scope[sizeof account->region + 16];
    snprintf(scope, sizeof scope, "aws:amz:%s:s3", account->region);
    curl_easy_reset(curl);
    set_limits(attempt);
    set_method(attempt);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, scope);
    curl_easy_setopt(curl, CURLOPT_USERNAME, account->key_id);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, account->secret);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, attempt);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, attempt);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, attempt->curl_text);
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &attempt->answer->code);
    if (result == CURLE_WRITE_ERROR && attempt->cut) result = CURLE_OK;
    curl_easy_reset(curl); /* forgets the secret, keeps the connection */
    return result;
}
