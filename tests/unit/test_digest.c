/* The digest that is compiled into the program is the one of XXH3's own library, whole and piece by piece. */
#include "tests/support/test.h"

#include "src/state/state.h"

#include <stdlib.h>
#include <xxhash.h>

enum { MOST = 9 << 10 };

static unsigned char bytes[MOST + 64];

static Digest of_library(const void *data, size_t count) {
    XXH128_hash_t hash = XXH3_128bits(data, count);
    return (Digest){hash.high64, hash.low64};
}

static void every_length_and_alignment_gives_the_librarys_digest(void **unused) {
    (void)unused;
    for (size_t count = 0; count <= MOST; count += count < 600 ? 1 : 97)
        for (size_t at = 0; at < 64; at += 21)
            assert_true(
                digest_equal(digest_of(bytes + at, count), of_library(bytes + at, count)));
}

static void pieces_of_any_length_give_the_digest_of_the_whole(void **unused) {
    (void)unused;
    DigestStream *stream = digest_stream_create();
    assert_non_null(stream);
    for (size_t piece = 1; piece <= MOST; piece += piece / 3 + 1) {
        digest_stream_begin(stream);
        for (size_t done = 0, count; done < MOST; done += count) {
            count = MOST - done < piece ? MOST - done : piece;
            digest_stream_add(stream, bytes + done, count);
            assert_true(
                digest_equal(digest_stream_value(stream), of_library(bytes, done + count)));
        }
    }
    free(stream);
}

int main(void) {
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 31 + i / 256 * 7);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_and_alignment_gives_the_librarys_digest),
        cmocka_unit_test(pieces_of_any_length_give_the_digest_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
