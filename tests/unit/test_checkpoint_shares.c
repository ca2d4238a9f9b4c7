/* Writing a checkpoint by several processes: whoever places which segments, the file is the same, and nobody
 * writes into a file that is not the one that was offered. */
#include "tests/support/test.h"

#include "src/core/file.h"
#include "tests/support/checkpoint_state.h"

#include <math.h>
#include <sys/stat.h>

static int directory;
static char directory_path[64];
static State *state;
static CheckpointPlan *plan;
static void *offer;

static int open_state(void **unused) {
    (void)unused;
    directory = temporary_directory("/tmp", directory_path);
    if (directory < 0 || known_state(KNOWN_LARGE, &state) != STATUS_OK ||
        checkpoint_plan(state, &KNOWN_TEXT, 0, &plan) != STATUS_OK)
        return -1;
    offer = malloc(checkpoint_offer_bytes(state));
    return offer == NULL;
}

static int close_state(void **unused) {
    (void)unused;
    free(offer);
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    close(directory);
    return rmdir(directory_path);
}

static CheckpointWriting *create(const char *name) {
    CheckpointWriting *writing;
    assert_ok(checkpoint_write_create(plan, directory, name, &writing));
    assert_ok(checkpoint_write_offer(writing, offer));
    return writing;
}

static CheckpointWriting *join(void) {
    CheckpointWriting *writing;
    assert_ok(checkpoint_write_join(offer, state, directory, &writing));
    return writing;
}

static Digest share_digest;
static int share_not_finite;

static Status place(CheckpointWriting *writing, int64_t first, int64_t count,
                    Digest *digests) {
    return checkpoint_write_share(writing, state, first, count, digests, &share_digest,
                                  &share_not_finite);
}

/* Two lines of the user block know the time. */
static void forget_time(char *bytes) {
    static const char *const fields[] = {"\"created_at\"", "\"checksum\""};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char *at = memmem(bytes, CHECKPOINT_USER_BLOCK, fields[i], strlen(fields[i]));
        assert_non_null(at);
        for (; *at != '\n'; at++)
            *at = '-';
    }
}

static char *read_all(const char *name, size_t *size) {
    char *bytes;
    assert_ok(file_read(directory, name, 1 << 28, &bytes, size));
    forget_time(bytes);
    return bytes;
}

static void every_number_of_writers_makes_the_same_file(void **unused) {
    (void)unused;
    size_t size, alone_size;
    UserBlock proved;
    assert_ok(known_write(state, directory, "a.h5"));
    char *alone = read_all("a.h5", &alone_size);
    for (int64_t writers = 1; writers <= 9;
         writers++) { /* more than there are segments, too */
        assert_ok(known_write_by(state, writers, directory, "b.h5"));
        char *bytes = read_all("b.h5", &size);
        assert_int_equal(size, alone_size);
        assert_int_equal(memcmp(bytes, alone, size), 0);
        free(bytes);
        assert_ok(checkpoint_verify(directory, "b.h5", &proved));
        assert_true(digest_equal(proved.state_digest, state_digest(state)));
        unlinkat(directory, "b.h5", 0);
    }
    free(alone);
    unlinkat(directory, "a.h5", 0);
}

static void a_share_that_was_not_placed_is_found_out(void **unused) {
    (void)unused;
    CheckpointWriting *created = create("a.h5");
    Digest digests[2];
    UserBlock block = known_block(), proved;
    assert_ok(place(created, 1, 2, digests));
    checkpoint_write_adopt(created, 3, 2, digests);
    assert_ok(checkpoint_write_commit(created, &block));
    assert_fails(checkpoint_verify(directory, "a.h5", &proved), STATUS_CORRUPT, "a.h5");
    unlinkat(directory, "a.h5", 0);
}

/* … also of entries that another writer places. */
static void every_share_sees_what_an_examination_sees(void **unused) {
    (void)unused;
    CheckpointWriting *created = create("a.h5");
    int64_t segments = checkpoint_write_segments(created);
    for (int e = 0; e < state->count; e++) {
        const Entry *entry = &state->entries[e];
        if (entry->dtype != DTYPE_F32) continue;
        float *last = (float *)state_data(state, e) + entry->bytes / sizeof(float) - 1;
        float before = *last;
        *last = (float)NAN;
        int expected;
        Digest digest = state_examine(state, &expected);
        for (int64_t first = 0; first <= segments; first += segments / 2) {
            CheckpointWriting *writing = join();
            assert_ok(place(writing, first, first < segments, NULL));
            checkpoint_write_discard(writing);
            assert_true(digest_equal(share_digest, digest));
            assert_int_equal(share_not_finite, expected);
        }
        assert_int_equal(expected, e);
        *last = before;
    }
    checkpoint_write_discard(created);
}

/* The hidden name in an offer: what stands there is exchanged. */
static const char *offered_name(void) {
    return (const char *)memmem(offer, checkpoint_offer_bytes(state), ".a.h5.", 6);
}

static void what_is_not_the_offered_file_is_refused(void **unused) {
    (void)unused;
    CheckpointWriting *created = create("a.h5"), *writing;
    const char *temp = offered_name();
    Status joined;
#define REFUSED(code, said)                                            \
    joined = checkpoint_write_join(offer, state, directory, &writing); \
    assert_fails(joined, code, said);                                  \
    assert_null(writing)
    assert_int_equal(linkat(directory, temp, directory, "second", 0), 0);
    REFUSED(STATUS_IO, "2 name(s)");
    assert_int_equal(unlinkat(directory, temp, 0), 0);
    assert_int_equal(symlinkat("second", directory, temp), 0);
    REFUSED(STATUS_USAGE, "symbolic link");
    assert_int_equal(unlinkat(directory, temp, 0), 0);
    assert_int_equal(mkfifoat(directory, temp, 0600), 0);
    REFUSED(STATUS_USAGE, "not a regular file");
    assert_int_equal(unlinkat(directory, temp, 0), 0);
    assert_ok(file_publish(directory, temp, "short", 5));
    REFUSED(STATUS_IO, "5 bytes");
    assert_int_equal(unlinkat(directory, temp, 0), 0);
    REFUSED(STATUS_IO, "not to be seen");
    assert_int_equal(renameat(directory, "second", directory, temp), 0);
    if (geteuid() == 0) {
        assert_int_equal(fchownat(directory, temp, 12345, (gid_t)-1, 0), 0);
        REFUSED(STATUS_IO, "user 12345");
        assert_int_equal(fchownat(directory, temp, 0, (gid_t)-1, 0), 0);
    }
    checkpoint_write_discard(join());
    assert_int_equal(faccessat(directory, temp, F_OK, 0), 0); /* it is not the joiner's */
    checkpoint_write_discard(created);
    assert_int_not_equal(faccessat(directory, temp, F_OK, 0), 0);
}

static void another_registry_cannot_join(void **unused) {
    (void)unused;
    State *other;
    CheckpointWriting *created = create("a.h5"), *writing;
    assert_ok(known_state(KNOWN_SMALL, &other));
    assert_fails(checkpoint_write_join(offer, other, directory, &writing), STATUS_USAGE,
                 "same program");
    assert_null(writing);
    checkpoint_write_discard(created);
    state_destroy(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_writers_makes_the_same_file),
        cmocka_unit_test(a_share_that_was_not_placed_is_found_out),
        cmocka_unit_test(every_share_sees_what_an_examination_sees),
        cmocka_unit_test(what_is_not_the_offered_file_is_refused),
        cmocka_unit_test(another_registry_cannot_join),
    };
    return cmocka_run_group_tests(tests, open_state, close_state);
}
