/* From configuration to samples: files and splits, their identity, and what a user reads when the keys
 * do not fit the files. */
#include "tests/support/test.h"

#include "src/data/data.h"
#include "tests/support/idx_file.h"

enum { COUNT = 30, CLASSES = 3 };

static Config config;

static void write_set(const char *name, uint32_t count, uint32_t height, char *images,
                      char *labels) {
    char file[32];
    IdxBytes bytes = idx_images(count, 0, height, 4);
    snprintf(file, sizeof file, "%s-images", name);
    strcpy(images, idx_write(file, bytes.data, bytes.size).text);
    bytes = idx_labels(count, CLASSES);
    snprintf(file, sizeof file, "%s-labels", name);
    strcpy(labels, idx_write(file, bytes.data, bytes.size).text);
}

static int configure(void **state) {
    (void)state;
    config = (Config){.run.seed = 11};
    config.model.classes = CLASSES;
    config.data.mean = (ConfigList){1, {0.5}};
    config.data.std = (ConfigList){1, {0.25}};
    config.train.batch = 8;
    config.train.shards = 4;
    write_set("train", COUNT, 4, config.data.train.images, config.data.train.labels);
    return 0;
}

static void name_validation_files(uint32_t height) {
    write_set("validation", 7, height, config.data.validation.images,
              config.data.validation.labels);
}

static Status try_data(void) {
    Data data;
    Status status = data_open(&config, &data);
    data_close(&data);
    return status;
}

static Digest data_digest(void) {
    Data data;
    assert_ok(data_open(&config, &data));
    Digest digest = data.digest;
    data_close(&data);
    return digest;
}

static void validation_may_have_files_of_its_own(void **state) {
    (void)state;
    name_validation_files(4);
    config.data.validation_split = 0.5; /* files win */
    Data data;
    assert_ok(data_open(&config, &data));
    assert_int_equal(data.train.count, COUNT);
    assert_null(data.train.index);
    assert_int_equal(data.validation.count, 7);
    assert_ptr_not_equal(data.validation.dataset, data.train.dataset);
    data_close(&data);
}

static void a_split_gives_every_sample_to_one_side(void **state) {
    (void)state;
    config.data.validation_split = 0.25; /* 7.5 is rounded to 8 */
    Data data;
    assert_ok(data_open(&config, &data));
    assert_int_equal(data.validation.count, 8);
    assert_int_equal(data.train.count, COUNT - 8);
    int seen[COUNT] = {0};
    const Samples *roles[] = {&data.train, &data.validation};
    for (int role = 0; role < 2; role++)
        for (int64_t i = 0; i < roles[role]->count; i++) {
            assert_true(i == 0 || roles[role]->index[i - 1] < roles[role]->index[i]);
            seen[roles[role]->index[i]]++;
        }
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(seen[i], 1);
    Permutation order = permutation_make(11, RNG_SPLIT, 0, COUNT);
    for (uint32_t i = 0; i < 8; i++) {
        bool held = false;
        for (int64_t j = 0; j < 8; j++)
            held |= data.validation.index[j] == permutation_at(&order, i);
        assert_true(held);
    }
    data_close(&data);
}

static void without_files_or_split_there_is_no_validation(void **state) {
    (void)state;
    Data data;
    assert_ok(data_open(&config, &data));
    assert_int_equal(data.train.count, COUNT);
    assert_int_equal(data.validation.count, 0);
    data_close(&data);
}

static void the_digest_covers_files_and_split(void **state) {
    (void)state;
    Digest alone = data_digest();
    assert_true(digest_equal(alone, data_digest()));
    config.data.validation_split = 0.2;
    Digest split = data_digest();
    assert_false(digest_equal(alone, split));
    config.run.seed++;
    assert_false(digest_equal(split, data_digest()));
    name_validation_files(4);
    Digest files = data_digest();
    assert_false(digest_equal(alone, files));
    IdxBytes labels = idx_labels(7, CLASSES - 1);
    idx_write("validation-labels", labels.data, labels.size);
    assert_false(digest_equal(files, data_digest()));
}

static void a_split_that_leaves_a_side_empty_is_refused(void **state) {
    (void)state;
    config.data.validation_split = 0.01;
    assert_fails(try_data(), STATUS_USAGE, "holds out 0 of 30 samples");
    config.data.validation_split = 0.99;
    assert_fails(try_data(), STATUS_USAGE, "holds out 30 of 30 samples");
}

static void a_missing_file_names_its_key_and_where_data_comes_from(void **state) {
    (void)state;
    name_validation_files(4);
    config.data.validation.labels[0] = '\0';
    assert_fails(try_data(), STATUS_USAGE, "data.validation.labels is not set");
    strcpy(config.data.validation.labels, "/nowhere/labels");
    assert_fails(try_data(), STATUS_USAGE,
                 "data.validation.labels: there is no file /nowhere/labels");
    strcpy(config.data.train.images, "/nowhere/fashion-mnist/train-images-idx3-ubyte.gz");
    assert_fails(try_data(), STATUS_USAGE, "data.train.images: there is no file");
    assert_fails(try_data(), STATUS_USAGE, "apt-get install dataset-fashion-mnist");
    config.data.train.images[0] = '\0';
    assert_fails(try_data(), STATUS_USAGE, "data.train.images is not set");
}

static void keys_that_do_not_fit_the_files_are_refused(void **state) {
    (void)state;
    name_validation_files(5);
    assert_fails(try_data(), STATUS_USAGE, "are 1 x 4 x 4 but those of");
    config.model.classes = CLASSES - 1;
    assert_fails(try_data(), STATUS_USAGE, "set model.classes");
    config.model.classes = CLASSES;
    config.data.mean.count = 3;
    assert_fails(try_data(), STATUS_USAGE, "data.mean has 3 values but the images have 1");
    config.data.mean.count = 1;
    config.data.std.count = 0;
    assert_fails(try_data(), STATUS_USAGE, "data.std has 0 values");
}

static void loader_options_are_the_configuration(void **state) {
    (void)state;
    IdxBytes colour = idx_images(COUNT, 3, 4, 4);
    strcpy(config.data.train.images, idx_write("colour", colour.data, colour.size).text);
    config.data.std = (ConfigList){3, {0.25, 0.5, 0.75}};
    config.data.validation_split = 0.2;
    config.data.augment_flip = true;
    config.data.crop_padding = 3;
    Data data;
    assert_ok(data_open(&config, &data));
    LoaderOptions options = data_loader_options(&config, &data, true);
    assert_ptr_equal(options.samples, &data.train);
    assert_true(options.training && options.flip && !options.crop);
    assert_int_equal(options.crop_padding, 3);
    assert_int_equal(options.batch, 8);
    assert_int_equal(options.shard_count, 4);
    for (int c = 0; c < 3; c++) {
        assert_true(options.mean[c] == 0.5f);
        assert_true(options.std[c] == 0.25f * (float)(c + 1));
    }
    Loader *loader;
    assert_ok(loader_open(&options, &loader));
    loader_close(loader);
    options = data_loader_options(&config, &data, false);
    assert_ptr_equal(options.samples, &data.validation);
    assert_false(options.training);
    data_close(&data);
}

#define CONFIGURED(test) cmocka_unit_test_setup(test, configure)

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFIGURED(validation_may_have_files_of_its_own),
        CONFIGURED(a_split_gives_every_sample_to_one_side),
        CONFIGURED(without_files_or_split_there_is_no_validation),
        CONFIGURED(the_digest_covers_files_and_split),
        CONFIGURED(a_split_that_leaves_a_side_empty_is_refused),
        CONFIGURED(a_missing_file_names_its_key_and_where_data_comes_from),
        CONFIGURED(keys_that_do_not_fit_the_files_are_refused),
        CONFIGURED(loader_options_are_the_configuration),
    };
    return cmocka_run_group_tests(tests, idx_folder_create, idx_folder_remove);
}
