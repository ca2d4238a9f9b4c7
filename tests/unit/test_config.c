/* A configuration is read exactly as written, or refused at its place with what was expected. */
#include "src/core/config.h"
#include "src/core/rng.h"
#include "tests/support/test.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* In memory: thousands of files are read here. */
static int file;
static char file_name[32];

static int make_file(void **state) {
    (void)state;
    file = memfd_create("configuration", MFD_CLOEXEC);
    snprintf(file_name, sizeof file_name, "/proc/self/fd/%d", file);
    return file < 0 ? -1 : 0;
}

static int close_file(void **state) {
    (void)state;
    return close(file);
}

static void put(const char *text, size_t size) {
    assert_int_equal(ftruncate(file, 0), 0);
    assert_int_equal(pwrite(file, text, size, 0), (ssize_t)size);
}

static Status load_bytes(const char *text, size_t size, Config *out) {
    put(text, size);
    return config_load(file_name, NULL, 0, out);
}

static Status load(const char *text, Config *out) {
    return load_bytes(text, strlen(text), out);
}

#define DATA "data: {train: {images: a, labels: b}, validation: {images: c, labels: d}}\n"

/* All keys with values other than their defaults, where that is allowed at once. */
static const char full[] =
    "# a comment\n"
    "run:\n"
    "  name: full\n"
    "  dir: \"some where/full\"\n"
    "  seed: 18446744073709551615\n"
    "  author: 'J. Döe'\n"
    "  note: \"a \\\"quoted\\\" back\\\\slash # no comment\"\n"
    "device: cpu\n"
    "model: {arch: mlp, classes: 7, widths: [20, 30, 7], dropout: 0.5,\n"
    "        batch_norm: true}\n"
    "data:\n"
    "  format: idx\n"
    "  train: {images: /d/i, labels: /d/l}\n"
    "  validation_split: 0.125\n"
    "  augment: [flip, crop]\n"
    "  crop_padding: 2\n"
    "  mean: [0.1, 0.2, 0.3]\n"
    "  std: 0.3530\n"
    "train: {epochs: 3, batch: 96, shards: 5, max_steps: 100000,\n"
    "        precision: fp32, reduction: fast, label_smoothing: 0.1,\n"
    "        evaluate_every_steps: 10, threads: 2}\n"
    "optimizer: {kind: sgd, lr: 1.0e-3, momentum: 0.95, nesterov: true,\n"
    "            beta1: 0.8, beta2: 0.99, epsilon: 1e-7, weight_decay: 5e-4,\n"
    "            decay_all: true, clip_norm: 1}\n"
    "schedule: {kind: multistep, warmup_steps: 7, step_size: 9,\n"
    "           milestones: [10, 20, 4294967295], gamma: 0.3, power: 2,\n"
    "           min_lr: 1e-5}\n"
    "checkpoint: {every_steps: 11, every_epoch: false, keep_last: 2,\n"
    "             max_failures: 9, compression: zlib:3}\n"
    "log: {every_steps: 1, progress: plain}\n"
    "resume: must\n";

/* ---- reading */

static void every_key_reaches_its_field(void **state) {
    (void)state;
    Config c;
    assert_ok(load(full, &c));
    assert_string_equal(c.run.name, "full");
    assert_string_equal(c.run.dir, "some where/full");
    assert_string_equal(c.run.author, "J. Döe");
    assert_string_equal(c.run.note, "a \"quoted\" back\\slash # no comment");
    assert_true(c.run.seed == UINT64_MAX);
    assert_string_equal(c.device, "cpu");
    assert_string_equal(c.model.arch, "mlp");
    assert_int_equal(c.model.classes, 7);
    assert_int_equal(c.model.widths.count, 3);
    assert_true(c.model.widths.values[0] == 20 && c.model.widths.values[2] == 7);
    assert_true(c.model.dropout == 0.5 && c.model.batch_norm);
    assert_string_equal(c.data.format, "idx");
    assert_string_equal(c.data.train.images, "/d/i");
    assert_string_equal(c.data.train.labels, "/d/l");
    assert_string_equal(c.data.validation.images, "");
    assert_string_equal(c.data.validation.labels, "");
    assert_true(c.data.validation_split == 0.125);
    assert_true(c.data.augment_crop && c.data.augment_flip);
    assert_int_equal(c.data.crop_padding, 2);
    assert_int_equal(c.data.mean.count, 3);
    assert_true(c.data.mean.values[1] == 0.2);
    assert_int_equal(c.data.std.count, 1);
    assert_true(c.data.std.values[0] == 0.3530);
    assert_int_equal(c.train.epochs, 3);
    assert_int_equal(c.train.batch, 96);
    assert_int_equal(c.train.shards, 5);
    assert_int_equal(c.train.max_steps, 100000);
    assert_string_equal(c.train.precision, "fp32");
    assert_string_equal(c.train.reduction, "fast");
    assert_true(c.train.label_smoothing == 0.1);
    assert_int_equal(c.train.evaluate_every_steps, 10);
    assert_int_equal(c.train.threads, 2);
    assert_string_equal(c.optimizer.kind, "sgd");
    assert_true(c.optimizer.lr == 1e-3 && c.optimizer.momentum == 0.95 &&
                c.optimizer.nesterov);
    assert_true(c.optimizer.beta1 == 0.8 && c.optimizer.beta2 == 0.99);
    assert_true(c.optimizer.epsilon == 1e-7 && c.optimizer.weight_decay == 5e-4);
    assert_true(c.optimizer.decay_all && c.optimizer.clip_norm == 1);
    assert_string_equal(c.schedule.kind, "multistep");
    assert_int_equal(c.schedule.warmup_steps, 7);
    assert_int_equal(c.schedule.step_size, 9);
    assert_int_equal(c.schedule.milestones.count, 3);
    assert_true(c.schedule.milestones.values[2] == 4294967295.0);
    assert_true(c.schedule.gamma == 0.3 && c.schedule.power == 2 &&
                c.schedule.min_lr == 1e-5);
    assert_int_equal(c.checkpoint.every_steps, 11);
    assert_false(c.checkpoint.every_epoch);
    assert_int_equal(c.checkpoint.keep_last, 2);
    assert_int_equal(c.checkpoint.max_failures, 9);
    assert_string_equal(c.checkpoint.compression, "zlib:3");
    assert_int_equal(c.log.every_steps, 1);
    assert_string_equal(c.log.progress, "plain");
    assert_string_equal(c.resume, "must");
}

static void what_is_not_written_has_its_default(void **state) {
    (void)state;
    Config c;
    assert_ok(load(DATA, &c));
    assert_string_equal(c.run.dir, "runs/run");
    assert_int_equal(c.run.seed, 42);
    assert_int_equal(c.train.batch, 64);
    assert_int_equal(c.train.shards, 8);
    assert_int_equal(c.train.epochs, 5);
    assert_string_equal(c.optimizer.kind, "sgd");
    assert_true(c.optimizer.lr == 0.1 && c.optimizer.momentum == 0.9);
    assert_true(c.optimizer.beta1 == 0.9 && c.optimizer.beta2 == 0.999);
    assert_true(c.optimizer.epsilon == 1e-8);
    assert_int_equal(c.checkpoint.keep_last, 3);
    assert_int_equal(c.checkpoint.max_failures, 3);
    assert_int_equal(c.checkpoint.writers, 1);
    assert_true(c.checkpoint.every_epoch);
    assert_int_equal(c.data.mean.count, 1);
    assert_true(c.data.mean.values[0] == 0 && c.data.std.values[0] == 1);
    assert_int_equal(c.log.every_steps, 50);
    assert_string_equal(c.resume, "auto");
    assert_string_equal(c.device, "auto");
}

static void the_run_directory_follows_the_name(void **state) {
    (void)state;
    Config c;
    assert_ok(load(DATA "run: {name: second}\n", &c));
    assert_string_equal(c.run.dir, "runs/second");
}

static void sets_apply_in_order_over_the_file(void **state) {
    (void)state;
    Config c;
    put(DATA, strlen(DATA));
    const char *const sets[] = {"train.epochs=3",
                                "optimizer.lr=1e-3",
                                "train.epochs=4",
                                "data.augment=[crop]",
                                "data.mean=0.5",
                                "run.note=\"a: b\"",
                                "data.train={images: e, labels: f}",
                                "resume=checkpoints/step-000.h5"};
    assert_ok(config_load(file_name, sets, 8, &c));
    assert_int_equal(c.train.epochs, 4);
    assert_true(c.optimizer.lr == 1e-3);
    assert_true(c.data.augment_crop && !c.data.augment_flip);
    assert_true(c.data.mean.count == 1 && c.data.mean.values[0] == 0.5);
    assert_string_equal(c.run.note, "a: b");
    assert_string_equal(c.data.train.images, "e");
    assert_string_equal(c.resume, "checkpoints/step-000.h5");
}

static void every_run_file_that_we_ship_is_accepted(void **state) {
    (void)state;
    char pattern[1024];
    const char *end = strstr(__FILE__, "tests/unit/");
    assert_non_null(end);
    snprintf(pattern, sizeof pattern, "%.*slaunch/*.yaml", (int)(end - __FILE__), __FILE__);
    glob_t found;
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= 4);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        Config c;
        assert_ok(config_load(found.gl_pathv[i], NULL, 0, &c));
        assert_non_null(strstr(found.gl_pathv[i], c.run.name)); /* each its own directory */
    }
    globfree(&found);
}

/* ---- refusing */

/* The file is refused there, and the text has all of these. */
static void refused(const char *text, int line, int column, const char *const *parts) {
    Config c;
    char place[64];
    if (load(text, &c) != STATUS_USAGE) fail_msg("accepted: %s", text);
    snprintf(place, sizeof place, "%s:%d:%d:", file_name, line, column);
    const Failure *failure = status_failure();
    if (strstr(failure->what, place) == NULL)
        fail_msg("\"%s\" is not the place in: %s", place, failure->what);
    for (; *parts != NULL; parts++)
        if (strstr(failure->what, *parts) == NULL && strstr(failure->fix, *parts) == NULL)
            fail_msg("\"%s\" not in: %s | %s", *parts, failure->what, failure->fix);
}
#define REFUSED(text, line, column, ...) \
    refused((text), (line), (column), (const char *const[]){__VA_ARGS__, NULL})

static void wrong_values_are_refused_at_their_place(void **state) {
    (void)state;
    REFUSED(DATA "optimizer:\n  lr: 1e-3x\n", 3, 7, "optimizer.lr", "\"1e-3x\"",
            "number above 0");
    REFUSED(DATA "optimizer: {lr: nan}\n", 2, 17, "optimizer.lr", "\"nan\"");
    REFUSED(DATA "optimizer: {lr: inf}\n", 2, 17, "optimizer.lr", "\"inf\"");
    REFUSED(DATA "optimizer: {lr: .inf}\n", 2, 17, "optimizer.lr", "\".inf\"");
    REFUSED(DATA "optimizer: {lr: 0}\n", 2, 17, "optimizer.lr", "above 0");
    REFUSED(DATA "train: {batch: 010}\n", 2, 16, "train.batch", "\"010\"",
            "integer from 1 to");
    REFUSED(DATA "train: {batch: 1.5}\n", 2, 16, "train.batch", "\"1.5\"");
    REFUSED(DATA "train: {batch: 0}\n", 2, 16, "train.batch");
    REFUSED(DATA "train: {batch: -1}\n", 2, 16, "train.batch");
    REFUSED(DATA "train: {shards: 4097}\n", 2, 17, "train.shards", "4096");
    REFUSED(DATA "run: {seed: -1}\n", 2, 13, "run.seed");
    REFUSED(DATA "run: {seed: 18446744073709551616}\n", 2, 13, "run.seed");
    REFUSED(DATA "model: {batch_norm: maybe}\n", 2, 21, "model.batch_norm",
            "true or false");
    REFUSED(DATA "model: {batch_norm: yes}\n", 2, 21, "model.batch_norm", "\"yes\"");
    REFUSED(DATA "model: {dropout: 1}\n", 2, 18, "model.dropout", "below 1");
    REFUSED(DATA "train: {label_smoothing: 1.0}\n", 2, 26, "train.label_smoothing");
    REFUSED(DATA "checkpoint: {keep_last: 0}\n", 2, 25, "checkpoint.keep_last");
    REFUSED(DATA "checkpoint: {keep_every: -1}\n", 2, 26, "checkpoint.keep_every");
    REFUSED(DATA "checkpoint: {keep_best: {metric: f1}}\n", 2, 34, "one of none, accuracy");
    REFUSED(DATA "checkpoint: {writers: 0}\n", 2, 23, "checkpoint.writers");
    REFUSED(DATA "checkpoint: {writers: 4097}\n", 2, 23, "checkpoint.writers", "4096");
    REFUSED(DATA "checkpoint: {compression: gzip}\n", 2, 27, "one of none");
    REFUSED(DATA "checkpoint: {compression: zlib:10}\n", 2, 27, "one of none");
    REFUSED(DATA "device: gpu\n", 2, 9, "device", "auto, cpu, reference, cuda");
    REFUSED(DATA "optimizer: {kind: sdg}\n", 2, 19, "sgd, adam, adamw");
    REFUSED(DATA "schedule: {milestones: [5, x]}\n", 2, 28, "schedule.milestones", "\"x\"");
    REFUSED(DATA "train: {batch: \"64\"}\n", 2, 16, "in quotes", "without quotes");
    REFUSED(DATA "run: {name: ~}\n", 2, 13, "run.name");
}

static void shapes_other_than_expected_are_refused(void **state) {
    (void)state;
    REFUSED(DATA "train: {batch: [64]}\n", 2, 16, "train.batch", "found a list");
    REFUSED(DATA "train: {batch: {a: 64}}\n", 2, 16, "train.batch", "found a mapping");
    REFUSED(DATA "train:\n  batch:\n", 3, 3, "train.batch", "found nothing");
    REFUSED(DATA "train: 5\n", 2, 8, "train", "mapping of keys");
    REFUSED(DATA "train: [5]\n", 2, 8, "train", "found a list");
    REFUSED(DATA "train:\n", 2, 1, "train", "found nothing");
    REFUSED(DATA "model: {widths: [[1, 2]]}\n", 2, 18, "model.widths", "found a list");
    REFUSED(DATA "model: {widths: [1, {a: 2}]}\n", 2, 21, "model.widths",
            "found a mapping");
    REFUSED("- a\n- b\n", 1, 1, "found a list", "mapping of sections");
    REFUSED("just words\n", 1, 1, "found \"just words\"");
    REFUSED("? [a]\n: 1\n", 1, 3, "found a list", "expected a key");
    REFUSED("? {a: b}\n: 1\n", 1, 3, "found a mapping", "expected a key");
    REFUSED("train.batch: 5\n", 1, 1, "nested mappings");
}

static void lists_and_texts_that_do_not_fit_are_refused(void **state) {
    (void)state;
    char text[4096];
    int used = snprintf(text, sizeof text, "%sschedule: {milestones: [", DATA);
    for (int i = 1; i <= CONFIG_LIST + 1; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, "%d, ", i);
    snprintf(text + used, sizeof text - (size_t)used, "]}\n");
    Config c;
    assert_fails(load(text, &c), STATUS_USAGE, "at most 32 integers");
    char name[600];
    memset(name, 'n', sizeof name);
    snprintf(text, sizeof text, "%srun: {name: %.64s}\n", DATA, name);
    assert_fails(load(text, &c), STATUS_USAGE, "at most 63 bytes");
    snprintf(text, sizeof text, "%srun: {dir: %.512s}\n", DATA, name);
    assert_fails(load(text, &c), STATUS_USAGE,
                 "512 bytes), expected a text of at most 511 bytes");
    snprintf(text, sizeof text, "%srun: {dir: %.511s}\n", DATA, name);
    assert_ok(load(text, &c));
    assert_int_equal(strlen(c.run.dir), 511);
    assert_fails(load(DATA "run: {note: \"a\\0b\"}\n", &c), STATUS_USAGE, "run.note");
    assert_fails(load(DATA "run: {note: \"a\\nb\"}\n", &c), STATUS_USAGE,
                 "control characters");
    assert_fails(load(DATA "data2: |\n  a\n", &c), STATUS_USAGE, "unknown key");
    assert_fails(load(DATA "run: {note: \"a\\x80b\"}\n", &c), STATUS_USAGE, "run.note");
}

static void unknown_keys_name_the_nearest_known_one(void **state) {
    (void)state;
    REFUSED(DATA "train: {epoch: 3}\n", 2, 9, "\"train.epoch\": unknown", "train.epochs?");
    REFUSED(DATA "trian: {epochs: 3}\n", 2, 1, "\"trian\": unknown", "did you mean train?");
    REFUSED(DATA "model:\n  drop_out: 0.5\n", 3, 3, "did you mean model.dropout?");
    REFUSED(DATA "lr: 0.5\n", 2, 1, "did you mean optimizer.lr?");
    REFUSED(DATA "train: {lr: 0.5}\n", 2, 9, "did you mean optimizer.lr?");
    REFUSED(DATA "entirely_other: 1\n", 2, 1, "\"entirely_other\": unknown", "--help");
    REFUSED(DATA "<<: {a: 1}\n", 2, 1, "unknown key");
}

static void second_values_are_refused(void **state) {
    (void)state;
    REFUSED(DATA "train: {batch: 1, batch: 2}\n", 2, 26, "train.batch", "second value",
            ":2:16");
    REFUSED(DATA "train: {batch: 1}\ntrain: {epochs: 2}\n", 3, 1, "train",
            "second mapping");
    REFUSED(DATA "device: cpu\ndevice: cpu\n", 3, 9, "device");
    REFUSED(DATA "data: {}\n", 2, 1, "data", "second mapping");
}

static void what_could_hide_a_value_is_refused(void **state) {
    (void)state;
    REFUSED(DATA "run: {name: &a b}\n", 2, 16, "anchor");
    REFUSED("run: &a {name: b}\n", 1, 9, "anchor");
    REFUSED("run: {name: &a b, author: *a}\n", 1, 16, "anchor");
    REFUSED("run: *a\n", 1, 6, "alias");
    REFUSED(DATA "train: {batch: !!int 64}\n", 2, 22, "a tag");
    REFUSED(DATA "model: {widths: !!seq [1, 2]}\n", 2, 23, "a tag");
    REFUSED("---\n" DATA "---\n" DATA, 3, 1, "second");
    REFUSED(DATA "...\n" DATA, 2, 1, "second");
    REFUSED("%YAML 1.2\n---\n" DATA, 1, 1, "directive");
    REFUSED("", 1, 1, "nothing");
    REFUSED("# only a comment\n\n", 3, 1, "nothing");
    REFUSED("---\n", 1, 1, "found nothing");
}

static void bytes_that_are_no_plain_text_are_refused(void **state) {
    (void)state;
    Config c;
    REFUSED("run:\n\tname: a\n", 2, 1, "tab");
    REFUSED("run: {name:\ta}\n", 1, 12, "tab");
    REFUSED("run: {name: a\x01}\n", 1, 14, "control");
    REFUSED("run: {name: a\xff}\n", 1, 14, "UTF-8");
    REFUSED("run: {name: a\xc0\xaf}\n", 1, 14, "UTF-8");
    REFUSED("run: {name: a\xed\xa0\x80}\n", 1, 14, "UTF-8");
    REFUSED("run: {name: a\xf4\x90\x80\x80}\n", 1, 14, "UTF-8");
    REFUSED("run: {name: a\xe2\x80", 1, 14, "UTF-8");
    REFUSED("run: {name: \xe2\x80\xa8}\n", 1, 13, "separator");
    REFUSED("\xef\xbb\xbf" DATA, 1, 1, "byte order mark");
    REFUSED("run: {name: a\rb}\n", 1, 14, "carriage return");
    const char zero[] = DATA "run: {name: a\0b}\n";
    assert_fails(load_bytes(zero, sizeof zero - 1, &c), STATUS_USAGE,
                 ":2:14: found a control");
    assert_ok(load("run: {name: a}\r\n" DATA, &c)); /* lines of another system's editor */
    assert_string_equal(c.run.name, "a");
}

static void broken_yaml_is_refused_at_its_place(void **state) {
    (void)state;
    REFUSED(DATA "train: {batch: 1\n", 3, 1, "not YAML");
    REFUSED(DATA "run: {name: a\n], b: c}\n", 3, 1, "not YAML");
    REFUSED(DATA "run: {note: \"\\q\"}\n", 2, 14, "not YAML");
    REFUSED(DATA "run: {name: [a: b}\n", 2, 13, "found a list");
    REFUSED("run:\n  name: a\n dir: b\n", 3, 2, "not YAML");
}

static void files_that_are_too_large_or_no_files_are_refused(void **state) {
    (void)state;
    Config c;
    size_t size = (1 << 20) + 1;
    char *text = malloc(size);
    assert_non_null(text);
    memset(text, '#', size);
    assert_fails(load_bytes(text, size, &c), STATUS_USAGE, "1048577 bytes");
    free(text);
    assert_fails(config_load("/nowhere/at/all.yaml", NULL, 0, &c), STATUS_USAGE,
                 "/nowhere/at/all.yaml");
    assert_fails(config_load("/tmp", NULL, 0, &c), STATUS_USAGE, "not a regular file");
    assert_fails(config_load("/dev/zero", NULL, 0, &c), STATUS_USAGE, "not a regular file");
}

static void wrong_sets_name_their_number(void **state) {
    (void)state;
    static const struct {
        const char *set, *text;
    } wrong[] = {
        {"train.epochs", "expected KEY=VALUE"},
        {"=3", "expected KEY=VALUE"},
        {"train.epochs=", "nothing"},
        {"train.epochs=1.5", "train.epochs: found \"1.5\", expected an integer"},
        {"train.epoch=3", "did you mean train.epochs?"},
        {"train=3", "expected a mapping"},
        {"train={epochs: 3, epochs: 4}", "second value"},
        {"data.mean=[3", "not YAML"},
        {"train.epochs=3\n---\n4", "second"},
        {"train.epochs=\t3", "tab"},
        {"train.epochs=&a 3", "anchor"},
        {"optimizer.momentum=0", NULL},
        {"run.name=../up", "letters, digits"},
    };
    put(DATA, strlen(DATA));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *sets[] = {"train.epochs=2", wrong[i].set};
        Config c;
        if (wrong[i].text == NULL) {
            assert_ok(config_load(file_name, sets, 2, &c));
            continue;
        }
        assert_fails(config_load(file_name, sets, 2, &c), STATUS_USAGE, wrong[i].text);
        assert_non_null(strstr(status_failure()->what, "--set #2: "));
    }
}

static void keys_that_contradict_each_other_are_refused(void **state) {
    (void)state;
    REFUSED(DATA "run: {name: a b}\n", 2, 13, "run.name");
    REFUSED(DATA "run: {name: .a}\n", 2, 13, "run.name");
    REFUSED(DATA "model: {arch: \"\"}\n", 2, 15, "model.arch");
    REFUSED(DATA "model: {arch: mlp, widths: [784]}\n", 2, 28, "at least two");
    REFUSED(DATA "model: {arch: mlp, widths: [784, 11]}\n", 2, 28, "model.classes");
    REFUSED(DATA "model: {arch: lenet, widths: [784, 10]}\n", 2, 30, "only an mlp");
    REFUSED(DATA "optimizer: {nesterov: true, momentum: 0}\n", 2, 23, "momentum is 0");
    REFUSED(DATA "optimizer: {kind: adam, nesterov: true}\n", 2, 35, "only sgd");
    REFUSED(DATA "schedule: {kind: multistep, milestones: [3, 3]}\n", 2, 41,
            "above the one before");
    REFUSED(DATA "schedule: {kind: multistep, milestones: []}\n", 2, 41,
            "at least one step");
    REFUSED(DATA "schedule: {kind: cosine, min_lr: 0.2}\n", 2, 34, "at most optimizer.lr");
    REFUSED(DATA "checkpoint: {local: {dir: shm}}\n", 2, 27, "checkpoint.local.dir",
            "an absolute path");
    REFUSED(DATA "checkpoint: {compression: zlib:1, writers: 2}\n", 2, 44,
            "checkpoint.writers", "compression is not none");
    REFUSED(DATA "train: {max_steps: 5}\nschedule: {kind: cosine, warmup_steps: 5}\n", 3,
            40, "fewer than train.max_steps");
    REFUSED("data:\n  train: {images: a, labels: b}\n  validation: {images: c, labels: d}\n"
            "  augment: [crop]\n  crop_padding: 0\n",
            5, 17, "data.crop_padding", "at least 1");
    REFUSED("data:\n  train: {images: a, labels: b}\n  validation: {images: c, labels: d}\n"
            "  validation_split: 0.5\n",
            4, 21, "validation files are named");
    REFUSED("data:\n  train: {images: a, labels: b}\n  validation_split: 0.5\n"
            "  mean: [1, 2]\n  std: [1, 2, 3]\n",
            5, 8, "as many values");
    Config c;
    assert_fails(load("run: {name: a}\n", &c), STATUS_USAGE,
                 "(default): data.train.images");
    assert_fails(load("data: {train: {images: a}}\n", &c), STATUS_USAGE,
                 "data.train.labels");
    assert_fails(load("data: {train: {images: a, labels: b}}\n", &c), STATUS_USAGE,
                 "validation_split");
    assert_fails(
        load("data: {train: {images: a, labels: b}, validation: {images: c}}\n", &c),
        STATUS_USAGE, "data.validation.labels");
    assert_fails(
        load("data: {train: {images: a, labels: b}, validation: {labels: c}}\n", &c),
        STATUS_USAGE, "data.validation.images");
    assert_fails(load(DATA "model: {arch: mlp}\n", &c), STATUS_USAGE, "model.widths");
    assert_fails(load(DATA "schedule: {kind: step}\n", &c), STATUS_USAGE,
                 "schedule.step_size");
    assert_fails(load(DATA "train: {precision: fp16}\n", &c), STATUS_USAGE,
                 "fp32, tf32, bf16");
}

/* ---- writing and identity */

static void what_is_written_reads_back_the_same(void **state) {
    (void)state;
    const char *const texts[] = {full, DATA,
                                 DATA
                                 "optimizer: {lr: 0.30000000000000004, epsilon: 5e-324}\n"
                                 "model: {dropout: 0.1}\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Config first, second;
        char *yaml, *again;
        if (load(texts[i], &first) != STATUS_OK) fail_msg("%s", status_failure()->what);
        assert_ok(config_to_yaml(&first, &yaml));
        assert_ok(load(yaml, &second));
        assert_memory_equal(&first, &second, sizeof first);
        assert_ok(config_to_yaml(&second, &again));
        assert_string_equal(yaml, again);
        free(yaml);
        free(again);
    }
}

static void numbers_are_written_with_the_fewest_digits(void **state) {
    (void)state;
    Config c;
    char *yaml;
    assert_ok(load(DATA "optimizer: {lr: 0.10, momentum: 0.30000000000000004}\n", &c));
    assert_ok(config_to_yaml(&c, &yaml));
    assert_non_null(strstr(yaml, "  lr: 0.1\n"));
    assert_non_null(strstr(yaml, "  momentum: 0.30000000000000004\n"));
    free(yaml);
}

static char *identity_of(const char *text) {
    Config c;
    char *identity = NULL;
    assert_ok(load(text, &c));
    assert_ok(config_identity(&c, &identity));
    return identity;
}

static void free_keys_leave_the_identity_as_it_is(void **state) {
    (void)state;
    char *one = identity_of(DATA "optimizer: {lr: 0.1}\n");
    char *two = identity_of(
        "data: {train: {images: x, labels: y}, validation: {images: z, labels: u}}\n"
        "device: reference\nrun: {name: n, dir: d, author: a, note: o}\n"
        "log: {every_steps: 3}\nresume: none\ntrain: {threads: 3}\n"
        "checkpoint: {every_steps: 5, every_epoch: false, keep_last: 9}\n"
        "optimizer: {lr: 1.0e-1}\n");
    assert_string_equal(one, two);
    assert_ok(config_check_identity(one, two, "step-5.h5"));
    free(one);
    free(two);
}

static void every_changed_identity_key_is_named_with_both_values(void **state) {
    (void)state;
    char *one = identity_of(DATA);
    char *two =
        identity_of(DATA "run: {seed: 43}\ntrain: {batch: 256}\noptimizer: {lr: 0.2}\n");
    assert_ok(config_identity_add(&one, "data.digest", "aa"));
    assert_ok(config_identity_add(&two, "data.digest", "bb"));
    assert_ok(config_identity_add(&two, "data.digest", "cc"));
    assert_fails(config_check_identity(two, one, "step-5.h5"), STATUS_USAGE,
                 "step-5.h5: 4 identity");
    const char *what = status_failure()->what;
    assert_non_null(strstr(what, "run.seed: 43 here, 42 in the checkpoint"));
    assert_non_null(strstr(what, "train.batch: 256 here, 64 in the checkpoint"));
    assert_non_null(strstr(what, "optimizer.lr: 0.2 here, 0.1 in the checkpoint"));
    assert_non_null(strstr(what, "data.digest: cc here, aa in the checkpoint"));
    assert_non_null(strstr(status_failure()->fix, "new run"));
    free(one);
    free(two);
}

static void a_key_that_a_checkpoint_does_not_know_counts_as_its_default(void **state) {
    (void)state;
    char *usual = identity_of(DATA), *other = identity_of(DATA "run: {seed: 43}\n");
    assert_ok(config_check_identity(usual, "{}", "old.h5"));
    assert_fails(config_check_identity(other, "{}", "old.h5"), STATUS_USAGE,
                 "run.seed: 43 here, (not there) in the checkpoint");
    assert_fails(config_check_identity(usual, "{\"train.magic\": \"7\"}", "new.h5"),
                 STATUS_USAGE, "train.magic: (not there) here, 7 in the checkpoint");
    assert_ok(config_identity_add(&usual, "data.digest", "aa"));
    assert_fails(config_check_identity(usual, "{}", "old.h5"), STATUS_USAGE, "data.digest");
    free(usual);
    free(other);
}

static void a_stored_identity_that_is_none_is_corrupt(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "", "[]", "{", "{\"a\": 1}", "{\"a\": \"1\", \"a\": \"1\"}", "null"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(config_check_identity("{}", wrong[i], "bad.h5"), STATUS_CORRUPT,
                     "bad.h5");
}

static void many_changes_are_listed_and_the_rest_counted(void **state) {
    (void)state;
    char *one = strdup("{}"), *two = strdup("{}");
    for (int i = 0; i < 60; i++) {
        char key[32];
        snprintf(key, sizeof key, "key.number_%02d", i);
        assert_ok(config_identity_add(&one, key, "one value of it"));
        assert_ok(config_identity_add(&two, key, "another value of it"));
    }
    assert_fails(config_check_identity(one, two, "x.h5"), STATUS_USAGE, "60 identity keys");
    const char *more = strstr(status_failure()->what, "\n    and ");
    assert_non_null(more);
    assert_string_equal(more + strlen(more) - 5, " more");
    free(one);
    free(two);
}

static void help_describes_every_key(void **state) {
    (void)state;
    char *text, *yaml;
    assert_ok(config_describe(&text));
    assert_non_null(strstr(text, "* train.batch (default 64)"));
    assert_non_null(strstr(text, "  train.threads (default 0)"));
    assert_non_null(strstr(text, "one of sgd, adam, adamw"));
    Config c;
    assert_ok(load(DATA, &c));
    assert_ok(config_to_yaml(&c, &yaml));
    int described = 0, written = 0;
    for (const char *at = text; (at = strstr(at, "(default ")) != NULL; at++)
        described++;
    for (const char *at = yaml; (at = strchr(at, ':')) != NULL; at++)
        written += at[1] == ' ';
    assert_int_equal(described, written);
    free(text);
    free(yaml);
}

/* ---- hostile input: never a crash, and always a text of ours */

static void assert_refused_with_a_place_or_read(const char *text, size_t size) {
    Config c;
    Status status = load_bytes(text, size, &c);
    if (status == STATUS_OK) return;
    if (status != STATUS_USAGE && status != STATUS_UNSUPPORTED)
        fail_msg("status %d: %s", status, status_failure()->what);
    assert_non_null(strstr(status_failure()->what, file_name));
}

static void every_truncation_is_read_or_refused(void **state) {
    (void)state;
    for (size_t size = 0; size <= strlen(full); size++)
        assert_refused_with_a_place_or_read(full, size);
}

static void mutated_files_are_read_or_refused(void **state) {
    (void)state;
    static const char palette[] = "{}[]:,#&*!|>'\"%@`-? \n\r\t\\\0\x7f\xc3\xff~=<.0e";
    char text[sizeof full];
    for (uint32_t round = 0; round < 6000; round++) {
        Rng rng = rng_at(1, RNG_TEST, 0, round);
        memcpy(text, full, sizeof full);
        uint32_t changes = 1 + rng_below(rng, 0, 0, 4);
        for (uint32_t i = 0; i < changes; i++) {
            uint32_t at = rng_below(rng, 1, i, sizeof full - 1);
            uint32_t pick = rng_word(rng, 2, i);
            text[at] = pick % 3 == 0 ? (char)(pick >> 8)
                                     : palette[(pick >> 8) % (sizeof palette - 1)];
        }
        assert_refused_with_a_place_or_read(text, sizeof full - 1);
    }
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    static const char *const openings[] = {"[",     "{",  "{a: ", "- ", "? ",
                                           "a:\n ", "\"", "!",    "&",  "|"};
    size_t limit = 200000;
    char *text = malloc(limit);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        size_t step = strlen(openings[i]), size = 0;
        for (; size + step <= limit; size += step)
            memcpy(text + size, openings[i], step);
        assert_refused_with_a_place_or_read(text, size);
    }
    free(text);
}

static void nothing_of_the_parser_reaches_the_terminal(void **state) {
    (void)state;
    char captured[] = "/tmp/rekindle_stderr_XXXXXX";
    int fd = mkstemp(captured), saved_err = dup(STDERR_FILENO),
        saved_out = dup(STDOUT_FILENO);
    assert_true(fd >= 0 && saved_err >= 0 && saved_out >= 0);
    fflush(NULL);
    dup2(fd, STDERR_FILENO);
    dup2(fd, STDOUT_FILENO);
    Config c;
    Status status = load("run: {name: \"\\q\"\n  a: [b}\n", &c);
    for (size_t size = 0; size <= 200; size++)
        load_bytes(full, size, &c);
    fflush(NULL);
    dup2(saved_err, STDERR_FILENO);
    dup2(saved_out, STDOUT_FILENO);
    struct stat about;
    int examined = fstat(fd, &about);
    close(fd);
    close(saved_err);
    close(saved_out);
    unlink(captured);
    assert_int_equal(examined, 0);
    assert_int_equal(about.st_size, 0);
    assert_int_equal(status, STATUS_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_reaches_its_field),
        cmocka_unit_test(what_is_not_written_has_its_default),
        cmocka_unit_test(the_run_directory_follows_the_name),
        cmocka_unit_test(sets_apply_in_order_over_the_file),
        cmocka_unit_test(every_run_file_that_we_ship_is_accepted),
        cmocka_unit_test(wrong_values_are_refused_at_their_place),
        cmocka_unit_test(shapes_other_than_expected_are_refused),
        cmocka_unit_test(lists_and_texts_that_do_not_fit_are_refused),
        cmocka_unit_test(unknown_keys_name_the_nearest_known_one),
        cmocka_unit_test(second_values_are_refused),
        cmocka_unit_test(what_could_hide_a_value_is_refused),
        cmocka_unit_test(bytes_that_are_no_plain_text_are_refused),
        cmocka_unit_test(broken_yaml_is_refused_at_its_place),
        cmocka_unit_test(files_that_are_too_large_or_no_files_are_refused),
        cmocka_unit_test(wrong_sets_name_their_number),
        cmocka_unit_test(keys_that_contradict_each_other_are_refused),
        cmocka_unit_test(what_is_written_reads_back_the_same),
        cmocka_unit_test(numbers_are_written_with_the_fewest_digits),
        cmocka_unit_test(free_keys_leave_the_identity_as_it_is),
        cmocka_unit_test(every_changed_identity_key_is_named_with_both_values),
        cmocka_unit_test(a_key_that_a_checkpoint_does_not_know_counts_as_its_default),
        cmocka_unit_test(a_stored_identity_that_is_none_is_corrupt),
        cmocka_unit_test(many_changes_are_listed_and_the_rest_counted),
        cmocka_unit_test(help_describes_every_key),
        cmocka_unit_test(every_truncation_is_read_or_refused),
        cmocka_unit_test(mutated_files_are_read_or_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(nothing_of_the_parser_reaches_the_terminal),
    };
    return cmocka_run_group_tests(tests, make_file, close_file);
}
