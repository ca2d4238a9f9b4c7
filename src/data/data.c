/* From configuration keys to the samples of training and validation, checked against each other. */
#include "src/data/data.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Missing files are the commonest mistake of a first run: say which key, and where data comes from. */
static Status check_path(const char *path, const char *key, const char *role) {
    if (path[0] == '\0')
        return FAIL(STATUS_USAGE, "set it to an IDX file, plain or gzip",
                    "data.%s.%s is not set", role, key);
    if (access(path, F_OK) == 0) return STATUS_OK;
    return FAIL(
        STATUS_USAGE,
        strstr(path, "fashion-mnist") != NULL
            ? "apt-get install dataset-fashion-mnist, or name another IDX file"
            : "name an existing IDX file (apt-get install dataset-fashion-mnist puts some "
              "into /usr/share/datasets/fashion-mnist)",
        "data.%s.%s: there is no file %s", role, key, path);
}

static Status read_role(const char *images, const char *labels, const char *role,
                        int64_t classes, Dataset *out) {
    TRY(check_path(images, "images", role));
    TRY(check_path(labels, "labels", role));
    return idx_read(images, labels, (int)classes, out);
}

static Status check_alike(const Config *config, const Dataset *train,
                          const Dataset *validation) {
    if (train->channels == validation->channels && train->height == validation->height &&
        train->width == validation->width)
        return STATUS_OK;
    return FAIL(STATUS_USAGE, "name training and validation files of one kind",
                "images of %s are %d x %d x %d but those of %s are %d x %d x %d",
                config->data.train.images, train->channels, train->height, train->width,
                config->data.validation.images, validation->channels, validation->height,
                validation->width);
}

static Status check_channels(const ConfigList *list, const char *key, const Dataset *set) {
    if (list->count == 1 || list->count == set->channels) return STATUS_OK;
    return FAIL(STATUS_USAGE, "give one value for all channels, or one for each",
                "data.%s has %d values but the images have %d channels", key, list->count,
                set->channels);
}

/* Both parts in ascending order: the permutation decides who is held out, not in which order. */
static Status split(const Config *config, Data *data) {
    const Dataset *set = &data->sets[0];
    double fraction = config->data.validation_split;
    int64_t held = (int64_t)(fraction * (double)set->count + 0.5);
    if (held < 1 || held >= set->count)
        return FAIL(STATUS_USAGE, "choose a fraction that leaves samples on both sides",
                    "data.validation_split %g holds out %lld of %lld samples", fraction,
                    (long long)held, (long long)set->count);
    uint32_t *train = malloc((size_t)(set->count - held) * sizeof *train);
    uint32_t *validation = malloc((size_t)held * sizeof *validation);
    bool *is_held = calloc((size_t)set->count, sizeof *is_held);
    data->train = (Samples){set, train, set->count - held};
    data->validation = (Samples){set, validation, held};
    if (train == NULL || validation == NULL || is_held == NULL) {
        free(is_held);
        return FAIL(STATUS_MEMORY, NULL, "no memory to split %lld samples",
                    (long long)set->count);
    }
    Permutation order =
        permutation_make(config->run.seed, RNG_SPLIT, 0, (uint32_t)set->count);
    for (int64_t i = 0; i < held; i++)
        is_held[permutation_at(&order, (uint32_t)i)] = true;
    for (uint32_t i = 0; i < set->count; i++)
        *(is_held[i] ? validation++ : train++) = i;
    free(is_held);
    return STATUS_OK;
}

static Status open_roles(const Config *config, Data *data) {
    const Dataset *train = &data->sets[0], *validation = &data->sets[1];
    TRY(read_role(config->data.train.images, config->data.train.labels, "train",
                  config->model.classes, &data->sets[0]));
    TRY(check_channels(&config->data.mean, "mean", train));
    TRY(check_channels(&config->data.std, "std", train));
    data->train = (Samples){train, NULL, train->count};
    data->validation = (Samples){train, NULL, 0};
    Digest parts[2] = {train->digest, {0, 0}};
    if (config->data.validation.images[0] != '\0' ||
        config->data.validation.labels[0] != '\0') {
        TRY(read_role(config->data.validation.images, config->data.validation.labels,
                      "validation", config->model.classes, &data->sets[1]));
        TRY(check_alike(config, train, validation));
        data->validation = (Samples){validation, NULL, validation->count};
        parts[1] = validation->digest;
    } else if (config->data.validation_split > 0) {
        TRY(split(config, data));
        parts[1] = digest_of(data->validation.index, (size_t)data->validation.count *
                                                         sizeof *data->validation.index);
    }
    data->digest = digest_of(parts, sizeof parts);
    return STATUS_OK;
}

Status data_open(const Config *config, Data *out) {
    *out = (Data){0};
    Status status = open_roles(config, out);
    if (status != STATUS_OK) data_close(out);
    return status;
}

void data_close(Data *data) {
    free(data->train.index);
    free(data->validation.index);
    dataset_close(&data->sets[0]);
    dataset_close(&data->sets[1]);
    *data = (Data){0};
}

static void spread(const ConfigList *list, int channels, float *out) {
    for (int c = 0; c < channels; c++)
        out[c] = (float)list->values[list->count == 1 ? 0 : c];
}

LoaderOptions data_loader_options(const Config *config, const Data *data, bool training) {
    LoaderOptions options = {.samples = training ? &data->train : &data->validation,
                             .seed = config->run.seed,
                             .batch = config->train.batch,
                             .shards = (int)config->train.shards,
                             .shard_count = (int)config->train.shards,
                             .training = training,
                             .crop = config->data.augment_crop,
                             .flip = config->data.augment_flip,
                             .crop_padding = (int)config->data.crop_padding};
    spread(&config->data.mean, data->sets[0].channels, options.mean);
    spread(&config->data.std, data->sets[0].channels, options.std);
    return options;
}
