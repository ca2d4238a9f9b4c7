/* What keys demand of each other; each refusal says where the key got its value. */
#include "src/core/config_table.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const Config *config;
    const char *file;
    const Origin *origins;
} Check;

/* Refuses `name`'s value: "file:line:column: key: found VALUE, expected …". */
static Status refuse(const Check *check, Status code, const char *name,
                     const char *expected, const char *fix) {
    int count;
    const ConfigKey *keys = config_table(&count);
    int index = config_table_find(name);
    char place[CONFIG_PLACE_TEXT], value[CONFIG_VALUE_TEXT];
    config_value_print(&keys[index], check->config, SPELL_YAML, value);
    if (check->origins[index].set >= 0)
        config_yaml_place(check->file, check->origins[index], place);
    else
        snprintf(place, sizeof place, "%.*s (default)", CONFIG_TEXT, check->file);
    return FAIL(code, fix, "%s: %s: found %.200s, expected %s", place, name, value,
                expected);
}

#define REFUSE_IF(condition, name, expected, fix) \
    if (condition) return refuse(check, STATUS_USAGE, (name), (expected), (fix))

static bool is(const char *text, const char *word) {
    return strcmp(text, word) == 0;
}

static bool is_ascending(const ConfigList *list) {
    for (int i = 1; i < list->count; i++)
        if (list->values[i] <= list->values[i - 1]) return false;
    return true;
}

static Status check_run(const Check *check) {
    const Config *c = check->config;
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789_.-";
    const char *name = c->run.name;
    bool plain = name[0] != '\0' && name[0] != '.' && name[0] != '-' &&
                 name[strspn(name, allowed)] == '\0';
    REFUSE_IF(!plain, "run.name",
              "letters, digits, '_', '.' and '-', beginning with neither '.' nor '-'",
              "it names files: choose a plainer one");
    REFUSE_IF(c->resume[0] == '\0', "resume", "auto, none, must, or a checkpoint's path",
              "write resume: auto to go on from the newest checkpoint, if there is one");
    return STATUS_OK;
}

static Status check_model(const Check *check) {
    const Config *c = check->config;
    const ConfigList *widths = &c->model.widths;
    bool mlp = is(c->model.arch, "mlp");
    REFUSE_IF(c->model.arch[0] == '\0', "model.arch", "a model's name",
              "for example lenet");
    REFUSE_IF(mlp && widths->count < 2, "model.widths", "at least two widths for an mlp",
              "for example model.widths: [784, 256, 10]");
    REFUSE_IF(!mlp && widths->count > 0, "model.widths", "none: only an mlp has widths",
              "remove model.widths, or set model.arch: mlp");
    REFUSE_IF(mlp && widths->values[widths->count - 1] != (double)c->model.classes,
              "model.widths", "a last width equal to model.classes",
              "make the last width and model.classes equal");
    return STATUS_OK;
}

static Status check_data(const Check *check) {
    const Config *c = check->config;
    bool images = c->data.validation.images[0] != '\0';
    bool labels = c->data.validation.labels[0] != '\0';
    REFUSE_IF(c->data.train.images[0] == '\0', "data.train.images", "a file",
              "name the file of training images");
    REFUSE_IF(c->data.train.labels[0] == '\0', "data.train.labels", "a file",
              "name the file of training labels");
    REFUSE_IF(images && !labels, "data.validation.labels", "a file, since images are named",
              "name both validation files or neither");
    REFUSE_IF(labels && !images, "data.validation.images", "a file, since labels are named",
              "name both validation files or neither");
    REFUSE_IF(images && c->data.validation_split > 0, "data.validation_split",
              "0, since validation files are named", "use the files or the split");
    REFUSE_IF(
        !images && c->data.validation_split == 0, "data.validation_split",
        "above 0, since no validation files are named",
        "name data.validation's files, or hold out a part: data.validation_split: 0.1");
    REFUSE_IF(c->data.augment_crop && c->data.crop_padding < 1, "data.crop_padding",
              "at least 1, since data.augment has crop",
              "set data.crop_padding: 4, or take crop out of data.augment");
    int means = c->data.mean.count, deviations = c->data.std.count;
    REFUSE_IF(means < 1 || means > 4, "data.mean",
              "one value, or one for each of 1 to 4 channels",
              "one value serves all channels");
    REFUSE_IF(deviations < 1 || deviations > 4, "data.std",
              "one value, or one for each of 1 to 4 channels",
              "one value serves all channels");
    REFUSE_IF(means > 1 && deviations > 1 && means != deviations, "data.std",
              "as many values as data.mean has", "give one value for each channel");
    return STATUS_OK;
}

static Status check_optimizer(const Check *check) {
    const Config *c = check->config;
    bool nesterov = c->optimizer.nesterov;
    REFUSE_IF(nesterov && !is(c->optimizer.kind, "sgd"), "optimizer.nesterov",
              "false: only sgd can look ahead", "set optimizer.nesterov: false");
    REFUSE_IF(nesterov && c->optimizer.momentum == 0, "optimizer.nesterov",
              "false, since optimizer.momentum is 0", "set optimizer.momentum: 0.9");
    return STATUS_OK;
}

static Status check_schedule(const Check *check) {
    const Config *c = check->config;
    const char *kind = c->schedule.kind;
    const ConfigList *milestones = &c->schedule.milestones;
    bool to_the_end = is(kind, "cosine") || is(kind, "polynomial");
    REFUSE_IF(is(kind, "step") && c->schedule.step_size < 1, "schedule.step_size",
              "at least 1, since schedule.kind is step",
              "after how many steps does the rate fall?");
    REFUSE_IF(is(kind, "multistep") && milestones->count < 1, "schedule.milestones",
              "at least one step, since schedule.kind is multistep",
              "for example schedule.milestones: [3000, 6000]");
    REFUSE_IF(!is_ascending(milestones), "schedule.milestones",
              "each step above the one before", "sort the steps and name each once");
    REFUSE_IF(to_the_end && c->schedule.min_lr > c->optimizer.lr, "schedule.min_lr",
              "at most optimizer.lr: the rate falls towards it", "lower schedule.min_lr");
    REFUSE_IF(to_the_end && c->train.max_steps > 0 &&
                  c->schedule.warmup_steps >= c->train.max_steps,
              "schedule.warmup_steps", "fewer than train.max_steps",
              "shorten the warm-up or raise train.max_steps");
    return STATUS_OK;
}

static Status check_checkpoint(const Check *check) {
    const Config *c = check->config;
    bool automatic = is(c->checkpoint.interval, "auto");
    REFUSE_IF(automatic && c->checkpoint.every_minutes > 0, "checkpoint.every_minutes",
              "0, since checkpoint.interval is auto",
              "one clock is enough: checkpoint.interval_max bounds what auto chooses");
    REFUSE_IF(automatic && c->checkpoint.interval_max < c->checkpoint.interval_min,
              "checkpoint.interval_max", "at least checkpoint.interval_min",
              "raise checkpoint.interval_max or lower checkpoint.interval_min");
    REFUSE_IF(c->checkpoint.writers > 1 && !is(c->checkpoint.compression, "none"),
              "checkpoint.writers", "1, since checkpoint.compression is not none",
              "where packed values come to lie shows only while one writer packs them: set "
              "checkpoint.writers: 1 or checkpoint.compression: none");
    const char *dir = c->checkpoint.local.dir;
    REFUSE_IF(dir[0] != '\0' && dir[0] != '/', "checkpoint.local.dir",
              "an absolute path, since it is each host's own", "for example /dev/shm");
    return STATUS_OK;
}

Status config_check(const Config *config, const char *file, const Origin *origins) {
    const Check check = {config, file, origins};
    TRY(check_run(&check));
    TRY(check_model(&check));
    TRY(check_data(&check));
    TRY(check_optimizer(&check));
    TRY(check_schedule(&check));
    return check_checkpoint(&check);
}
