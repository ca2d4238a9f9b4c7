/* Reads the IDX format (the one of MNIST and its successors) and believes no field of it: a file that
 * is not exactly what it says is refused with its offset, what was found and what was expected. */
#include "src/data/data.h"
#include "src/data/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    IDX_U8 = 0x08,    /* the third byte of the magic: element type */
    SIDE_MAX = 16384, /* with ≤ 2^32 images of ≤ 4 channels, sizes stay below 2^63 */
    FIRST_ALLOCATION = 1 << 26,
};

static const char again[] = "fetch the file again";

typedef struct {
    int rank;
    int64_t dims[4];
    int64_t bytes; /* of the header */
} IdxHeader;

static Status check_magic(const Source *source, uint32_t magic, bool images, int *rank) {
    const char *expected = images
                               ? "0x00000803 (images) or 0x00000804 (images with channels)"
                               : "0x00000801 (labels)";
    *rank = (int)(magic & 0xff);
    const char *fix = "name an uncompressed or gzip IDX file as published for MNIST";
    if (magic >> 16 == 0 && (magic >> 8 & 0xff) != IDX_U8)
        fix = "convert the elements to unsigned bytes (type 0x08)";
    else if (magic >> 8 == IDX_U8 && (images ? *rank == 1 : *rank == 3 || *rank == 4))
        fix = "the images and labels files seem to be swapped: exchange the two keys";
    else if (magic >> 8 == IDX_U8 && (images ? *rank == 3 || *rank == 4 : *rank == 1))
        return STATUS_OK;
    return FAIL(STATUS_USAGE, fix, "%s: magic 0x%08x at offset 0, expected %s",
                source->path, magic, expected);
}

static Status header_cut_off(const Source *source, int64_t expected) {
    return FAIL(STATUS_USAGE, again,
                "%s is cut off: it ends at offset %lld, in the header of %lld "
                "bytes",
                source->path, (long long)source->offset, (long long)expected);
}

static Status read_word(Source *source, int64_t header_bytes, uint32_t *out) {
    uint8_t bytes[4];
    size_t got = 0;
    TRY(source_read(source, bytes, sizeof bytes, &got));
    if (got < sizeof bytes) return header_cut_off(source, header_bytes);
    *out = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 |
           bytes[3];
    return STATUS_OK;
}

/* The header, every field of it checked; an image's channels, height and width in dims[1..3]. */
static Status read_header(Source *source, bool images, IdxHeader *out) {
    uint32_t word = 0;
    int rank = 0;
    TRY(read_word(source, images ? 16 : 8, &word));
    TRY(check_magic(source, word, images, &rank));
    *out = (IdxHeader){rank, {1, 1, 1, 1}, 4 + 4 * rank};
    for (int i = 0; i < rank; i++) {
        static const char *const names[] = {"count", "channels", "height", "width"};
        int dim = i > 0 && rank == 3 ? i + 1 : i;
        int64_t limit = dim == 0 ? UINT32_MAX : dim == 1 ? DATA_CHANNELS_MAX : SIDE_MAX;
        int64_t offset = source->offset;
        TRY(read_word(source, out->bytes, &word));
        out->dims[dim] = word;
        if (word == 0 || word > limit)
            return FAIL(STATUS_USAGE,
                        word == 0 && dim == 0 ? "name a file that is not empty" : again,
                        "%s: %s %u at offset %lld, expected 1 to %lld", source->path,
                        names[dim], word, (long long)offset, (long long)limit);
    }
    return STATUS_OK;
}

/* The header's promise cannot exceed what the file can hold; a plain file's length is known. */
static Status check_length(const Source *source, const IdxHeader *header, int64_t payload) {
    int64_t expected = header->bytes + payload;
    if (source->compressed ? expected <= source->bound_bytes
                           : expected == source->size_bytes)
        return STATUS_OK;
    return FAIL(
        STATUS_USAGE, again,
        "%s %s: its header (count %lld at offset 4) promises %lld bytes, %s %lld",
        source->path, expected > source->bound_bytes ? "is cut off" : "has trailing bytes",
        (long long)header->dims[0], (long long)expected,
        source->compressed ? "and so short a gzip file holds at most" : "the file has",
        (long long)source->bound_bytes);
}

/* Reads exactly `payload` bytes up to the content's end. Memory grows with what was really there,
 * so that a small gzip file with a false header costs little. */
static Status read_payload(Source *source, int64_t payload, uint8_t **out) {
    size_t need = (size_t)payload, have = 0, capacity = need;
    if (source->compressed && capacity > FIRST_ALLOCATION) capacity = FIRST_ALLOCATION;
    int64_t start = source->offset;
    for (;;) {
        uint8_t *grown = realloc(*out, capacity);
        if (grown == NULL)
            return FAIL(STATUS_MEMORY, "use a machine with more memory, or a smaller set",
                        "no memory for %zu bytes of %s", capacity, source->path);
        *out = grown;
        size_t got = 0;
        TRY(source_read(source, *out + have, capacity - have, &got));
        have += got;
        if (have < capacity)
            return FAIL(
                STATUS_USAGE, again, "%s is cut off: it ends at offset %lld, expected %lld",
                source->path, (long long)source->offset, (long long)(start + payload));
        if (have == need) break;
        capacity = capacity > need / 2 ? need : 2 * capacity;
    }
    uint8_t extra;
    size_t got = 0;
    TRY(source_read(source, &extra, 1, &got));
    if (got != 0)
        return FAIL(STATUS_USAGE, again,
                    "%s has trailing bytes: expected its end at offset %lld", source->path,
                    (long long)(start + payload));
    return STATUS_OK;
}

static Status read_file(const char *path, bool images, IdxHeader *header,
                        uint8_t **payload) {
    Source source;
    TRY(source_open(path, &source));
    Status status = read_header(&source, images, header);
    int64_t bytes = 0;
    if (status == STATUS_OK) {
        bytes = header->dims[0] * header->dims[1] * header->dims[2] * header->dims[3];
        status = check_length(&source, header, bytes);
    }
    if (status == STATUS_OK) status = read_payload(&source, bytes, payload);
    source_close(&source);
    return status;
}

static Status check_labels(const char *path, const Dataset *set, int64_t header_bytes) {
    for (int64_t i = 0; i < set->count; i++)
        if (set->labels[i] >= set->classes)
            return FAIL(STATUS_USAGE,
                        "set model.classes to the number of classes, or mend the file",
                        "%s: label %d at offset %lld, expected 0 to %d (model.classes %d)",
                        path, set->labels[i], (long long)(header_bytes + i),
                        set->classes - 1, set->classes);
    return STATUS_OK;
}

/* Over shape and values, so that the same data has the same digest whatever its compression. */
static Digest content_digest(const Dataset *set) {
    size_t sample = (size_t)set->channels * (size_t)set->height * (size_t)set->width;
    struct {
        int64_t shape[4];
        Digest pixels, labels;
    } content = {{set->count, set->channels, set->height, set->width},
                 digest_of(set->pixels, (size_t)set->count * sample),
                 digest_of(set->labels, (size_t)set->count)};
    return digest_of(&content, sizeof content);
}

static Status read_pair(const char *images, const char *labels, Dataset *out) {
    IdxHeader image_header, label_header;
    TRY(read_file(images, true, &image_header, &out->pixels));
    out->count = image_header.dims[0];
    out->channels = (int)image_header.dims[1];
    out->height = (int)image_header.dims[2];
    out->width = (int)image_header.dims[3];
    TRY(read_file(labels, false, &label_header, &out->labels));
    if (label_header.dims[0] != out->count)
        return FAIL(STATUS_USAGE, "name the images and labels of the same set",
                    "%s has %lld images but %s has %lld labels (count at offset 4)", images,
                    (long long)out->count, labels, (long long)label_header.dims[0]);
    TRY(check_labels(labels, out, label_header.bytes));
    out->digest = content_digest(out);
    return STATUS_OK;
}

Status idx_read(const char *images, const char *labels, int classes, Dataset *out) {
    *out = (Dataset){.classes = classes};
    Status status = read_pair(images, labels, out);
    if (status != STATUS_OK) dataset_close(out);
    return status;
}

void dataset_close(Dataset *dataset) {
    free(dataset->pixels);
    free(dataset->labels);
    *dataset = (Dataset){0};
}
