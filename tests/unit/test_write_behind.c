/* Pieces reach the file whole, however fast they are made, and a failure is reported once, at the end. */
#include "tests/support/test.h"

#include "src/checkpoint/write_behind.h"
#include "src/state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 2 * STATE_PAGE, MOST_PIECES = 23 };

static int make_file(const char *above, int flags) {
    char path[64];
    snprintf(path, sizeof path, "%s/rekindle-behind-XXXXXX", above);
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    if (flags == O_RDONLY) {
        close(fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    } else {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | flags);
    }
    unlink(path);
    return fd;
}

static unsigned char byte_of(int piece, int at) {
    return (unsigned char)(piece * 31 + at * 7 + at / 256);
}

static void write_pieces(WriteBehind *behind, int count) {
    for (int i = 0; i < count; i++) {
        unsigned char *data = write_behind_piece(behind);
        for (int at = 0; at < PIECE; at++)
            data[at] = byte_of(i, at);
        size_t bytes = i + 1 < count ? PIECE : PIECE / 2; /* the last one shorter */
        write_behind_send(behind, bytes, (int64_t)i * PIECE);
    }
}

static void every_number_of_pieces_arrives_whole(void **state) {
    (void)state;
    static const char *const places[] = {"/dev/shm", "/tmp"};
    static unsigned char found[PIECE];
    for (size_t place = 0; place < 2; place++)
        for (int count = 0; count <= MOST_PIECES; count++) {
            if (access(places[place], W_OK) != 0) continue;
            int fd = make_file(places[place], O_DIRECT); /* where it can */
            WriteBehind *behind;
            assert_ok(write_behind_open(fd, PIECE, count, &behind));
            write_pieces(behind, count);
            assert_int_equal(write_behind_finish(behind), 0);
            write_behind_close(behind);
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
            for (int i = 0; i < count; i++) {
                size_t bytes = i + 1 < count ? PIECE : PIECE / 2;
                assert_int_equal(pread(fd, found, PIECE, (off_t)i * PIECE), bytes);
                for (int at = 0; at < (int)bytes; at++)
                    assert_int_equal(found[at], byte_of(i, at));
            }
            close(fd);
        }
}

static void a_failure_is_told_at_the_end_and_nobody_waits_for_ever(void **state) {
    (void)state;
    for (int count = 1; count <= MOST_PIECES; count += 11) {
        int fd = make_file("/tmp", O_RDONLY);
        WriteBehind *behind;
        assert_ok(write_behind_open(fd, PIECE, count, &behind));
        write_pieces(behind, count);
        assert_int_equal(write_behind_finish(behind), -1);
        assert_int_equal(errno, EBADF);
        write_behind_close(behind);
        close(fd);
    }
    write_behind_close(NULL);
}

static void an_end_without_a_finish_waits_for_nobody(void **state) {
    (void)state;
    int fd = make_file("/tmp", 0);
    WriteBehind *behind;
    assert_ok(write_behind_open(fd, PIECE, MOST_PIECES, &behind));
    write_pieces(behind, 3);
    assert_non_null(write_behind_piece(behind));
    write_behind_close(behind);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_pieces_arrives_whole),
        cmocka_unit_test(a_failure_is_told_at_the_end_and_nobody_waits_for_ever),
        cmocka_unit_test(an_end_without_a_finish_waits_for_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
