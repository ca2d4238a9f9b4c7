/* From a stored sample to the network's input: crop, flip, normalise. A pure function of (seed, epoch,
 * index), so that a resumed or differently spread run sees the same pixels. */
#include "src/data/data.h"

#include <stdbool.h>
#include <string.h>

/* Lanes of the sample's stream: part of the file format, each its own whether used or not. */
enum { LANE_ROW = 0, LANE_COLUMN = 1, LANE_FLIP = 2 };

/* The operations of torchvision's ToTensor and Normalize in their order, so that bits agree;
 * divisions vectorise and cost no more than a table would. */
static void normalise(const uint8_t *restrict pixels, int64_t count, float mean, float std,
                      float *restrict out) {
    for (int64_t i = 0; i < count; i++)
        out[i] = ((float)pixels[i] / 255.0f - mean) / std;
}

/* Row y of the moved image: its pixels come from `shift` columns further right; outside is zero. */
static void move_row(const uint8_t *source, int width, int shift, uint8_t *out) {
    memset(out, 0, (size_t)width);
    int first = shift < 0 ? -shift : 0;
    int end = shift > 0 ? width - shift : width;
    if (source != NULL && first < end)
        memcpy(out + first, source + first + shift, (size_t)(end - first));
}

static void flip_row(uint8_t *row, int width) {
    for (int i = 0, j = width - 1; i < j; i++, j--) {
        uint8_t other = row[i];
        row[i] = row[j];
        row[j] = other;
    }
}

void augment_sample(const LoaderOptions *options, uint32_t epoch, uint32_t index,
                    float *out) {
    const Dataset *set = options->samples->dataset;
    int height = set->height, width = set->width;
    int64_t plane = (int64_t)height * width;
    const uint8_t *pixels = set->pixels + index * plane * set->channels;
    bool crop = options->training && options->crop && options->crop_padding > 0;
    bool flip = options->training && options->flip;
    if (!crop && !flip) {
        for (int c = 0; c < set->channels; c++)
            normalise(pixels + c * plane, plane, options->mean[c], options->std[c],
                      out + c * plane);
        return;
    }

    Rng rng = rng_at(options->seed, RNG_AUGMENT, 0, epoch);
    int down = 0, right = 0;
    if (crop) {
        uint32_t offsets = 2 * (uint32_t)options->crop_padding + 1;
        down = (int)rng_below(rng, index, LANE_ROW, offsets) - options->crop_padding;
        right = (int)rng_below(rng, index, LANE_COLUMN, offsets) - options->crop_padding;
    }
    bool mirrored = flip && rng_below(rng, index, LANE_FLIP, 2) == 1;
    uint8_t row[width];
    for (int c = 0; c < set->channels; c++)
        for (int y = 0; y < height; y++) {
            int from = y + down;
            bool inside = from >= 0 && from < height;
            move_row(inside ? pixels + c * plane + from * width : NULL, width, right, row);
            if (mirrored) flip_row(row, width);
            normalise(row, width, options->mean[c], options->std[c],
                      out + c * plane + (int64_t)y * width);
        }
}
