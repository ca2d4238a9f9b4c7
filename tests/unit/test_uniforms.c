/* The vectorised random numbers are the scalar ones. */
#include "tests/support/test.h"

#include "kernels/uniforms.h"

static void groups_have_the_bits_of_single_numbers(void **state) {
    (void)state;
    static const uint32_t samples[] = {0, 1, 77, 0x80000000u, 0xffffffffu};
    static const uint32_t groups[] = {0, 1, 1000, 0x07ffffffu};
    Rng rngs[] = {rng_at(0, RNG_TEST, 0, 0), rng_at(0x123456789abcdef0u, RNG_TEST, 3, 9),
                  rng_at(UINT64_MAX, RNG_TEST, 0xffffffffu, 1)};
    for (size_t r = 0; r < sizeof rngs / sizeof *rngs; r++)
        for (size_t s = 0; s < sizeof samples / sizeof *samples; s++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
                float out[UNIFORMS_GROUP];
                uniforms_group(rngs[r], samples[s], groups[g], out);
                for (uint32_t i = 0; i < UNIFORMS_GROUP; i++) {
                    float one =
                        rng_uniform(rngs[r], samples[s], groups[g] * UNIFORMS_GROUP + i);
                    if (out[i] != one)
                        fail_msg("lane %u is %a, not %a", i, (double)out[i], (double)one);
                }
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_have_the_bits_of_single_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
