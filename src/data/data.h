/* A data set in memory order, and its batches: which sample is where in an epoch, augmented how. */
#pragma once

#include "src/core/config.h"
#include "src/core/rng.h"
#include "src/core/status.h"
#include "src/state/state.h"

enum { DATA_CHANNELS_MAX = 4 };

/* Images as bytes, as the file has them; labels. Read once, shared by all threads. */
typedef struct {
    int64_t count;
    int channels, height, width;
    int classes;     /* labels lie in [0, classes) */
    uint8_t *pixels; /* (count, channels, height, width) */
    uint8_t *labels; /* (count) */
    Digest digest;   /* of the decoded content: part of the run's identity */
} Dataset;

/* Reads an IDX pair, plain or gzip (by content, not name). Ranks: local
 * Memory:  dataset_close
 * Errors:  STATUS_USAGE or STATUS_IO naming file, offset, what was found and what was expected: wrong
 *          magic, truncated, trailing bytes, counts that differ, label out of range, absurd dimensions
 *          (no allocation beyond what the file can hold); STATUS_MEMORY. *out then holds nothing */
Status idx_read(const char *images, const char *labels, int classes, Dataset *out);
void dataset_close(Dataset *dataset);

/* Which samples a role sees: all of a set, or its part of a keyed split. */
typedef struct {
    const Dataset *dataset;
    uint32_t *index; /* NULL: identity; else positions in dataset (split) */
    int64_t count;
} Samples;

/* Opens the configured training and validation data: files, or a split of the training file by the
 * keyed permutation; with neither validation files nor a split, validation has no samples. `digest`
 * covers both. Memory: data_close; *out must not move (samples point into it) */
typedef struct {
    Dataset sets[2];
    Samples train, validation;
    Digest digest;
} Data;
Status data_open(const Config *config, Data *out);
void data_close(Data *data);

/* A keyed permutation of [0, count) with random access (Feistel network on the next even power of
 * two, Philox rounds, cycle walking). count < 2^32. */
typedef struct {
    uint64_t seed;
    uint32_t epoch, count;
    int half_bits;
    RngStream stream; /* RNG_SHUFFLE, or RNG_SPLIT */
} Permutation;
Permutation permutation_make(uint64_t seed, RngStream stream, uint32_t epoch,
                             uint32_t count);
uint32_t permutation_at(const Permutation *permutation, uint32_t position);

/* The rule for uneven and empty shards: of a batch of n samples, shard s of V has the rows
 * [floor(s·n/V), floor((s+1)·n/V)). An epoch's last batch has the samples that are left. */
typedef struct {
    int64_t first, count; /* rows of the batch */
} Rows;
Rows shard_rows(int64_t n, int shards, int shard);

/* One shard's part of one batch. */
typedef struct {
    int shard;
    int64_t first, count; /* rows of the batch; count 0: empty */
    float *images;        /* (count, C, H, W) canonical, normalised, 64-byte aligned */
    int32_t *labels;      /* (count) */
} ShardBatch;

typedef struct {
    int64_t epoch, position; /* of the batch's first sample in the epoch */
    int64_t count;           /* samples in the whole batch, all shards */
    int shard_count;
    ShardBatch *shards; /* the caller's range */
} Batch;

/* Yields batches from any position on, prepared by a prefetch thread. Training: shuffled and augmented,
 * endless (epoch after epoch). Evaluation: in order, not augmented, one pass.
 *
 * Life: loader_open → (loader_next → … → next loader_next)* → loader_close */
typedef struct Loader Loader;

typedef struct {
    const Samples *samples; /* outlives the loader */
    uint64_t seed;
    int64_t batch;
    int shards, first_shard, shard_count; /* of V, the caller's contiguous range */
    int64_t epoch, position;              /* where to begin: position < count */
    bool training;
    bool crop, flip;
    int crop_padding;
    float mean[DATA_CHANNELS_MAX], std[DATA_CHANNELS_MAX]; /* per channel */
} LoaderOptions;

/* What the configuration says of training or evaluation, from (0, 0) on, for all shards: a rank
 * narrows first_shard and shard_count, a resume sets epoch and position. */
LoaderOptions data_loader_options(const Config *config, const Data *data, bool training);

/* Errors: STATUS_USAGE for options that cannot be met, STATUS_MEMORY. *out is NULL then */
Status loader_open(const LoaderOptions *options, Loader **out);
/* The next batch; valid until the following call. *out NULL at the end of an evaluation pass.
 * stall_s (may be NULL) gets the seconds waited. */
Status loader_next(Loader *loader, const Batch **out, double *stall_s);
void loader_close(Loader *loader); /* NULL is allowed */

/* Draws for sample `index` (in the data set) in an epoch and writes its augmented, normalised pixels.
 * Crop: padded by zeros (of raw pixels) and cut at a uniform offset; flip: with probability 1/2. */
void augment_sample(const LoaderOptions *options, uint32_t epoch, uint32_t index,
                    float *out);
