/* The user block: what goes in comes out, a person can read it, and no flipped bit, foreign text or
 * newer version passes. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/checkpoint/userblock.h"

static UserBlock complete_block(void) {
    UserBlock block = known_block();
    block.version = CHECKPOINT_FORMAT_VERSION;
    block.bytes = 1 << 20;
    block.metadata_bytes = 8192;
    block.metadata_digest = (Digest){0x0123456789abcdef, 7};
    block.state_digest = (Digest){UINT64_MAX, 0};
    strcpy(block.created_at, "2024-02-29T12:00:00Z");
    strcpy(block.writer, "rekindle 0.1.0, hdf5 1.10.8");
    strcpy(block.compression, "zlib:1");
    block.value_bytes = 3 << 20;
    return block;
}

/* Replaces the first `from` by `to` (same length) and signs the text anew, as a hostile writer can. */
static void forge(char text[CHECKPOINT_USER_BLOCK], const char *from, const char *to) {
    char *at = memmem(text, CHECKPOINT_USER_BLOCK, from, strlen(from));
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
    char *digits = (char *)memmem(text, CHECKPOINT_USER_BLOCK, "\"checksum\": \"", 13) + 13;
    memset(digits, '0', 32);
    char sum[DIGEST_TEXT];
    digest_print(digest_of(text, CHECKPOINT_USER_BLOCK), sum);
    memcpy(digits, sum, 32);
}

static void every_field_comes_back(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    assert_ok(userblock_encode(&block, text));
    assert_ok(userblock_decode(text, "a.h5", &read));
    assert_memory_equal(&block, &read, sizeof block);
}

static void the_text_is_lines_for_a_person_and_ends_in_a_newline(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block();
    assert_ok(userblock_encode(&block, text));
    assert_memory_equal(
        text, "{\n  \"format\": \"rekindle-checkpoint\",\n  \"version\": 2,\n", 53);
    assert_non_null(memmem(text, sizeof text, "\n  \"step\": 1200,\n", 17));
    assert_non_null(memmem(text, sizeof text, "{\"loss\": 0.31, \"accuracy\": 0.912}", 33));
    assert_null(memchr(text, '\0', sizeof text));
    assert_int_equal(text[CHECKPOINT_USER_BLOCK - 1], '\n');
}

static void a_block_of_version_1_says_nothing_of_packing(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    block.version = 1;
    assert_ok(userblock_encode(&block, text));
    assert_null(memmem(text, sizeof text, "compression", 11));
    assert_ok(userblock_decode(text, "a.h5", &read));
    assert_int_equal(read.version, 1);
    assert_string_equal(read.compression, "none");
    assert_int_equal(read.value_bytes, 0);
}

static void no_flipped_bit_passes(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    assert_ok(userblock_encode(&block, text));
    for (int bit = 0; bit < 8 * CHECKPOINT_USER_BLOCK; bit++) {
        text[bit / 8] ^= (char)(1 << bit % 8);
        assert_int_equal(userblock_decode(text, "a.h5", &read), STATUS_CORRUPT);
        text[bit / 8] ^= (char)(1 << bit % 8);
    }
}

static void a_newer_version_is_refused_as_such(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    block.version = CHECKPOINT_FORMAT_VERSION + 1;
    assert_ok(userblock_encode(&block, text));
    assert_fails(userblock_decode(text, "a.h5", &read), STATUS_USAGE,
                 "a.h5 was written by a newer Rekindle");
    assert_non_null(
        strstr(status_failure()->what, "what wrote it reads it: rekindle 0.1.0"));
}

static void forged_fields_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *said;
    } forgeries[] = {
        {"rekindle-checkpoint", "somebody-checkpoint", "not a \"rekindle-checkpoint\""},
        {"\"version\": 2", "\"version\": 0", "not a \"rekindle-checkpoint\""},
        {"\"step\": 1200", "\"step\":-1200", "\"step\""},
        {"\"step\": 1200", "\"step\": 12.0", "\"step\""},
        {"\"step\": 1200", "\"stop\": 1200", "\"step\""},
        {"\"ranks\": 4", "\"ranks\":[]", "\"ranks\""},
        {"\"compression\"", "\"compressiom\"", "\"compression\""},
        {"\"value_bytes\": 3", "\"value_bytes\":-3", "\"value_bytes\""},
        {"\"run\": \"fashion\"", "\"run\": 123456789", "\"run\""},
        {"\"run\": \"fashion\"", "\"run\": \"\\u0000_\"", "not a \"rekindle-checkpoint\""},
        {"\"epoch\"", "\"step\" ", "not a \"rekindle-checkpoint\""}, /* a key twice */
        {"{\"loss\": 0.31, ", "[\"loss\", 0.31, ", "not a \"rekindle-checkpoint\""},
        {"\"bytes\": 1048576", "\"bytes\": 0004096", "not a \"rekindle-checkpoint\""},
        {"\"bytes\": 1048576", "\"bytes\":    4096", "\"bytes\""},
        {"\"metadata_bytes\": 8192", "\"metadata_bytes\": 4095", "\"metadata_bytes\""},
        {"\"bytes\": 1048576", "\"bytes\":    8193", "\"metadata_bytes\""},
        {"\"metadata_digest\": \"0", "\"metadata_digest\": \"G", "\"metadata_digest\""},
        {"\"metadata_digest\": \"0", "\"metadata_digest\":\"00", "\"metadata_digest\""},
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        char text[CHECKPOINT_USER_BLOCK];
        UserBlock block = complete_block(), read;
        assert_ok(userblock_encode(&block, text));
        forge(text, forgeries[i].from, forgeries[i].to);
        assert_fails(userblock_decode(text, "a.h5", &read), STATUS_CORRUPT,
                     forgeries[i].said);
    }
}

static void a_text_too_long_for_its_field_is_refused(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    memset(block.note, 'n', sizeof block.note - 1);
    assert_ok(userblock_encode(&block, text));
    assert_ok(userblock_decode(text, "a.h5", &read));
    assert_string_equal(read.note, block.note);
    forge(text, "\",\n  \"parent\"", "nnn\",\"parent\"");
    assert_fails(userblock_decode(text, "a.h5", &read), STATUS_CORRUPT, "\"note\"");
}

static void metrics_that_are_no_object_are_refused_before_a_save(void **state) {
    (void)state;
    static const char *const wrong[] = {"[1]", "{\"loss\": nan}", "{\"loss\": 1", "{} {}",
                                        "{\"a\": 1, \"a\": 2}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[CHECKPOINT_USER_BLOCK];
        UserBlock block = complete_block();
        strcpy(block.metrics, wrong[i]);
        assert_fails(userblock_encode(&block, text), STATUS_USAGE, "no JSON object");
    }
}

static void metrics_keep_their_digits_and_lose_their_line_ends(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    strcpy(block.metrics, "{\"loss\":\n0.30000000000000004}");
    assert_ok(userblock_encode(&block, text));
    assert_ok(userblock_decode(text, "a.h5", &read));
    assert_string_equal(read.metrics, "{\"loss\": 0.30000000000000004}");
}

static void a_note_cut_inside_a_character_does_not_stop_a_save(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block(), read;
    strcpy(block.note, "caf\xc3");
    assert_ok(userblock_encode(&block, text));
    assert_ok(userblock_decode(text, "a.h5", &read));
    assert_string_equal(read.note, "caf?");
}

static void texts_that_do_not_fit_are_refused_whole(void **state) {
    (void)state;
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block = complete_block();
    memset(block.note, 1,
           sizeof block.note - 1); /* each control character takes six bytes */
    memset(block.author, 1, sizeof block.author - 1);
    memset(block.device_kind, 1, sizeof block.device_kind - 1);
    memset(block.parent, 1, sizeof block.parent - 1);
    assert_fails(userblock_encode(&block, text), STATUS_USAGE, "longer than 4096 bytes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_comes_back),
        cmocka_unit_test(the_text_is_lines_for_a_person_and_ends_in_a_newline),
        cmocka_unit_test(a_block_of_version_1_says_nothing_of_packing),
        cmocka_unit_test(no_flipped_bit_passes),
        cmocka_unit_test(a_newer_version_is_refused_as_such),
        cmocka_unit_test(forged_fields_are_refused_by_name),
        cmocka_unit_test(a_text_too_long_for_its_field_is_refused),
        cmocka_unit_test(metrics_that_are_no_object_are_refused_before_a_save),
        cmocka_unit_test(metrics_keep_their_digits_and_lose_their_line_ends),
        cmocka_unit_test(a_note_cut_inside_a_character_does_not_stop_a_save),
        cmocka_unit_test(texts_that_do_not_fit_are_refused_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
