/* s3:// addresses: what is one, what is refused, and what comes out of it. */
#include "tests/support/test.h"

#include "src/store/store.h"

#include <stdio.h>
#include <string.h>

static void an_address_is_a_bucket_and_a_key(void **state) {
    (void)state;
    static const struct {
        const char *text, *bucket, *key;
    } cases[] = {
        {"s3://bucket/runs/first", "bucket", "runs/first"},
        {"s3://bucket/runs/first/", "bucket", "runs/first"},
        {"s3://my-bucket.of.3", "my-bucket.of.3", ""},
        {"s3://my-bucket/", "my-bucket", ""},
        {"s3://abc/a b+c=d/..e/\xc3\xbc", "abc", "a b+c=d/..e/\xc3\xbc"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StoreUrl url;
        assert_true(store_url_is(cases[i].text));
        assert_ok(store_url_parse(cases[i].text, &url));
        assert_string_equal(url.bucket, cases[i].bucket);
        assert_string_equal(url.key, cases[i].key);
    }
}

static void what_a_path_would_lose_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "s3://bucket/a//b", "s3://bucket//a",   "s3://bucket/a//",
        "s3://bucket/./a",  "s3://bucket/a/..", "s3://bucket/../a",
        "s3://bucket/a\nb", "s3://bucket/a\\b", "s3://bucket/a\x7f/b",
    };
    StoreUrl url;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(store_url_parse(wrong[i], &url), STATUS_USAGE, "s3://bucket/");
}

static void what_is_no_bucket_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "s3://",
        "s3:///a",
        "s3://ab/c",
        "s3://Bucket/a",
        "s3://buck_et/a",
        "s3://-ab/c",
        "s3://ab-/c",
        "s3://a..b/c",
        "s3://user@host/c",
        "s3://bucket:80/c",
        "s3://buck%41",
        "s3://abc?d",
        "s3://0123456789012345678901234567890123456789012345678901234567890123/a",
    };
    StoreUrl url;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(store_url_parse(wrong[i], &url), STATUS_USAGE, "names no bucket");
    assert_fails(store_url_parse("https://bucket/a", &url), STATUS_USAGE,
                 "no s3:// address");
    assert_false(store_url_is("s3:/bucket"));
}

static void a_key_that_is_too_long_is_refused(void **state) {
    (void)state;
    char text[STORE_KEY + 64], joined[STORE_KEY];
    StoreUrl url;
    int front = snprintf(text, sizeof text, "s3://bucket/");
    memset(text + front, 'k', STORE_KEY);
    text[front + STORE_KEY - 1] = '\0';
    assert_ok(store_url_parse(text, &url));
    assert_int_equal(strlen(url.key), STORE_KEY - 1);
    assert_fails(store_url_join(url.key, "x", joined), STATUS_USAGE, "too long");
    text[front + STORE_KEY - 1] = 'k';
    text[front + STORE_KEY] = '\0';
    assert_fails(store_url_parse(text, &url), STATUS_USAGE, "longer than");
}

static void a_name_is_joined_to_a_prefix_by_one_slash(void **state) {
    (void)state;
    char joined[STORE_KEY];
    assert_ok(store_url_join("runs/first", "a.h5", joined));
    assert_string_equal(joined, "runs/first/a.h5");
    assert_ok(store_url_join("", "a.h5", joined));
    assert_string_equal(joined, "a.h5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_is_a_bucket_and_a_key),
        cmocka_unit_test(what_a_path_would_lose_is_refused),
        cmocka_unit_test(what_is_no_bucket_is_refused),
        cmocka_unit_test(a_key_that_is_too_long_is_refused),
        cmocka_unit_test(a_name_is_joined_to_a_prefix_by_one_slash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
