/* Where credentials, region and endpoint come from, and what is refused before a message is sent. */
#include "tests/support/test.h"

#include "src/store/account.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const variables[] = {
    "AWS_ACCESS_KEY_ID",   "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",   "AWS_PROFILE",
    "AWS_REGION",          "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",
    "REKINDLE_STORE_HTTP", "REKINDLE_STORE_STYLE",
    "AWS_CA_BUNDLE",
};
static char credentials[] = "/tmp/rekindle-credentials-XXXXXX";

/* Nothing of the caller's environment counts. */
static int forget(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    setenv("AWS_SHARED_CREDENTIALS_FILE", credentials, 1);
    FILE *file = fopen(credentials, "w");
    if (file == NULL) return 1;
    fputs("[default]\naws_access_key_id = FILEID\naws_secret_access_key = filesecret\n",
          file);
    return fclose(file);
}

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(credentials);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(credentials);
}

static Account *opened(const char *bucket) {
    Account *account;
    assert_ok(account_open(bucket, &account));
    return account;
}

static void assert_base(const char *bucket, const char *base) {
    Account *account = opened(bucket);
    assert_string_equal(account->base, base);
    account_close(account);
}

static void the_environment_comes_before_the_file(void **state) {
    (void)state;
    Account *account = opened("bucket");
    assert_string_equal(account->key_id, "FILEID");
    account_close(account);
    setenv("AWS_ACCESS_KEY_ID", "ENVID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "envsecret", 1);
    setenv("AWS_SESSION_TOKEN", "token==", 1);
    account = opened("bucket");
    assert_string_equal(account->key_id, "ENVID");
    assert_string_equal(account->secret, "envsecret");
    assert_string_equal(account->token, "token==");
    assert_true(account_is_in(account, "it was envsecret!"));
    assert_false(account_is_in(account, "it was filesecret!"));
    account_close(account);
}

static void half_a_pair_is_refused(void **state) {
    (void)state;
    Account *account;
    setenv("AWS_ACCESS_KEY_ID", "ENVID", 1);
    assert_fails(account_open("bucket", &account), STATUS_USAGE, "only one is set");
    assert_null(account);
}

static void a_value_that_would_add_a_header_is_refused_and_not_shown(void **state) {
    (void)state;
    Account *account;
    setenv("AWS_ACCESS_KEY_ID", "ENVID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "hush\r\nx-evil: 1", 1);
    assert_fails(account_open("bucket", &account), STATUS_USAGE, "AWS_SECRET_ACCESS_KEY");
    assert_null(strstr(status_failure()->what, "hush"));
    setenv("AWS_SECRET_ACCESS_KEY", "fine", 1);
    setenv("AWS_SESSION_TOKEN", "two words", 1);
    assert_fails(account_open("bucket", &account), STATUS_USAGE, "AWS_SESSION_TOKEN");
}

static void the_region_comes_from_either_variable(void **state) {
    (void)state;
    assert_base("bucket", "https://bucket.s3.us-east-1.amazonaws.com");
    setenv("AWS_DEFAULT_REGION", "eu-west-1", 1);
    assert_base("bucket", "https://bucket.s3.eu-west-1.amazonaws.com");
    setenv("AWS_REGION", "cn-north-1", 1);
    assert_base("bucket", "https://bucket.s3.cn-north-1.amazonaws.com.cn");
    setenv("AWS_REGION", "eu/../evil", 1);
    Account *account;
    assert_fails(account_open("bucket", &account), STATUS_USAGE, "can be no region");
}

static void the_bucket_stands_in_the_host_or_in_the_path(void **state) {
    (void)state;
    assert_base("dotted.bucket", "https://s3.us-east-1.amazonaws.com/dotted.bucket");
    setenv("AWS_ENDPOINT_URL", "https://oss-eu-central-1.aliyuncs.com", 1);
    assert_base("bucket", "https://bucket.oss-eu-central-1.aliyuncs.com");
    setenv("AWS_ENDPOINT_URL", "https://minio.example.org:9000/", 1);
    assert_base("bucket", "https://minio.example.org:9000/bucket");
    setenv("REKINDLE_STORE_STYLE", "virtual", 1);
    assert_base("bucket", "https://bucket.minio.example.org:9000");
    setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000", 1);
    Account *account;
    assert_fails(account_open("bucket", &account), STATUS_USAGE,
                 "REKINDLE_STORE_STYLE=path");
    setenv("REKINDLE_STORE_STYLE", "sideways", 1);
    assert_fails(account_open("bucket", &account), STATUS_USAGE, "sideways");
}

static void plain_http_goes_to_this_machine_only(void **state) {
    (void)state;
    static const char *const here[] = {"http://127.0.0.1:9000", "http://localhost",
                                       "http://[::1]:9000", "http://127.9.9.9",
                                       "http://a.localhost:1"};
    static const char *const elsewhere[] = {
        "http://192.0.2.1",     "http://example.org:9000", "http://127.0.0.1.org",
        "http://localhost.org", "http://127.0.0.256",      "http://0177.0.0.1",
        "http://notlocalhost",  "http://[::2]:9000"};
    Account *account;
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) {
        setenv("AWS_ENDPOINT_URL", here[i], 1);
        account_close(opened("bucket"));
    }
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) {
        setenv("AWS_ENDPOINT_URL", elsewhere[i], 1);
        assert_fails(account_open("bucket", &account), STATUS_USAGE, "not encrypted");
    }
    setenv("REKINDLE_STORE_HTTP", "allow", 1);
    assert_base("bucket", "http://[::2]:9000/bucket");
}

static void what_is_no_endpoint_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "ftp://host",     "host:9000",        "https://",          "https://a/b",
        "https://a b",    "https://u:p@host", "https://host:port", "https://host:",
        "https://host?x", "https://[::1",     "https://host#x",    "https://:9000"};
    Account *account;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("AWS_ENDPOINT_URL", wrong[i], 1);
        assert_fails(account_open("bucket", &account), STATUS_USAGE, "endpoint");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_environment_comes_before_the_file, forget),
        cmocka_unit_test_setup(half_a_pair_is_refused, forget),
        cmocka_unit_test_setup(a_value_that_would_add_a_header_is_refused_and_not_shown,
                               forget),
        cmocka_unit_test_setup(the_region_comes_from_either_variable, forget),
        cmocka_unit_test_setup(the_bucket_stands_in_the_host_or_in_the_path, forget),
        cmocka_unit_test_setup(plain_http_goes_to_this_machine_only, forget),
        cmocka_unit_test_setup(what_is_no_endpoint_is_refused, forget),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
