/* The registry lays entries out as declared, and its digest sees every value and nothing else. */
#include "src/state/state.h"
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static State *registry;

static int create(void **state) {
    (void)state;
    return state_create(&registry) == STATUS_OK ? 0 : -1;
}

static int destroy(void **state) {
    (void)state;
    state_destroy(registry);
    return 0;
}

static int declare(State *state, ArenaKind arena, const char *path, int64_t rows,
                   int64_t columns) {
    int index = -1;
    int64_t shape[] = {rows, columns};
    assert_ok(
        state_declare(state, arena, path, DTYPE_F32, columns > 0 ? 2 : 1, shape, &index));
    return index;
}

static void fill(State *state, const char *path, float from) {
    int index = state_find(state, path);
    assert_true(index >= 0);
    float *values = state_data(state, index);
    for (size_t i = 0; i < state->entries[index].bytes / sizeof *values; i++)
        values[i] = from + (float)i;
}

static void entries_lie_aligned_in_order_of_declaration(void **state) {
    (void)state;
    int a = declare(registry, ARENA_PARAMETER, "model/a", 3, 5);
    int b = declare(registry, ARENA_BUFFER, "model/b", 17, 0);
    int c = declare(registry, ARENA_PARAMETER, "model/c", 1, 0);
    int step = -1;
    assert_ok(
        state_declare(registry, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL, &step));
    assert_ok(state_allocate(registry));
    assert_int_equal(registry->count, 4);
    assert_int_equal(registry->entries[a].bytes, 60);
    assert_int_equal(registry->entries[a].offset, 0);
    assert_int_equal(registry->entries[c].offset, 64);
    assert_int_equal(registry->entries[b].offset, 0);
    assert_int_equal(registry->entries[step].bytes, 8);
    assert_int_equal(registry->arenas[ARENA_PARAMETER].bytes, 128);
    assert_int_equal(registry->arenas[ARENA_BUFFER].bytes, 128);
    assert_int_equal(registry->arenas[ARENA_MOMENT1].bytes, 0);
    for (int i = 0; i < registry->count; i++)
        assert_int_equal((uintptr_t)state_data(registry, i) % STATE_ALIGNMENT, 0);
    for (int i = 0; i < ARENA_COUNT; i++) {
        const char *bytes = registry->arenas[i].data;
        for (size_t j = 0; j < registry->arenas[i].bytes; j++)
            assert_int_equal(bytes[j], 0);
    }
    assert_int_equal(state_find(registry, "model/c"), c);
    assert_int_equal(state_find(registry, "model/"), -1);
}

static void many_entries_fit(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) {
        char path[32];
        snprintf(path, sizeof path, "model/layer%d.weight", i);
        assert_int_equal(declare(registry, ARENA_PARAMETER, path, 1 + i % 7, 0), i);
    }
    assert_ok(state_allocate(registry));
    fill(registry, "model/layer999.weight", 1);
    assert_true(*(float *)state_data(registry, 999) == 1.0f);
}

static void paths_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {"",  "/absolute", "a b", "a\nb",
                                        "ä", "a\\b",      "a*",  "\"a\""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(
            state_declare(registry, ARENA_PARAMETER, wrong[i], DTYPE_F32, 0, NULL, NULL),
            STATUS_USAGE, "no entry of the state can be called");
    char path[STATE_PATH_MAX + 1];
    memset(path, 'p', STATE_PATH_MAX);
    path[STATE_PATH_MAX] = '\0';
    assert_fails(state_declare(registry, ARENA_PARAMETER, path, DTYPE_F32, 0, NULL, NULL),
                 STATUS_USAGE, "shorter name");
    path[STATE_PATH_MAX - 1] = '\0';
    assert_ok(state_declare(registry, ARENA_PARAMETER, path, DTYPE_F32, 0, NULL, NULL));
    assert_fails(state_declare(registry, ARENA_BUFFER, path, DTYPE_F32, 0, NULL, NULL),
                 STATUS_USAGE, "declared twice");
    assert_int_equal(registry->count, 1);
}

static void shapes_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const int64_t wrong[][2] = {{0, 1}, {-1, 1}, {INT64_MAX, 4}, {INT64_MAX, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(
            state_declare(registry, ARENA_PARAMETER, "a", DTYPE_F32, 2, wrong[i], NULL),
            STATUS_USAGE, "impossible dimension");
    int64_t shape[TENSOR_RANK_MAX + 1] = {1, 1, 1, 1, 1};
    assert_fails(state_declare(registry, ARENA_PARAMETER, "a", DTYPE_F32,
                               TENSOR_RANK_MAX + 1, shape, NULL),
                 STATUS_USAGE, "cannot be declared");
    assert_int_equal(registry->count, 0);
    assert_int_equal(registry->arenas[ARENA_PARAMETER].bytes, 0);
    const int64_t huge[] = {(int64_t)1
                            << 61}; /* two of them would wrap around to nothing */
    assert_ok(state_declare(registry, ARENA_MOMENT1, "a", DTYPE_F32, 1, huge, NULL));
    assert_fails(state_declare(registry, ARENA_MOMENT1, "b", DTYPE_F32, 1, huge, NULL),
                 STATUS_USAGE, "does not fit");
    registry->arenas[ARENA_MOMENT1].bytes = 0;
    assert_ok(state_allocate(registry));
    assert_fails(state_declare(registry, ARENA_PARAMETER, "a", DTYPE_F32, 0, NULL, NULL),
                 STATUS_USAGE, "already allocated");
}

static void the_digest_does_not_depend_on_the_order_of_declaration(void **state) {
    (void)state;
    static const char *const paths[] = {"model/a", "model/b", "model/c"};
    Digest digests[2];
    for (int order = 0; order < 2; order++) {
        State *other;
        assert_ok(state_create(&other));
        for (int i = 0; i < 3; i++) {
            int which = order == 0 ? i : 2 - i;
            declare(other, ARENA_PARAMETER, paths[which], 3 + which, 0);
        }
        assert_ok(state_allocate(other));
        for (int i = 0; i < 3; i++)
            fill(other, paths[i], (float)(10 * i));
        digests[order] = state_digest(other);
        state_destroy(other);
    }
    assert_true(digest_equal(digests[0], digests[1]));
}

static Digest digest_with(const char *path, DType dtype, int rank, const int64_t *shape,
                          ArenaKind arena) {
    State *other;
    assert_ok(state_create(&other));
    assert_ok(state_declare(other, arena, path, dtype, rank, shape, NULL));
    assert_ok(state_allocate(other));
    Digest digest = state_digest(other);
    state_destroy(other);
    return digest;
}

static void the_digest_sees_path_type_and_shape_but_not_the_arena(void **state) {
    (void)state;
    const int64_t flat[] = {6}, wide[] = {2, 3}, tall[] = {3, 2}, half[] = {3};
    Digest one = digest_with("a", DTYPE_F32, 1, flat, ARENA_PARAMETER);
    assert_true(digest_equal(one, digest_with("a", DTYPE_F32, 1, flat, ARENA_BUFFER)));
    assert_false(digest_equal(one, digest_with("b", DTYPE_F32, 1, flat, ARENA_PARAMETER)));
    assert_false(digest_equal(one, digest_with("a", DTYPE_F64, 1, half, ARENA_PARAMETER)));
    assert_false(digest_equal(one, digest_with("a", DTYPE_F32, 2, wide, ARENA_PARAMETER)));
    assert_false(digest_equal(digest_with("a", DTYPE_F32, 2, tall, ARENA_PARAMETER),
                              digest_with("a", DTYPE_F32, 2, wide, ARENA_PARAMETER)));
    assert_false(digest_equal(digest_with("a", DTYPE_I64, 1, half, ARENA_PARAMETER),
                              digest_with("a", DTYPE_U64, 1, half, ARENA_PARAMETER)));
}

static void every_bit_of_every_value_changes_the_digest(void **state) {
    (void)state;
    declare(registry, ARENA_PARAMETER, "model/a", 3, 0);
    declare(registry, ARENA_MOMENT2, "moment2/a", 3, 0);
    assert_ok(
        state_declare(registry, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL, NULL));
    assert_ok(state_allocate(registry));
    Digest before = state_digest(registry);
    for (int i = 0; i < registry->count; i++) {
        Digest entry_before = state_entry_digest(registry, i);
        unsigned char *bytes = state_data(registry, i);
        for (size_t bit = 0; bit < 8 * registry->entries[i].bytes; bit++) {
            bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
            assert_false(digest_equal(before, state_digest(registry)));
            assert_false(digest_equal(entry_before, state_entry_digest(registry, i)));
            bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        }
    }
    assert_true(digest_equal(before, state_digest(registry)));
}

static void what_is_not_finite_is_named(void **state) {
    (void)state;
    int a = declare(registry, ARENA_PARAMETER, "model/a", 100, 0);
    int b = declare(registry, ARENA_MOMENT1, "moment1/a", 100, 0);
    int best = -1, step = -1, index = -1;
    assert_ok(state_declare(registry, ARENA_SCALAR, "best", DTYPE_F64, 0, NULL, &best));
    assert_ok(state_declare(registry, ARENA_SCALAR, "step", DTYPE_I64, 0, NULL, &step));
    assert_ok(state_allocate(registry));
    state_examine(registry, &index);
    assert_int_equal(index, -1);
    *(int64_t *)state_data(registry, step) = -1; /* all ones, but no float */
    state_examine(registry, &index);
    assert_int_equal(index, -1);
    *(double *)state_data(registry, best) = (double)INFINITY;
    state_examine(registry, &index);
    assert_int_equal(index, best);
    ((float *)state_data(registry, b))[99] = -INFINITY;
    state_examine(registry, &index);
    assert_int_equal(index, b);
    ((float *)state_data(registry, a))[50] = NAN;
    assert_true(digest_equal(state_examine(registry, &index), state_digest(registry)));
    assert_int_equal(index, a);
}

static void large_entries_are_examined_whole(void **state) {
    (void)state;
    enum { LENGTH = 100003 };
    int index, large = declare(registry, ARENA_PARAMETER, "model/large", LENGTH, 0);
    assert_ok(state_allocate(registry));
    float *values = state_data(registry, large);
    for (int i = 0; i < LENGTH; i++)
        values[i] = (float)i;
    assert_true(digest_equal(state_examine(registry, &index), state_digest(registry)));
    assert_int_equal(index, -1);
    for (int at = 0; at < LENGTH; at += 32749) {
        values[at] = NAN;
        state_examine(registry, &index);
        assert_int_equal(index, large);
        values[at] = 0;
    }
    values[LENGTH - 1] = INFINITY;
    state_examine(registry, &index);
    assert_int_equal(index, large);
}

static void digests_are_printed_and_read_back(void **state) {
    (void)state;
    char text[DIGEST_TEXT];
    Digest digest = {0x0123456789abcdefu, 0x00000000000000ffu}, back;
    digest_print(digest, text);
    assert_string_equal(text, "0123456789abcdef00000000000000ff");
    assert_true(digest_parse(text, &back) && digest_equal(digest, back));
    static const char *const wrong[] = {"",
                                        "0123",
                                        "0123456789ABCDEF00000000000000ff",
                                        "0123456789abcdef00000000000000ff0",
                                        "0123456789abcdef 0000000000000ff",
                                        "0x23456789abcdef00000000000000ff"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(digest_parse(wrong[i], &back));
    /* XXH3-128 of nothing, as its authors publish it: the file format rests on it */
    digest_print(digest_of("", 0), text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, create, destroy)

static void one_value_that_is_not_finite_is_seen_wherever_it_lies(void **state) {
    (void)state;
    enum { COUNT = 100 };
    static const uint32_t finite[] = {0, 0x80000000u, 1, 0x7f7fffffu, 0xff7fffffu},
                          wrong[] = {0x7f800000u, 0xff800000u, 0x7f800001u, 0xffffffffu};
    uint32_t narrow[COUNT];
    uint64_t wide[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        narrow[i] = finite[i % 5];
        wide[i] = (uint64_t)(finite[i % 5] == 0x7f7fffffu ? 0x7fefffffu : 0) << 32;
    }
    for (size_t count = 0; count <= COUNT; count++) {
        assert_true(state_values_are_finite(DTYPE_F32, narrow, 4 * count));
        assert_true(state_values_are_finite(DTYPE_F64, wide, 8 * count));
        for (size_t at = 0; at < count; at++) {
            uint32_t narrow_before = narrow[at];
            uint64_t wide_before = wide[at];
            narrow[at] = wrong[at % 4];
            wide[at] = (uint64_t)0x7ff00000u << 32 | at % 2;
            assert_false(state_values_are_finite(DTYPE_F32, narrow, 4 * count));
            assert_false(state_values_are_finite(DTYPE_F64, wide, 8 * count));
            assert_true(state_values_are_finite(DTYPE_I64, wide, 8 * count));
            assert_true(state_values_are_finite(DTYPE_U64, wide, 8 * count));
            narrow[at] = narrow_before;
            wide[at] = wide_before;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        EACH(entries_lie_aligned_in_order_of_declaration),
        EACH(many_entries_fit),
        EACH(paths_that_cannot_be_are_refused),
        EACH(shapes_that_cannot_be_are_refused),
        EACH(the_digest_does_not_depend_on_the_order_of_declaration),
        EACH(the_digest_sees_path_type_and_shape_but_not_the_arena),
        EACH(every_bit_of_every_value_changes_the_digest),
        EACH(what_is_not_finite_is_named),
        EACH(large_entries_are_examined_whole),
        cmocka_unit_test(one_value_that_is_not_finite_is_seen_wherever_it_lies),
        cmocka_unit_test(digests_are_printed_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
