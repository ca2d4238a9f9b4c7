/* Damages a checkpoint, plain and packed, in every way that a disk can: each single bit, each length, and a
 * hundred thousand random wounds; and as an attacker can, who signs the damaged bytes anew. A reader must
 * refuse the file or give exactly the original state. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/checkpoint/image.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

enum {
    PLAIN_DAMAGES = 100000, /* at random, and as many that are signed */
    PACKED_DAMAGES = 30000,
    SIGNED_CHUNKS = 20000,
    LARGEST_SUBJECT = 64 << 10
};
static const char NAME[] = "a.h5";

/* The checkpoint under test: on a file system in memory, with a sound copy to heal it. */
static struct {
    char path[64];
    int directory, fd;
    char *sound;
    size_t bytes;
    long damages;
    State *original, *restored;
} subject;

static struct { long injected, refused, harmless; } counted;

static int prepare_subject(KnownSize size, int level, long damages) {
    subject.damages = damages;
    subject.directory = temporary_directory("/dev/shm", subject.path);
    if (subject.directory < 0)
        subject.directory = temporary_directory("/tmp", subject.path);
    if (subject.directory < 0 || known_state(size, &subject.original) != STATUS_OK ||
        empty_state(subject.original, &subject.restored) != STATUS_OK ||
        known_pack(subject.original, level, subject.directory, NAME) != STATUS_OK ||
        file_read(subject.directory, NAME, LARGEST_SUBJECT, &subject.sound,
                  &subject.bytes) != STATUS_OK)
        return -1;
    subject.fd = openat(subject.directory, NAME, O_RDWR | O_CLOEXEC);
    return subject.fd < 0 ? -1 : 0;
}

static int prepare_plain(void **unused) {
    (void)unused;
    return prepare_subject(KNOWN_SMALL, 0, PLAIN_DAMAGES);
}

static int prepare_packed(void **unused) {
    (void)unused;
    return prepare_subject(KNOWN_PACKABLE, 1, PACKED_DAMAGES);
}

static int clean_up(void **unused) {
    (void)unused;
    close(subject.fd);
    unlinkat(subject.directory, NAME, 0);
    close(subject.directory);
    rmdir(subject.path);
    free(subject.sound);
    state_destroy(subject.original);
    state_destroy(subject.restored);
    return 0;
}

static bool states_are_equal(void) {
    for (int i = 0; i < ARENA_COUNT; i++)
        if (subject.original->arenas[i].bytes > 0 &&
            memcmp(subject.original->arenas[i].data, subject.restored->arenas[i].data,
                   subject.original->arenas[i].bytes) != 0)
            return false;
    return true;
}

static Status restore(void) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(subject.directory, NAME, &reader));
    for (int i = 0; i < ARENA_COUNT; i++)
        if (subject.restored->arenas[i].bytes > 0)
            memset(subject.restored->arenas[i].data, 0, subject.restored->arenas[i].bytes);
    Status status = checkpoint_reader_load(reader, subject.restored);
    checkpoint_reader_close(reader);
    return status;
}

/* Reads the damaged file; `where` names the damage should it pass unseen. */
static void examine(const char *what, long where) {
    counted.injected++;
    Status status = restore();
    if (status == STATUS_OK && !states_are_equal())
        fail_msg("silent: %s at %ld", what, where);
    if (status != STATUS_OK && status_failure()->what[0] == '\0')
        fail_msg("refused without a reason: %s at %ld", what, where);
    counted.refused += status != STATUS_OK;
    counted.harmless += status == STATUS_OK;
}

static void put(const void *bytes, size_t size, size_t offset) {
    assert_int_equal(file_write_at(subject.fd, bytes, size, (long long)offset), 0);
}

static void heal(size_t offset, size_t size) {
    put(subject.sound + offset, size, offset);
}

static void report(const char *what) {
    print_message("%s: %ld injected, %ld refused, %ld harmless\n", what, counted.injected,
                  counted.refused, counted.harmless);
    memset(&counted, 0, sizeof counted);
}

static void the_sound_file_is_restored(void **unused) {
    (void)unused;
    assert_ok(restore());
    assert_true(states_are_equal());
}

static void every_flipped_bit_is_refused(void **unused) {
    (void)unused;
    for (size_t i = 0; i < subject.bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            char byte = (char)(subject.sound[i] ^ 1 << bit);
            put(&byte, 1, i);
            examine("flipped bit", (long)(8 * i) + bit);
        }
        heal(i, 1);
    }
    assert_int_equal(counted.injected, 8 * subject.bytes);
    assert_int_equal(counted.refused, counted.injected); /* padding is signed, too */
    report("flipped bits");
    the_sound_file_is_restored(NULL);
}

static void every_other_length_is_refused(void **unused) {
    (void)unused;
    for (size_t length = subject.bytes; length-- > 0;) {
        assert_int_equal(ftruncate(subject.fd, (off_t)length), 0);
        examine("cut to length", (long)length);
    }
    heal(0, subject.bytes);
    assert_int_equal(counted.refused, subject.bytes);
    report("truncations");
    Rng rng = rng_at(1, RNG_TEST, 1, 0);
    char tail[3 * 4096];
    for (uint32_t i = 0; i < sizeof tail; i++)
        tail[i] = i % 3 == 0 ? 0 : (char)rng_word(rng, 0, i);
    for (size_t length = 1; length <= sizeof tail; length++) {
        put(tail, length, subject.bytes);
        examine("appended", (long)length);
        assert_int_equal(ftruncate(subject.fd, (off_t)subject.bytes), 0);
    }
    assert_int_equal(counted.refused, sizeof tail);
    report("appended tails");
    the_sound_file_is_restored(NULL);
}

/* A length from 1 to `most`, short ones as likely as long ones. */
static size_t random_length(Rng rng, uint32_t sample, uint32_t lane, size_t most) {
    size_t bound = (size_t)1 << rng_below(rng, sample, lane, 14);
    size_t length = 1 + rng_below(rng, sample, lane + 1, (uint32_t)bound);
    return length < most ? length : most;
}

/* One wound in `copy`; what it did is told by the return. */
static const char *wound(Rng rng, uint32_t sample, char *copy, size_t *first,
                         size_t *last) {
    uint32_t whole = (uint32_t)subject.bytes;
    size_t at = rng_below(rng, sample, 0, whole), from = rng_below(rng, sample, 1, whole);
    size_t most = whole - (at > from ? at : from);
    size_t length = random_length(rng, sample, 2, most);
    *first = at;
    *last = at + length;
    switch (rng_below(rng, sample, 4, 5)) {
    case 0:
        for (size_t i = 0; i < length; i++)
            copy[at + i] = (char)rng_word(rng, sample, 8 + (uint32_t)i);
        return "random bytes";
    case 1:
        memset(copy + at, 0, length);
        return "zeros";
    case 2:
        memset(copy + at, 0xff, length);
        return "ones";
    case 3:
        memmove(copy + at, subject.sound + from, length);
        return "copied block";
    default:
        at = at / 512 * 512;
        from = from / 512 * 512;
        memcpy(copy + at, subject.sound + from, 512);
        memcpy(copy + from, subject.sound + at, 512);
        *first = at < from ? at : from;
        *last = (at < from ? from : at) + 512;
        return "swapped blocks";
    }
}

static void no_random_damage_is_silent(void **unused) {
    (void)unused;
    char *copy = malloc(subject.bytes);
    assert_non_null(copy);
    memcpy(copy, subject.sound, subject.bytes);
    Rng rng = rng_at(2, RNG_TEST, 2, 0);
    for (uint32_t i = 0; counted.injected < subject.damages; i++) {
        size_t first, last;
        const char *what = wound(rng, i, copy, &first, &last);
        if (memcmp(copy + first, subject.sound + first, last - first) == 0) continue;
        put(copy + first, last - first, first);
        examine(what, (long)first);
        heal(first, last - first);
        memcpy(copy + first, subject.sound + first, last - first);
    }
    free(copy);
    assert_int_equal(counted.injected,
                     subject.damages); /* each changed at least one byte */
    assert_int_equal(counted.refused, subject.damages);
    report("random damages");
    the_sound_file_is_restored(NULL);
}

/* Changes up to four places of the metadata region, where most bytes are zero: bits, whole bytes,
 * ones, and pieces of the region itself, which make wrong things look right. */
static void wound_metadata(Rng rng, uint32_t sample, char *copy, uint32_t region) {
    uint32_t wounds = 1 + rng_below(rng, sample, 0, 4);
    for (uint32_t i = 1; i <= wounds; i++) {
        uint32_t lane = 64 * i, at;
        do
            at = CHECKPOINT_USER_BLOCK + rng_below(rng, sample, lane++, region - 64);
        while (copy[at] == 0 && lane % 64 < 40);
        uint32_t from =
            CHECKPOINT_USER_BLOCK + rng_below(rng, sample, lane + 1, region - 64);
        uint32_t length = 1 + rng_below(rng, sample, lane + 2, 32);
        switch (rng_below(rng, sample, lane + 3, 4)) {
        case 0:
            copy[at] = (char)(copy[at] ^ 1 << rng_below(rng, sample, lane + 4, 8));
            break;
        case 1:
            copy[at] = (char)rng_word(rng, sample, lane + 4);
            break;
        case 2:
            memset(copy + at, 0xff, length);
            break;
        default:
            memmove(copy + at, copy + from, length);
        }
    }
}

/* An attacker signs what he has damaged: the parser itself must stand. What opens may differ from the
 * original, but what is restored may not: its digest tells. */
static void no_signed_damage_of_the_metadata_harms(void **unused) {
    (void)unused;
    char *copy = malloc(subject.bytes);
    assert_non_null(copy);
    UserBlock block;
    assert_ok(userblock_decode(subject.sound, NAME, &block));
    size_t signed_bytes = CHECKPOINT_USER_BLOCK + (size_t)block.metadata_bytes;
    Rng rng = rng_at(3, RNG_TEST, 3, 0);
    for (uint32_t i = 0; i < subject.damages; i++) {
        memcpy(copy, subject.sound, signed_bytes);
        wound_metadata(rng, i, copy, (uint32_t)block.metadata_bytes);
        block.metadata_digest =
            digest_of(copy + CHECKPOINT_USER_BLOCK, (size_t)block.metadata_bytes);
        assert_ok(userblock_encode(&block, copy));
        put(copy, signed_bytes, 0);
        examine("signed damage", i);
    }
    heal(0, signed_bytes);
    free(copy);
    assert_int_equal(counted.injected, subject.damages);
    assert_true(counted.refused > subject.damages / 4 && counted.harmless > 0);
    report("signed damages");
    the_sound_file_is_restored(NULL);
}

/* The same with the packed values: what inflates to something else must not pass, nor harm. */
static void no_signed_damage_of_chunks_harms(void **unused) {
    (void)unused;
    char *copy = malloc(subject.bytes);
    assert_non_null(copy);
    UserBlock block;
    Image image;
    assert_ok(userblock_decode(subject.sound, NAME, &block));
    assert_ok(image_list((unsigned char *)subject.sound + CHECKPOINT_USER_BLOCK, &block,
                         NAME, &image));
    assert_int_equal(image.chunks, 1);
    assert_int_equal(image.segments, 1);
    const ChunkPlace *place = &image.packed[0].places[0];
    size_t chunk = CHECKPOINT_USER_BLOCK + (size_t)place->address;
    size_t tensors = CHECKPOINT_USER_BLOCK + (size_t)block.metadata_bytes;
    Rng rng = rng_at(4, RNG_TEST, 4, 0);
    for (uint32_t i = 0; i < SIGNED_CHUNKS; i++) {
        memcpy(copy, subject.sound, subject.bytes);
        uint32_t wounds = 1 + rng_below(rng, i, 0, 3);
        for (uint32_t j = 1; j <= wounds; j++) {
            size_t at = chunk + rng_below(rng, i, 4 * j, place->bytes);
            if (rng_below(rng, i, 4 * j + 1, 2) == 0)
                copy[at] = (char)(copy[at] ^ 1 << rng_below(rng, i, 4 * j + 2, 8));
            else
                copy[at] = (char)rng_word(rng, i, 4 * j + 2);
        }
        Digest digest = digest_of(copy + tensors, subject.bytes - tensors);
        memcpy(copy + image.segments_offset, &digest, sizeof digest);
        block.metadata_digest =
            digest_of(copy + CHECKPOINT_USER_BLOCK, (size_t)block.metadata_bytes);
        assert_ok(userblock_encode(&block, copy));
        put(copy, subject.bytes, 0);
        examine("signed damage of a chunk", i);
    }
    heal(0, subject.bytes);
    free(copy);
    image_destroy(&image);
    assert_int_equal(counted.injected, SIGNED_CHUNKS);
    assert_true(counted.refused > SIGNED_CHUNKS * 9 / 10);
    report("signed damages of chunks");
    the_sound_file_is_restored(NULL);
}

int main(void) {
    const struct CMUnitTest plain[] = {
        cmocka_unit_test(the_sound_file_is_restored),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(no_random_damage_is_silent),
        cmocka_unit_test(no_signed_damage_of_the_metadata_harms),
    };
    const struct CMUnitTest packed[] = {
        cmocka_unit_test(the_sound_file_is_restored),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(no_random_damage_is_silent),
        cmocka_unit_test(no_signed_damage_of_the_metadata_harms),
        cmocka_unit_test(no_signed_damage_of_chunks_harms),
    };
    int failed = cmocka_run_group_tests_name("plain", plain, prepare_plain, clean_up);
    return failed + cmocka_run_group_tests_name("packed", packed, prepare_packed, clean_up);
}
