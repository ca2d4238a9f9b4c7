/* Packed checkpoints made to harm: whoever can write a file can sign it, too. Each forged file is a sound one
 * of ours with one thing changed in its chunks or their index, and every digest made anew. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/checkpoint/image.h"
#include "src/checkpoint/plan.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

#include <zlib.h>

enum { ROWS = 70, COLUMNS = 65536, ROOM = 1 << 20, NODE_HEAD = 24 };
static const char NAME[] = "forged.h5";

static struct {
    char path[64];
    int directory;
    State *state;
    char *sound, *bytes; /* of the file; `bytes` has ROOM more behind its end */
    size_t size;
    UserBlock block;
    Image image;
    ImagePacked *many, *few;
} subject;

/* 70 chunks: an index of two levels. 3 chunks: one node. */
static Status make_state(State **out) {
    const int64_t many[] = {ROWS, COLUMNS}, few[] = {3, COLUMNS};
    TRY(state_create(out));
    TRY(state_declare(*out, ARENA_PARAMETER, "a/many", DTYPE_F32, 2, many, NULL));
    TRY(state_declare(*out, ARENA_PARAMETER, "b/few", DTYPE_F32, 2, few, NULL));
    TRY(state_allocate(*out));
    float *values = state_data(*out, 0);
    for (int i = 0; i < (ROWS + 3) * COLUMNS; i += 1000)
        values[i] = (float)i;
    return STATUS_OK;
}

static ImagePacked *packed_of(const char *path) {
    for (int i = 0; i < subject.image.count; i++)
        if (strcmp(subject.image.entries[i].path, path) == 0)
            return &subject.image.packed[subject.image.entries[i].packed - 1];
    return NULL;
}

static unsigned char *region(void) {
    return (unsigned char *)subject.bytes + CHECKPOINT_USER_BLOCK;
}

static int prepare(void **unused) {
    (void)unused;
    subject.directory = temporary_directory("/tmp", subject.path);
    if (subject.directory < 0 || make_state(&subject.state) != STATUS_OK ||
        known_pack(subject.state, 1, subject.directory, NAME) != STATUS_OK ||
        file_read(subject.directory, NAME, 8 << 20, &subject.sound, &subject.size) !=
            STATUS_OK ||
        userblock_decode(subject.sound, NAME, &subject.block) != STATUS_OK)
        return -1;
    subject.bytes = malloc(subject.size + ROOM);
    memcpy(subject.bytes, subject.sound, subject.size);
    if (image_list(region(), &subject.block, NAME, &subject.image) != STATUS_OK) return -1;
    subject.many = packed_of("a/many");
    subject.few = packed_of("b/few");
    return subject.many->grid.count == ROWS && subject.few->grid.count == 3 ? 0 : -1;
}

static int clean_up(void **unused) {
    (void)unused;
    unlinkat(subject.directory, NAME, 0);
    close(subject.directory);
    rmdir(subject.path);
    image_destroy(&subject.image);
    free(subject.sound);
    free(subject.bytes);
    state_destroy(subject.state);
    return 0;
}

/* Signs `bytes` (`size` of them) as they are now and puts them on the disk. */
static void sign(size_t size) {
    UserBlock block = subject.block;
    block.bytes = (int64_t)size;
    size_t start = CHECKPOINT_USER_BLOCK + (size_t)block.metadata_bytes;
    for (size_t i = 0, at = start; at < size; i++, at += CHECKPOINT_SEGMENT) {
        size_t left = size - at;
        Digest digest =
            digest_of(subject.bytes + at,
                      left < CHECKPOINT_SEGMENT ? left : (size_t)CHECKPOINT_SEGMENT);
        memcpy(subject.bytes + subject.image.segments_offset + 16 * i, &digest, 16);
    }
    block.metadata_digest = digest_of(region(), (size_t)block.metadata_bytes);
    assert_ok(userblock_encode(&block, subject.bytes));
    int fd = openat(subject.directory, NAME, O_WRONLY | O_TRUNC);
    assert_int_equal(file_write_at(fd, subject.bytes, size, 0), 0);
    close(fd);
}

static void heal(void) {
    memcpy(subject.bytes, subject.sound, subject.size);
}

static Status verify(void) {
    UserBlock block;
    return checkpoint_verify(subject.directory, NAME, &block);
}

static Status load(void) {
    State *state;
    TRY(checkpoint_read_state(subject.directory, NAME, &state));
    state_destroy(state);
    return STATUS_OK;
}

static Status only_open(void) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(subject.directory, NAME, &reader));
    checkpoint_reader_close(reader);
    return STATUS_OK;
}

/* The control: signing alone changes nothing. */
static void the_sound_file_signed_anew_is_read(void **unused) {
    (void)unused;
    sign(subject.size);
    assert_ok(verify());
    assert_ok(load());
}

/* ---- places */

static void refuse_place(const ImagePacked *packed, int64_t i, ChunkPlace place,
                         const char *said) {
    ChunkPlace before = packed->places[i];
    packed->places[i] = place;
    assert_null(chunk_index_write(region(), (uint64_t)subject.block.metadata_bytes,
                                  packed->index, &packed->grid, packed->places));
    packed->places[i] = before;
    sign(subject.size);
    assert_fails(only_open(), STATUS_CORRUPT, said);
    heal();
}

static void places_outside_of_the_file_or_on_top_of_others_are_refused(void **unused) {
    (void)unused;
    const ImagePacked *both[] = {subject.many, subject.few};
    uint64_t end = (uint64_t)subject.size - CHECKPOINT_USER_BLOCK;
    for (int i = 0; i < 2; i++) {
        const ImagePacked *packed = both[i];
        int64_t last = packed->grid.count - 1;
        ChunkPlace first = packed->places[0], second = packed->places[1], place = second;
        place.address = first.address;
        refuse_place(packed, 1, place, "on top of another");
        place.address = second.address - 1;
        refuse_place(packed, 1, place, "on top of another");
        place.address = 100;
        refuse_place(packed, 0, place, "or of the metadata region");
        place.address = (uint64_t)subject.block.metadata_bytes - 1;
        refuse_place(packed, 0, place, "or of the metadata region");
        place.address = end - place.bytes + 1;
        refuse_place(packed, last, place, "outside of the file");
        place.address = end + 1;
        refuse_place(packed, last, place, "outside of the file");
        place.address = UINT64_MAX - 3;
        refuse_place(packed, last, place, "outside of the file");
    }
    /* into the other entry's chunks */
    refuse_place(subject.many, ROWS - 1, subject.few->places[1], "on top of another");
}

static void lengths_that_no_chunk_has_are_refused(void **unused) {
    (void)unused;
    ChunkPlace place = subject.few->places[2];
    const uint32_t whole = (uint32_t)subject.few->grid.whole;
    const uint32_t lengths[] = {0, 1, 250, whole + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        place.bytes = lengths[i];
        refuse_place(subject.few, 2, place, "impossible length");
    }
    place = subject.few->places[2];
    place.plain = true; /* but as short as a packed one */
    refuse_place(subject.few, 2, place, "impossible length");
}

/* ---- the index's bytes */

static void put(unsigned char *at, int width, uint64_t number) {
    for (int i = 0; i < width; i++)
        at[i] = (unsigned char)(number >> 8 * i);
}

static uint64_t get(const unsigned char *at, int width) {
    uint64_t number = 0;
    for (int i = 0; i < width; i++)
        number |= (uint64_t)at[i] << 8 * i;
    return number;
}

static void other_trees_are_refused(void **unused) {
    (void)unused;
    enum { KEY = 8 + 3 * 8, PAIR = KEY + 8 };
    uint64_t size = (uint64_t)subject.block.metadata_bytes;
    uint64_t root = subject.many->index, leaf = subject.few->index;
    const unsigned char *sound = (unsigned char *)subject.sound + CHECKPOINT_USER_BLOCK;
    uint64_t first_child = get(sound + root + NODE_HEAD + KEY, 8);
    uint64_t used = get(sound + root + 6, 2);
    assert_int_equal(sound[root + 5], 1); /* its level */
    assert_true(used >= 2);
    const char *const foreign = "index of its chunks that no checkpoint has";
    const struct {
        uint64_t at;
        int width;
        uint64_t number;
        const char *said;
    } cases[] = {
        {root, 4, 0, foreign},                      /* signature */
        {root + 4, 1, 0, foreign},                  /* kind of node */
        {root + 5, 1, 0, foreign},                  /* level: a leaf */
        {root + 5, 1, 2, foreign},                  /* more levels than there are */
        {root + 5, 1, 255, foreign},                /* far more */
        {leaf + 5, 1, 1, "metadata region"},        /* chunks as nodes */
        {root + 6, 2, 0, foreign},                  /* nothing used */
        {root + 6, 2, used - 1, foreign},           /* chunks missing */
        {root + 6, 2, used + 1, foreign},           /* one child too many */
        {root + 6, 2, 65535, "metadata region"},    /* far too many */
        {leaf + 6, 2, 2, foreign},                  /* a chunk missing */
        {leaf + 6, 2, 4, foreign},                  /* a chunk too many */
        {root + NODE_HEAD + KEY, 8, root, foreign}, /* a loop */
        {root + NODE_HEAD + KEY, 8, leaf, foreign}, /* another's node */
        {root + NODE_HEAD + KEY, 8, size - 10, "metadata region"},
        {root + NODE_HEAD + KEY, 8, UINT64_MAX, "metadata region"},
        {root + NODE_HEAD + PAIR + KEY, 8, first_child, foreign}, /* the same child twice */
        {root + NODE_HEAD + 8, 8, 1, foreign}, /* a key that begins elsewhere */
        {leaf + NODE_HEAD + 4, 4, 1, "only one filter"},
        {leaf + NODE_HEAD + 4, 4, 2, "only one filter"},
        {leaf + NODE_HEAD + 4, 4, 4, "only one filter"},
        {leaf + NODE_HEAD + PAIR + 8, 8, 2, foreign},  /* chunks in another order */
        {leaf + NODE_HEAD + PAIR + 16, 8, 1, foreign}, /* inside of a row */
        {leaf + NODE_HEAD + PAIR + 24, 8, 1, foreign}, /* inside of an element */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put(region() + cases[i].at, cases[i].width, cases[i].number);
        sign(subject.size);
        Status status = only_open();
        if (status != STATUS_CORRUPT ||
            strstr(status_failure()->what, cases[i].said) == NULL)
            fail_msg("case %zu: %s", i, status == STATUS_OK ? "" : status_failure()->what);
        heal();
    }
}

/* ---- chunks */

/* Puts other bytes in the place of the last chunk: they go behind all others. */
static void replace_last_chunk(const unsigned char *bytes, size_t count) {
    ImagePacked *packed = subject.few->places[2].address > subject.many->places[0].address
                              ? subject.few
                              : subject.many;
    ChunkPlace *place = &packed->places[packed->grid.count - 1], before = *place;
    size_t at = CHECKPOINT_USER_BLOCK + (size_t)place->address;
    size_t end = (at + count + 4095) / 4096 * 4096;
    memset(subject.bytes + at, 0, end > subject.size ? end - at : subject.size - at);
    memcpy(subject.bytes + at, bytes, count);
    place->bytes = (uint32_t)count;
    assert_null(chunk_index_write(region(), (uint64_t)subject.block.metadata_bytes,
                                  packed->index, &packed->grid, packed->places));
    *place = before;
    sign(end > subject.size ? end : subject.size);
}

static void chunks_that_do_not_inflate_to_their_values_are_refused(void **unused) {
    (void)unused;
    size_t whole = subject.few->grid.whole, most = 60 * whole;
    unsigned char *values = calloc(1, most), *packed = malloc(whole);
    const struct {
        size_t inflated, cut;
        const char *said;
    } cases[] = {{whole - 4, 0, "inflates to less than its values"},
                 {whole + 1, 0, "inflates to more than its values"},
                 {most, 0, "inflates to more than its values"},
                 {whole, 4, "breaks off"},
                 {whole, 0, "its state_digest is not that of its values"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uLongf length = whole;
        assert_int_equal(compress(packed, &length, values, cases[i].inflated), Z_OK);
        replace_last_chunk(packed, length - cases[i].cut);
        assert_fails(verify(), STATUS_CORRUPT, cases[i].said);
        assert_int_equal(load(), STATUS_CORRUPT);
        heal();
    }
    uLongf length = whole;
    assert_int_equal(compress(packed, &length, values, whole), Z_OK);
    memset(packed + length, 7, 10);
    replace_last_chunk(packed, length + 10);
    assert_fails(verify(), STATUS_CORRUPT, "goes on behind its end");
    heal();
    memset(packed, 0x5a, 1000);
    replace_last_chunk(packed, 1000);
    assert_fails(verify(), STATUS_CORRUPT, "is no stream of zlib's");
    assert_non_null(strstr(status_failure()->what, "chunk 2 of /b/few (offset "));
    heal();
    free(values);
    free(packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sound_file_signed_anew_is_read),
        cmocka_unit_test(places_outside_of_the_file_or_on_top_of_others_are_refused),
        cmocka_unit_test(lengths_that_no_chunk_has_are_refused),
        cmocka_unit_test(other_trees_are_refused),
        cmocka_unit_test(chunks_that_do_not_inflate_to_their_values_are_refused),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
