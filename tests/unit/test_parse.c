/* Numbers are read whole and in one spelling, or not at all. */
#include "src/core/config.h"
#include "tests/support/test.h"

#include <string.h>

static void integers_are_read_to_their_last_value(void **state) {
    (void)state;
    int64_t value;
    assert_true(parse_int64("0", &value) && value == 0);
    assert_true(parse_int64("-17", &value) && value == -17);
    assert_true(parse_int64("9223372036854775807", &value) && value == INT64_MAX);
    assert_true(parse_int64("-9223372036854775808", &value) && value == INT64_MIN);
    uint64_t natural;
    assert_true(parse_uint64("18446744073709551615", &natural) && natural == UINT64_MAX);
}

static void what_is_no_integer_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {"",
                                        " 1",
                                        "1 ",
                                        "+1",
                                        "010",
                                        "00",
                                        "-0",
                                        "--1",
                                        "-",
                                        "1.5",
                                        "1.0",
                                        "1e3",
                                        "0x1",
                                        "1_0",
                                        "a",
                                        "１",
                                        "1,",
                                        "9223372036854775808",
                                        "-9223372036854775809"};
    int64_t value = 7;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (parse_int64(wrong[i], &value))
            fail_msg("\"%s\" was read as %lld", wrong[i], (long long)value);
    assert_int_equal(value, 7);
    uint64_t natural = 7;
    assert_false(parse_uint64("-1", &natural));
    assert_false(parse_uint64("18446744073709551616", &natural));
    assert_false(parse_uint64("01", &natural));
    assert_int_equal(natural, 7);
}

static void numbers_follow_the_grammar_of_json(void **state) {
    (void)state;
    double value;
    assert_true(parse_double("0", &value) && value == 0.0);
    assert_true(parse_double("-0.5", &value) && value == -0.5);
    assert_true(parse_double("1e-3", &value) && value == 1e-3);
    assert_true(parse_double("1.0E+08", &value) && value == 1e8);
    assert_true(parse_double("10", &value) && value == 10.0);
    assert_true(parse_double("0e5", &value) && value == 0.0);
    assert_true(parse_double("0.00", &value) && value == 0.0);
    assert_true(parse_double("4.9406564584124654e-324", &value) && value > 0.0);
    assert_true(parse_double("1.7976931348623157e308", &value));
}

static void what_is_no_finite_number_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",      "nan",  "NaN",  "inf",   "-inf",   ".inf",   "infinity", "1e-3x", "1e",
        "1e+",   ".5",   "5.",   "010",   "+1.0",   "0x1p3",  "1..2",     "1.2.3", "- 1",
        "1e5.0", " 1.0", "1.0 ", "1e999", "1e-999", "-1e999", "true",     "1,5"};
    double value = 7;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (parse_double(wrong[i], &value))
            fail_msg("\"%s\" was read as %g", wrong[i], value);
    assert_true(value == 7);
}

static void only_true_and_false_are_truth_values(void **state) {
    (void)state;
    bool value = false;
    assert_true(parse_bool("true", &value) && value);
    assert_true(parse_bool("false", &value) && !value);
    static const char *const wrong[] = {"yes", "no", "on",    "True", "TRUE",
                                        "1",   "",   "maybe", "true "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (parse_bool(wrong[i], &value))
            fail_msg("\"%s\" was read as a truth value", wrong[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_read_to_their_last_value),
        cmocka_unit_test(what_is_no_integer_is_refused),
        cmocka_unit_test(numbers_follow_the_grammar_of_json),
        cmocka_unit_test(what_is_no_finite_number_is_refused),
        cmocka_unit_test(only_true_and_false_are_truth_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
