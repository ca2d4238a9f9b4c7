/* Walks the groups of a metadata region and lists its datasets. The region's digest was checked
 * before, but whoever can write a file can write its digests too: so every address, name, type and
 * shape is checked as if nothing had been. */
#include "src/checkpoint/image.h"

#include "src/checkpoint/format.h"
#include "src/checkpoint/header.h"
#include "src/checkpoint/plan.h"

#include <stdlib.h>
#include <string.h>

const char *const IMAGE_TEXT_NAMES[IMAGE_TEXTS] = {"identity", "config", "lineage"};
static const char OWN_GROUP[] = "rekindle";
static const char FIX[] = "an older checkpoint is used instead, if there is one";

/* The walk over all objects. */
typedef struct {
    HeaderSource source;
    const UserBlock *block;
    const char *name;
    Image *image;
    int capacity, packed_capacity;
    int objects;
    bool has_segments;
    bool planned;              /* chunks have no places yet */
    char path[STATE_PATH_MAX]; /* of the object that is being looked at */
} Walk;

static Status refuse(const Walk *walk, const char *reason) {
    return FAIL(STATUS_CORRUPT, FIX, "%s: /%.127s %s", walk->name, walk->path, reason);
}

/* A dataset's bytes in the file. */
typedef struct {
    int64_t shape[TENSOR_RANK_MAX];
    int64_t offset, bytes;
    int64_t stored; /* bytes in the file, from `offset` on */
    bool in_region;
} Extent;

static Status read_extent(const Walk *walk, const Header *header, Extent *extent) {
    uint64_t file_bytes = (uint64_t)walk->block->bytes, bytes = header->type_size;
    for (int i = 0; i < TENSOR_RANK_MAX; i++) {
        if (__builtin_mul_overflow(bytes, header->shape[i], &bytes) || bytes > file_bytes ||
            header->shape[i] > file_bytes)
            return refuse(walk, "is larger than the whole file");
        extent->shape[i] = (int64_t)header->shape[i];
    }
    extent->bytes = extent->stored = (int64_t)bytes;
    if (bytes == 0) return STATUS_OK; /* it has no address */
    if (header->size != bytes)
        return refuse(walk, "has other storage than its shape needs");
    uint64_t behind = file_bytes - CHECKPOINT_USER_BLOCK; /* addresses count from there */
    if (header->address > behind || bytes > behind - header->address)
        return refuse(walk, "lies outside of the file");
    bool starts_inside = header->address < walk->source.size;
    extent->in_region = starts_inside && bytes <= walk->source.size - header->address;
    if (starts_inside && !extent->in_region)
        return refuse(walk, "lies across the end of the metadata region");
    extent->offset = (int64_t)header->address + CHECKPOINT_USER_BLOCK;
    return STATUS_OK;
}

static Status take_text(Walk *walk, const Header *header, const Extent *extent,
                        const char **text) {
    if (header->type != HEADER_TYPE_TEXT || header->rank != 0 || extent->bytes < 1)
        return refuse(walk, "is not one text of fixed length");
    if (!extent->in_region) return refuse(walk, "lies outside of the metadata region");
    const char *start = (const char *)walk->source.bytes + header->address;
    if (start[extent->bytes - 1] != '\0') return refuse(walk, "has no end");
    *text = start;
    return STATUS_OK;
}

static Status take_segments(Walk *walk, const Header *header, const Extent *extent) {
    int64_t expected = plan_segments(walk->block->bytes, walk->block->metadata_bytes);
    /* packed tensors may need fewer rows than were planned: the others are zero */
    bool enough = format_has_packing(walk->block->version) ? extent->shape[0] >= expected
                                                           : extent->shape[0] == expected;
    if (header->type != HEADER_TYPE_U64 || header->rank != 2 || !enough ||
        extent->shape[1] != 2)
        return refuse(walk, "is not the table that this file's length needs");
    if (expected > 0 && !extent->in_region)
        return refuse(walk, "lies outside of the metadata region");
    walk->image->segments = expected;
    walk->image->segments_offset = extent->offset;
    walk->has_segments = true;
    return STATUS_OK;
}

/* Deflate cannot pack tighter: what claims to is made to fill memory. */
enum { DEFLATE_AT_BEST = 1032 };

/* Chunks behind the region, inside the file, one after the other. */
static const char *check_places(const Walk *walk, const ImagePacked *packed) {
    uint64_t behind = (uint64_t)walk->block->bytes - CHECKPOINT_USER_BLOCK;
    uint64_t free_from = walk->source.size, whole = packed->grid.whole;
    for (int64_t i = 0; i < packed->grid.count; i++) {
        const ChunkPlace *place = &packed->places[i];
        if (place->bytes == 0 || place->bytes > whole ||
            (place->plain && place->bytes != whole) ||
            whole > DEFLATE_AT_BEST * (uint64_t)place->bytes)
            return "has a chunk of impossible length";
        if (place->address > behind || place->bytes > behind - place->address)
            return "has a chunk outside of the file";
        if (place->address < free_from)
            return "has a chunk on top of another, or of the metadata region";
        free_from = place->address + place->bytes;
    }
    return NULL;
}

/* Reads a packed entry's chunks into a new ImagePacked. */
static Status list_chunks(Walk *walk, const Header *header, const ChunkGrid *grid) {
    Image *image = walk->image;
    if (image->packed_count == walk->packed_capacity) {
        int capacity = walk->packed_capacity == 0 ? 16 : 2 * walk->packed_capacity;
        ImagePacked *grown = realloc(image->packed, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory to list %s", walk->name);
        image->packed = grown;
        walk->packed_capacity = capacity;
    }
    ImagePacked *packed = &image->packed[image->packed_count];
    *packed = (ImagePacked){.grid = *grid, .index = header->address};
    packed->places = calloc((size_t)grid->count, sizeof *packed->places);
    if (packed->places == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory to list %s", walk->name);
    image->packed_count++;
    const char *wrong =
        chunk_index_read(&walk->source, header->address, grid, packed->places);
    if (wrong == NULL && !walk->planned) wrong = check_places(walk, packed);
    if (wrong != NULL) return refuse(walk, wrong);
    image->chunks += grid->count;
    if (grid->whole > image->whole) image->whole = grid->whole;
    return STATUS_OK;
}

static Status read_packed(Walk *walk, const Header *header, Extent *extent) {
    enum { LEAST_IN_INDEX = 32 }; /* bytes that an index spends on a chunk */
    if (!format_has_packing(walk->block->version) || !header->is_packed)
        return refuse(walk, "is not stored contiguously, nor packed as a checkpoint's is");
    uint64_t bytes = header->type_size;
    for (int i = 0; i < TENSOR_RANK_MAX; i++) {
        if (__builtin_mul_overflow(bytes, header->shape[i], &bytes) || bytes > INT64_MAX)
            return refuse(walk, "is larger than any file");
        extent->shape[i] = (int64_t)header->shape[i];
    }
    ChunkGrid grid;
    if (header->chunk_rank != header->rank || header->chunk_element != header->type_size ||
        bytes == 0 ||
        !chunk_grid_make(header->type_size, header->rank, header->shape, header->chunk,
                         &grid) ||
        (uint64_t)grid.count > walk->source.size / LEAST_IN_INDEX)
        return refuse(walk, "has chunks of impossible shape");
    TRY(list_chunks(walk, header, &grid));
    const ImagePacked *packed = &walk->image->packed[walk->image->packed_count - 1];
    const ChunkPlace *last = &packed->places[grid.count - 1];
    extent->bytes = (int64_t)bytes;
    extent->offset = (int64_t)packed->places[0].address + CHECKPOINT_USER_BLOCK;
    extent->stored = (int64_t)(last->address + last->bytes - packed->places[0].address);
    return STATUS_OK;
}

static Status take_entry(Walk *walk, const Header *header, const Extent *extent) {
    static const DType dtypes[] = {[HEADER_TYPE_F32] = DTYPE_F32,
                                   [HEADER_TYPE_F64] = DTYPE_F64,
                                   [HEADER_TYPE_I64] = DTYPE_I64,
                                   [HEADER_TYPE_U64] = DTYPE_U64,
                                   [HEADER_TYPE_OTHER] = 0};
    DType dtype = dtypes[header->type];
    if (dtype == 0)
        return refuse(walk, "is not little-endian float32, float64, int64 or uint64");
    if (extent->bytes == 0) return refuse(walk, "has no elements");
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
                               .rank = header->rank,
                               .offset = extent->offset,
                               .bytes = (size_t)extent->bytes,
                               .stored = (size_t)extent->stored,
                               .packed = header->is_chunked ? image->packed_count : 0};
    memcpy(entry->path, walk->path, sizeof entry->path);
    memcpy(entry->shape, extent->shape, sizeof entry->shape);
    return STATUS_OK;
}

/* Either one of our own datasets, or an entry of the state. */
static Status take_dataset(Walk *walk, const Header *header) {
    Extent extent = {.offset = 0};
    if (!header->has_space || !header->has_storage || header->type == HEADER_TYPE_NONE)
        return refuse(walk, "is neither a group nor a dataset");
    size_t own = strlen(OWN_GROUP);
    bool is_own = strncmp(walk->path, OWN_GROUP, own) == 0 && walk->path[own] == '/';
    if (header->is_chunked && !is_own) {
        TRY(read_packed(walk, header, &extent));
        return take_entry(walk, header, &extent);
    }
    if (header->is_chunked || header->is_packed)
        return refuse(walk, "is not stored contiguously");
    TRY(read_extent(walk, header, &extent));
    if (!is_own) return take_entry(walk, header, &extent);
    const char *leaf = walk->path + own + 1;
    for (int i = 0; i < IMAGE_TEXTS; i++)
        if (strcmp(leaf, IMAGE_TEXT_NAMES[i]) == 0)
            return take_text(walk, header, &extent, &walk->image->texts[i]);
    if (strcmp(leaf, "segments") == 0) return take_segments(walk, header, &extent);
    return refuse(walk, "is unknown to this version");
}

/* Appends a link's name to the walk's path, after checking it. */
static Status extend_path(Walk *walk, const HeaderLink *link) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789_.-";
    size_t above = strlen(walk->path), slash = above > 0;
    if (link->length >= STATE_PATH_MAX - above - slash)
        return refuse(walk, "holds a name that is too long");
    bool plain = link->length > 0 && !(link->length == 1 && link->name[0] == '.');
    for (size_t i = 0; i < link->length; i++)
        plain = plain && link->name[i] != '\0' && strchr(allowed, link->name[i]) != NULL;
    if (!plain) return refuse(walk, "holds a name that no entry can have");
    if (slash) walk->path[above] = '/';
    memcpy(walk->path + above + slash, link->name, link->length);
    walk->path[above + slash + link->length] = '\0';
    return STATUS_OK;
}

static Status list_object(Walk *walk, uint64_t address);

static Status list_group(Walk *walk, const Header *header) {
    size_t above = strlen(walk->path);
    for (int i = 0; i < header->link_count; i++) {
        TRY(extend_path(walk, &header->links[i]));
        TRY(list_object(walk, header->links[i].address));
        memset(walk->path + above, 0, sizeof walk->path - above);
    }
    return STATUS_OK;
}

/* Depth is bounded by the path's length, the whole by the number of objects and by the source's
 * budget: every header is read once. */
static Status list_object(Walk *walk, uint64_t address) {
    if (++walk->objects > IMAGE_OBJECTS_MAX)
        return refuse(walk, "and its like are too many objects");
    Header header;
    const char *wrong = header_read(&walk->source, address, &header);
    Status status;
    if (wrong != NULL)
        status = refuse(walk, wrong);
    else if (header.is_group && !header.has_space && !header.has_storage)
        status = list_group(walk, &header);
    else if (!header.is_group && header.link_count == 0)
        status = take_dataset(walk, &header);
    else
        status = refuse(walk, "is neither a group nor a dataset");
    free(header.links);
    return status;
}

static int by_offset(const void *a, const void *b) {
    const CheckpointEntry *first = a, *second = b;
    return (first->offset > second->offset) - (first->offset < second->offset);
}

/* All there, nothing on top of something else. */
static Status check_whole(const Walk *walk) {
    const Image *image = walk->image;
    const char *missing = walk->has_segments ? NULL : "segments";
    for (int i = IMAGE_TEXTS; i-- > 0;)
        if (image->texts[i] == NULL) missing = IMAGE_TEXT_NAMES[i];
    if (missing != NULL)
        return FAIL(STATUS_CORRUPT, FIX, "%s: /%s/%s is missing", walk->name, OWN_GROUP,
                    missing);
    if (image->count > 0)
        qsort(image->entries, (size_t)image->count, sizeof *image->entries, by_offset);
    for (int i = 1; i < image->count; i++) {
        const CheckpointEntry *entry = &image->entries[i];
        if (!walk->planned && entry->offset < entry[-1].offset + (int64_t)entry[-1].stored)
            return FAIL(STATUS_CORRUPT, FIX, "%s: /%s lies on top of another entry",
                        walk->name, entry->path);
    }
    return STATUS_OK;
}

static Status list_all(Walk *walk) {
    uint64_t root = 0, end = 0;
    const char *wrong =
        header_superblock(&walk->source, CHECKPOINT_USER_BLOCK, &root, &end);
    if (wrong != NULL) return FAIL(STATUS_CORRUPT, FIX, "%s %s", walk->name, wrong);
    if (end > (uint64_t)walk->block->bytes) /* HDF5 would call the file truncated */
        return refuse(walk, "ends behind the file's end");
    TRY(list_object(walk, root));
    return check_whole(walk);
}

static Status list_region(const unsigned char *region, const UserBlock *block,
                          const char *name, bool planned, Image *out) {
    *out = (Image){0};
    uint64_t size = (uint64_t)block->metadata_bytes;
    Walk walk = {.source = {region, size, size},
                 .block = block,
                 .name = name,
                 .image = out,
                 .planned = planned};
    Status status = list_all(&walk);
    if (status != STATUS_OK) image_destroy(out);
    return status;
}

Status image_list(const unsigned char *region, const UserBlock *block, const char *name,
                  Image *out) {
    return list_region(region, block, name, false, out);
}

Status image_list_planned(const unsigned char *region, const UserBlock *block,
                          const char *name, Image *out) {
    return list_region(region, block, name, true, out);
}

void image_destroy(Image *image) {
    for (int i = 0; i < image->packed_count; i++)
        free(image->packed[i].places);
    free(image->packed);
    free(image->entries);
    *image = (Image){0};
}
