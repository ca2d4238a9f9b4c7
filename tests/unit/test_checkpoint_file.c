/* One checkpoint file: what is written comes back bit for bit, and what is not right is refused
 * with the reason. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/core/file.h"

#include <dirent.h>
#include <sys/stat.h>

static int directory;
static char directory_path[64];

static int open_directory(void **state) {
    (void)state;
    directory = temporary_directory("/tmp", directory_path);
    return directory < 0;
}

static int remove_directory(void **state) {
    (void)state;
    DIR *list = opendir(directory_path);
    for (struct dirent *item; list != NULL && (item = readdir(list)) != NULL;)
        unlinkat(directory, item->d_name, 0);
    if (list != NULL) closedir(list);
    close(directory);
    return rmdir(directory_path); /* fails when something is left */
}

static Status load(const char *name, State *into) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(directory, name, &reader));
    Status status = checkpoint_reader_load(reader, into);
    checkpoint_reader_close(reader);
    return status;
}

static void a_written_state_comes_back_bit_for_bit(void **unused) {
    (void)unused;
    for (KnownSize size = KNOWN_SMALL; size <= KNOWN_LARGE; size++) {
        State *written, *read;
        assert_ok(known_state(size, &written));
        assert_ok(known_write(written, directory, "a.h5"));
        assert_ok(empty_state(written, &read));
        assert_ok(load("a.h5", read));
        for (int i = 0; i < ARENA_COUNT; i++)
            if (written->arenas[i].bytes > 0)
                assert_memory_equal(written->arenas[i].data, read->arenas[i].data,
                                    written->arenas[i].bytes);
        unlinkat(directory, "a.h5", 0);
        state_destroy(written);
        state_destroy(read);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_written_state_comes_back_bit_for_bit, open_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
