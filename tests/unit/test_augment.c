/* Augmentation: a pure function whose draws are as told, found here by trying every crop and flip. */
#include "tests/support/test.h"

#include "src/data/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 8, CHANNELS = 3, HEIGHT = 9, WIDTH = 7, PAD = 2, OFFSETS = 2 * PAD + 1 };
enum { PLANE = HEIGHT * WIDTH, SAMPLE = CHANNELS * PLANE };

static uint8_t pixels[COUNT * SAMPLE], labels[COUNT];
static const Dataset set = {.count = COUNT,
                            .channels = CHANNELS,
                            .height = HEIGHT,
                            .width = WIDTH,
                            .classes = 1,
                            .pixels = pixels,
                            .labels = labels};
static const Samples all = {&set, NULL, COUNT};

static int fill_set(void **state) {
    (void)state;
    for (uint32_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(1 + rng_below(rng_at(1, RNG_TEST, 0, 0), i, 0, 255));
    return 0;
}

static LoaderOptions augmenting(void) {
    return (LoaderOptions){.samples = &all,
                           .seed = 1,
                           .training = true,
                           .crop = true,
                           .flip = true,
                           .crop_padding = PAD,
                           .mean = {0.4914f, 0.4822f, 0.4465f},
                           .std = {0.2470f, 0.2435f, 0.2616f}};
}

/* As torchvision's operations one after the other, each rounded to float. */
static float normalised(const LoaderOptions *options, int channel, uint8_t pixel) {
    volatile float x = (float)pixel / 255.0f;
    x = x - options->mean[channel];
    return x / options->std[channel];
}

/* The sample moved and mirrored, one pixel at a time. */
static void expect(const LoaderOptions *options, uint32_t index, int down, int right,
                   bool mirrored, float *out) {
    for (int c = 0; c < CHANNELS; c++)
        for (int y = 0; y < HEIGHT; y++)
            for (int x = 0; x < WIDTH; x++) {
                int from_y = y + down, from_x = (mirrored ? WIDTH - 1 - x : x) + right;
                bool inside =
                    from_y >= 0 && from_y < HEIGHT && from_x >= 0 && from_x < WIDTH;
                uint8_t pixel = 0; /* padding is raw zeros, normalised like the rest */
                if (inside)
                    pixel = pixels[((index * CHANNELS + (uint32_t)c) * HEIGHT +
                                    (uint32_t)from_y) *
                                       WIDTH +
                                   (uint32_t)from_x];
                out[c * PLANE + y * WIDTH + x] = normalised(options, c, pixel);
            }
}

/* Which crop and flip gives this output: (down + PAD, right + PAD, mirrored) as one number, or -1. */
static int found_draw(const LoaderOptions *options, uint32_t index, const float *output) {
    int found = -1;
    for (int draw = 0; draw < OFFSETS * OFFSETS * 2; draw++) {
        float expected[SAMPLE];
        expect(options, index, draw / 2 / OFFSETS - PAD, draw / 2 % OFFSETS - PAD,
               draw % 2 == 1, expected);
        if (memcmp(output, expected, sizeof expected) == 0) {
            assert_int_equal(found, -1); /* random pixels: only one fits */
            found = draw;
        }
    }
    return found;
}

static void every_pixel_value_is_normalised_as_torchvision_does(void **state) {
    (void)state;
    uint8_t every[256], label = 0;
    for (int i = 0; i < 256; i++)
        every[i] = (uint8_t)i;
    Dataset grey = {.count = 1,
                    .channels = 1,
                    .height = 16,
                    .width = 16,
                    .classes = 1,
                    .pixels = every};
    grey.labels = &label;
    Samples one = {&grey, NULL, 1};
    LoaderOptions options = {.samples = &one, .mean = {0.2860f}, .std = {0.3530f}};
    float output[256];
    augment_sample(&options, 0, 0, output);
    for (int i = 0; i < 256; i++) {
        float expected = normalised(&options, 0, (uint8_t)i);
        assert_memory_equal(&output[i], &expected, sizeof expected);
        assert_true(fabs((double)output[i] - (i / 255.0 - 0.2860) / 0.3530) < 1e-6);
    }
}

static void evaluation_draws_nothing(void **state) {
    (void)state;
    LoaderOptions options = augmenting();
    options.training = false;
    for (uint32_t index = 0; index < COUNT; index++) {
        float output[SAMPLE], expected[SAMPLE];
        augment_sample(&options, 3, index, output);
        expect(&options, index, 0, 0, false, expected);
        assert_memory_equal(output, expected, sizeof output);
    }
}

static void every_output_is_some_crop_and_flip_and_all_are_alike_often(void **state) {
    (void)state;
    enum { DRAWS = OFFSETS * OFFSETS * 2, EPOCHS = 1000 };
    LoaderOptions options = augmenting();
    int found[DRAWS] = {0};
    for (uint32_t epoch = 0; epoch < EPOCHS; epoch++)
        for (uint32_t index = 0; index < COUNT; index++) {
            float output[SAMPLE];
            augment_sample(&options, epoch, index, output);
            int draw = found_draw(&options, index, output);
            assert_true(draw >= 0);
            found[draw]++;
        }
    double expected = (double)EPOCHS * COUNT / DRAWS, sum = 0;
    for (int i = 0; i < DRAWS; i++)
        sum += (found[i] - expected) * (found[i] - expected) / expected;
    assert_true(sum < 101); /* 49 degrees of freedom: above once in 50,000 */
}

static void the_same_question_has_the_same_answer(void **state) {
    (void)state;
    LoaderOptions options = augmenting();
    float first[COUNT][SAMPLE], again[SAMPLE];
    for (uint32_t index = 0; index < COUNT; index++)
        augment_sample(&options, 5, index, first[index]);
    for (uint32_t index = COUNT; index-- > 0;) {
        augment_sample(&options, 5, index, again);
        assert_memory_equal(again, first[index], sizeof again);
    }
}

static int draws_that_differ(LoaderOptions a, uint32_t epoch_a, LoaderOptions b,
                             uint32_t epoch_b) {
    int differ = 0;
    for (uint32_t index = 0; index < COUNT; index++) {
        float first[SAMPLE], second[SAMPLE];
        augment_sample(&a, epoch_a, index, first);
        augment_sample(&b, epoch_b, index, second);
        differ += memcmp(first, second, sizeof first) != 0;
    }
    return differ;
}

static void seed_and_epoch_change_the_draws(void **state) {
    (void)state;
    LoaderOptions options = augmenting(), other = options;
    assert_int_equal(draws_that_differ(options, 0, options, 0), 0);
    assert_true(draws_that_differ(options, 0, options, 1) >= COUNT - 2);
    other.seed = 2;
    assert_true(draws_that_differ(options, 0, other, 0) >= COUNT - 2);
    other.seed = options.seed | 1ull << 32;
    assert_true(draws_that_differ(options, 0, other, 0) >= COUNT - 2);
}

static void crop_and_flip_do_not_disturb_each_others_draws(void **state) {
    (void)state;
    LoaderOptions both = augmenting(), crop = both, flip = both;
    crop.flip = false;
    flip.crop = false;
    for (uint32_t index = 0; index < COUNT; index++) {
        float output[SAMPLE];
        augment_sample(&both, 0, index, output);
        int draw = found_draw(&both, index, output);
        augment_sample(&crop, 0, index, output);
        assert_int_equal(found_draw(&both, index, output), draw / 2 * 2);
        augment_sample(&flip, 0, index, output);
        int middle = (PAD * OFFSETS + PAD) * 2;
        assert_int_equal(found_draw(&both, index, output), middle + draw % 2);
    }
}

/* From an independent program: Philox of (seed, augment stream, epoch, index), lanes 0, 1, 2. */
static void the_draws_are_for_ever(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        uint32_t epoch, index;
        int down, right;
        bool mirrored;
    } golden[] = {
        {0x1u, 0, 0, 0, 1, false},
        {0x1u, 0, 7, -2, -2, true},
        {0x2au, 3, 5, 0, -1, true},
        {0xfedcba9876543210u, 90, 2, 2, 2, true},
    };
    for (size_t g = 0; g < sizeof golden / sizeof *golden; g++) {
        LoaderOptions options = augmenting();
        options.seed = golden[g].seed;
        float output[SAMPLE], expected[SAMPLE];
        augment_sample(&options, golden[g].epoch, golden[g].index, output);
        expect(&options, golden[g].index, golden[g].down, golden[g].right,
               golden[g].mirrored, expected);
        assert_memory_equal(output, expected, sizeof output);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pixel_value_is_normalised_as_torchvision_does),
        cmocka_unit_test(evaluation_draws_nothing),
        cmocka_unit_test(every_output_is_some_crop_and_flip_and_all_are_alike_often),
        cmocka_unit_test(the_same_question_has_the_same_answer),
        cmocka_unit_test(seed_and_epoch_change_the_draws),
        cmocka_unit_test(crop_and_flip_do_not_disturb_each_others_draws),
        cmocka_unit_test(the_draws_are_for_ever),
    };
    return cmocka_run_group_tests(tests, fill_set, NULL);
}
