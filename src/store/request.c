/* Sends one request, says it again where that can help, and explains what cannot be helped. */
#include "src/store/request.h"

#include "src/core/clock.h"
#include "src/core/log.h"
#include "src/store/attempt.h"
#include "src/store/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { URL_MAX = 3 * (2 * STORE_KEY + 2048) + 1024, LONGEST_PAUSE_S = 8 };

/* ---- texts */

bool request_encode(const char *value, char *out, size_t size) {
    static const char plain[] = "-._~";
    size_t used = strlen(out);
    for (const char *at = value; *at != '\0'; at++) {
        unsigned char byte = (unsigned char)*at;
        bool keep = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                    (byte >= 'a' && byte <= 'z') || strchr(plain, byte) != NULL;
        if (used + 4 > size) return false;
        used += (size_t)snprintf(out + used, size - used, keep ? "%c" : "%%%02X", byte);
    }
    return true;
}

bool request_tag_is_plain(const char *tag) {
    size_t length = strlen(tag);
    if (length < 3 || tag[0] != '"' || tag[length - 1] != '"') return false;
    for (size_t i = 1; i + 1 < length; i++)
        if (tag[i] <= 0x20 || tag[i] >= 0x7f || strchr("\"<>&", tag[i]) != NULL)
            return false;
    return true;
}

/* base/key?query, the key's slashes as they are. */
static bool make_url(const Store *store, const Request *request, char *out, size_t size) {
    char part[STORE_KEY];
    snprintf(out, size, "%s/", store->account->base);
    for (const char *at = request->key; *at != '\0';) {
        size_t length = strcspn(at, "/");
        memcpy(part, at, length);
        part[length] = '\0';
        if (!request_encode(part, out, size)) return false;
        at += length;
        if (*at != '/') break;
        strncat(out, "/", size - strlen(out) - 1);
        at++;
    }
    size_t used = strlen(out);
    if (request->query == NULL) return true;
    return (size_t)snprintf(out + used, size - used, "?%s", request->query) < size - used;
}

/* "cannot list s3://bucket/key" */
static void describe(const Store *store, const Request *request, char *out, size_t size) {
    snprintf(out, size, "cannot %s s3://%s%s%.300s", request->what, store->bucket,
             request->key[0] == '\0' ? "" : "/", request->key);
}

Status request_distrust(const Store *store, const Request *request, const char *why) {
    char what[512];
    describe(store, request, what, sizeof what);
    return FAIL(STATUS_IO, "check the store, and whatever stands between it and here",
                "%s: the store's answer cannot be right: %s", what, why);
}

static Status take_error(void *context, const char *path, const char *text) {
    Answer *answer = context;
    if (text != NULL && strcmp(path, "Error/Code") == 0)
        snprintf(answer->error, sizeof answer->error, "%.63s", text);
    if (text != NULL && strcmp(path, "Error/Message") == 0)
        snprintf(answer->message, sizeof answer->message, "%.255s", text);
    return STATUS_OK;
}

static void read_error(const Store *store, Answer *answer) {
    if (answer->code < 300 || answer->text == NULL) return;
    Failure before = *status_failure();
    if (xml_read(answer->text, answer->length, take_error, answer) != STATUS_OK) {
        status_adopt(&before); /* a failure without an explanation is still that failure */
        answer->error[0] = answer->message[0] = '\0';
    }
    char *texts[] = {answer->error, answer->message};
    for (int i = 0; i < 2; i++) {
        if (account_is_in(store->account, texts[i])) texts[i][0] = '\0';
        for (char *at = texts[i]; *at != '\0'; at++)
            if ((unsigned char)*at < 0x20 || (unsigned char)*at >= 0x7f) *at = '?';
    }
}

/* ---- repeating */

static bool connection_failed(CURLcode result) {
    switch (result) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_FAIL_REWIND:
        return true;
    default:
        return false;
    }
}

static bool may_pass(const Answer *answer) {
    return answer->code == 408 || answer->code == 429 ||
           (answer->code >= 500 && answer->code != 501) ||
           strcmp(answer->error, "RequestTimeout") == 0;
}

/* A random part of a time that doubles: many clients that failed together do not come back together. */
void request_pause(const Store *store, int attempt) {
    double longest = store->options.back_off_s;
    for (int i = 1; i < attempt && longest < LONGEST_PAUSE_S; i++)
        longest *= 2;
    if (longest > LONGEST_PAUSE_S) longest = LONGEST_PAUSE_S;
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) random = UINT32_MAX;
    double end = clock_seconds() + longest * (0.5 + 0.5 * (double)random / UINT32_MAX);
    while (clock_seconds() < end && !attempt_is_cancelled(store))
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

static Status fail_to_talk(const Attempt *attempt, CURLcode result, int attempts) {
    const Store *store = attempt->store;
    char what[512];
    describe(store, attempt->request, what, sizeof what);
    const char *why =
        attempt->curl_text[0] != '\0' ? attempt->curl_text : curl_easy_strerror(result);
    if (attempt->wrong != NULL)
        return request_distrust(store, attempt->request, attempt->wrong);
    switch (result) {
    case CURLE_ABORTED_BY_CALLBACK:
        if (attempt_is_cancelled(store))
            return FAIL(STATUS_STOPPED, NULL, "%s: called off", what);
        return FAIL(STATUS_IO, "check the file", "%s: the file cannot be read", what);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return FAIL(STATUS_USAGE, "set AWS_CA_BUNDLE to the file that holds its authority",
                    "%s: the store's certificate is not trusted: %s", what, why);
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return request_distrust(store, attempt->request, why);
    default:
        return FAIL(STATUS_IO, "check the network and AWS_ENDPOINT_URL, then try again",
                    "%s (%d attempt%s): %s", what, attempts, attempts == 1 ? "" : "s", why);
    }
}

static Status refuse_region(const Store *store, const char *what, const Answer *answer) {
    char fix[160];
    snprintf(fix, sizeof fix, "set AWS_REGION%s%.63s, or AWS_ENDPOINT_URL",
             answer->region[0] != '\0' ? "=" : " to the bucket's", answer->region);
    return FAIL(STATUS_USAGE, fix, "%s: the bucket is not in region %s (HTTP %ld %s)", what,
                store->account->region, answer->code, answer->error);
}

Status request_refuse(const Store *store, const Request *request, const Answer *answer) {
    char what[512];
    describe(store, request, what, sizeof what);
    bool colon = answer->message[0] != '\0';
    if ((answer->code >= 300 && answer->code < 400) ||
        strcmp(answer->error, "AuthorizationHeaderMalformed") == 0)
        return refuse_region(store, what, answer);
    Status code = STATUS_USAGE;
    const char *fix = "check the address and the store's settings";
    if (strcmp(answer->error, "RequestTimeTooSkewed") == 0)
        fix = "set this machine's clock";
    else if (answer->code == 401 || answer->code == 403)
        fix =
            "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE …) and what they may do";
    else if (strcmp(answer->error, "NoSuchBucket") == 0)
        fix = "check the bucket's name, or create it";
    if (may_pass(answer)) {
        code = STATUS_IO;
        fix = "try again later";
    }
    return FAIL(code, fix, "%s: HTTP %ld %s%s%s", what, answer->code, answer->error,
                colon ? ": " : "", answer->message);
}

static bool is_for_the_caller(const Answer *answer) {
    if (strcmp(answer->error, "NoSuchBucket") == 0) return false;
    return (answer->code >= 200 && answer->code < 300) || answer->code == 404 ||
           answer->code == 409 || answer->code == 412 || answer->code == 501;
}

static Status attempt_all(Store *store, const Request *request, const char *url,
                          struct curl_slist *headers, Answer *answer) {
    int attempts = store->options.attempts;
    for (int i = 1;; i++) {
        Attempt attempt = {.store = store, .request = request, .answer = answer};
        if (attempt_is_cancelled(store))
            return fail_to_talk(&attempt, CURLE_ABORTED_BY_CALLBACK, i);
        request_end(answer);
        attempt_forget(answer);
        answer->code = 0;
        if (i > 1 && request->sink != NULL && request->sink->again != NULL)
            request->sink->again(request->sink->context);
        CURLcode result = attempt_perform(&attempt, url, headers);
        bool again = result == CURLE_OK ? false : connection_failed(result);
        if (result == CURLE_OK) {
            read_error(store, answer);
            again = may_pass(answer);
        }
        if (attempt.wrong != NULL) again = false;
        if (!again || i == attempts) {
            if (result != CURLE_OK) return fail_to_talk(&attempt, result, i);
            return is_for_the_caller(answer) ? STATUS_OK
                                             : request_refuse(store, request, answer);
        }
        LOG_D("object store: attempt %d to %s failed (%s, HTTP %ld)", i, request->what,
              curl_easy_strerror(result), answer->code);
        request_pause(store, i);
    }
}

Status request_send(Store *store, const Request *request, Answer *answer) {
    *answer = (Answer){.code = 0};
    RequestHashes hashes;
    const char *sha256 = request->sha256;
    if (sha256 == NULL) {
        TRY(request_hash(request->data == NULL ? "" : request->data, (size_t)request->bytes,
                         &hashes));
        sha256 = hashes.sha256;
    }
    char url[URL_MAX];
    if (!make_url(store, request, url, sizeof url))
        return FAIL(STATUS_USAGE, "use a shorter name", "the address of %.300s is too long",
                    request->key);
    struct curl_slist *headers;
    Status status = attempt_headers(store, request, sha256, &headers)
                        ? attempt_all(store, request, url, headers, answer)
                        : FAIL(STATUS_MEMORY, NULL, "no memory for a request");
    attempt_end_headers(headers);
    return status;
}

void request_end(Answer *answer) {
    free(answer->text);
    answer->text = NULL;
    answer->length = 0;
    answer->error[0] = answer->message[0] = '\0';
}
