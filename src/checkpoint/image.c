/* Opens the metadata region in HDF5 and lists its datasets. The region's digest was checked before,
 * but whoever can write a file can write its digests too: so links that leave the file, storage
 * elsewhere, filters, other types and impossible extents are refused before anything is read. */
#include "src/checkpoint/image.h"

#include "src/checkpoint/plan.h"
#include "src/checkpoint/scratch.h"
#include "src/core/file.h"

#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const IMAGE_TEXT_NAMES[IMAGE_TEXTS] = {"identity", "config", "lineage"};
static const char OWN_GROUP[] = "rekindle";
static const char FIX[] = "an older checkpoint is used instead, if there is one";

/* A dataset's bytes in the file, while they are looked at. */
typedef struct {
    hid_t type, space;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    int64_t offset;
    int64_t bytes;
} Extent;

/* The walk over all objects. */
typedef struct {
    const unsigned char *region;
    const UserBlock *block;
    const char *name;
    Image *image;
    int capacity;
    int objects;
    bool has_segments;
    char path[STATE_PATH_MAX]; /* of the group that is being listed, with a final '/' */
    Status status;             /* the first failure */
} Walk;

#define REFUSE(walk, path, reason) \
    FAIL(STATUS_CORRUPT, FIX, "%s: /%.127s %s", (walk)->name, (path), (reason))

static int64_t region_end(const Walk *walk) {
    return CHECKPOINT_USER_BLOCK + walk->block->metadata_bytes;
}

static bool in_region(const Walk *walk, int64_t offset, int64_t bytes) {
    return offset >= CHECKPOINT_USER_BLOCK && offset <= region_end(walk) &&
           bytes <= region_end(walk) - offset;
}

static bool in_tensors(const Walk *walk, int64_t offset, int64_t bytes) {
    return offset >= region_end(walk) && offset <= walk->block->bytes &&
           bytes <= walk->block->bytes - offset;
}

/* Only storage that is plainly inside this file; looked at before anything else is asked of the
 * dataset, since HDF5 opens the sources of a virtual one on some questions. */
static Status check_storage(const Walk *walk, const char *path, hid_t dataset) {
    hid_t options = H5Dget_create_plist(dataset);
    const char *reason = NULL;
    if (options < 0)
        reason = "cannot be read by HDF5";
    else if (H5Pget_layout(options) != H5D_CONTIGUOUS)
        reason = "is not stored contiguously";
    else if (H5Pget_external_count(options) != 0)
        reason = "is stored in another file";
    else if (H5Pget_nfilters(options) != 0)
        reason = "is filtered";
    if (options >= 0) H5Pclose(options);
    return reason == NULL ? STATUS_OK : REFUSE(walk, path, reason);
}

static Status read_shape(const Walk *walk, const char *path, Extent *extent) {
    H5S_class_t kind = H5Sget_simple_extent_type(extent->space);
    if (kind != H5S_SCALAR && kind != H5S_SIMPLE)
        return REFUSE(walk, path, "has neither a shape nor a value");
    extent->rank = H5Sget_simple_extent_ndims(extent->space);
    if (extent->rank < 0 || extent->rank > TENSOR_RANK_MAX)
        return REFUSE(walk, path, "has more than 4 dimensions");
    hsize_t dims[TENSOR_RANK_MAX] = {1, 1, 1, 1};
    if (extent->rank > 0 && H5Sget_simple_extent_dims(extent->space, dims, NULL) < 0)
        return REFUSE(walk, path, "has a shape that HDF5 cannot read");
    extent->bytes = (int64_t)H5Tget_size(extent->type);
    for (int i = 0; i < TENSOR_RANK_MAX; i++) {
        extent->shape[i] = (int64_t)dims[i];
        if (dims[i] > INT64_MAX ||
            __builtin_mul_overflow(extent->bytes, extent->shape[i], &extent->bytes) ||
            extent->bytes > walk->block->bytes)
            return REFUSE(walk, path, "is larger than the whole file");
    }
    return STATUS_OK;
}

static Status read_extent(const Walk *walk, const char *path, hid_t dataset,
                          Extent *extent) {
    TRY(check_storage(walk, path, dataset));
    extent->type = H5Dget_type(dataset);
    extent->space = H5Dget_space(dataset);
    if (extent->type < 0 || extent->space < 0)
        return REFUSE(walk, path, "has a type or shape that HDF5 cannot read");
    TRY(read_shape(walk, path, extent));
    if (extent->bytes == 0) return STATUS_OK; /* HDF5 has no address for it */
    if (H5Dget_storage_size(dataset) != (hsize_t)extent->bytes)
        return REFUSE(walk, path, "has other storage than its shape needs");
    haddr_t address = H5Dget_offset(dataset);
    extent->offset = address > INT64_MAX ? -1 : (int64_t)address;
    if (!in_region(walk, extent->offset, extent->bytes) &&
        !in_tensors(walk, extent->offset, extent->bytes))
        return REFUSE(walk, path, "lies outside of the file or across a border in it");
    return STATUS_OK;
}

static Status take_text(Walk *walk, const char *path, const Extent *extent,
                        const char **text) {
    if (H5Tget_class(extent->type) != H5T_STRING || H5Tis_variable_str(extent->type) != 0 ||
        extent->rank != 0 || extent->bytes < 1)
        return REFUSE(walk, path, "is not one text of fixed length");
    if (!in_region(walk, extent->offset, extent->bytes))
        return REFUSE(walk, path, "lies outside of the metadata region");
    const char *start =
        (const char *)walk->region + (extent->offset - CHECKPOINT_USER_BLOCK);
    if (start[extent->bytes - 1] != '\0') return REFUSE(walk, path, "has no end");
    *text = start;
    return STATUS_OK;
}

static Status take_segments(Walk *walk, const char *path, const Extent *extent) {
    int64_t expected = plan_segments(walk->block->bytes, walk->block->metadata_bytes);
    if (H5Tequal(extent->type, H5T_STD_U64LE) <= 0 || extent->rank != 2 ||
        extent->shape[0] != expected || extent->shape[1] != 2)
        return REFUSE(walk, path, "is not the table that this file's length needs");
    if (expected > 0 && !in_region(walk, extent->offset, extent->bytes))
        return REFUSE(walk, path, "lies outside of the metadata region");
    walk->image->segments = expected;
    walk->image->segments_offset = extent->offset;
    walk->has_segments = true;
    return STATUS_OK;
}

static Status take_entry(Walk *walk, const char *path, const Extent *extent) {
    static const DType dtypes[] = {DTYPE_F32, DTYPE_F64, DTYPE_I64, DTYPE_U64};
    const hid_t types[] = {H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_I64LE, H5T_STD_U64LE};
    DType dtype = 0;
    for (int i = 0; i < 4; i++)
        if (H5Tequal(extent->type, types[i]) > 0) dtype = dtypes[i];
    if (dtype == 0)
        return REFUSE(walk, path, "is not little-endian float32, float64, int64 or uint64");
    if (extent->bytes == 0) return REFUSE(walk, path, "has no elements");
    Image *image = walk->image;
    if (image->count == walk->capacity) {
        int capacity = walk->capacity == 0 ? 64 : 2 * walk->capacity;
        CheckpointEntry *entries =
            realloc(image->entries, (size_t)capacity * sizeof *entries);
        if (entries == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory to list %s", walk->name);
        image->entries = entries;
        walk->capacity = capacity;
    }
    CheckpointEntry *entry = &image->entries[image->count++];
    *entry = (CheckpointEntry){.dtype = dtype,
                               .rank = extent->rank,
                               .offset = extent->offset,
                               .bytes = (size_t)extent->bytes};
    strcpy(entry->path, path); /* the walk has checked its length */
    memcpy(entry->shape, extent->shape, sizeof entry->shape);
    return STATUS_OK;
}

/* Either one of our own datasets, or an entry of the state. */
static Status take_dataset(Walk *walk, const char *path, const Extent *extent) {
    size_t own = strlen(OWN_GROUP);
    if (strncmp(path, OWN_GROUP, own) != 0 || path[own] != '/')
        return take_entry(walk, path, extent);
    const char *leaf = path + own + 1;
    for (int i = 0; i < IMAGE_TEXTS; i++)
        if (strcmp(leaf, IMAGE_TEXT_NAMES[i]) == 0)
            return take_text(walk, path, extent, &walk->image->texts[i]);
    if (strcmp(leaf, "segments") == 0) return take_segments(walk, path, extent);
    return REFUSE(walk, path, "is unknown to this version");
}

static Status list_dataset(Walk *walk, hid_t group, const char *leaf, const char *path) {
    hid_t dataset = H5Dopen2(group, leaf, H5P_DEFAULT);
    if (dataset < 0) return REFUSE(walk, path, "cannot be opened by HDF5");
    Extent extent = {.type = H5I_INVALID_HID, .space = H5I_INVALID_HID};
    Status status = read_extent(walk, path, dataset, &extent);
    if (status == STATUS_OK) status = take_dataset(walk, path, &extent);
    if (extent.type >= 0) H5Tclose(extent.type);
    if (extent.space >= 0) H5Sclose(extent.space);
    H5Dclose(dataset);
    return status;
}

static Status list_group(Walk *walk, hid_t group);

/* Appends a link's name to the walk's path, after checking it. */
static Status extend_path(Walk *walk, const char *leaf) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789_.-";
    size_t length = strnlen(leaf, STATE_PATH_MAX), above = strlen(walk->path);
    if (above + length + 1 >= STATE_PATH_MAX)
        return REFUSE(walk, walk->path, "holds a name that is too long");
    if (length == 0 || strspn(leaf, allowed) != length || strcmp(leaf, ".") == 0)
        return REFUSE(walk, walk->path, "holds a name that no entry can have");
    memcpy(walk->path + above, leaf, length + 1);
    return STATUS_OK;
}

static Status list_object(Walk *walk, hid_t group, const char *leaf,
                          const H5L_info_t *link) {
    if (++walk->objects > IMAGE_OBJECTS_MAX)
        return REFUSE(walk, walk->path, "and its like are too many objects");
    size_t above = strlen(walk->path);
    TRY(extend_path(walk, leaf));
    if (link->type != H5L_TYPE_HARD)
        return REFUSE(walk, walk->path, "is a link to something else");
    H5O_info_t object;
    if (H5Oget_info_by_name2(group, leaf, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
        return REFUSE(walk, walk->path, "cannot be read by HDF5");
    if (object.rc != 1) return REFUSE(walk, walk->path, "has several names");
    if (object.type == H5O_TYPE_DATASET) {
        TRY(list_dataset(walk, group, leaf, walk->path));
    } else if (object.type == H5O_TYPE_GROUP) {
        hid_t below = H5Gopen2(group, leaf, H5P_DEFAULT);
        if (below < 0) return REFUSE(walk, walk->path, "cannot be opened by HDF5");
        strcat(walk->path, "/"); /* extend_path left room */
        Status status = list_group(walk, below);
        H5Gclose(below);
        TRY(status);
    } else {
        return REFUSE(walk, walk->path, "is neither a group nor a dataset");
    }
    walk->path[above] = '\0';
    return STATUS_OK;
}

static herr_t on_link(hid_t group, const char *leaf, const H5L_info_t *link,
                      void *context) {
    Walk *walk = context;
    walk->status = list_object(walk, group, leaf, link);
    return walk->status == STATUS_OK ? 0 : -1;
}

static Status list_group(Walk *walk, hid_t group) {
    hsize_t start = 0;
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &start, on_link, walk) < 0)
        return walk->status != STATUS_OK
                   ? walk->status
                   : REFUSE(walk, walk->path, "cannot be listed by HDF5");
    return STATUS_OK;
}

static int by_offset(const void *a, const void *b) {
    const CheckpointEntry *first = a, *second = b;
    return (first->offset > second->offset) - (first->offset < second->offset);
}

/* All there, nothing on top of something else. */
static Status check_whole(const Walk *walk) {
    const Image *image = walk->image;
    for (int i = 0; i < IMAGE_TEXTS; i++)
        if (image->texts[i] == NULL)
            return FAIL(STATUS_CORRUPT, FIX, "%s: /%s/%s is missing", walk->name, OWN_GROUP,
                        IMAGE_TEXT_NAMES[i]);
    if (!walk->has_segments) return REFUSE(walk, "rekindle/segments", "is missing");
    if (image->count > 0)
        qsort(image->entries, (size_t)image->count, sizeof *image->entries, by_offset);
    for (int i = 1; i < image->count; i++) {
        const CheckpointEntry *entry = &image->entries[i];
        if (entry->offset < entry[-1].offset + (int64_t)entry[-1].bytes)
            return REFUSE(walk, entry->path, "lies on top of another entry");
    }
    return STATUS_OK;
}

/* A sparse file of the whole length with the region in its place, opened by HDF5. */
static Status open_image(const Walk *walk, hid_t *file) {
    char path[SCRATCH_PATH];
    int fd;
    size_t bytes = (size_t)walk->block->metadata_bytes;
    TRY(scratch_create(bytes + CHECKPOINT_PAGE, walk->block->bytes, path, &fd));
    Status status = STATUS_OK;
    if (ftruncate(fd, walk->block->bytes) != 0 ||
        file_write_at(fd, walk->region, bytes, CHECKPOINT_USER_BLOCK) != 0)
        status = FAIL(STATUS_IO, "free some space in /dev/shm",
                      "cannot make an image of %s: %s", walk->name, strerror(errno));
    if (status == STATUS_OK) {
        *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
        if (*file < 0) status = REFUSE(walk, "", "cannot be opened by HDF5");
    }
    unlink(path);
    close(fd);
    return status;
}

Status image_list(const unsigned char *region, const UserBlock *block, const char *name,
                  Image *out) {
    *out = (Image){0};
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are told by our own texts */
    H5PLset_loading_state(0);              /* no file makes us load a plugin */
    Walk walk = {.region = region, .block = block, .name = name, .image = out};
    hid_t file = H5I_INVALID_HID;
    Status status = open_image(&walk, &file);
    if (status == STATUS_OK) {
        status = list_group(&walk, file);
        if (H5Fclose(file) < 0 && status == STATUS_OK)
            status = REFUSE(&walk, "", "cannot be closed by HDF5");
    }
    if (status == STATUS_OK) status = check_whole(&walk);
    if (status != STATUS_OK) image_destroy(out);
    return status;
}

void image_destroy(Image *image) {
    free(image->entries);
    *image = (Image){0};
}
