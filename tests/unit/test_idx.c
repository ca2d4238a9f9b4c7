/* The IDX reader: right files give their content, every wrong one a text that helps. */
#include "tests/support/test.h"

#include "src/core/rng.h"
#include "src/data/data.h"
#include "tests/support/idx_file.h"

#include <sys/stat.h>

enum { COUNT = 6, SIDE = 5, CLASSES = 3 };

static IdxPath images_path, labels_path; /* a right pair */

static int write_pair(void **state) {
    if (idx_folder_create(state) != 0) return 1;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE + 1),
             labels = idx_labels(COUNT, CLASSES);
    images_path = idx_write("images", images.data, images.size);
    labels_path = idx_write("labels", labels.data, labels.size);
    return 0;
}

static Status read_images(const void *data, size_t size) {
    IdxPath path = idx_write("changed", data, size);
    Dataset set;
    Status status = idx_read(path.text, labels_path.text, CLASSES, &set);
    if (status != STATUS_OK) assert_null(set.pixels);
    dataset_close(&set);
    return status;
}

static Status read_labels(const void *data, size_t size) {
    IdxPath path = idx_write("changed", data, size);
    Dataset set;
    Status status = idx_read(images_path.text, path.text, CLASSES, &set);
    dataset_close(&set);
    return status;
}

static Digest digest_of_pair(const IdxBytes *images, const IdxBytes *labels) {
    IdxPath a = idx_write("a", images->data, images->size);
    IdxPath b = idx_write("b", labels->data, labels->size);
    Dataset set;
    assert_ok(idx_read(a.text, b.text, CLASSES, &set));
    Digest digest = set.digest;
    dataset_close(&set);
    return digest;
}

static void a_pair_is_read_as_written(void **state) {
    (void)state;
    Dataset set;
    assert_ok(idx_read(images_path.text, labels_path.text, CLASSES, &set));
    assert_int_equal(set.count, COUNT);
    assert_int_equal(set.channels, 1);
    assert_int_equal(set.height, SIDE);
    assert_int_equal(set.width, SIDE + 1);
    assert_int_equal(set.classes, CLASSES);
    for (int i = 0; i < COUNT * SIDE * (SIDE + 1); i++)
        assert_int_equal(set.pixels[i], (uint8_t)(7 * i + 3));
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(set.labels[i], i % CLASSES);
    dataset_close(&set);
    assert_null(set.pixels);
}

static void images_with_channels_are_read(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 3, 4, 2);
    IdxPath path = idx_write("colour", images.data, images.size);
    Dataset set;
    assert_ok(idx_read(path.text, labels_path.text, CLASSES, &set));
    assert_int_equal(set.channels, 3);
    assert_int_equal(set.height, 4);
    assert_int_equal(set.width, 2);
    assert_memory_equal(set.pixels, images.data + 20, COUNT * 3 * 4 * 2);
    dataset_close(&set);
}

static void compression_does_not_change_the_digest(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, 4, 4), labels = idx_labels(COUNT, CLASSES);
    IdxBytes small_images = idx_gzip(&images), small_labels = idx_gzip(&labels);
    Digest plain = digest_of_pair(&images, &labels);
    assert_true(digest_equal(plain, digest_of_pair(&small_images, &small_labels)));
    assert_true(digest_equal(plain, digest_of_pair(&small_images, &labels)));
}

static void the_digest_covers_shape_pixels_and_labels(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, 4, 2), labels = idx_labels(COUNT, CLASSES);
    Digest first = digest_of_pair(&images, &labels);
    IdxBytes other = idx_images(COUNT, 0, 2, 4); /* same bytes, other shape */
    assert_false(digest_equal(first, digest_of_pair(&other, &labels)));
    other = images;
    other.data[other.size - 1] ^= 1;
    assert_false(digest_equal(first, digest_of_pair(&other, &labels)));
    other = labels;
    other.data[other.size - 1] ^= 2;
    assert_false(digest_equal(first, digest_of_pair(&images, &other)));
}

static void a_gzip_file_of_several_members_is_one_content(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, 4, 4), labels = idx_labels(COUNT, CLASSES);
    IdxBytes head = images, tail = {.size = images.size - 21}, joined;
    head.size = 21;
    memcpy(tail.data, images.data + 21, tail.size);
    joined = idx_gzip(&head);
    IdxBytes second = idx_gzip(&tail);
    memcpy(joined.data + joined.size, second.data, second.size);
    joined.size += second.size;
    assert_true(
        digest_equal(digest_of_pair(&images, &labels), digest_of_pair(&joined, &labels)));
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE), labels = idx_labels(COUNT, CLASSES);
    IdxBytes packed = idx_gzip(&images);
    assert_ok(read_images(images.data, images.size));
    assert_ok(read_images(packed.data, packed.size));
    for (size_t size = 1; size < images.size; size++)
        assert_fails(read_images(images.data, size), STATUS_USAGE, "is cut off");
    for (size_t size = 1; size < labels.size; size++)
        assert_fails(read_labels(labels.data, size), STATUS_USAGE, "is cut off");
    for (size_t size = 2; size < packed.size; size++)
        assert_fails(read_images(packed.data, size), STATUS_USAGE, "is cut off");
    assert_fails(read_images(images.data, 0), STATUS_USAGE, "is empty");
    assert_fails(read_images(images.data, 11), STATUS_USAGE,
                 "it ends at offset 11, in the header of 16 bytes");
    images.size -= 10;
    assert_fails(read_images(images.data, images.size), STATUS_USAGE,
                 "promises 166 bytes, the file has 156");
    packed = idx_gzip(&images);
    assert_fails(read_images(packed.data, packed.size), STATUS_USAGE,
                 "it ends at offset 156, expected 166");
}

static void trailing_bytes_are_refused(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE), packed = idx_gzip(&images);
    assert_fails(read_images(images.data, images.size + 1), STATUS_USAGE,
                 "has trailing bytes");
    assert_fails(read_images(packed.data, packed.size + 1), STATUS_USAGE,
                 "trailing bytes after the gzip stream");
    images.size++;
    packed = idx_gzip(&images);
    assert_fails(read_images(packed.data, packed.size), STATUS_USAGE, "has trailing bytes");
}

static void a_wrong_gzip_checksum_is_refused(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE), packed = idx_gzip(&images);
    packed.data[packed.size - 8] ^= 1; /* CRC-32 */
    assert_fails(read_images(packed.data, packed.size), STATUS_USAGE,
                 "incorrect data check");
    packed = idx_gzip(&images);
    packed.data[packed.size - 1] ^= 1; /* length */
    assert_fails(read_images(packed.data, packed.size), STATUS_USAGE,
                 "incorrect length check");
}

static void a_wrong_magic_is_named(void **state) {
    (void)state;
    assert_fails(read_images("hello, world", 12), STATUS_USAGE,
                 "magic 0x68656c6c at offset 0, expected 0x00000803");
    IdxBytes floats = idx_images(COUNT, 0, SIDE, SIDE);
    floats.data[2] = 0x0d;
    assert_fails(read_images(floats.data, floats.size), STATUS_USAGE, "unsigned bytes");
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE), labels = idx_labels(COUNT, CLASSES);
    assert_fails(read_images(labels.data, labels.size), STATUS_USAGE, "swapped");
    assert_fails(read_labels(images.data, images.size), STATUS_USAGE, "swapped");
    images.data[3] = 2;
    assert_fails(read_images(images.data, images.size), STATUS_USAGE, "0x00000802");
}

static void impossible_dimensions_are_refused(void **state) {
    (void)state;
    IdxBytes bytes = idx_images(0, 0, SIDE, SIDE);
    assert_fails(read_images(bytes.data, bytes.size), STATUS_USAGE, "count 0 at offset 4");
    bytes = idx_images(COUNT, 0, 0, SIDE);
    assert_fails(read_images(bytes.data, bytes.size), STATUS_USAGE, "height 0 at offset 8");
    bytes = idx_images(COUNT, 0, SIDE, 0);
    assert_fails(read_images(bytes.data, bytes.size), STATUS_USAGE, "width 0 at offset 12");
    bytes = idx_images(1, 5, 1, 1);
    assert_fails(read_images(bytes.data, bytes.size), STATUS_USAGE,
                 "channels 5 at offset 8, expected 1 to 4");
    bytes = idx_labels(0, CLASSES);
    assert_fails(read_labels(bytes.data, bytes.size), STATUS_USAGE, "count 0 at offset 4");
}

static void a_false_promise_costs_no_memory(void **state) {
    (void)state;
    IdxBytes huge = {.size = 0};
    idx_word(&huge, 0x804);
    idx_word(&huge, UINT32_MAX);
    idx_word(&huge, 4);
    idx_word(&huge, 16384);
    idx_word(&huge, 16384);
    IdxBytes packed = idx_gzip(&huge);
    assert_fails(read_images(huge.data, huge.size), STATUS_USAGE, "is cut off");
    assert_fails(read_images(packed.data, packed.size), STATUS_USAGE, "is cut off");
    huge.size = 0;
    idx_word(&huge, 0x803);
    idx_word(&huge, 1);
    idx_word(&huge, 16385);
    assert_fails(read_images(huge.data, huge.size), STATUS_USAGE, "height 16385");
}

static void content_beyond_the_first_allocation_is_read_whole(void **state) {
    (void)state;
    enum { ROWS = 10000, ROW = 16384 }; /* 164 MB: memory grows twice on the way */
    IdxPath images = idx_path("large"), labels;
    IdxBytes head = {.size = 0}, label = idx_labels(1, 1);
    labels = idx_write("one", label.data, label.size);
    idx_word(&head, 0x803);
    idx_word(&head, 1);
    idx_word(&head, ROWS);
    idx_word(&head, ROW);
    static uint8_t row[ROW];
    gzFile file = gzopen(images.text, "wb1");
    assert_int_equal(gzwrite(file, head.data, (unsigned)head.size), head.size);
    for (int y = 0; y < ROWS; y++) {
        memset(row, y % 251, ROW);
        assert_int_equal(gzwrite(file, row, ROW), ROW);
    }
    assert_int_equal(gzclose(file), Z_OK);
    Dataset set;
    assert_ok(idx_read(images.text, labels.text, 1, &set));
    for (int y = 0; y < ROWS; y++) {
        assert_int_equal(set.pixels[(int64_t)y * ROW], y % 251);
        assert_int_equal(set.pixels[(int64_t)y * ROW + ROW - 1], y % 251);
    }
    dataset_close(&set);
}

static void a_label_out_of_range_is_named(void **state) {
    (void)state;
    IdxBytes labels = idx_labels(COUNT, CLASSES);
    labels.data[8 + 4] = CLASSES;
    assert_fails(read_labels(labels.data, labels.size), STATUS_USAGE,
                 "label 3 at offset 12, expected 0 to 2");
    assert_fails(read_labels(labels.data, labels.size), STATUS_USAGE, "model.classes");
}

static void counts_that_differ_are_named(void **state) {
    (void)state;
    IdxBytes labels = idx_labels(COUNT + 1, CLASSES);
    assert_fails(read_labels(labels.data, labels.size), STATUS_USAGE, "6 images but");
    assert_fails(read_labels(labels.data, labels.size), STATUS_USAGE, "7 labels");
}

static void what_is_not_a_file_is_refused(void **state) {
    (void)state;
    Dataset set;
    IdxPath none = idx_path("none"), fifo = idx_path("fifo");
    assert_fails(idx_read(none.text, labels_path.text, CLASSES, &set), STATUS_USAGE,
                 none.text);
    assert_fails(idx_read(idx_folder, labels_path.text, CLASSES, &set), STATUS_USAGE,
                 "not a regular file");
    assert_int_equal(mkfifo(fifo.text, 0600), 0);
    assert_fails(idx_read(fifo.text, labels_path.text, CLASSES, &set), STATUS_USAGE,
                 "not a regular file");
}

/* Whatever the bytes, the reader answers: with a set that keeps its promises, or with a text. */
static void check_answer(const IdxBytes *bytes, bool images) {
    IdxPath path = idx_write("changed", bytes->data, bytes->size);
    Dataset set;
    Status status = images ? idx_read(path.text, labels_path.text, CLASSES, &set)
                           : idx_read(images_path.text, path.text, CLASSES, &set);
    if (status == STATUS_OK) {
        assert_int_equal(set.count, COUNT);
        for (int64_t i = 0; i < set.count; i++)
            assert_true(set.labels[i] < CLASSES);
        dataset_close(&set);
    } else {
        assert_int_equal(status, STATUS_USAGE);
        assert_non_null(strstr(status_failure()->what, path.text));
        assert_true(status_failure()->fix[0] != '\0');
    }
}

static void random_damage_is_always_answered(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE),
             colour = idx_images(COUNT, 2, SIDE, 3), labels = idx_labels(COUNT, CLASSES);
    IdxBytes originals[6] = {
        images, colour, labels, idx_gzip(&images), idx_gzip(&colour), idx_gzip(&labels)};
    Rng rng = rng_at(20240601, RNG_TEST, 0, 0);
    for (uint32_t trial = 0; trial < 3000; trial++) {
        const IdxBytes *original = &originals[trial % 6];
        IdxBytes bytes = *original;
        uint32_t changes = 1 + rng_below(rng, trial, 0, 4);
        for (uint32_t i = 0; i < changes; i++) {
            /* half of the damage goes to the header */
            uint32_t reach =
                rng_below(rng, trial, 4 * i + 4, 2) ? (uint32_t)bytes.size : 20;
            if (reach > bytes.size) reach = (uint32_t)bytes.size;
            uint32_t at = rng_below(rng, trial, 4 * i + 5, reach);
            bytes.data[at] ^= (uint8_t)(1 + rng_below(rng, trial, 4 * i + 6, 255));
        }
        if (rng_below(rng, trial, 1, 4) == 0)
            bytes.size = 1 + rng_below(rng, trial, 2, (uint32_t)bytes.size);
        check_answer(&bytes, trial % 3 != 2);
    }
}

static void every_header_byte_may_take_any_value(void **state) {
    (void)state;
    IdxBytes images = idx_images(COUNT, 0, SIDE, SIDE), labels = idx_labels(COUNT, CLASSES);
    for (int at = 0; at < 16; at++)
        for (int value = 0; value < 256; value += 15) {
            IdxBytes bytes = at < 8 ? labels : images;
            bytes.data[at] = (uint8_t)value;
            check_answer(&bytes, at >= 8);
            bytes = images;
            bytes.data[at] = (uint8_t)value;
            check_answer(&bytes, true);
        }
}

/* What is known of it from elsewhere: balanced classes, first labels, mean 0.2860, deviation 0.3530. */
static void fashion_mnist_is_what_others_know(void **state) {
    (void)state;
    const char *folder = "/usr/share/datasets/fashion-mnist";
    if (access(folder, F_OK) != 0)
        fail_msg("no %s: apt-get install dataset-fashion-mnist", folder);
    Dataset set;
    assert_ok(idx_read("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz",
                       "/usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz", 10,
                       &set));
    assert_int_equal(set.count, 60000);
    assert_int_equal(set.channels * set.height * set.width, 28 * 28);
    static const uint8_t first[] = {9, 0, 0, 3, 0, 2, 7, 2, 5, 5};
    assert_memory_equal(set.labels, first, sizeof first);
    int classes[10] = {0};
    for (int64_t i = 0; i < set.count; i++)
        classes[set.labels[i]]++;
    for (int c = 0; c < 10; c++)
        assert_int_equal(classes[c], 6000);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < set.count * 784; i++) {
        sum += set.pixels[i];
        squares += (double)set.pixels[i] * set.pixels[i];
    }
    double mean = sum / (60000.0 * 784 * 255);
    double variance = squares / (60000.0 * 784 * 255 * 255) - mean * mean;
    assert_true(mean > 0.28595 && mean < 0.28605);
    assert_true(variance > 0.35295 * 0.35295 && variance < 0.35305 * 0.35305);
    dataset_close(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_is_read_as_written),
        cmocka_unit_test(images_with_channels_are_read),
        cmocka_unit_test(compression_does_not_change_the_digest),
        cmocka_unit_test(the_digest_covers_shape_pixels_and_labels),
        cmocka_unit_test(a_gzip_file_of_several_members_is_one_content),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(trailing_bytes_are_refused),
        cmocka_unit_test(a_wrong_gzip_checksum_is_refused),
        cmocka_unit_test(a_wrong_magic_is_named),
        cmocka_unit_test(impossible_dimensions_are_refused),
        cmocka_unit_test(a_false_promise_costs_no_memory),
        cmocka_unit_test(content_beyond_the_first_allocation_is_read_whole),
        cmocka_unit_test(a_label_out_of_range_is_named),
        cmocka_unit_test(counts_that_differ_are_named),
        cmocka_unit_test(what_is_not_a_file_is_refused),
        cmocka_unit_test(random_damage_is_always_answered),
        cmocka_unit_test(every_header_byte_may_take_any_value),
        cmocka_unit_test(fashion_mnist_is_what_others_know),
    };
    return cmocka_run_group_tests(tests, write_pair, idx_folder_remove);
}
