/* The random numbers are Philox4x32-10 as published, placed in the counter as rng.h says. */
#include "src/core/rng.h"
#include "tests/support/test.h"

/* The known answers of Random123 for philox4x32-10, through our own order of counter and key. */
static void the_published_answers_are_met(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        /* the first digits of pi */
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        Rng rng = {known[i].key[0] | (uint64_t)known[i].key[1] << 32, known[i].counter[3],
                   known[i].counter[2]};
        uint32_t words[4];
        rng_block(rng, known[i].counter[1], known[i].counter[0], words);
        assert_memory_equal(words, known[i].answer, sizeof words);
    }
}

static void a_word_is_its_lane_of_its_block(void **state) {
    (void)state;
    Rng rng = rng_at(42, RNG_TEST, 3, 7);
    assert_int_equal(rng.stream, RNG_TEST | 3 << 8);
    for (uint32_t lane = 0; lane < 64; lane++) {
        uint32_t words[4];
        rng_block(rng, 11, lane / 4, words);
        assert_int_equal(rng_word(rng, 11, lane), words[lane % 4]);
    }
}

static void every_coordinate_changes_the_word(void **state) {
    (void)state;
    uint32_t word = rng_word(rng_at(42, RNG_TEST, 3, 7), 11, 0);
    assert_int_not_equal(word, rng_word(rng_at(43, RNG_TEST, 3, 7), 11, 0));
    assert_int_not_equal(word, rng_word(rng_at(42 | 1ull << 40, RNG_TEST, 3, 7), 11, 0));
    assert_int_not_equal(word, rng_word(rng_at(42, RNG_SPLIT, 3, 7), 11, 0));
    assert_int_not_equal(word, rng_word(rng_at(42, RNG_TEST, 4, 7), 11, 0));
    assert_int_not_equal(word, rng_word(rng_at(42, RNG_TEST, 3, 8), 11, 0));
    assert_int_not_equal(word, rng_word(rng_at(42, RNG_TEST, 3, 7), 12, 0));
    assert_int_not_equal(word, rng_word(rng_at(42, RNG_TEST, 3, 7), 11, 4));
}

static void uniform_numbers_fill_their_interval(void **state) {
    (void)state;
    assert_true(rng_uniform_from(0) == 0.0f);
    assert_true(rng_uniform_from(0xffffffff) == 1.0f - 0x1p-24f);
    assert_true(rng_uniform_from(0x80000000) == 0.5f);
    Rng rng = rng_at(1, RNG_TEST, 0, 0);
    double sum = 0;
    int count = 100000;
    for (int i = 0; i < count; i++)
        sum += (double)rng_uniform(rng, (uint32_t)i, 0);
    /* standard deviation of the mean: 0.29 / sqrt(100000) = 0.0009 */
    assert_true(sum / count > 0.495 && sum / count < 0.505);
}

static void bounded_integers_are_even_and_stay_below(void **state) {
    (void)state;
    Rng rng = rng_at(1, RNG_TEST, 0, 0);
    int counts[7] = {0};
    for (uint32_t i = 0; i < 70000; i++) {
        uint32_t value = rng_below(rng, i, 0, 7);
        assert_true(value < 7);
        counts[value]++;
    }
    for (int i = 0; i < 7; i++)
        assert_true(counts[i] > 9500 && counts[i] < 10500); /* five standard deviations */
    assert_int_equal(rng_below(rng, 5, 5, 1), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_answers_are_met),
        cmocka_unit_test(a_word_is_its_lane_of_its_block),
        cmocka_unit_test(every_coordinate_changes_the_word),
        cmocka_unit_test(uniform_numbers_fill_their_interval),
        cmocka_unit_test(bounded_integers_are_even_and_stay_below),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
