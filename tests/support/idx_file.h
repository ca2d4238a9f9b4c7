/* Small IDX files in a folder of the test's own, right or deliberately wrong. */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

typedef struct {
    uint8_t data[4096];
    size_t size;
} IdxBytes;

static char idx_folder[32];

/* Group fixtures: the folder exists while the group's tests run. */
static int idx_folder_create(void **state) {
    (void)state;
    strcpy(idx_folder, "/tmp/rekindle-idx-XXXXXX");
    return mkdtemp(idx_folder) == NULL;
}

static int idx_folder_remove(void **state) {
    (void)state;
    DIR *folder = opendir(idx_folder);
    if (folder == NULL) return 1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.') unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    return rmdir(idx_folder);
}

typedef struct {
    char text[64];
} IdxPath;

static inline IdxPath idx_path(const char *name) {
    IdxPath path;
    snprintf(path.text, sizeof path.text, "%s/%s", idx_folder, name);
    return path;
}

static inline void idx_word(IdxBytes *bytes, uint32_t word) {
    for (int shift = 24; shift >= 0; shift -= 8)
        bytes->data[bytes->size++] = (uint8_t)(word >> shift);
}

/* Rank 3 when channels is 0, else rank 4; pixel i is 7·i + 3 mod 256. */
static inline IdxBytes idx_images(uint32_t count, uint32_t channels, uint32_t height,
                                  uint32_t width) {
    IdxBytes bytes = {.size = 0};
    idx_word(&bytes, channels == 0 ? 0x803 : 0x804);
    idx_word(&bytes, count);
    if (channels != 0) idx_word(&bytes, channels);
    idx_word(&bytes, height);
    idx_word(&bytes, width);
    uint32_t pixels = count * (channels == 0 ? 1 : channels) * height * width;
    for (uint32_t i = 0; i < pixels; i++)
        bytes.data[bytes.size++] = (uint8_t)(7 * i + 3);
    return bytes;
}

/* Label i is i mod classes. */
static inline IdxBytes idx_labels(uint32_t count, uint32_t classes) {
    IdxBytes bytes = {.size = 0};
    idx_word(&bytes, 0x801);
    idx_word(&bytes, count);
    for (uint32_t i = 0; i < count; i++)
        bytes.data[bytes.size++] = (uint8_t)(i % classes);
    return bytes;
}

static inline IdxPath idx_write(const char *name, const void *data, size_t size) {
    IdxPath path = idx_path(name);
    FILE *file = fopen(path.text, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* One gzip member; returns the compressed bytes too. */
static inline IdxBytes idx_gzip(const IdxBytes *plain) {
    IdxBytes packed = {.size = 0};
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY),
                     Z_OK);
    stream.next_in = (Bytef *)(uintptr_t)plain->data;
    stream.avail_in = (uInt)plain->size;
    stream.next_out = packed.data;
    stream.avail_out = sizeof packed.data;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    packed.size = sizeof packed.data - stream.avail_out;
    deflateEnd(&stream);
    return packed;
}
