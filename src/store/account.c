/* Finds credentials, region and endpoint where every tool for such stores looks for them. */
#include "src/store/account.h"

#include "src/core/file.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CREDENTIALS_FILE_MAX = 1 << 20 };

static const char *environment(const char *name) {
    const char *value = getenv(name);
    return value == NULL || value[0] == '\0' ? NULL : value;
}

/* Copies a value that will stand in a message's header: visible ASCII only, or it could add lines. */
static Status take(const char *what, const char *value, size_t length, char *out,
                   size_t size) {
    bool good = length > 0 && length < size;
    for (size_t i = 0; i < length && good; i++)
        good = value[i] > 0x20 && value[i] < 0x7f;
    if (!good)
        return FAIL(STATUS_USAGE, "set it anew, as the store gave it",
                    "%s is empty, too long or has characters that cannot be right", what);
    memcpy(out, value, length);
    out[length] = '\0';
    return STATUS_OK;
}

static Status take_variable(const char *name, char *out, size_t size) {
    const char *value = environment(name);
    return value == NULL ? STATUS_OK : take(name, value, strlen(value), out, size);
}

/* ---- the credentials file: [profile] and key = value, one a line */

typedef struct {
    const char *at;
    size_t length;
} Span;

static Span trimmed(const char *start, const char *end) {
    while (start < end && isspace((unsigned char)*start))
        start++;
    while (end > start && isspace((unsigned char)end[-1]))
        end--;
    return (Span){start, (size_t)(end - start)};
}

static bool equals(Span span, const char *text) {
    return span.length == strlen(text) && memcmp(span.at, text, span.length) == 0;
}

static Status take_line(Span line, Account *account) {
    static const char what[] = "a value in the credentials file";
    const char *sign = memchr(line.at, '=', line.length);
    if (sign == NULL) return STATUS_OK;
    Span key = trimmed(line.at, sign), value = trimmed(sign + 1, line.at + line.length);
    if (equals(key, "aws_access_key_id"))
        return take(what, value.at, value.length, account->key_id, sizeof account->key_id);
    if (equals(key, "aws_secret_access_key"))
        return take(what, value.at, value.length, account->secret, sizeof account->secret);
    if (equals(key, "aws_session_token"))
        return take(what, value.at, value.length, account->token, sizeof account->token);
    return STATUS_OK;
}

static Status read_profile(const char *text, const char *profile, Account *account) {
    bool inside = false;
    for (const char *start = text; *start != '\0';) {
        const char *end = start + strcspn(start, "\n");
        Span line = trimmed(start, end);
        start = end + (*end == '\n');
        if (line.length == 0 || line.at[0] == '#' || line.at[0] == ';') continue;
        if (line.at[0] == '[') {
            const char *close = memchr(line.at, ']', line.length);
            inside = close != NULL && equals(trimmed(line.at + 1, close), profile);
        } else if (inside) {
            TRY(take_line(line, account));
        }
    }
    return STATUS_OK;
}

static Status read_file(Account *account) {
    const char *named = environment("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
    const char *profile = environment("AWS_PROFILE");
    char path[PATH_MAX], *text;
    size_t size;
    if (profile == NULL) profile = "default";
    if (named != NULL)
        snprintf(path, sizeof path, "%s", named);
    else
        snprintf(path, sizeof path, "%s/.aws/credentials", home == NULL ? "" : home);
    if (access(path, F_OK) == 0) {
        TRY(file_read(AT_FDCWD, path, CREDENTIALS_FILE_MAX, &text, &size));
        Status read = read_profile(text, profile, account);
        explicit_bzero(text, size);
        free(text);
        TRY(read);
    }
    if (account->key_id[0] != '\0' && account->secret[0] != '\0') return STATUS_OK;
    return FAIL(
        STATUS_USAGE,
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put them into that file",
        "no credentials for the object store: not in the environment, nor under [%.60s] "
        "in %.300s",
        profile, path);
}

static Status find_credentials(Account *account) {
    bool id = environment("AWS_ACCESS_KEY_ID") != NULL;
    bool secret = environment("AWS_SECRET_ACCESS_KEY") != NULL;
    if (id != secret)
        return FAIL(STATUS_USAGE, "set both, or neither",
                    "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set");
    if (!id) return read_file(account);
    TRY(take_variable("AWS_ACCESS_KEY_ID", account->key_id, sizeof account->key_id));
    TRY(take_variable("AWS_SECRET_ACCESS_KEY", account->secret, sizeof account->secret));
    return take_variable("AWS_SESSION_TOKEN", account->token, sizeof account->token);
}

/* ---- where it is */

static Status find_region(Account *account) {
    strcpy(account->region, "us-east-1");
    TRY(take_variable("AWS_DEFAULT_REGION", account->region, sizeof account->region));
    TRY(take_variable("AWS_REGION", account->region, sizeof account->region));
    for (const char *at = account->region; *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && *at != '-')
            return FAIL(STATUS_USAGE, "set AWS_REGION, e.g. to eu-central-1",
                        "the region \"%s\" can be no region", account->region);
    return STATUS_OK;
}

static bool ends_with(Span text, const char *end) {
    size_t length = strlen(end);
    return text.length >= length &&
           memcmp(text.at + text.length - length, end, length) == 0;
}

/* The address that a host is written as, if it is one. */
static bool is_address(Span host, struct in_addr *address) {
    char text[INET_ADDRSTRLEN] = "";
    if (host.at[0] == '[') return true;
    if (host.length >= sizeof text) return false;
    memcpy(text, host.at, host.length);
    return inet_pton(AF_INET, text, address) == 1;
}

static bool is_this_machine(Span host) {
    struct in_addr address = {0};
    if (equals(host, "localhost") || ends_with(host, ".localhost") || equals(host, "[::1]"))
        return true;
    return is_address(host, &address) && ntohl(address.s_addr) >> 24 == 127;
}

/* Whether the bucket is a part of the host's name. */
static Status find_style(Span host, const char *bucket, bool plain, bool *virtual) {
    const char *style = environment("REKINDLE_STORE_STYLE");
    *virtual = ends_with(host, ".amazonaws.com") || ends_with(host, ".amazonaws.com.cn") ||
               ends_with(host, ".aliyuncs.com");
    /* a certificate for *.host does not serve a name with a dot in front of it */
    if (strchr(bucket, '.') != NULL && !plain) *virtual = false;
    if (style != NULL && strcmp(style, "virtual") == 0)
        *virtual = true;
    else if (style != NULL && strcmp(style, "path") == 0)
        *virtual = false;
    else if (style != NULL)
        return FAIL(STATUS_USAGE, "set it to path or virtual",
                    "REKINDLE_STORE_STYLE is \"%.60s\"", style);
    struct in_addr address;
    if (*virtual && is_address(host, &address))
        return FAIL(STATUS_USAGE, "set REKINDLE_STORE_STYLE=path",
                    "no bucket can stand in front of the address %.*s", (int)host.length,
                    host.at);
    return STATUS_OK;
}

static Status find_endpoint(const char *bucket, Account *account) {
    static const char fix[] = "write https://host or https://host:port";
    const char *url = environment("AWS_ENDPOINT_URL_S3");
    char amazon[160];
    if (url == NULL) url = environment("AWS_ENDPOINT_URL");
    if (url == NULL) {
        bool china = strncmp(account->region, "cn-", 3) == 0;
        snprintf(amazon, sizeof amazon, "https://s3.%s.amazonaws.com%s", account->region,
                 china ? ".cn" : "");
        url = amazon;
    }
    account->plain = strncmp(url, "http://", 7) == 0;
    const char *start = url + (account->plain ? 7 : 8);
    if (!account->plain && strncmp(url, "https://", 8) != 0)
        return FAIL(STATUS_USAGE, fix,
                    "the store's endpoint \"%.200s\" is no https address", url);
    size_t whole = strlen(start);
    if (whole > 0 && start[whole - 1] == '/') whole--;
    size_t length = start[0] == '[' ? strcspn(start, "]") + 1 : strcspn(start, ":/");
    Span host = {start, length}, port = {start + length, whole - length};
    bool good = length > 0 && length <= whole && length < 254 && port.length < 7 &&
                (port.length == 0 || (port.at[0] == ':' && port.length > 1));
    for (size_t i = 1; i < port.length && good; i++)
        good = isdigit((unsigned char)port.at[i]);
    for (size_t i = 0; i < host.length && good; i++)
        good = isalnum((unsigned char)host.at[i]) || strchr(".-[]:", host.at[i]) != NULL;
    if (!good) /* it may hold a name and a password: so it is not repeated */
        return FAIL(STATUS_USAGE, fix,
                    "the store's endpoint (AWS_ENDPOINT_URL) is not scheme, host and port");
    const char *allowed = environment("REKINDLE_STORE_HTTP");
    if (account->plain && !is_this_machine(host) &&
        (allowed == NULL || strcmp(allowed, "allow") != 0))
        return FAIL(STATUS_USAGE, "use https, or set REKINDLE_STORE_HTTP=allow",
                    "the store's endpoint %.200s is not encrypted and not on this machine",
                    url);
    bool virtual;
    TRY(find_style(host, bucket, account->plain, &virtual));
    const char *scheme = account->plain ? "http" : "https";
    if (virtual)
        snprintf(account->base, sizeof account->base, "%s://%s.%.*s", scheme, bucket,
                 (int)whole, start);
    else
        snprintf(account->base, sizeof account->base, "%s://%.*s/%s", scheme, (int)whole,
                 start, bucket);
    const char *authorities = environment("AWS_CA_BUNDLE");
    if (authorities != NULL)
        snprintf(account->authorities, sizeof account->authorities, "%s", authorities);
    return STATUS_OK;
}

/* ---- */

Status account_open(const char *bucket, Account **out) {
    *out = NULL;
    Account *account = mmap(NULL, sizeof *account, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (account == MAP_FAILED)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the store's credentials");
    madvise(account, sizeof *account,
            MADV_DONTDUMP); /* else they are only where all data is */
    Status status = find_credentials(account);
    if (status == STATUS_OK) status = find_region(account);
    if (status == STATUS_OK) status = find_endpoint(bucket, account);
    if (status == STATUS_OK)
        *out = account;
    else
        account_close(account);
    return status;
}

void account_close(Account *account) {
    if (account == NULL) return;
    explicit_bzero(account, sizeof *account);
    munmap(account, sizeof *account);
}

bool account_is_in(const Account *account, const char *text) {
    return strstr(text, account->key_id) != NULL || strstr(text, account->secret) != NULL ||
           (account->token[0] != '\0' && strstr(text, account->token) != NULL);
}
