/* Our elementary functions against libm in a higher precision: the stated bounds, the special
 * values, and that neither vectorisation nor the compiler changes a bit. */
#include "tests/support/test.h"

#include "src/core/elementary.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

enum { STRIDE = 8191 }; /* through the 2^32 floats: prime, so that all mantissas come up */

typedef struct {
    const char *name;
    float (*ours)(float);
    double (*libm)(double);
    float first, last; /* domain of the bound */
    double bound;      /* ulp */
    uint64_t digest;   /* of all results of the sweep, in every build of every compiler */
} Function;

static const Function functions[] = {
    {"exp", element_exp, exp, -110.0f, 95.0f, 2.0, 0x1379afe19935c62eu},
    {"log", element_log, log, 0x1p-149f, 0x1.fffffep127f, 2.0, 0x14836afaf0e1c1bfu},
    {"tanh", element_tanh, tanh, -20.0f, 20.0f, 2.0, 0x23310fb9f0d3bea0u},
    {"erf", element_erf, erf, -20.0f, 20.0f, 3.0, 0x0407df085af0b843u},
    {"sin", element_sin, sin, -1e4f, 1e4f, 2.0, 0x3fa6f13ec18baef2u},
    {"cos", element_cos, cos, -1e4f, 1e4f, 2.0, 0xb8129404b9ef984bu},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Distance in units of the last place that the exact value's binade has. */
static double ulps(double ours, long double exact, int digits, int smallest) {
    if (isinf(ours))
        return fabsl(exact) >= ldexpl(1, digits == 24 ? 128 : 1024) ? 0 : INFINITY;
    int place = exact == 0 ? smallest : ilogbl(exact) - (digits - 1);
    return (double)(fabsl((long double)ours - exact) /
                    ldexpl(1, place < smallest ? smallest : place));
}

static void every_float_function_keeps_its_bound(void **state) {
    (void)state;
    for (int i = 0; i < FUNCTIONS; i++) {
        const Function *f = &functions[i];
        double worst = 0;
        float at = 0;
        for (uint64_t bits = 0; bits < 0x100000000u; bits += STRIDE) {
            float x = element_from_bits((uint32_t)bits);
            if (!(x >= f->first && x <= f->last)) continue;
            double error =
                ulps((double)f->ours(x), (long double)f->libm((double)x), 24, -149);
            if (error > worst) worst = error, at = x;
        }
        print_message("  %s: %.3f ulp at %a\n", f->name, worst, (double)at);
        assert_true(worst > 0); /* the sweep did run */
        if (!(worst <= f->bound)) fail_msg("%s: %g ulp at %a", f->name, worst, (double)at);
    }
}

/* Steps through a range of doubles by a multiplicative generator; libm's long double is exact to
 * 2^-11 of our ulp. */
static double next_unit(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) * 0x1p-53;
}

static void every_double_function_keeps_its_bound(void **state) {
    (void)state;
    double worst_exp = 0, worst_log = 0, worst_cos = 0, worst_near_one = 0;
    uint64_t seed = 1;
    for (int i = 0; i < 500000; i++) {
        double u = next_unit(&seed);
        double x = (u - 0.5) * 1480;
        worst_exp =
            fmax(worst_exp, ulps(element_exp64(x), expl((long double)x), 53, -1074));
        x = element_from_bits64(seed >> 1);
        if (isfinite(x))
            worst_log =
                fmax(worst_log, ulps(element_log64(x), logl((long double)x), 53, -1074));
        x = 0.6 + u;
        worst_near_one =
            fmax(worst_near_one, ulps(element_log64(x), logl((long double)x), 53, -1074));
        x = (u - 0.5) * 0x1p20;
        worst_cos =
            fmax(worst_cos, ulps(element_cos64(x), cosl((long double)x), 53, -1074));
    }
    print_message("  exp64 %.3f, log64 %.3f, near one %.3f, cos64 %.3f ulp\n", worst_exp,
                  worst_log, worst_near_one, worst_cos);
    assert_true(worst_exp > 0 && worst_exp <= 1.0);
    assert_true(worst_log > 0 && worst_log <= 1.0);
    assert_true(worst_near_one > 0 && worst_near_one <= 1.0);
    assert_true(worst_cos > 0 && worst_cos <= 2.0);
}

/* Next to its zeros a cosine is as small as what rounding π lost: every part of π/2 counts. */
static void cosines_keep_their_bound_next_to_their_zeros(void **state) {
    (void)state;
    double worst = 0, worst_float = 0;
    for (int k = 0; k < 3000; k++) {
        double x = (double)((k + 0.5L) * 3.14159265358979323846264338L);
        worst = fmax(worst, ulps(element_cos64(x), cosl((long double)x), 53, -1074));
        float y = (float)x;
        worst_float = fmax(worst_float, ulps((double)element_cos(y),
                                             (long double)cos((double)y), 24, -149));
    }
    print_message("  cos64 %.3f, cos %.3f ulp\n", worst, worst_float);
    assert_true(worst > 0 && worst <= 2.0);
    assert_true(worst_float > 0 && worst_float <= 1.0);
}

static void powers_keep_their_bound(void **state) {
    (void)state;
    double worst = 0, worst_float = 0;
    uint64_t seed = 2;
    for (int i = 0; i < 500000; i++) {
        double x = next_unit(&seed) * 6, y = (next_unit(&seed) - 0.5) * 80;
        long double exact = powl((long double)x, (long double)y);
        if (exact > 0x1p-200L && exact < 0x1p200L)
            worst = fmax(worst, ulps(element_pow64(x, y), exact, 53, -1074));
        float a = (float)x, b = (float)y;
        worst_float =
            fmax(worst_float, ulps((double)element_pow(a, b),
                                   (long double)pow((double)a, (double)b), 24, -149));
    }
    print_message("  pow64 %.3f, pow %.3f ulp\n", worst, worst_float);
    assert_true(worst > 0 && worst <= 2.0);
    assert_true(worst_float > 0 && worst_float <= 1.0);
}

static void whole_powers_agree_with_repeated_products(void **state) {
    (void)state;
    assert_true(element_pow_int(0.9, 0) == 1.0);
    assert_true(element_pow_int(0.0, 0) == 1.0);
    assert_true(element_pow_int(-2.0, 11) == -2048.0);
    assert_true(element_pow_int(2.0, 1023) == 0x1p1023);
    for (int64_t n = 1; n < 3000; n += 7) {
        long double exact = powl((long double)0.999, (long double)n);
        long double error = fabsl((long double)element_pow_int(0.999, n) - exact) / exact;
        assert_true(error <= (long double)n * 0x1p-52L);
    }
}

static void assert_same(double got, double want, const char *what) {
    bool same = isnan(want) ? isnan(got) : got == want && signbit(got) == signbit(want);
    if (!same) fail_msg("%s is %g, not %g", what, got, want);
}

static void special_values_are_those_of_libm(void **state) {
    (void)state;
    const float specials[] = {0.0f,  -0.0f,     INFINITY,   -INFINITY, NAN,     1.0f,
                              -1.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, FLT_MAX, -FLT_MAX};
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        double x = (double)specials[i];
        char what[64];
        for (int k = 0; k < FUNCTIONS; k++) {
            if (fabs(x) > 0x1p30 && functions[k].ours == element_sin) continue;
            if (fabs(x) > 0x1p30 && functions[k].ours == element_cos) continue;
            double want = (double)(float)functions[k].libm(x);
            double got = (double)functions[k].ours(specials[i]);
            snprintf(what, sizeof what, "%s(%g)", functions[k].name, x);
            if (isnan(want) || isinf(want) || want == 0 || want == 1 || want == -1)
                assert_same(got, want, what);
            else
                assert_true(fabs(got / want - 1) < 1e-6);
        }
    }
    assert_same((double)element_sin(INFINITY), NAN, "sin(inf)");
    assert_same((double)element_cos(0x1.8p30f), NAN, "cos beyond its domain");
    assert_same(element_cos64(INFINITY), NAN, "cos64(inf)");
    assert_same(element_cos64(0.0), 1.0, "cos64(0)");
    assert_same(element_exp64(INFINITY), INFINITY, "exp64(inf)");
    assert_same(element_exp64(-INFINITY), 0.0, "exp64(-inf)");
    assert_same(element_exp64(NAN), NAN, "exp64(nan)");
    assert_same(element_exp64(709.79), INFINITY, "exp64 beyond overflow");
    assert_same(element_exp64(-745.0), exp(-745.0), "exp64 to the least subnormal");
    assert_same(element_log64(0.0), -INFINITY, "log64(0)");
    assert_same(element_log64(-1.0), NAN, "log64(-1)");
    assert_same(element_log64(INFINITY), INFINITY, "log64(inf)");
    assert_same(element_log64(NAN), NAN, "log64(nan)");
    assert_same(element_log64(1.0), 0.0, "log64(1)");
}

static void powers_have_the_special_values_of_c(void **state) {
    (void)state;
    const double values[] = {0.0, -0.0, 1.0, -1.0, 2.0,      -2.0,      0.5, -0.5,
                             3.0, -3.0, 2.5, -2.5, INFINITY, -INFINITY, NAN, 0x1p60};
    enum { COUNT = sizeof values / sizeof *values };
    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < COUNT; k++) {
            double want = pow(values[i], values[k]),
                   got = element_pow64(values[i], values[k]);
            char what[64];
            snprintf(what, sizeof what, "pow(%g, %g)", values[i], values[k]);
            if (isfinite(want) && want != 0)
                assert_true(fabs(got / want - 1) < 1e-15);
            else
                assert_same(got, want, what);
        }
}

/* One call at a time, so that no vector code can arise. */
static __attribute__((noinline)) float one_call(float (*function)(float), float x) {
    return function(x);
}

#define VECTOR_LOOP(name)                                                              \
    static void vector_##name(float *restrict y, const float *restrict x, int count) { \
        for (int i = 0; i < count; i++)                                                \
            y[i] = element_##name(x[i]);                                               \
    }
VECTOR_LOOP(exp)
VECTOR_LOOP(log)
VECTOR_LOOP(tanh)
VECTOR_LOOP(erf)
VECTOR_LOOP(sin)
VECTOR_LOOP(cos)

static uint32_t bits_of(float x) {
    return isnan(x) ? 0x7fc00000u
                    : element_bits(x); /* a NaN's payload is not ours to fix */
}

static void vectors_and_scalars_give_equal_bits(void **state) {
    (void)state;
    static void (*const loops[FUNCTIONS])(float *restrict, const float *restrict, int) = {
        vector_exp, vector_log, vector_tanh, vector_erf, vector_sin, vector_cos};
    enum { COUNT = 4099 };
    static float x[COUNT], y[COUNT];
    for (int k = 0; k < FUNCTIONS; k++)
        for (uint32_t round = 0; round < 64; round++) {
            for (uint32_t i = 0; i < COUNT; i++)
                x[i] = element_from_bits((round * COUNT + i) * 16381u);
            loops[k](y, x, COUNT);
            for (int i = 0; i < COUNT; i++)
                if (bits_of(y[i]) != bits_of(one_call(functions[k].ours, x[i])))
                    fail_msg("%s(%a) differs", functions[k].name, (double)x[i]);
        }
}

static uint64_t mixed(uint64_t digest, uint64_t bits) {
    return (digest ^ bits) * 0x100000001b3u; /* FNV-1a's step, over words */
}

static void results_are_the_recorded_bits(void **state) {
    (void)state;
    for (int k = 0; k < FUNCTIONS; k++) {
        uint64_t digest = 0xcbf29ce484222325u;
        for (uint64_t bits = 0; bits < 0x100000000u; bits += STRIDE)
            digest = mixed(digest,
                           bits_of(functions[k].ours(element_from_bits((uint32_t)bits))));
        if (digest != functions[k].digest)
            fail_msg("%s: digest 0x%016llx", functions[k].name, (unsigned long long)digest);
    }
    uint64_t digest = 0xcbf29ce484222325u, seed = 3;
    for (int i = 0; i < 100000; i++) {
        double u = next_unit(&seed), v = next_unit(&seed);
        digest = mixed(digest, element_bits64(element_exp64((u - 0.5) * 100)));
        digest = mixed(digest, element_bits64(element_log64(u * 8 + 0x1p-60)));
        digest = mixed(digest, element_bits64(element_cos64((u - 0.5) * 1000)));
        digest = mixed(digest, element_bits64(element_pow64(u + 0x1p-60, v * 8)));
    }
    if (digest != 0x570c5f02aac61d72u)
        fail_msg("double functions: digest 0x%016llx", (unsigned long long)digest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_float_function_keeps_its_bound),
        cmocka_unit_test(every_double_function_keeps_its_bound),
        cmocka_unit_test(cosines_keep_their_bound_next_to_their_zeros),
        cmocka_unit_test(powers_keep_their_bound),
        cmocka_unit_test(whole_powers_agree_with_repeated_products),
        cmocka_unit_test(special_values_are_those_of_libm),
        cmocka_unit_test(powers_have_the_special_values_of_c),
        cmocka_unit_test(vectors_and_scalars_give_equal_bits),
        cmocka_unit_test(results_are_the_recorded_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
