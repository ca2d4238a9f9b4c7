/* Packed checkpoints: what is written at any level comes back bit for bit, with the same state_digest,
 * and takes less room where there is something to gain. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/checkpoint/chunk_codec.h"
#include "src/checkpoint/chunk_grid.h"
#include "src/checkpoint/plan.h"
#include "src/core/file.h"

#include <dirent.h>
#include <pthread.h>
#include <zlib.h>

static int directory;
static char directory_path[64];

static int open_directory(void **unused) {
    (void)unused;
    directory = temporary_directory("/tmp", directory_path);
    return directory < 0;
}

static int remove_directory(void **unused) {
    (void)unused;
    DIR *list = opendir(directory_path);
    for (struct dirent *item; list != NULL && (item = readdir(list)) != NULL;)
        unlinkat(directory, item->d_name, 0);
    if (list != NULL) closedir(list);
    close(directory);
    return rmdir(directory_path); /* fails when something is left */
}

/* ---- grids */

/* Shapes whose chunks begin at several axes, end with several lengths, and fill whole axes. */
static const struct {
    size_t element;
    int rank;
    int64_t shape[4];
} SHAPES[] = {
    {4, 1, {16384}},           {4, 1, {1000003}},        {8, 1, {70001}},
    {4, 2, {1500, 2003}},      {4, 2, {3, 200000}},      {8, 2, {2, 65537}},
    {4, 3, {7, 5, 30011}},     {4, 3, {100, 1, 4096}},   {4, 4, {64, 64, 3, 3}},
    {4, 4, {2, 3, 400, 1000}}, {4, 4, {1, 1, 1, 99999}}, {8, 3, {5, 90001, 1}},
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

static void chunks_are_the_entry_cut_into_runs(void **unused) {
    (void)unused;
    for (int s = 0; s < SHAPE_COUNT; s++) {
        ChunkGrid grid =
            chunk_grid_choose(SHAPES[s].element, SHAPES[s].rank, SHAPES[s].shape);
        size_t at = 0, bytes = SHAPES[s].element;
        for (int i = 0; i < SHAPES[s].rank; i++)
            bytes *= (size_t)SHAPES[s].shape[i];
        assert_in_range(grid.whole, 1, CHUNK_TARGET);
        for (int64_t i = 0; i < grid.count; i++) {
            assert_int_equal(chunk_grid_start(&grid, i), at);
            assert_in_range(chunk_grid_bytes(&grid, i), 1, grid.whole);
            size_t place = 0; /* of the same chunk, by its place along each axis */
            for (int axis = 0; axis < grid.rank; axis++)
                place = place * (size_t)SHAPES[s].shape[axis] +
                        (size_t)chunk_grid_place(&grid, i, axis);
            assert_int_equal(place * SHAPES[s].element, at);
            at += chunk_grid_bytes(&grid, i);
        }
        assert_int_equal(at, bytes);
        /* little is filled up, and no chunk is tiny */
        assert_true((double)grid.count * (double)grid.whole < 1.1 * (double)bytes + 1024);
        assert_true(grid.count == 1 || grid.whole > CHUNK_TARGET / 4);
    }
}

static void chunks_that_are_no_runs_are_no_grid(void **unused) {
    (void)unused;
    const uint64_t shape[] = {100, 200, 300};
    const uint64_t wrong[][3] = {{2, 100, 300},   {1, 1, 301}, {0, 200, 300},
                                 {101, 200, 300}, {2, 1, 300}, {1, 2, 299},
                                 {100, 200, 300}};
    ChunkGrid grid;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(
            chunk_grid_make(4, 3, shape, wrong[i], &grid)); /* the last: too large */
    const uint64_t right[][3] = {{1, 1, 7}, {1, 200, 300}, {3, 200, 300}, {1, 9, 300}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        assert_true(chunk_grid_make(4, 3, shape, right[i], &grid));
}

/* ---- codec */
enum { VALUES = 60000, WHOLE = 65536 };

static void fill_with_weights(unsigned char *values, size_t bytes) {
    Rng rng = rng_at(11, RNG_TEST, 0, 0);
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t word = rng_word(rng, 0, (uint32_t)i) & 0x007fffffu;
        word |= (0x3c000000u + (word & 0x380u) * 0x4000u); /* a few exponents */
        memcpy(values + i, &word, 4);
    }
}

static void every_level_packs_and_unpacks_to_the_same_values(void **unused) {
    (void)unused;
    unsigned char *values = malloc(WHOLE), *packed = malloc(WHOLE), *again = malloc(WHOLE);
    fill_with_weights(values, WHOLE);
    ChunkCodec *unpacker;
    assert_ok(chunk_codec_create(0, WHOLE, &unpacker));
    for (int level = 1; level <= CHUNK_LEVEL_MOST; level++) {
        ChunkCodec *packer;
        assert_ok(chunk_codec_create(level, WHOLE, &packer));
        for (size_t element = 4; element <= 8; element += 4) {
            for (int time = 0; time < 2; time++) { /* a codec may be used again */
                size_t bytes = chunk_pack(packer, values, VALUES, WHOLE, element, packed);
                assert_in_range(bytes, 1000, WHOLE - 1000);
                memset(again, 0x5a, WHOLE);
                assert_null(
                    chunk_unpack(unpacker, packed, bytes, false, WHOLE, element, again));
                assert_memory_equal(again, values, VALUES);
                for (size_t i = VALUES; i < WHOLE; i++)
                    assert_int_equal(again[i], 0);
            }
        }
        chunk_codec_destroy(packer);
    }
    chunk_codec_destroy(unpacker);
    free(values);
    free(packed);
    free(again);
}

static void noise_stays_as_it_is(void **unused) {
    (void)unused;
    unsigned char *values = malloc(WHOLE), *packed = malloc(WHOLE);
    Rng rng = rng_at(12, RNG_TEST, 0, 0);
    for (uint32_t i = 0; i < WHOLE; i++)
        values[i] = (unsigned char)rng_word(rng, 0, i);
    for (int level = 1; level <= CHUNK_LEVEL_MOST; level += 3) {
        ChunkCodec *packer;
        assert_ok(chunk_codec_create(level, WHOLE, &packer));
        assert_int_equal(chunk_pack(packer, values, WHOLE, WHOLE, 4, packed), WHOLE);
        assert_memory_equal(packed, values, WHOLE);
        chunk_codec_destroy(packer);
    }
    free(values);
    free(packed);
}

static void streams_that_are_not_the_chunk_are_refused_with_the_reason(void **unused) {
    (void)unused;
    unsigned char *values = calloc(1, 2 * WHOLE), *packed = malloc(WHOLE);
    ChunkCodec *unpacker;
    assert_ok(chunk_codec_create(0, WHOLE, &unpacker));
    const struct {
        size_t inflated, appended, cut;
        const char *said;
    } cases[] = {{WHOLE - 4, 0, 0, "less than its values"},
                 {WHOLE + 4, 0, 0, "more than its values"},
                 {2 * WHOLE, 0, 0, "more than its values"},
                 {WHOLE, 3, 0, "behind its end"},
                 {WHOLE, 0, 2, "breaks off"},
                 {WHOLE, 0, 40, "breaks off"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uLongf length = WHOLE;
        assert_int_equal(compress(packed, &length, values, cases[i].inflated), Z_OK);
        memset(packed + length, 0, cases[i].appended);
        length = length + cases[i].appended - cases[i].cut;
        const char *wrong =
            chunk_unpack(unpacker, packed, length, false, WHOLE, 4, values + WHOLE);
        assert_non_null(wrong);
        assert_non_null(strstr(wrong, cases[i].said));
    }
    memset(packed, 0x41, 100);
    assert_string_equal(chunk_unpack(unpacker, packed, 100, false, WHOLE, 4, values),
                        "is no stream of zlib's");
    chunk_codec_destroy(unpacker);
    free(values);
    free(packed);
}

/* ---- files */
static Status load(const char *name, State *into) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(directory, name, &reader));
    Status status = checkpoint_reader_load(reader, into);
    checkpoint_reader_close(reader);
    return status;
}

static void assert_same_values(const State *a, const State *b) {
    for (int i = 0; i < ARENA_COUNT; i++)
        if (a->arenas[i].bytes > 0)
            assert_memory_equal(a->arenas[i].data, b->arenas[i].data, a->arenas[i].bytes);
}

/* One entry of each shape, half of them zero, as moments often are. */
static State *many_shapes(void) {
    State *state;
    assert_ok(known_state(KNOWN_SMALL, &state));
    state_destroy(state);
    assert_ok(state_create(&state));
    for (int s = 0; s < SHAPE_COUNT; s++) {
        char path[32];
        snprintf(path, sizeof path, "layer%d/weight", s);
        assert_ok(state_declare(state, ARENA_PARAMETER, path,
                                SHAPES[s].element == 4 ? DTYPE_F32 : DTYPE_U64,
                                SHAPES[s].rank, SHAPES[s].shape, NULL));
    }
    assert_ok(state_declare(state, ARENA_SCALAR, "step", DTYPE_I64, 0, NULL, NULL));
    assert_ok(state_allocate(state));
    for (int i = 0; i < state->count; i++)
        if (i % 2 == 0) fill_with_weights(state_data(state, i), state->entries[i].bytes);
    return state;
}

static void a_packed_state_comes_back_bit_for_bit_at_every_level(void **unused) {
    (void)unused;
    State *saved = many_shapes(), *read;
    assert_ok(empty_state(saved, &read));
    Digest digest = state_digest(saved);
    UserBlock plain;
    assert_ok(known_write(saved, directory, "0.h5"));
    assert_ok(checkpoint_verify(directory, "0.h5", &plain));
    assert_int_equal(plain.version, 1);
    assert_string_equal(plain.compression, "none");
    for (int level = 1; level <= CHUNK_LEVEL_MOST; level += level < 4 ? 1 : 5) {
        UserBlock block;
        char name[32], said[32];
        snprintf(name, sizeof name, "%d.h5", level);
        snprintf(said, sizeof said, "zlib:%d", level);
        assert_ok(known_pack(saved, level, directory, name));
        assert_ok(checkpoint_verify(directory, name, &block));
        assert_true(digest_equal(block.state_digest, digest));
        assert_int_equal(block.version, 2);
        assert_string_equal(block.compression, said);
        assert_true(block.bytes < plain.bytes * 6 / 10);
        assert_true(block.value_bytes > plain.bytes * 9 / 10);
        assert_ok(load(name, read));
        assert_same_values(saved, read);
    }
    state_destroy(saved);
    state_destroy(read);
}

static void what_cannot_be_packed_takes_no_more_room(void **unused) {
    (void)unused;
    State *state, *read;
    UserBlock plain, packed;
    assert_ok(known_state(KNOWN_LARGE, &state)); /* noise but for two bits of 32 */
    Rng rng = rng_at(13, RNG_TEST, 0, 0);
    int big = state_find(state, "optimizer/m/big");
    for (size_t i = 0; i < state->entries[big].bytes; i++)
        ((unsigned char *)state_data(state, big))[i] =
            (unsigned char)rng_word(rng, 0, (uint32_t)i);
    assert_ok(empty_state(state, &read));
    assert_ok(known_write(state, directory, "plain.h5"));
    assert_ok(known_pack(state, 1, directory, "packed.h5"));
    assert_ok(checkpoint_verify(directory, "plain.h5", &plain));
    assert_ok(checkpoint_verify(directory, "packed.h5", &packed));
    assert_true(packed.bytes <= plain.bytes + (64 << 10)); /* the index */
    assert_ok(load("packed.h5", read));
    assert_same_values(state, read);
    state_destroy(state);
    state_destroy(read);
}

static void a_state_with_nothing_worth_packing_is_saved_as_well(void **unused) {
    (void)unused;
    State *state, *read;
    UserBlock block;
    assert_ok(known_state(KNOWN_SMALL, &state));
    assert_ok(empty_state(state, &read));
    assert_ok(known_pack(state, 1, directory, "a.h5"));
    assert_ok(checkpoint_verify(directory, "a.h5", &block));
    assert_string_equal(block.compression, "zlib:1");
    assert_ok(load("a.h5", read));
    assert_same_values(state, read);
    state_destroy(state);
    state_destroy(read);
}

static void one_packed_plan_serves_many_saves(void **unused) {
    (void)unused;
    State *state = many_shapes(), *read;
    CheckpointPlan *plan;
    assert_ok(checkpoint_plan(state, &KNOWN_TEXT, 1, &plan));
    assert_ok(empty_state(state, &read));
    int64_t first = 0;
    for (int i = 0; i < 3; i++) {
        char name[32];
        UserBlock block = known_block();
        snprintf(name, sizeof name, "%d.h5", i);
        assert_ok(checkpoint_write(plan, state, directory, name, &block));
        assert_ok(load(name, read));
        assert_same_values(state, read);
        if (i == 0) first = block.bytes;
        assert_true(i == 0 || block.bytes < first); /* ever more zeros */
        memset(state_data(state, 2 * i), 0, state->entries[2 * i].bytes);
        memset(state_data(state, 2 * i + 6), 0, state->entries[2 * i + 6].bytes);
    }
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    state_destroy(read);
}

static void a_flipped_bit_in_a_chunk_is_refused_before_it_is_unpacked(void **unused) {
    (void)unused;
    State *state = many_shapes(), *read;
    assert_ok(empty_state(state, &read));
    assert_ok(known_pack(state, 1, directory, "a.h5"));
    UserBlock block;
    assert_ok(checkpoint_read_user_block(directory, "a.h5", &block));
    int fd = openat(directory, "a.h5", O_RDWR);
    int64_t tensors = CHECKPOINT_USER_BLOCK + block.metadata_bytes;
    for (int64_t at = tensors; at < block.bytes; at += 1234567) {
        unsigned char byte, wrong;
        assert_int_equal(file_read_at(fd, &byte, 1, at), 0);
        wrong = byte ^ 16;
        assert_int_equal(file_write_at(fd, &wrong, 1, at), 0);
        assert_fails(load("a.h5", read), STATUS_CORRUPT, "does not match its digest");
        assert_int_equal(file_write_at(fd, &byte, 1, at), 0);
    }
    assert_ok(load("a.h5", read));
    close(fd);
    state_destroy(state);
    state_destroy(read);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_are_the_entry_cut_into_runs),
        cmocka_unit_test(chunks_that_are_no_runs_are_no_grid),
        cmocka_unit_test(every_level_packs_and_unpacks_to_the_same_values),
        cmocka_unit_test(noise_stays_as_it_is),
        cmocka_unit_test(streams_that_are_not_the_chunk_are_refused_with_the_reason),
        cmocka_unit_test_setup_teardown(
            a_packed_state_comes_back_bit_for_bit_at_every_level, open_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(what_cannot_be_packed_takes_no_more_room,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_state_with_nothing_worth_packing_is_saved_as_well,
                                        open_directory, remove_directory),
        cmocka_unit_test_setup_teardown(one_packed_plan_serves_many_saves, open_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(
            a_flipped_bit_in_a_chunk_is_refused_before_it_is_unpacked, open_directory,
            remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
