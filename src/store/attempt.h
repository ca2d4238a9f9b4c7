/* One attempt of a request: what libcurl does with it, and what its callbacks let through. For request.c. */
#pragma once

#include "src/store/request.h"

/* One attempt under way. */
typedef struct {
    Store *store;
    const Request *request;
    Answer *answer;
    size_t capacity, header_bytes;
    int64_t sent;
    const char *wrong; /* why we ended it ourselves */
    bool cut;          /* an explanation was longer than anybody would read */
    char curl_text[CURL_ERROR_SIZE];
} Attempt;

bool attempt_is_cancelled(const Store *store);

/* Our own headers of a request. False: no memory. Memory: *list is the caller's (attempt_end_headers,
 * which overwrites it), also then */
bool attempt_headers(const Store *store, const Request *request, const char *sha256,
                     struct curl_slist **list);
void attempt_end_headers(struct curl_slist *list);

/* An answer as before its first header. */
void attempt_forget(Answer *answer);

/* Signs, sends and takes the answer. CURLE_OK: it was answered, however; attempt->wrong: the answer was
 * ended here because it cannot be right. */
CURLcode attempt_perform(Attempt *attempt, const char *url, struct curl_slist *headers);
