/* The loader: which sample is where must depend on (seed, epoch, position) alone, never on where the
 * run was entered, how shards are spread, or how fast the thread was. */
#include "tests/support/test.h"

#include "src/data/data.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 103, SIDE = 6, PIXELS = SIDE * SIDE, BATCH = 16, SHARDS = 5 };

static uint8_t pixels[COUNT * PIXELS], labels[COUNT];
static const Dataset set = {.count = COUNT,
                            .channels = 1,
                            .height = SIDE,
                            .width = SIDE,
                            .classes = COUNT,
                            .pixels = pixels,
                            .labels = labels};
static const Samples all = {&set, NULL, COUNT};

static int fill_set(void **state) {
    (void)state;
    for (uint32_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(rng_word(rng_at(1, RNG_TEST, 0, 0), i, 0) >> 24);
    for (int i = 0; i < COUNT; i++)
        labels[i] = (uint8_t)i; /* a sample's label is its name */
    alarm(60);                  /* a hang is a failure */
    return 0;
}

static LoaderOptions training_options(void) {
    return (LoaderOptions){.samples = &all,
                           .seed = 42,
                           .batch = BATCH,
                           .shards = SHARDS,
                           .shard_count = SHARDS,
                           .training = true,
                           .crop = true,
                           .flip = true,
                           .crop_padding = 2,
                           .mean = {0.25f},
                           .std = {0.5f}};
}

/* A batch as one array of rows, so that batches of different loaders can be compared. */
typedef struct {
    int64_t epoch, position, count;
    float images[BATCH][PIXELS];
    int32_t labels[BATCH];
} Whole;

static void add_shards(const Batch *batch, Whole *whole) {
    whole->epoch = batch->epoch;
    whole->position = batch->position;
    whole->count = batch->count;
    for (int s = 0; s < batch->shard_count; s++) {
        const ShardBatch *shard = &batch->shards[s];
        Rows rows = shard_rows(batch->count, SHARDS, shard->shard);
        assert_int_equal(shard->first, rows.first);
        assert_int_equal(shard->count, rows.count);
        assert_int_equal((uintptr_t)shard->images % 64, 0);
        for (int64_t row = 0; row < shard->count; row++) {
            memcpy(whole->images[shard->first + row], shard->images + row * PIXELS,
                   sizeof whole->images[0]);
            whole->labels[shard->first + row] = shard->labels[row];
        }
    }
}

static void next_whole(Loader *loader, Whole *out) {
    const Batch *batch;
    double stall_s = -1;
    assert_ok(loader_next(loader, &batch, &stall_s));
    assert_non_null(batch);
    assert_true(stall_s >= 0);
    memset(out, 0, sizeof *out);
    add_shards(batch, out);
}

static Loader *open_loader(const LoaderOptions *options) {
    Loader *loader;
    assert_ok(loader_open(options, &loader));
    return loader;
}

static void shard_rows_partition_every_batch(void **state) {
    (void)state;
    for (int n = 0; n < 70; n++)
        for (int shards = 1; shards < 20; shards++) {
            int64_t next = 0;
            for (int s = 0; s < shards; s++) {
                Rows rows = shard_rows(n, shards, s);
                assert_int_equal(rows.first, next);
                assert_in_range(rows.count, n / shards, n / shards + 1);
                next += rows.count;
            }
            assert_int_equal(next, n);
        }
}

static void shard_rows_of_100_in_12_and_of_2_in_5(void **state) {
    (void)state;
    static const int firsts[] = {0, 8, 16, 25, 33, 41, 50, 58, 66, 75, 83, 91};
    for (int s = 0; s < 12; s++)
        assert_int_equal(shard_rows(100, 12, s).first, firsts[s]);
    static const int counts[] = {0, 0, 1, 0, 1};
    for (int s = 0; s < 5; s++)
        assert_int_equal(shard_rows(2, 5, s).count, counts[s]);
    Rows large = shard_rows(UINT32_MAX, 1 << 20, (1 << 20) - 1);
    assert_int_equal(large.first + large.count, UINT32_MAX);
}

static void an_epoch_has_every_sample_once(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    Loader *loader = open_loader(&options);
    int32_t order[3][COUNT];
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[COUNT] = {0};
        for (int64_t position = 0; position < COUNT; position += BATCH) {
            Whole whole;
            next_whole(loader, &whole);
            assert_int_equal(whole.epoch, epoch);
            assert_int_equal(whole.position, position);
            assert_int_equal(whole.count, position + BATCH > COUNT ? COUNT % BATCH : BATCH);
            for (int64_t row = 0; row < whole.count; row++) {
                order[epoch][position + row] = whole.labels[row];
                seen[whole.labels[row]]++;
            }
        }
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_memory_not_equal(order[0], order[1], sizeof order[0]);
    assert_memory_not_equal(order[1], order[2], sizeof order[0]);
    loader_close(loader);
}

static void rows_are_the_augmented_samples_of_the_permutation(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    options.epoch = 7;
    Loader *loader = open_loader(&options);
    Permutation order = permutation_make(options.seed, RNG_SHUFFLE, 7, COUNT);
    for (uint32_t position = 0; position < COUNT; position += BATCH) {
        Whole whole;
        next_whole(loader, &whole);
        for (uint32_t row = 0; row < whole.count; row++) {
            uint32_t index = permutation_at(&order, position + row);
            float expected[PIXELS];
            augment_sample(&options, 7, index, expected);
            assert_int_equal(whole.labels[row], index);
            assert_memory_equal(whole.images[row], expected, sizeof expected);
        }
    }
    loader_close(loader);
}

static void a_loader_entered_anywhere_continues_alike(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    Loader *whole_run = open_loader(&options);
    for (int step = 0; step < 16; step++) { /* two epochs of 7 batches, and some */
        Whole expected, found;
        next_whole(whole_run, &expected);
        LoaderOptions later = options;
        later.epoch = expected.epoch;
        later.position = expected.position;
        Loader *entered = open_loader(&later);
        next_whole(entered, &found);
        assert_memory_equal(&found, &expected, sizeof found);
        loader_close(entered);
    }
    loader_close(whole_run);
}

static void entered_in_the_middle_it_also_crosses_the_epoch_alike(void **state) {
    (void)state;
    LoaderOptions options = training_options(), later = options;
    later.position = 5 * BATCH;
    Loader *whole_run = open_loader(&options), *entered = open_loader(&later);
    Whole expected, found;
    for (int i = 0; i < 5; i++)
        next_whole(whole_run, &expected);
    for (int i = 0; i < 12; i++) {
        next_whole(whole_run, &expected);
        next_whole(entered, &found);
        assert_memory_equal(&found, &expected, sizeof found);
    }
    loader_close(whole_run);
    loader_close(entered);
}

static void ranks_together_give_what_one_rank_gives(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    for (int ranks = 2; ranks <= SHARDS; ranks++) {
        Loader *alone = open_loader(&options), *loaders[SHARDS];
        for (int rank = 0; rank < ranks; rank++) {
            LoaderOptions mine = options;
            mine.first_shard = rank * SHARDS / ranks;
            mine.shard_count = (rank + 1) * SHARDS / ranks - mine.first_shard;
            loaders[rank] = open_loader(&mine);
        }
        for (int step = 0; step < 10; step++) {
            Whole expected, together;
            next_whole(alone, &expected);
            memset(&together, 0, sizeof together);
            for (int rank = 0; rank < ranks; rank++) {
                const Batch *batch;
                assert_ok(loader_next(loaders[rank], &batch, NULL));
                add_shards(batch, &together);
            }
            assert_memory_equal(&together, &expected, sizeof together);
        }
        for (int rank = 0; rank < ranks; rank++)
            loader_close(loaders[rank]);
        loader_close(alone);
    }
}

static void the_number_of_shards_does_not_change_the_rows(void **state) {
    (void)state;
    LoaderOptions options = training_options(), one = options;
    one.shards = one.shard_count = 1;
    Loader *many = open_loader(&options), *single = open_loader(&one);
    for (int step = 0; step < 9; step++) {
        Whole expected;
        next_whole(many, &expected);
        const Batch *batch;
        assert_ok(loader_next(single, &batch, NULL));
        assert_int_equal(batch->shards[0].count, expected.count);
        assert_memory_equal(batch->shards[0].images, expected.images,
                            (size_t)expected.count * PIXELS * sizeof(float));
    }
    loader_close(many);
    loader_close(single);
}

static void batches_smaller_than_the_shards_leave_some_empty(void **state) {
    (void)state;
    static const Samples few = {&set, NULL, 2};
    LoaderOptions options = training_options();
    options.samples = &few;
    Loader *loader = open_loader(&options);
    const Batch *batch;
    for (int step = 0; step < 5; step++) {
        assert_ok(loader_next(loader, &batch, NULL));
        assert_int_equal(batch->count, 2);
        assert_int_equal(batch->epoch, step);
        int64_t rows = 0;
        for (int s = 0; s < SHARDS; s++)
            rows += batch->shards[s].count;
        assert_int_equal(rows, 2);
        assert_int_equal(batch->shards[0].count, 0);
    }
    loader_close(loader);
}

static void evaluation_is_in_order_once_and_not_augmented(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    options.training = false;
    Loader *loader = open_loader(&options);
    for (int position = 0; position < COUNT; position += BATCH) {
        Whole whole;
        next_whole(loader, &whole);
        for (int row = 0; row < whole.count; row++) {
            assert_int_equal(whole.labels[row], position + row);
            for (int i = 0; i < PIXELS; i++) {
                float x = (float)pixels[(position + row) * PIXELS + i] / 255.0f;
                float expected = (x - 0.25f) / 0.5f;
                assert_memory_equal(&whole.images[row][i], &expected, sizeof expected);
            }
        }
    }
    const Batch *batch;
    for (int again = 0; again < 3; again++) {
        assert_ok(loader_next(loader, &batch, NULL));
        assert_null(batch);
    }
    loader_close(loader);
}

static void a_split_part_draws_only_from_its_own_samples(void **state) {
    (void)state;
    uint32_t index[20];
    for (uint32_t i = 0; i < 20; i++)
        index[i] = 5 * i + 1;
    Samples part = {&set, index, 20};
    LoaderOptions options = training_options();
    options.samples = &part;
    Loader *loader = open_loader(&options);
    int seen[COUNT] = {0};
    for (int step = 0; step < 2; step++) {
        Whole whole;
        next_whole(loader, &whole);
        for (int row = 0; row < whole.count; row++)
            seen[whole.labels[row]]++;
    }
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(seen[i], i % 5 == 1 && i < 100);
    loader_close(loader);
}

static void a_batch_stays_while_the_thread_runs_ahead(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    Loader *loader = open_loader(&options);
    for (int step = 0; step < 4; step++) {
        const Batch *batch;
        Whole before = {0}, after = {0};
        assert_ok(loader_next(loader, &batch, NULL));
        add_shards(batch, &before);
        usleep(5000); /* ample for the thread to fill whatever it believes to be free */
        add_shards(batch, &after);
        assert_memory_equal(&after, &before, sizeof after);
    }
    loader_close(loader);
}

static void closing_at_any_moment_does_not_hang(void **state) {
    (void)state;
    LoaderOptions options = training_options();
    for (int round = 0; round < 300; round++) {
        options.training = round % 2 == 0;
        Loader *loader = open_loader(&options);
        const Batch *batch;
        for (int step = 0; step < round % 10; step++)
            assert_ok(loader_next(loader, &batch, NULL));
        if (round % 50 == 0) usleep(2000); /* the thread waits for a free slot */
        loader_close(loader);
    }
    loader_close(NULL);
}

static void options_that_cannot_be_met_are_refused(void **state) {
    (void)state;
    static const Samples none = {&set, NULL, 0};
    Loader *loader;
    LoaderOptions o = training_options();
    o.samples = &none;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "no samples");
    assert_null(loader);
    o = training_options();
    o.position = COUNT;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "position 103 of 103");
    o = training_options();
    o.epoch = -1;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "epoch -1");
    o = training_options();
    o.first_shard = 1;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "shards [1, 6) of 5");
    o = training_options();
    o.batch = 0;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "train.batch");
    o = training_options();
    o.crop_padding = SIDE;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "data.crop_padding 6");
    o = training_options();
    o.std[0] = 0;
    assert_fails(loader_open(&o, &loader), STATUS_USAGE, "data.std 0 of channel 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shard_rows_partition_every_batch),
        cmocka_unit_test(shard_rows_of_100_in_12_and_of_2_in_5),
        cmocka_unit_test(an_epoch_has_every_sample_once),
        cmocka_unit_test(rows_are_the_augmented_samples_of_the_permutation),
        cmocka_unit_test(a_loader_entered_anywhere_continues_alike),
        cmocka_unit_test(entered_in_the_middle_it_also_crosses_the_epoch_alike),
        cmocka_unit_test(ranks_together_give_what_one_rank_gives),
        cmocka_unit_test(the_number_of_shards_does_not_change_the_rows),
        cmocka_unit_test(batches_smaller_than_the_shards_leave_some_empty),
        cmocka_unit_test(evaluation_is_in_order_once_and_not_augmented),
        cmocka_unit_test(a_split_part_draws_only_from_its_own_samples),
        cmocka_unit_test(a_batch_stays_while_the_thread_runs_ahead),
        cmocka_unit_test(closing_at_any_moment_does_not_hang),
        cmocka_unit_test(options_that_cannot_be_met_are_refused),
    };
    return cmocka_run_group_tests(tests, fill_set, NULL);
}
