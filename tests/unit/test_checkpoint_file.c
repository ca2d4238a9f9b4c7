/* One checkpoint file: what is written comes back bit for bit, and what is not right is refused
 * with the reason. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/core/file.h"

#include "src/checkpoint/plan.h"
#include "src/checkpoint/userblock.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
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

static State *small_state(void) {
    State *state;
    assert_ok(known_state(KNOWN_SMALL, &state));
    return state;
}

static int count_names(void) {
    int names = 0;
    DIR *list = opendir(directory_path);
    assert_non_null(list);
    for (struct dirent *item; (item = readdir(list)) != NULL;)
        names += strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0;
    closedir(list);
    return names;
}

static void change_bytes(const char *name, const void *bytes, size_t size, int64_t offset) {
    int fd = openat(directory, name, O_WRONLY);
    assert_int_equal(file_write_at(fd, bytes, size, offset), 0);
    close(fd);
}

static void flip_bit(const char *name, int64_t offset) {
    int fd = openat(directory, name, O_RDWR);
    unsigned char byte;
    assert_int_equal(file_read_at(fd, &byte, 1, offset), 0);
    byte ^= 4;
    assert_int_equal(file_write_at(fd, &byte, 1, offset), 0);
    close(fd);
}

static Status open_and_close(const char *name) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(directory, name, &reader));
    checkpoint_reader_close(reader);
    return STATUS_OK;
}

/* A small known file, and a state to restore it into. */
static State *written(const char *name) {
    State *state = small_state(), *empty;
    assert_ok(known_write(state, directory, name));
    assert_ok(empty_state(state, &empty));
    state_destroy(state);
    return empty;
}

static void a_written_state_comes_back_bit_for_bit(void **unused) {
    (void)unused;
    for (KnownSize size = KNOWN_SMALL; size <= KNOWN_LARGE; size++) {
        State *saved, *read;
        assert_ok(known_state(size, &saved));
        assert_ok(known_write(saved, directory, "a.h5"));
        assert_ok(empty_state(saved, &read));
        assert_ok(load("a.h5", read));
        for (int i = 0; i < ARENA_COUNT; i++)
            if (saved->arenas[i].bytes > 0)
                assert_memory_equal(saved->arenas[i].data, read->arenas[i].data,
                                    saved->arenas[i].bytes);
        unlinkat(directory, "a.h5", 0);
        state_destroy(saved);
        state_destroy(read);
    }
}

static void a_state_of_scalars_alone_comes_back(void **unused) {
    (void)unused;
    State *state, *read;
    assert_ok(state_create(&state));
    assert_ok(state_declare(state, ARENA_SCALAR, "step", DTYPE_I64, 0, NULL, NULL));
    assert_ok(state_allocate(state));
    *(int64_t *)state_data(state, 0) = 42;
    assert_ok(known_write(state, directory, "a.h5"));
    assert_ok(empty_state(state, &read));
    assert_ok(load("a.h5", read));
    assert_int_equal(*(int64_t *)state_data(read, 0), 42);
    state_destroy(state);
    state_destroy(read);
}

static void the_reader_tells_entries_block_and_texts(void **unused) {
    (void)unused;
    State *state = small_state();
    assert_ok(known_write(state, directory, "a.h5"));
    CheckpointReader *reader;
    assert_ok(checkpoint_reader_open(directory, "a.h5", &reader));
    assert_int_equal(checkpoint_reader_count(reader), state->count);
    for (int i = 0; i < state->count; i++) {
        const CheckpointEntry *entry = checkpoint_reader_entry(reader, i);
        int index = state_find(state, entry->path);
        assert_true(index >= 0);
        assert_int_equal(entry->dtype, state->entries[index].dtype);
        assert_int_equal(entry->bytes, state->entries[index].bytes);
    }
    const UserBlock *block = checkpoint_reader_block(reader);
    assert_int_equal(block->step, 1200);
    assert_true(digest_equal(block->state_digest, state_digest(state)));
    assert_string_equal(checkpoint_reader_text(reader, "identity"), KNOWN_TEXT.identity);
    assert_string_equal(checkpoint_reader_text(reader, "config"), KNOWN_TEXT.config);
    assert_string_equal(checkpoint_reader_text(reader, "lineage"), KNOWN_TEXT.lineage);
    assert_null(checkpoint_reader_text(reader, "segments"));
    checkpoint_reader_close(reader);
    state_destroy(state);
}

static void the_same_state_gives_the_same_bytes_but_for_the_time(void **unused) {
    (void)unused;
    char *bytes[2];
    size_t sizes[2];
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? "a.h5" : "b.h5";
        State *state = small_state();
        assert_ok(known_write(state, directory, name));
        assert_ok(file_read(directory, name, 1 << 20, &bytes[i], &sizes[i]));
        UserBlock block;
        assert_ok(userblock_decode(bytes[i], name, &block));
        strcpy(block.created_at, "then");
        assert_ok(userblock_encode(&block, bytes[i]));
        state_destroy(state);
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(bytes[0], bytes[1], sizes[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void one_plan_serves_many_saves(void **unused) {
    (void)unused;
    State *state = small_state(), *read;
    CheckpointPlan *plan;
    assert_ok(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan));
    assert_ok(empty_state(state, &read));
    int step = state_find(state, "progress/step");
    for (int64_t i = 0; i < 3; i++) {
        char name[32];
        UserBlock block = known_block();
        snprintf(name, sizeof name, "%lld.h5", (long long)i);
        *(int64_t *)state_data(state, step) = i;
        assert_ok(checkpoint_write(plan, state, directory, name, &block));
        assert_ok(load(name, read));
        assert_int_equal(*(int64_t *)state_data(read, step), i);
    }
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    state_destroy(read);
}

static void long_texts_travel_whole(void **unused) {
    (void)unused;
    State *state = small_state();
    size_t length = 300000;
    char *lineage = malloc(length + 1);
    memset(lineage, 'l', length);
    lineage[length] = '\0';
    CheckpointText text = {"", lineage + length - 5000, lineage};
    CheckpointPlan *plan;
    assert_ok(checkpoint_plan(state, &text, 0, &plan));
    UserBlock block = known_block();
    assert_ok(checkpoint_write(plan, state, directory, "a.h5", &block));
    CheckpointReader *reader;
    assert_ok(checkpoint_reader_open(directory, "a.h5", &reader));
    assert_string_equal(checkpoint_reader_text(reader, "identity"), "");
    assert_string_equal(checkpoint_reader_text(reader, "config"), text.config);
    assert_string_equal(checkpoint_reader_text(reader, "lineage"), lineage);
    checkpoint_reader_close(reader);
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    free(lineage);
}

static void a_table_larger_than_a_page_still_lies_in_the_region(void **unused) {
    (void)unused;
    State *state; /* declared, never allocated: only its layout is asked for */
    assert_ok(state_create(&state));
    for (int i = 0; i < 300; i++) {
        char path[32];
        int64_t shape[] = {1 << 12, (1 << 10) + i};
        snprintf(path, sizeof path, "layer%d/weight", i);
        assert_ok(state_declare(state, ARENA_PARAMETER, path, DTYPE_F32, 2, shape, NULL));
    }
    CheckpointPlan *plan;
    assert_ok(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan));
    assert_in_range(plan->segments, 1200, 1500);
    assert_true(plan->segments_offset + plan->segments * 16 <=
                CHECKPOINT_USER_BLOCK + (int64_t)plan->region_bytes);
    assert_true(plan->region_bytes < 300000); /* no megabytes of empty metadata block */
    checkpoint_plan_destroy(plan);
    state_destroy(state);
}

static void paths_that_a_file_cannot_hold_are_refused_by_name(void **unused) {
    (void)unused;
    static const char *const pairs[][2] = {
        {"a", "a/b"}, {"x", "a//b"}, {"x", "a/./b"}, {"x", "a/"}, {"x", "rekindle/mine"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        State *state;
        CheckpointPlan *plan;
        assert_ok(state_create(&state));
        for (int j = 0; j < 2; j++)
            assert_ok(
                state_declare(state, ARENA_SCALAR, pairs[i][j], DTYPE_I64, 0, NULL, NULL));
        assert_fails(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan), STATUS_USAGE,
                     pairs[i][1]);
        assert_null(plan);
        state_destroy(state);
    }
}

static void a_name_that_is_there_is_never_replaced(void **unused) {
    (void)unused;
    State *state = small_state();
    assert_ok(file_publish(directory, "a.h5", "mine", 4));
    assert_int_equal(known_write(state, directory, "a.h5"), STATUS_EXISTS);
    char *bytes;
    size_t size;
    assert_ok(file_read(directory, "a.h5", 100, &bytes, &size));
    assert_string_equal(bytes, "mine");
    assert_int_equal(count_names(), 1); /* and no temporary is left */
    free(bytes);
    state_destroy(state);
}

static void a_failed_write_names_its_step_and_leaves_nothing(void **unused) {
    (void)unused;
    State *state = small_state();
    CheckpointPlan *plan;
    UserBlock block = known_block();
    assert_ok(checkpoint_plan(state, &KNOWN_TEXT, 0, &plan));
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, now;
    getrlimit(RLIMIT_FSIZE, &before);
    now = before;
    now.rlim_cur = 10000;
    setrlimit(RLIMIT_FSIZE, &now);
    Status status = checkpoint_write(plan, state, directory, "a.h5", &block);
    CheckpointPlan *second;
    Status planned = checkpoint_plan(state, &KNOWN_TEXT, 0, &second);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(planned, STATUS_IO);
    assert_non_null(strstr(status_failure()->what, "above the limit of 10000 bytes"));
    assert_int_equal(status, STATUS_IO);
    assert_int_equal(count_names(), 0);
    assert_fails(checkpoint_write(plan, state, -1, "a.h5", &block), STATUS_IO,
                 "cannot create");
    checkpoint_plan_destroy(plan);
    state_destroy(state);
}

static void a_file_of_another_length_is_refused(void **unused) {
    (void)unused;
    State *state = written("a.h5");
    UserBlock block;
    assert_ok(checkpoint_read_user_block(directory, "a.h5", &block));
    int fd = openat(directory, "a.h5", O_WRONLY);
    const int64_t lengths[] = {block.bytes + 1, block.bytes - 1, 5000, 4096};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(ftruncate(fd, lengths[i]), 0);
        assert_fails(load("a.h5", state), STATUS_CORRUPT, "but was written with");
        assert_fails(checkpoint_read_user_block(directory, "a.h5", &block), STATUS_CORRUPT,
                     "bytes long");
    }
    assert_int_equal(ftruncate(fd, 4095), 0);
    assert_fails(load("a.h5", state), STATUS_CORRUPT, "ends at offset 4095");
    close(fd);
    state_destroy(state);
}

static void damage_is_named_by_the_part_that_it_hit(void **unused) {
    (void)unused;
    State *state;
    assert_ok(known_state(KNOWN_LARGE, &state));
    assert_ok(known_write(state, directory, "a.h5"));
    UserBlock block;
    assert_ok(checkpoint_verify(directory, "a.h5", &block));
    const int64_t tensors = CHECKPOINT_USER_BLOCK + block.metadata_bytes;
    const struct {
        int64_t offset;
        const char *said;
    } hits[] = {{100, "checksum"},
                {4095, "user block"},
                {4096, "metadata region"},
                {tensors - 1, "metadata region"},
                {tensors, "segment 0"},
                {tensors + CHECKPOINT_SEGMENT - 1, "segment 0"},
                {tensors + 3 * CHECKPOINT_SEGMENT, "segment 3"},
                {block.bytes - 1, "segment 5"}};
    for (size_t i = 0; i < sizeof hits / sizeof *hits; i++) {
        UserBlock unread;
        flip_bit("a.h5", hits[i].offset);
        assert_fails(checkpoint_verify(directory, "a.h5", &unread), STATUS_CORRUPT,
                     hits[i].said);
        assert_fails(load("a.h5", state), STATUS_CORRUPT, hits[i].said);
        flip_bit("a.h5", hits[i].offset);
    }
    assert_ok(checkpoint_verify(directory, "a.h5", &block));
    state_destroy(state);
}

/* Signs the user block of `name` anew after `change` altered it. */
static void sign_again(const char *name, void (*change)(UserBlock *)) {
    UserBlock block;
    char text[CHECKPOINT_USER_BLOCK];
    assert_ok(checkpoint_read_user_block(directory, name, &block));
    change(&block);
    assert_ok(userblock_encode(&block, text));
    change_bytes(name, text, sizeof text, 0);
}

static void other_state(UserBlock *block) {
    block->state_digest.low ^= 1;
}

static void newer(UserBlock *block) {
    block->version = CHECKPOINT_FORMAT_VERSION + 1;
    strcpy(block->writer, "rekindle 7.8.9, hdf5 2.0");
}

static void a_state_digest_that_is_not_the_values_own_is_refused(void **unused) {
    (void)unused;
    State *state = written("a.h5");
    sign_again("a.h5", other_state);
    UserBlock block;
    assert_ok(open_and_close("a.h5"));
    assert_fails(load("a.h5", state), STATUS_CORRUPT, "restored state's digest");
    assert_fails(checkpoint_verify(directory, "a.h5", &block), STATUS_CORRUPT,
                 "state_digest");
    state_destroy(state);
}

static void a_newer_format_is_a_matter_for_the_user(void **unused) {
    (void)unused;
    State *state = written("a.h5");
    sign_again("a.h5", newer);
    assert_fails(load("a.h5", state), STATUS_USAGE, "written by a newer Rekindle");
    assert_non_null(
        strstr(status_failure()->what, "what wrote it reads it: rekindle 7.8.9"));
    state_destroy(state);
}

static void a_state_of_another_model_is_refused_with_both_shapes(void **unused) {
    (void)unused;
    State *ours = written("a.h5"), *other;
    assert_ok(state_create(&other));
    const int64_t wider[] = {16, 65};
    for (int i = 0; i < ours->count; i++) {
        const Entry *entry = &ours->entries[i];
        bool changed = strcmp(entry->path, "model/fc.weight") == 0;
        const char *path =
            strcmp(entry->path, "model/fc.bias") == 0 ? "model/fc.beta" : entry->path;
        assert_ok(state_declare(other, entry->arena, path, entry->dtype, entry->rank,
                                changed ? wider : entry->shape, NULL));
    }
    assert_ok(state_allocate(other));
    Status status = load("a.h5", other);
    assert_int_equal(status, STATUS_USAGE);
    const char *said = status_failure()->what;
    assert_non_null(strstr(said, "3 entries differ"));
    assert_non_null(strstr(said, "missing model/fc.beta float32 (7)"));
    assert_non_null(strstr(said, "unexpected model/fc.bias float32 (7)"));
    assert_non_null(
        strstr(said, "model/fc.weight float32 (16, 64), needed as float32 (16, 65)"));
    state_destroy(ours);
    state_destroy(other);
}

static Status stop_at_second(void *context, const CheckpointEntry *entry, size_t offset,
                             const void *bytes, size_t count) {
    (void)entry, (void)offset, (void)bytes, (void)count;
    return ++*(int *)context < 2 ? STATUS_OK : FAIL(STATUS_COMM, NULL, "the sink is full");
}

static void what_the_sink_returns_ends_the_stream(void **unused) {
    (void)unused;
    state_destroy(written("a.h5"));
    CheckpointReader *reader;
    int calls = 0;
    assert_ok(checkpoint_reader_open(directory, "a.h5", &reader));
    assert_fails(checkpoint_reader_stream(reader, stop_at_second, &calls), STATUS_COMM,
                 "full");
    assert_int_equal(calls, 2);
    assert_ok(checkpoint_reader_stream(reader, NULL, NULL));
    checkpoint_reader_close(reader);
}

static Status count_bytes(void *context, const CheckpointEntry *entry, size_t offset,
                          const void *bytes, size_t count) {
    (void)entry, (void)offset, (void)bytes;
    *(size_t *)context += count;
    return STATUS_OK;
}

static void reading_may_begin_before_it_is_needed_or_for_nothing(void **unused) {
    (void)unused;
    State *state = written("a.h5");
    size_t expected = 0;
    for (int i = 0; i < state->count; i++)
        expected += state->entries[i].bytes;
    state_destroy(state);
    for (int begun = 0; begun <= 2; begun++) {
        CheckpointReader *reader;
        size_t bytes = 0;
        assert_ok(checkpoint_reader_open(directory, "a.h5", &reader));
        for (int i = 0; i < begun; i++)
            assert_ok(checkpoint_reader_begin(reader));
        assert_ok(checkpoint_reader_stream(reader, count_bytes, &bytes));
        assert_int_equal(bytes, expected);
        assert_ok(checkpoint_reader_begin(reader)); /* and close ends it */
        checkpoint_reader_close(reader);
    }
}

static void only_plain_files_are_opened(void **unused) {
    (void)unused;
    state_destroy(written("a.h5"));
    assert_int_equal(symlinkat("a.h5", directory, "link.h5"), 0);
    assert_int_equal(mkfifoat(directory, "pipe.h5", 0600),
                     0); /* nobody ever writes to it */
    assert_fails(open_and_close("link.h5"), STATUS_CORRUPT, "symbolic link");
    assert_fails(open_and_close("pipe.h5"), STATUS_CORRUPT, "not a regular file");
    assert_fails(open_and_close("."), STATUS_CORRUPT, "not a regular file");
    assert_fails(open_and_close("none.h5"), STATUS_IO, "cannot open none.h5");
}

static int count_own(const char *place, const char *prefix) {
    int names = 0;
    DIR *list = opendir(place);
    for (struct dirent *item; list != NULL && (item = readdir(list)) != NULL;)
        names += strncmp(item->d_name, prefix, strlen(prefix)) == 0;
    if (list != NULL) closedir(list);
    return names;
}

static void planning_writing_and_reading_leave_no_file_open_or_in_memory(void **unused) {
    (void)unused;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "rekindle-%d-", (int)getpid());
    int open_before = count_own("/proc/self/fd", "");
    State *state = written("a.h5");
    assert_ok(load("a.h5", state));
    flip_bit("a.h5", 5000);
    assert_int_equal(load("a.h5", state), STATUS_CORRUPT);
    assert_int_equal(count_own("/proc/self/fd", ""), open_before);
    assert_int_equal(count_own("/dev/shm", prefix) + count_own("/tmp", prefix), 0);
    state_destroy(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_written_state_comes_back_bit_for_bit,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_state_of_scalars_alone_comes_back, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(the_reader_tells_entries_block_and_texts,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            the_same_state_gives_the_same_bytes_but_for_the_time, open_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(one_plan_serves_many_saves, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(long_texts_travel_whole, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(a_table_larger_than_a_page_still_lies_in_the_region,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(paths_that_a_file_cannot_hold_are_refused_by_name,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_name_that_is_there_is_never_replaced,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_failed_write_names_its_step_and_leaves_nothing,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_file_of_another_length_is_refused, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(damage_is_named_by_the_part_that_it_hit,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            a_state_digest_that_is_not_the_values_own_is_refused, open_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(a_newer_format_is_a_matter_for_the_user,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            a_state_of_another_model_is_refused_with_both_shapes, open_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(what_the_sink_returns_ends_the_stream,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            reading_may_begin_before_it_is_needed_or_for_nothing, open_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(only_plain_files_are_opened, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(
            planning_writing_and_reading_leave_no_file_open_or_in_memory, open_directory,
            remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
