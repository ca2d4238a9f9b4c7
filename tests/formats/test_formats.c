/* What was written once stays readable: a kept file of every format version gives the values that its
 * writer had. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

/* What each version's kept file holds. A new version adds its file and its line. */
static const struct {
    const char *name;
    KnownSize state;
} KEPT[CHECKPOINT_FORMAT_VERSION] = {
    {"version1.h5", KNOWN_SMALL},
    {"version2.h5", KNOWN_PACKABLE},
};

static int folder;

static int open_folder(void **unused) {
    (void)unused;
    folder = open(FORMATS_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return folder < 0;
}

static int close_folder(void **unused) {
    (void)unused;
    return close(folder);
}

static void every_version_is_read_to_the_values_of_its_time(void **unused) {
    (void)unused;
    for (int i = 0; i < CHECKPOINT_FORMAT_VERSION; i++) {
        State *expected, *read;
        UserBlock block;
        CheckpointReader *reader;
        assert_non_null(KEPT[i].name); /* else a version has no kept file */
        assert_ok(checkpoint_verify(folder, KEPT[i].name, &block));
        assert_int_equal(block.version, i + 1);
        assert_int_equal(block.step, 1200);
        assert_ok(known_state(KEPT[i].state, &expected));
        assert_true(digest_equal(block.state_digest, state_digest(expected)));
        assert_ok(empty_state(expected, &read));
        assert_ok(checkpoint_reader_open(folder, KEPT[i].name, &reader));
        assert_ok(checkpoint_reader_load(reader, read));
        assert_string_equal(checkpoint_reader_text(reader, "config"), KNOWN_TEXT.config);
        for (int j = 0; j < expected->count; j++)
            assert_memory_equal(state_data(expected, j), state_data(read, j),
                                expected->entries[j].bytes);
        checkpoint_reader_close(reader);
        state_destroy(expected);
        state_destroy(read);
    }
}

static void the_kept_file_of_version_2_is_packed(void **unused) {
    (void)unused;
    CheckpointReader *reader;
    int packed = 0;
    assert_ok(checkpoint_reader_open(folder, "version2.h5", &reader));
    for (int i = 0; i < checkpoint_reader_count(reader); i++) {
        const CheckpointEntry *entry = checkpoint_reader_entry(reader, i);
        packed += entry->stored < entry->bytes / 10;
    }
    assert_int_equal(packed, 1);
    checkpoint_reader_close(reader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_version_is_read_to_the_values_of_its_time),
        cmocka_unit_test(the_kept_file_of_version_2_is_packed),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
