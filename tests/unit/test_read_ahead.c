/* Pieces of a file come in order and whole, however fast they are used; what cannot be read is
 * reported at its place. */
#include "tests/support/test.h"

#include "src/checkpoint/read_ahead.h"
#include "src/core/rng.h"
#include "src/state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 2 * STATE_PAGE, MOST_PIECES = 23, START = STATE_PAGE };

static unsigned char expected[START + MOST_PIECES * PIECE];

/* A file without a name, in memory (page cache) or on a disk (direct). */
static int make_file(const char *above, size_t bytes) {
    char path[64];
    snprintf(path, sizeof path, "%s/rekindle-ahead-XXXXXX", above);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, expected, bytes), bytes);
    assert_int_equal(fsync(fd), 0);
    return fd;
}

static int fill_expected(void **state) {
    (void)state;
    Rng rng = rng_at(7, RNG_TEST, 0, 0);
    for (size_t i = 0; i < sizeof expected; i++)
        expected[i] = (unsigned char)rng_word(rng, 0, (uint32_t)i);
    return 0;
}

static void read_all(int fd, size_t bytes, useconds_t pause_us) {
    ReadAhead *ahead;
    int flags = fcntl(fd, F_GETFL);
    assert_ok(read_ahead_open(fd, START, (int64_t)bytes, PIECE, &ahead));
    for (size_t at = START; at < bytes; at += PIECE) {
        const unsigned char *piece;
        size_t count = bytes - at < PIECE ? bytes - at : PIECE;
        assert_int_equal(read_ahead_next(ahead, &piece), 0);
        usleep(pause_us); /* a piece stays as it is while it is in use */
        assert_memory_equal(piece, expected + at, count);
    }
    read_ahead_close(ahead);
    assert_int_equal(fcntl(fd, F_GETFL), flags);
}

static void every_number_of_pieces_comes_whole_and_in_order(void **state) {
    (void)state;
    static const char *const places[] = {"/dev/shm", "/tmp"};
    for (size_t place = 0; place < 2; place++) {
        if (access(places[place], W_OK) != 0) continue;
        for (size_t pieces = 0; pieces <= MOST_PIECES; pieces += pieces < 6 ? 1 : 17) {
            size_t bytes = START + pieces * PIECE;
            int fd = make_file(places[place], bytes);
            read_all(fd, bytes, 0);
            read_all(fd, bytes, 300);
            if (pieces > 0) read_all(fd, bytes - STATE_PAGE, 0); /* the last one shorter */
            close(fd);
        }
    }
}

static void a_user_that_leaves_early_waits_for_nothing(void **state) {
    (void)state;
    int fd = make_file("/tmp", sizeof expected);
    for (int used = 0; used < MOST_PIECES; used++) {
        ReadAhead *ahead;
        const unsigned char *piece;
        assert_ok(read_ahead_open(fd, START, (int64_t)sizeof expected, PIECE, &ahead));
        for (int i = 0; i < used; i++)
            assert_int_equal(read_ahead_next(ahead, &piece), 0);
        read_ahead_close(ahead);
    }
    close(fd);
    read_ahead_close(NULL);
}

static void what_a_file_lacks_is_reported_at_its_place(void **state) {
    (void)state;
    enum { WHOLE = 7 };
    int fd = make_file("/tmp", START + WHOLE * PIECE + STATE_PAGE);
    ReadAhead *ahead;
    const unsigned char *piece;
    assert_ok(read_ahead_open(fd, START, (int64_t)sizeof expected, PIECE, &ahead));
    for (int i = 0; i < WHOLE; i++)
        assert_int_equal(read_ahead_next(ahead, &piece), 0);
    assert_int_equal(read_ahead_next(ahead, &piece), -1);
    assert_int_equal(errno, EIO);
    read_ahead_close(ahead);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_pieces_comes_whole_and_in_order),
        cmocka_unit_test(a_user_that_leaves_early_waits_for_nothing),
        cmocka_unit_test(what_a_file_lacks_is_reported_at_its_place),
    };
    return cmocka_run_group_tests(tests, fill_expected, NULL);
}
