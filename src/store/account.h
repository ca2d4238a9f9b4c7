/* Who we are to an object store, and where it is. For the files of this room.
 *
 * Credentials: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), else the profile
 * AWS_PROFILE (default: default) of AWS_SHARED_CREDENTIALS_FILE (default: ~/.aws/credentials).
 * Region: AWS_REGION, AWS_DEFAULT_REGION, else us-east-1.
 * Endpoint: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else Amazon's of that region. Without encryption
 * only to this machine itself, unless REKINDLE_STORE_HTTP=allow.
 * Style: the bucket in the host name (Amazon, OSS) or in the path (all others), unless
 * REKINDLE_STORE_STYLE says path or virtual. */
#pragma once

#include "src/core/status.h"
#include "src/store/store.h"

/* Lies in memory that core dumps leave out. */
typedef struct {
    char key_id[256];
    char secret[512];
    char token[8192]; /* empty: none */
    char region[64];
    char base
        [512]; /* scheme, host, port; the bucket where it belongs; no slash at the end */
    char authorities[1024]; /* AWS_CA_BUNDLE: a file of certificates; empty: the system's */
    bool plain;             /* http */
} Account;

/* Memory: *out is the caller's (account_close); NULL after a failure
 * Errors: STATUS_USAGE naming the variable or the file, never a value that is a secret */
Status account_open(const char *bucket, Account **out);
void account_close(Account *account); /* NULL is allowed; overwrites */

/* True if the text contains a secret, or the key's id. */
bool account_is_in(const Account *account, const char *text);
