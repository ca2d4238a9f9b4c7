/* What the build owes the arithmetic: a conversion rounds where the source says so. gcc 12.2 at -O2 has
 * a vectoriser that forgets it; CMakeLists.txt turns that one off. */
#include "tests/support/test.h"

typedef struct {
    double first, second;
} Pair;

__attribute__((noipa)) static Pair rounded(const double *x) {
    return (Pair){.first = (float)x[0], .second = (float)x[1]};
}

__attribute__((noipa)) static void round_all(double *y, const double *x, int count) {
    for (int i = 0; i < count; i++)
        y[i] = (double)(float)x[i];
}

static void two_neighbours_are_rounded_to_float(void **state) {
    (void)state;
    const double x[2] = {0.9, 0.999};
    Pair pair = rounded(x);
    assert_true(pair.first == 0x1.ccccccp-1);
    assert_true(pair.second == 0x1.ff7ceep-1);
}

static void a_whole_row_is_rounded_to_float(void **state) {
    (void)state;
    enum { COUNT = 37 };
    double x[COUNT], y[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = 0.9 + 0.001 * i;
    round_all(y, x, COUNT);
    for (int i = 0; i < COUNT; i++) {
        volatile float once = (float)x[i]; /* through memory: nothing can be left out */
        assert_true(y[i] == (double)once);
        assert_true(y[i] != x[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_neighbours_are_rounded_to_float),
        cmocka_unit_test(a_whole_row_is_rounded_to_float),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
