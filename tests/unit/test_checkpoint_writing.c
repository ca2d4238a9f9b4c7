/* Writing a checkpoint in two strokes: the first one takes all that it needs from the state and says what
 * the state is like, the second one needs the state no more. */
#include "tests/support/test.h"

#include "src/core/file.h"
#include "tests/support/checkpoint_state.h"

#include <dirent.h>
#include <limits.h>
#include <math.h>

static int directory;
static char directory_path[64];

/* Names in the directory, hidden ones too. */
static int count_names(void) {
    int count = 0;
    DIR *stream = opendir(directory_path);
    for (const struct dirent *found; (found = readdir(stream)) != NULL;)
        count += strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0;
    closedir(stream);
    return count;
}

static int empty_directory(void **unused) {
    (void)unused;
    DIR *stream = opendir(directory_path);
    for (const struct dirent *found; (found = readdir(stream)) != NULL;)
        if (strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0)
            unlinkat(directory, found->d_name, 0);
    closedir(stream);
    return 0;
}

/* Everything that saves of one state share. */
typedef struct {
    State *state;
    CheckpointPlan *plan;
} Case;

static Case open_case(KnownSize size, int level) {
    Case self;
    assert_ok(known_state(size, &self.state));
    assert_ok(checkpoint_plan(self.state, &KNOWN_TEXT, level, &self.plan));
    return self;
}

static void close_case(Case *self) {
    checkpoint_plan_destroy(self->plan);
    state_destroy(self->state);
}

static CheckpointWriting *begin(const Case *self, Digest *digest, int *not_finite) {
    CheckpointWriting *writing;
    assert_ok(checkpoint_write_begin(self->plan, self->state, directory, "a.h5", &writing,
                                     digest, not_finite));
    return writing;
}

static const struct {
    KnownSize size;
    int level;
} CASES[] = {{KNOWN_SMALL, 0}, {KNOWN_LARGE, 0}, {KNOWN_LARGE, 1}, {KNOWN_PACKABLE, 1}};
enum { CASE_COUNT = sizeof CASES / sizeof *CASES };

static void the_file_holds_the_state_of_the_first_stroke(void **unused) {
    (void)unused;
    for (int i = 0; i < CASE_COUNT; i++) {
        Case it = open_case(CASES[i].size, CASES[i].level);
        Digest before = state_digest(it.state), found;
        int not_finite;
        CheckpointWriting *writing = begin(&it, &found, &not_finite);
        assert_true(digest_equal(found, before));
        for (int e = 0; e < it.state->count; e++)
            memset(state_data(it.state, e), 0xff, it.state->entries[e].bytes);
        UserBlock block = known_block(), proved;
        assert_ok(checkpoint_write_commit(writing, &block));
        assert_int_equal(count_names(), 1);
        assert_ok(checkpoint_verify(directory, "a.h5", &proved));
        assert_true(digest_equal(proved.state_digest, before));
        empty_directory(NULL);
        close_case(&it);
    }
}

/* Of floats, the last value becomes infinite or NaN; of integers, all bits one. */
static void spoil(State *state, int index, bool infinite) {
    const Entry *entry = &state->entries[index];
    unsigned char *end = (unsigned char *)state_data(state, index) + entry->bytes;
    float narrow = infinite ? -INFINITY : NAN;
    double wide = narrow;
    if (entry->dtype == DTYPE_F32)
        memcpy(end - sizeof narrow, &narrow, sizeof narrow);
    else if (entry->dtype == DTYPE_F64)
        memcpy(end - sizeof wide, &wide, sizeof wide);
    else
        memset(end - 8, 0xff, 8);
}

static void the_first_stroke_sees_what_an_examination_sees(void **unused) {
    (void)unused;
    int seen = 0, integers = 0;
    for (int i = 0; i < CASE_COUNT; i++) {
        Case it = open_case(CASES[i].size, CASES[i].level);
        /* from the last entry to the first, so that each is the lowest once */
        for (int e = it.state->count; e >= 0; e--) {
            if (e < it.state->count) spoil(it.state, e, e % 2 == 0);
            int examined, not_finite;
            Digest expected = state_examine(it.state, &examined), found;
            checkpoint_write_discard(begin(&it, &found, &not_finite));
            assert_true(digest_equal(found, expected));
            assert_int_equal(not_finite, examined);
            seen += not_finite == e;
            integers += not_finite != e;
        }
        close_case(&it);
    }
    assert_true(seen >= 24 && integers >= 8);
}

static void a_discarded_file_leaves_nothing(void **unused) {
    (void)unused;
    Case it = open_case(KNOWN_LARGE, 0);
    Digest digest;
    int not_finite;
    CheckpointWriting *writing = begin(&it, &digest, &not_finite);
    assert_int_equal(count_names(), 1);
    checkpoint_write_discard(writing);
    assert_int_equal(count_names(), 0);
    checkpoint_write_discard(NULL);
    close_case(&it);
}

static void a_name_taken_between_the_strokes_is_not_replaced(void **unused) {
    (void)unused;
    Case it = open_case(KNOWN_SMALL, 0);
    Digest digest;
    int not_finite;
    CheckpointWriting *writing = begin(&it, &digest, &not_finite);
    assert_ok(file_publish(directory, "a.h5", "mine", 4));
    UserBlock block = known_block();
    assert_int_equal(checkpoint_write_commit(writing, &block), STATUS_EXISTS);
    char *bytes;
    size_t size;
    assert_ok(file_read(directory, "a.h5", 100, &bytes, &size));
    assert_string_equal(bytes, "mine");
    assert_int_equal(count_names(), 1);
    free(bytes);
    close_case(&it);
}

static void a_first_stroke_that_fails_gives_nothing_to_free(void **unused) {
    (void)unused;
    Case it = open_case(KNOWN_SMALL, 0), other = open_case(KNOWN_LARGE, 0);
    char name[NAME_MAX + 1];
    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = '\0';
    const struct {
        const State *state;
        int directory;
        const char *name, *said;
        Status status;
    } failures[] = {{it.state, -1, "a.h5", "cannot create", STATUS_IO},
                    {it.state, directory, name, "name too long", STATUS_IO},
                    {other.state, directory, "a.h5", "another state", STATUS_USAGE}};
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        CheckpointWriting *writing = (CheckpointWriting *)&it;
        Digest digest;
        int not_finite;
        assert_fails(checkpoint_write_begin(it.plan, failures[i].state,
                                            failures[i].directory, failures[i].name,
                                            &writing, &digest, &not_finite),
                     failures[i].status, failures[i].said);
        assert_null(writing);
        assert_int_equal(count_names(), 0);
    }
    close_case(&it);
    close_case(&other);
}

int main(void) {
    directory = temporary_directory("/tmp", directory_path);
    if (directory < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_file_holds_the_state_of_the_first_stroke,
                                  empty_directory),
        cmocka_unit_test_teardown(the_first_stroke_sees_what_an_examination_sees,
                                  empty_directory),
        cmocka_unit_test_teardown(a_discarded_file_leaves_nothing, empty_directory),
        cmocka_unit_test_teardown(a_name_taken_between_the_strokes_is_not_replaced,
                                  empty_directory),
        cmocka_unit_test_teardown(a_first_stroke_that_fails_gives_nothing_to_free,
                                  empty_directory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(directory_path);
    return failed;
}
