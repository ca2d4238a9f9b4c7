/* The keyed permutation: a bijection whatever the count, as good as shuffled, and never another one:
 * a run that resumes with a newer build must meet its samples in the same order. */
#include "tests/support/test.h"

#include "src/data/data.h"

#include <stdlib.h>
#include <string.h>

enum { LARGEST = 70000 };

static void check_bijection(const Permutation *permutation) {
    static bool seen[LARGEST];
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < permutation->count; i++) {
        uint32_t value = permutation_at(permutation, i);
        assert_true(value < permutation->count);
        assert_false(seen[value]);
        seen[value] = true;
    }
}

static void every_count_gives_a_bijection(void **state) {
    (void)state;
    static const uint32_t counts[] = {1,    2,     3,     4,     5,     63,    64,
                                      65,   100,   255,   256,   257,   1000,  4096,
                                      4097, 16384, 16385, 60000, 65535, 65536, 65537};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        Permutation permutation = permutation_make(1, RNG_SHUFFLE, 0, counts[i]);
        check_bijection(&permutation);
    }
    Rng rng = rng_at(77, RNG_TEST, 0, 0);
    for (uint32_t trial = 0; trial < 100; trial++) {
        uint32_t count = 1 + rng_below(rng, trial, 0, 3000);
        Permutation permutation =
            permutation_make(rng_word(rng, trial, 1), RNG_SHUFFLE, trial, count);
        check_bijection(&permutation);
    }
}

static void the_largest_sets_stay_in_range(void **state) {
    (void)state;
    Permutation permutation = permutation_make(1, RNG_SHUFFLE, 0, UINT32_MAX);
    for (uint32_t i = 0; i < 1000; i++)
        assert_true(permutation_at(&permutation, UINT32_MAX - 1 - i) < UINT32_MAX);
    permutation = permutation_make(1, RNG_SHUFFLE, 0, (1u << 30) + 1);
    for (uint32_t i = 0; i < 1000; i++)
        assert_true(permutation_at(&permutation, i) <= 1u << 30);
}

static void any_position_can_be_asked_in_any_order(void **state) {
    (void)state;
    enum { N = 1000 };
    uint32_t forward[N];
    Permutation permutation = permutation_make(5, RNG_SHUFFLE, 3, N);
    for (uint32_t i = 0; i < N; i++)
        forward[i] = permutation_at(&permutation, i);
    Permutation later = permutation_make(5, RNG_SHUFFLE, 3, N);
    for (uint32_t i = N; i-- > 0;)
        assert_int_equal(permutation_at(&later, i), forward[i]);
}

static int same_places(Permutation a, Permutation b) {
    int same = 0;
    for (uint32_t i = 0; i < a.count; i++)
        same += permutation_at(&a, i) == permutation_at(&b, i);
    return same;
}

static void seed_epoch_and_stream_each_give_another_order(void **state) {
    (void)state;
    Permutation first = permutation_make(1, RNG_SHUFFLE, 0, 5000);
    assert_int_equal(same_places(first, first), 5000);
    /* two random orders share one place on average; ten or more once in ten million */
    assert_true(same_places(first, permutation_make(2, RNG_SHUFFLE, 0, 5000)) < 10);
    assert_true(same_places(first, permutation_make(1ull << 32 | 1, RNG_SHUFFLE, 0, 5000)) <
                10);
    assert_true(same_places(first, permutation_make(1, RNG_SHUFFLE, 1, 5000)) < 10);
    assert_true(same_places(first, permutation_make(1, RNG_SPLIT, 0, 5000)) < 10);
}

static double chi_square(const int *found, int cells, double expected) {
    double sum = 0;
    for (int i = 0; i < cells; i++)
        sum += (found[i] - expected) * (found[i] - expected) / expected;
    return sum;
}

static void an_element_comes_anywhere_over_the_epochs(void **state) {
    (void)state;
    enum { N = 50, EPOCHS = 20000 };
    static const uint32_t positions[] = {0, 17, N - 1};
    for (int p = 0; p < 3; p++) {
        int found[N] = {0};
        for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
            Permutation permutation = permutation_make(9, RNG_SHUFFLE, epoch, N);
            found[permutation_at(&permutation, positions[p])]++;
        }
        /* 49 degrees of freedom: above 101 once in 50,000 */
        assert_true(chi_square(found, N, (double)EPOCHS / N) < 101);
    }
}

static void neighbours_are_independent(void **state) {
    (void)state;
    enum { N = 20, EPOCHS = 40000 };
    int found[N * N] = {0}, pairs[N * (N - 1)], count = 0;
    for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
        Permutation permutation = permutation_make(9, RNG_SHUFFLE, epoch, N);
        found[permutation_at(&permutation, 3) * N + permutation_at(&permutation, 4)]++;
    }
    for (int i = 0; i < N * N; i++)
        if (i % N != i / N) pairs[count++] = found[i];
    /* 379 degrees of freedom: above 489 once in 10,000 */
    assert_true(chi_square(pairs, N * (N - 1), (double)EPOCHS / (N * (N - 1))) < 489);
}

static void small_sets_take_every_order_alike(void **state) {
    (void)state;
    enum { N = 4, ORDERS = 24, EPOCHS = 24000 };
    int found[256] = {0}, orders[ORDERS + 1], count = 0;
    for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
        Permutation permutation = permutation_make(3, RNG_SHUFFLE, epoch, N);
        int order = 0;
        for (uint32_t i = 0; i < N; i++)
            order = order * N + (int)permutation_at(&permutation, i);
        found[order]++;
    }
    for (int i = 0; i < 256; i++)
        if (found[i] > 0 && count <= ORDERS) orders[count++] = found[i];
    assert_int_equal(count, ORDERS);
    /* 23 degrees of freedom: above 61 once in 30,000 */
    assert_true(chi_square(orders, ORDERS, (double)EPOCHS / ORDERS) < 61);
}

/* Computed by an independent program from the definition. When this test fails, the format changed:
 * every run that is resumed would see its samples in another order. */
static void the_order_is_for_ever(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        RngStream stream;
        uint32_t epoch, count, values[8];
    } golden[] = {
        {0x1u,
         RNG_SHUFFLE,
         0,
         60000u,
         {16893u, 47320u, 50007u, 49035u, 17290u, 46566u, 50053u, 4941u}},
        {0x1u,
         RNG_SHUFFLE,
         1,
         60000u,
         {12667u, 40440u, 7464u, 47063u, 47091u, 36284u, 37249u, 44053u}},
        {0x123456789abcdef0u,
         RNG_SHUFFLE,
         7,
         50000u,
         {15328u, 33649u, 18341u, 48833u, 20278u, 656u, 10652u, 33240u}},
        {0x2au, RNG_SPLIT, 0, 1000u, {489u, 853u, 158u, 386u, 80u, 260u, 656u, 167u}},
        {0x2au, RNG_SHUFFLE, 3, 10u, {6u, 5u, 7u, 8u, 3u, 9u, 4u, 0u}},
        {0x7u,
         RNG_SHUFFLE,
         100000,
         4000000000u,
         {868203392u, 3820320168u, 1833807247u, 3496623289u, 2814659228u, 828329430u,
          3647616780u, 3022816803u}},
    };
    for (size_t g = 0; g < sizeof golden / sizeof *golden; g++) {
        Permutation permutation = permutation_make(golden[g].seed, golden[g].stream,
                                                   golden[g].epoch, golden[g].count);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(permutation_at(&permutation, i), golden[g].values[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_count_gives_a_bijection),
        cmocka_unit_test(the_largest_sets_stay_in_range),
        cmocka_unit_test(any_position_can_be_asked_in_any_order),
        cmocka_unit_test(seed_epoch_and_stream_each_give_another_order),
        cmocka_unit_test(an_element_comes_anywhere_over_the_epochs),
        cmocka_unit_test(neighbours_are_independent),
        cmocka_unit_test(small_sets_take_every_order_alike),
        cmocka_unit_test(the_order_is_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
