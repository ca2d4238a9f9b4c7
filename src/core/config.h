/* A run's configuration: one struct, one table of keys (src/core/config_table.c), YAML and `--set`.
 *
 * Every key has a type, a range, a default and a scope. `free` keys (intervals, retention, logging)
 * may change between launches; `identity` keys (seed, shards, batch, model, optimizer, schedule,
 * data, precision) belong to the run: a resume with another value is refused. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONFIG_TEXT = 512, CONFIG_LIST = 32 };

typedef struct {
    int count;
    double values[CONFIG_LIST];
} ConfigList;

typedef struct {
    struct {
        char name[64], dir[CONFIG_TEXT], author[128], note[256];
        uint64_t seed;
    } run;
    char device[16]; /* auto | cpu | reference | cuda */
    struct {
        char arch[32]; /* mlp | lenet | resnet20 | resnet18 */
        int64_t classes;
        ConfigList widths; /* mlp: every width, input to classes: [784, 256, 10] */
        double dropout;
        bool batch_norm; /* mlp, lenet */
    } model;
    struct {
        char format[16]; /* idx */
        struct {
            char images[CONFIG_TEXT], labels[CONFIG_TEXT];
        } train, validation;
        double
            validation_split; /* fraction of train held out when no validation files are named */
        bool augment_crop, augment_flip; /* augment: [crop, flip] */
        int64_t crop_padding;
        ConfigList mean,
            std; /* per channel, of pixels in [0, 1]; one value serves all channels */
    } data;
    struct {
        int64_t epochs, batch, shards, max_steps; /* max_steps 0: epochs decide */
        char precision[8];                        /* fp32 | tf32 | bf16 */
        char reduction[8];                        /* exact | fast */
        double label_smoothing;
        int64_t evaluate_every_steps; /* 0: at each epoch's end */
        int64_t threads; /* free: worker threads a rank; 0: chosen from the cores */
    } train;
    struct {
        char kind[8]; /* sgd | adam | adamw */
        double lr, momentum, beta1, beta2, epsilon, weight_decay,
            clip_norm; /* 0: no clipping */
        bool nesterov;
        bool decay_all; /* false: no weight decay on norms and biases */
    } optimizer;
    struct {
        char kind[16]; /* constant | step | multistep | exponential | polynomial | cosine */
        int64_t warmup_steps;
        int64_t step_size;     /* step: every so many steps … */
        ConfigList milestones; /* multistep: at these steps … */
        double gamma;          /* … lr *= gamma; exponential: lr *= gamma each epoch */
        double power, min_lr;
    } schedule;
    struct {
        int64_t every_steps; /* 0: none in between */
        bool every_epoch;
        bool on_better;
        double every_minutes;              /* 0: not by the clock */
        char interval[8];                  /* none | auto */
        double interval_min, interval_max; /* seconds; of auto */
        int64_t keep_last, max_failures;
        int64_t keep_every; /* 0: none */
        struct {
            char metric[16]; /* none | accuracy | loss */
            char mode[8];    /* auto | max | min */
        } keep_best;
        bool background;
        char memory[8]; /* auto | spare | overlap */
        struct {
            char dir[CONFIG_TEXT]; /* of every host; empty: nothing is held */
            int64_t every_steps;
        } local;
        char compression[16];     /* none | zlib:1 … zlib:9 */
        int64_t writers;          /* 1: rank 0 alone */
        char mirror[CONFIG_TEXT]; /* s3://bucket/prefix; empty: none */
        double mirror_patience;   /* seconds */
    } checkpoint;
    struct {
        int64_t every_steps;
        char progress[8]; /* auto | live | plain | none */
    } log;
    struct {
        double hang_timeout; /* seconds; 0: waits for ever */
        double stop_after;   /* seconds; 0: never */
        double end_margin;   /* seconds */
    } fault;
    char resume[CONFIG_TEXT]; /* auto | none | must | PATH */
} Config;

/* Reads a YAML file, then applies `--set` assignments ("a.b=value") in order, checks every key's type
 * and range and what keys demand of each other, and fills defaults. Ranks: local
 * Errors: STATUS_USAGE naming file, line and column (or the --set), the key, what was expected, and
 * for an unknown key the nearest known one; STATUS_IO. *out is undefined then */
Status config_load(const char *path, const char *const *sets, int set_count, Config *out);

/* The whole configuration as YAML that config_load reads back to the same values: what is printed at
 * start and written to the run directory. Memory: *out is the caller's (free). */
Status config_to_yaml(const Config *config, char **out);

/* The identity keys as a JSON object {"train.batch": "256", ...}, sorted by key, values as text in
 * canonical form: stored in every checkpoint. Memory: *out is the caller's (free). */
Status config_identity(const Config *config, char **out);

/* Adds what the run's identity holds beyond the configuration ("data.digest", "device.kind"), or
 * replaces it. Memory: *identity is freed and replaced; on failure it is as before */
Status config_identity_add(char **identity, const char *key, const char *value);

/* Compares the running launch's identity (config_identity with all that was added) with the one
 * stored in a checkpoint. A key that the stored one lacks, because the program that wrote it did not
 * know it yet, counts as having its default.
 * Errors: STATUS_USAGE naming every changed key with both values, and what to do; STATUS_CORRUPT when
 * the stored one is no JSON object of texts */
Status config_check_identity(const char *identity, const char *stored_identity,
                             const char *checkpoint_name);

/* The table as text for `--help`: key, type, range, default, scope, meaning. Memory: caller's. */
Status config_describe(char **out);

/* Strict number parsing, whole text or refused: decimal integers without leading zeros or '+';
 * floats in JSON's grammar, finite; true|false. False when the text is anything else. */
bool parse_int64(const char *text, int64_t *out);
bool parse_uint64(const char *text, uint64_t *out);
bool parse_double(const char *text, double *out);
bool parse_bool(const char *text, bool *out);
