/* The configuration's keys, their defaults and ranges, and the search for what a typo meant. */
#include "src/core/config_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Steps and epochs are 32-bit in the random numbers' counter; sample counts stay exact in float. */
#define MAX_STEPS 4294967295.0
#define MAX_COUNT 16777216.0

static const char *const devices[] = {"auto", "cpu", "reference", "cuda", NULL};
static const char *const formats[] = {"idx", NULL};
static const char *const augmentations[] = {"crop", "flip", NULL};
static const char *const precisions[] = {"fp32", "tf32", "bf16", NULL};
static const char *const reductions[] = {"exact", "fast", NULL};
static const char *const optimizers[] = {"sgd", "adam", "adamw", NULL};
static const char *const schedules[] = {"constant",   "step",   "multistep", "exponential",
                                        "polynomial", "cosine", NULL};
static const char *const compressions[] = {"none",   "zlib:1", "zlib:2", "zlib:3",
                                           "zlib:4", "zlib:5", "zlib:6", "zlib:7",
                                           "zlib:8", "zlib:9", NULL};
static const char *const memories[] = {"auto", "spare", "overlap", NULL};
static const char *const intervals[] = {"none", "auto", NULL};
static const char *const metrics[] = {"none", "accuracy", "loss", NULL};
static const char *const modes[] = {"auto", "max", "min", NULL};
static const char *const progresses[] = {"auto", "live", "plain", "none", NULL};

#define WHERE(field) offsetof(Config, field), sizeof(((Config *)0)->field)
#define NO_RANGE     0, 0, RANGE_CLOSED

_Static_assert(offsetof(Config, data.augment_flip) ==
                   offsetof(Config, data.augment_crop) + 1,
               "KEY_FLAGS needs its booleans side by side");

/* clang-format off */
static const ConfigKey keys[] = {
    {"run.name", KEY_TEXT, SCOPE_FREE, WHERE(run.name), NO_RANGE, "run", NULL, "names checkpoints and the run directory"},
    {"run.dir", KEY_TEXT, SCOPE_FREE, WHERE(run.dir), NO_RANGE, "", NULL, "the run directory; empty: runs/<run.name>"},
    {"run.seed", KEY_UNSIGNED, SCOPE_IDENTITY, WHERE(run.seed), NO_RANGE, "42", NULL, "all randomness is a function of it"},
    {"run.author", KEY_TEXT, SCOPE_FREE, WHERE(run.author), NO_RANGE, "", NULL, "written into every checkpoint"},
    {"run.note", KEY_TEXT, SCOPE_FREE, WHERE(run.note), NO_RANGE, "", NULL, "written into every checkpoint"},
    {"device", KEY_CHOICE, SCOPE_FREE, WHERE(device), NO_RANGE, "auto", devices, "what computes; auto: the best there is"},

    {"model.arch", KEY_TEXT, SCOPE_IDENTITY, WHERE(model.arch), NO_RANGE, "lenet", NULL, "mlp, lenet, resnet20, resnet18 …"},
    {"model.classes", KEY_INTEGER, SCOPE_IDENTITY, WHERE(model.classes), 1, 256, RANGE_CLOSED, "10", NULL, "labels lie below it"},
    {"model.widths", KEY_INTEGERS, SCOPE_IDENTITY, WHERE(model.widths), 1, MAX_COUNT, RANGE_CLOSED, "", NULL, "mlp: every width, input to classes: [784, 256, 10]"},
    {"model.dropout", KEY_NUMBER, SCOPE_IDENTITY, WHERE(model.dropout), 0, 1, RANGE_BELOW_MAX, "0", NULL, "probability of a zeroed unit"},
    {"model.batch_norm", KEY_TRUTH, SCOPE_IDENTITY, WHERE(model.batch_norm), NO_RANGE, "false", NULL, "mlp, lenet: normalise between layers"},

    {"data.format", KEY_CHOICE, SCOPE_IDENTITY, WHERE(data.format), NO_RANGE, "idx", formats, "the data files' format; idx may be gzipped"},
    {"data.train.images", KEY_TEXT, SCOPE_FREE, WHERE(data.train.images), NO_RANGE, "", NULL, "file to learn from"},
    {"data.train.labels", KEY_TEXT, SCOPE_FREE, WHERE(data.train.labels), NO_RANGE, "", NULL, "its labels"},
    {"data.validation.images", KEY_TEXT, SCOPE_FREE, WHERE(data.validation.images), NO_RANGE, "", NULL, "file to evaluate on"},
    {"data.validation.labels", KEY_TEXT, SCOPE_FREE, WHERE(data.validation.labels), NO_RANGE, "", NULL, "its labels"},
    {"data.validation_split", KEY_NUMBER, SCOPE_IDENTITY, WHERE(data.validation_split), 0, 1, RANGE_BELOW_MAX, "0", NULL, "part of train held out when no validation files are named"},
    {"data.augment", KEY_FLAGS, SCOPE_IDENTITY, offsetof(Config, data.augment_crop), 2, NO_RANGE, "", augmentations, "random changes of training images"},
    {"data.crop_padding", KEY_INTEGER, SCOPE_IDENTITY, WHERE(data.crop_padding), 0, 64, RANGE_CLOSED, "4", NULL, "pixels of zeros around an image before it is cropped"},
    {"data.mean", KEY_NUMBERS, SCOPE_IDENTITY, WHERE(data.mean), -1e6, 1e6, RANGE_CLOSED, "0", NULL, "subtracted from pixels in [0, 1]; one value, or one per channel"},
    {"data.std", KEY_NUMBERS, SCOPE_IDENTITY, WHERE(data.std), 0, 1e6, RANGE_ABOVE_MIN, "1", NULL, "divides them after that"},

    {"train.epochs", KEY_INTEGER, SCOPE_IDENTITY, WHERE(train.epochs), 1, 1e6, RANGE_CLOSED, "5", NULL, "passes over the training data"},
    {"train.batch", KEY_INTEGER, SCOPE_IDENTITY, WHERE(train.batch), 1, MAX_COUNT, RANGE_CLOSED, "64", NULL, "samples a step, over all ranks"},
    {"train.shards", KEY_INTEGER, SCOPE_IDENTITY, WHERE(train.shards), 1, 4096, RANGE_CLOSED, "8", NULL, "fixed parts of a batch; at most so many ranks can share it"},
    {"train.max_steps", KEY_INTEGER, SCOPE_IDENTITY, WHERE(train.max_steps), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "stop after so many steps; 0: epochs decide"},
    {"train.precision", KEY_CHOICE, SCOPE_IDENTITY, WHERE(train.precision), NO_RANGE, "fp32", precisions, "of the arithmetic: cuda also multiplies in tf32, or computes activations in bf16"},
    {"train.reduction", KEY_CHOICE, SCOPE_IDENTITY, WHERE(train.reduction), NO_RANGE, "exact", reductions, "exact: same bits at every rank count"},
    {"train.label_smoothing", KEY_NUMBER, SCOPE_IDENTITY, WHERE(train.label_smoothing), 0, 1, RANGE_BELOW_MAX, "0", NULL, "weight of the uniform distribution in the target"},
    {"train.evaluate_every_steps", KEY_INTEGER, SCOPE_IDENTITY, WHERE(train.evaluate_every_steps), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "0: at each epoch's end"},
    {"train.threads", KEY_INTEGER, SCOPE_FREE, WHERE(train.threads), 0, 1024, RANGE_CLOSED, "0", NULL, "worker threads a rank; 0: chosen from the cores"},

    {"optimizer.kind", KEY_CHOICE, SCOPE_IDENTITY, WHERE(optimizer.kind), NO_RANGE, "sgd", optimizers, "the rule that changes weights"},
    {"optimizer.lr", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.lr), 0, 1000, RANGE_ABOVE_MIN, "0.1", NULL, "learning rate, before the schedule"},
    {"optimizer.momentum", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.momentum), 0, 1, RANGE_BELOW_MAX, "0.9", NULL, "sgd"},
    {"optimizer.nesterov", KEY_TRUTH, SCOPE_IDENTITY, WHERE(optimizer.nesterov), NO_RANGE, "false", NULL, "sgd: look ahead along the momentum"},
    {"optimizer.beta1", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.beta1), 0, 1, RANGE_BELOW_MAX, "0.9", NULL, "adam, adamw: decay of the first moment"},
    {"optimizer.beta2", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.beta2), 0, 1, RANGE_BELOW_MAX, "0.999", NULL, "adam, adamw: decay of the second moment"},
    {"optimizer.epsilon", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.epsilon), 0, 1, RANGE_ABOVE_MIN, "1e-8", NULL, "adam, adamw: added to the divisor"},
    {"optimizer.weight_decay", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.weight_decay), 0, 1000, RANGE_CLOSED, "0", NULL, "pull of the weights to zero"},
    {"optimizer.decay_all", KEY_TRUTH, SCOPE_IDENTITY, WHERE(optimizer.decay_all), NO_RANGE, "false", NULL, "decay norms and biases, too"},
    {"optimizer.clip_norm", KEY_NUMBER, SCOPE_IDENTITY, WHERE(optimizer.clip_norm), 0, 1e9, RANGE_CLOSED, "0", NULL, "longest gradient; 0: no clipping"},

    {"schedule.kind", KEY_CHOICE, SCOPE_IDENTITY, WHERE(schedule.kind), NO_RANGE, "constant", schedules, "how the learning rate moves"},
    {"schedule.warmup_steps", KEY_INTEGER, SCOPE_IDENTITY, WHERE(schedule.warmup_steps), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "steps in which the rate rises to its full value"},
    {"schedule.step_size", KEY_INTEGER, SCOPE_IDENTITY, WHERE(schedule.step_size), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "step: rate times gamma each so many steps"},
    {"schedule.milestones", KEY_INTEGERS, SCOPE_IDENTITY, WHERE(schedule.milestones), 1, MAX_STEPS, RANGE_CLOSED, "", NULL, "multistep: rate times gamma at these steps"},
    {"schedule.gamma", KEY_NUMBER, SCOPE_IDENTITY, WHERE(schedule.gamma), 0, 1, RANGE_ABOVE_MIN, "0.1", NULL, "step, multistep, exponential: the factor"},
    {"schedule.power", KEY_NUMBER, SCOPE_IDENTITY, WHERE(schedule.power), 0, 100, RANGE_ABOVE_MIN, "1", NULL, "polynomial: the exponent"},
    {"schedule.min_lr", KEY_NUMBER, SCOPE_IDENTITY, WHERE(schedule.min_lr), 0, 1000, RANGE_CLOSED, "0", NULL, "polynomial, cosine: the rate at the end"},

    {"checkpoint.every_steps", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.every_steps), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "save each so many steps; 0: not by steps"},
    {"checkpoint.every_epoch", KEY_TRUTH, SCOPE_FREE, WHERE(checkpoint.every_epoch), NO_RANGE, "true", NULL, "save at each epoch's end"},
    {"checkpoint.on_better", KEY_TRUTH, SCOPE_FREE, WHERE(checkpoint.on_better), NO_RANGE, "false", NULL, "save when an evaluation finds the highest accuracy so far"},
    {"checkpoint.every_minutes", KEY_NUMBER, SCOPE_FREE, WHERE(checkpoint.every_minutes), 0, 1e6, RANGE_CLOSED, "0", NULL, "save so many minutes after the save before; 0: not by the clock"},
    {"checkpoint.interval", KEY_CHOICE, SCOPE_FREE, WHERE(checkpoint.interval), NO_RANGE, "none", intervals, "auto: save as often as pays, from what saves cost, recovery takes, and how often this run failed"},
    {"checkpoint.interval_min", KEY_NUMBER, SCOPE_FREE, WHERE(checkpoint.interval_min), 0, 1e6, RANGE_CLOSED, "10", NULL, "interval: auto, seconds between two saves at least"},
    {"checkpoint.interval_max", KEY_NUMBER, SCOPE_FREE, WHERE(checkpoint.interval_max), 0, 1e6, RANGE_CLOSED, "1800", NULL, "interval: auto, seconds between two saves at most"},
    {"checkpoint.keep_last", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.keep_last), 1, 1e6, RANGE_CLOSED, "3", NULL, "newest checkpoints that stay"},
    {"checkpoint.keep_every", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.keep_every), 0, MAX_STEPS, RANGE_CLOSED, "0", NULL, "checkpoints of steps that are multiples of it stay for ever; 0: none"},
    {"checkpoint.keep_best.metric", KEY_CHOICE, SCOPE_FREE, WHERE(checkpoint.keep_best.metric), NO_RANGE, "none", metrics, "the checkpoint with the best value of it stays"},
    {"checkpoint.keep_best.mode", KEY_CHOICE, SCOPE_FREE, WHERE(checkpoint.keep_best.mode), NO_RANGE, "auto", modes, "what best means; auto: the least loss, the highest accuracy"},
    {"checkpoint.max_failures", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.max_failures), 1, 1e6, RANGE_CLOSED, "3", NULL, "failed saves in a row that end the run"},
    {"checkpoint.background", KEY_TRUTH, SCOPE_FREE, WHERE(checkpoint.background), NO_RANGE, "true", NULL, "a thread saves while training goes on; false: training waits for each save"},
    {"checkpoint.memory", KEY_CHOICE, SCOPE_FREE, WHERE(checkpoint.memory), NO_RANGE, "auto", memories, "what is saved in the background stays behind in a spare set of the state, or lies in it and the next update waits until it is read; auto: spare where memory allows"},
    {"checkpoint.compression", KEY_CHOICE, SCOPE_FREE, WHERE(checkpoint.compression), NO_RANGE, "none", compressions, "of the saved values; 1 to 3 are fast, those behind them save little more"},
    {"checkpoint.local.dir", KEY_TEXT, SCOPE_FREE, WHERE(checkpoint.local.dir), NO_RANGE, "", NULL, "a directory in each host's memory, such as /dev/shm, that holds the newest states between two saves; empty: none"},
    {"checkpoint.local.every_steps", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.local.every_steps), 1, MAX_STEPS, RANGE_CLOSED, "10", NULL, "the state is held there each so many steps, unless a save is in flight"},
    {"checkpoint.writers", KEY_INTEGER, SCOPE_FREE, WHERE(checkpoint.writers), 1, 4096, RANGE_CLOSED, "1", NULL, "ranks that each write a part of a checkpoint's bytes, one a host first; pays where hosts share a file system that is faster than one host's way to it"},
    {"checkpoint.mirror", KEY_TEXT, SCOPE_FREE, WHERE(checkpoint.mirror), NO_RANGE, "", NULL, "s3://BUCKET/PREFIX that gets each new checkpoint, behind the training, and from which an empty run.dir is filled"},
    {"checkpoint.mirror_patience", KEY_NUMBER, SCOPE_FREE, WHERE(checkpoint.mirror_patience), 0, 86400, RANGE_CLOSED, "60", NULL, "seconds that a launch waits at its end for the mirror to have its last checkpoint"},

    {"log.every_steps", KEY_INTEGER, SCOPE_FREE, WHERE(log.every_steps), 1, MAX_STEPS, RANGE_CLOSED, "50", NULL, "a line of progress each so many steps"},
    {"log.progress", KEY_CHOICE, SCOPE_FREE, WHERE(log.progress), NO_RANGE, "auto", progresses, "live: one moving line; plain: lines for a log file"},

    {"fault.hang_timeout", KEY_NUMBER, SCOPE_FREE, WHERE(fault.hang_timeout), 0, 1e6, RANGE_CLOSED, "600", NULL, "cuda: seconds without an answer of the device or a rank that end the launch; 0: none do"},
    {"fault.stop_after", KEY_NUMBER, SCOPE_FREE, WHERE(fault.stop_after), 0, 1e9, RANGE_CLOSED, "0", NULL, "seconds that a launch has: it stops early enough to save and exits with 75; 0: no limit. SLURM_JOB_END_TIME limits it, too"},
    {"fault.end_margin", KEY_NUMBER, SCOPE_FREE, WHERE(fault.end_margin), 0, 1e6, RANGE_CLOSED, "10", NULL, "seconds to be left when a launch ends before its time does"},

    {"resume", KEY_TEXT, SCOPE_FREE, WHERE(resume), NO_RANGE, "auto", NULL, "auto, none, must, or a checkpoint's path or s3:// address"},
};
/* clang-format on */

enum { KEY_COUNT = sizeof keys / sizeof *keys };

const ConfigKey *config_table(int *count) {
    *count = KEY_COUNT;
    return keys;
}

int config_table_find(const char *name) {
    for (int i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].name, name) == 0) return i;
    return -1;
}

bool config_table_is_section(const char *name) {
    size_t length = strlen(name);
    for (int i = 0; i < KEY_COUNT; i++)
        if (strncmp(keys[i].name, name, length) == 0 && keys[i].name[length] == '.')
            return true;
    return false;
}

enum { NAME_LIMIT = 63 }; /* a longer name is no typo of ours */

static int least(int a, int b) {
    return a < b ? a : b;
}

/* How many letters must be changed, added, dropped or swapped with their neighbour. */
static int distance(const char *a, const char *b) {
    int rows[3][NAME_LIMIT + 1];
    int a_length = (int)strlen(a), b_length = (int)strlen(b);
    for (int j = 0; j <= b_length; j++)
        rows[0][j] = j;
    for (int i = 1; i <= a_length; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= b_length; j++) {
            int changed = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = least(changed, least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[a_length % 3][b_length];
}

static const char *leaf(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot == NULL ? name : dot + 1;
}

const char *config_table_nearest(const char *name) {
    static const char *const sections[] = {"run",
                                           "model",
                                           "data",
                                           "data.train",
                                           "optimizer",
                                           "schedule",
                                           "checkpoint",
                                           "train",
                                           "log",
                                           "data.validation",
                                           "fault",
                                           "checkpoint.keep_best",
                                           "checkpoint.local"};
    enum { SECTION_COUNT = sizeof sections / sizeof *sections };
    if (strlen(name) > NAME_LIMIT) return NULL;
    const char *nearest = NULL;
    int smallest =
        3 < (int)strlen(name) / 2 ? 3 : (int)strlen(name) / 2; /* more is guessing */
    for (int i = 0; i < KEY_COUNT + SECTION_COUNT; i++) {
        const char *known = i < KEY_COUNT ? keys[i].name : sections[i - KEY_COUNT];
        int cost = distance(name, known);
        /* the right word in the wrong section is a likelier slip than three wrong letters */
        if (strcmp(leaf(name), leaf(known)) == 0) cost = least(cost, 1);
        if (cost < smallest || (cost == smallest && nearest == NULL)) {
            smallest = cost;
            nearest = known;
        }
    }
    return nearest;
}

Status config_describe(char **out) {
    size_t size;
    FILE *text = open_memstream(out, &size);
    if (text == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the table of keys");
    fprintf(
        text,
        "Configuration keys: in the run file, or as --set KEY=VALUE. Keys marked * belong\n"
        "to the run's identity: a resume with another value is refused.\n");
    for (int i = 0; i < KEY_COUNT; i++) {
        char expected[256];
        config_value_expected(&keys[i], expected, sizeof expected);
        const char *initial = keys[i].initial;
        if (initial[0] == '\0') initial = config_value_is_list(&keys[i]) ? "[]" : "\"\"";
        fprintf(text, "\n%c %s (default %s)\n      %s\n      takes %s\n",
                keys[i].scope == SCOPE_IDENTITY ? '*' : ' ', keys[i].name, initial,
                keys[i].help, expected);
    }
    bool failed = ferror(text) != 0;
    if (fclose(text) != 0 || failed) {
        free(*out);
        return FAIL(STATUS_MEMORY, NULL, "no memory for the table of keys");
    }
    return STATUS_OK;
}
