/* A stop may fall on any poll of a launch: amid training, at the last step, inside of an evaluation and
 * inside of its repetition. Whichever it is, "finished" is only said of the undisturbed run's bits. */
#include "dist/world.h"
#include "src/core/log.h"
#include "src/train/trainer.h"
#include "tests/support/run_directory.h"
#include "tests/support/test.h"

#include "tests/support/idx_file.h"

enum { POLLS = 10, LAUNCHES_MAX = 4, NEVER = -1 };

static Collective *world;
static Config config;
static int polls_left; /* before the stop; below 0: none comes */

/* One rank alone is asked, not always the same. */
static uint32_t take_bits(void) {
    return polls_left-- == 0 && world->rank == world->size - 1 ? CONTROL_STOP : 0;
}

/* Two epochs of three steps, an evaluation of two batches after each: POLLS polls. */
static void write_run_file(const char *path) {
    IdxBytes images = idx_images(24, 0, 4, 4), labels = idx_labels(24, 4);
    IdxPath train_images = idx_write("images", images.data, images.size);
    IdxPath train_labels = idx_write("labels", labels.data, labels.size);
    images = idx_images(16, 0, 4, 4);
    labels = idx_labels(16, 4);
    IdxPath test_images = idx_write("more-images", images.data, images.size);
    IdxPath test_labels = idx_write("more-labels", labels.data, labels.size);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "device: reference\n"
            "model: {arch: mlp, widths: [16, 4], classes: 4}\n"
            "train: {epochs: 2, batch: 8, shards: 4, threads: 1}\n"
            "optimizer: {kind: sgd, lr: 0.1}\n"
            "checkpoint: {max_failures: 1}\n"
            "log: {progress: none}\n"
            "data:\n"
            "  format: idx\n"
            "  train: {images: %s, labels: %s}\n"
            "  validation: {images: %s, labels: %s}\n",
            train_images.text, train_labels.text, test_images.text, test_labels.text);
    assert_int_equal(fclose(file), 0);
}

static int read_run_file(void **unused) {
    (void)unused;
    if (world->rank == 0 && idx_folder_create(NULL) != 0) return 1;
    assert_ok(world->ops->broadcast(world, idx_folder, sizeof idx_folder, 0));
    IdxPath path = idx_path("run.yaml");
    if (world->rank == 0) write_run_file(path.text);
    assert_ok(world->ops->barrier(world));
    assert_ok(config_load(path.text, NULL, 0, &config));
    return 0;
}

static int remove_run_file(void **unused) {
    assert_ok(world->ops->barrier(world));
    return world->rank == 0 ? idx_folder_remove(unused) : 0;
}

/* Launches until one says "finished"; launch i is stopped at its poll stops[i]. */
static Digest train_through(const int *stops, int stop_count, int *launches) {
    RunDirectory run = {.directory = -1};
    if (world->rank == 0) run = run_directory_create();
    assert_ok(world->ops->broadcast(world, run.path, sizeof run.path, 0));
    strcpy(config.run.dir, run.path);
    TrainOutcome outcome;
    Status status = STATUS_STOPPED;
    for (*launches = 0; status == STATUS_STOPPED && *launches < LAUNCHES_MAX; ++*launches) {
        polls_left = *launches < stop_count ? stops[*launches] : NEVER;
        status = train_run(&config, world, take_bits, &outcome);
    }
    assert_ok(world->ops->barrier(world));
    if (world->rank == 0) run_directory_remove(&run);
    assert_ok(status);
    return outcome.state_digest;
}

static void a_stop_at_any_poll_changes_no_bit(void **unused) {
    (void)unused;
    int launches;
    Digest undisturbed = train_through(NULL, 0, &launches);
    assert_int_equal(launches, 1);
    for (int first = 0; first < POLLS; first++)
        for (int second = NEVER; second < 1; second++) {
            int stops[] = {first, second};
            Digest digest = train_through(stops, 2, &launches);
            if (!digest_equal(digest, undisturbed))
                fail_msg("stopped at poll %d, then at %d: other bits", first, second);
            if (launches == 1) fail_msg("the stop at poll %d was lost", first);
        }
}

int main(int argc, char **argv) {
    if (world_start(&argc, &argv, &world) != STATUS_OK) return 1;
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_stop_at_any_poll_changes_no_bit)};
    int failed = cmocka_run_group_tests(tests, read_run_file, remove_run_file);
    world_finish(world);
    return failed;
}
