/* Which instruction set a process pins, on a processor of the test's choice: library.c is compiled into
 * this program with another word on what the processor has. */
#include <stdbool.h>

static bool has_avx512;
#define __builtin_cpu_supports(feature) has_avx512
#include "kernels/cpu/library.c"
#include "tests/support/test.h"

static const char *chosen(const char *name) {
    const InstructionSet *set;
    return choose(name, &set) == STATUS_OK ? set->name : NULL;
}

static void limit(const char *newer, const char *older) {
    unsetenv("ONEDNN_MAX_CPU_ISA");
    unsetenv("DNNL_MAX_CPU_ISA");
    if (newer != NULL) setenv("ONEDNN_MAX_CPU_ISA", newer, 1);
    if (older != NULL) setenv("DNNL_MAX_CPU_ISA", older, 1);
}

static void a_fresh_run_takes_the_best_of_the_processor(void **state) {
    (void)state;
    limit(NULL, NULL);
    has_avx512 = true;
    assert_string_equal(chosen(NULL), "avx512");
    has_avx512 = false;
    assert_string_equal(chosen(NULL), "avx2");
}

static void a_fresh_run_obeys_the_environment(void **state) {
    (void)state;
    has_avx512 = true;
    static const char *const cases[][3] = {
        {"AVX2", NULL, "avx2"},      {NULL, "AVX2", "avx2"},
        {"AVX", "AVX2", "avx"},      {"sse41", NULL, "sse41"},
        {"AVX2_VNNI", NULL, "avx2"}, {"AVX512_CORE_AMX", NULL, "avx512"},
        {"ALL", "AVX", "avx512"},    {"", NULL, "avx512"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        limit(cases[i][0], cases[i][1]);
        assert_string_equal(chosen(NULL), cases[i][2]);
    }
    has_avx512 = false;
    limit("AVX512_CORE", NULL);
    assert_string_equal(chosen(NULL), "avx2");
}

static void a_limit_that_is_none_is_refused_by_name(void **state) {
    (void)state;
    limit(NULL, "AVX3");
    assert_null(chosen(NULL));
    assert_int_equal(status_failure()->code, STATUS_UNSUPPORTED);
    assert_string_equal(status_failure()->what,
                        "DNNL_MAX_CPU_ISA=AVX3 is no instruction set");
    assert_non_null(strstr(status_failure()->fix, "AVX2"));
}

static void a_recorded_set_outweighs_the_environment(void **state) {
    (void)state;
    has_avx512 = true;
    limit("AVX2", NULL);
    assert_string_equal(chosen("avx512"), "avx512");
    limit("AVX3", NULL);
    assert_string_equal(chosen("avx"), "avx");
}

static void a_recorded_set_that_the_processor_has_not_is_refused_by_name(void **state) {
    (void)state;
    limit(NULL, NULL);
    has_avx512 = false;
    const char *pinned = NULL;
    assert_int_equal(library_pin("avx512", &pinned), STATUS_UNSUPPORTED);
    assert_null(pinned);
    assert_non_null(strstr(status_failure()->what, "avx512, which this processor has not"));
    assert_non_null(strstr(status_failure()->fix, "a machine that has it"));
}

static void a_recorded_set_that_nobody_knows_is_refused_by_name(void **state) {
    (void)state;
    const char *pinned = NULL;
    assert_int_equal(library_pin("avx1024", &pinned), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_failure()->what, "\"avx1024\""));
    assert_non_null(strstr(status_failure()->fix, "version of Rekindle"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_run_takes_the_best_of_the_processor),
        cmocka_unit_test(a_fresh_run_obeys_the_environment),
        cmocka_unit_test(a_limit_that_is_none_is_refused_by_name),
        cmocka_unit_test(a_recorded_set_outweighs_the_environment),
        cmocka_unit_test(a_recorded_set_that_the_processor_has_not_is_refused_by_name),
        cmocka_unit_test(a_recorded_set_that_nobody_knows_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
