/* Lets HDF5 lay a checkpoint out once, in a sparse scratch file in memory, and keeps the result: the
 * metadata region and the offset of every entry. The same registry and texts give the same bytes. */
#include "src/checkpoint/plan.h"

#include "src/checkpoint/format.h"
#include "src/checkpoint/image.h"
#include "src/checkpoint/plan_packed.h"
#include "src/checkpoint/scratch.h"
#include "src/core/file.h"

#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const TEXT_PATHS[] = {"rekindle/identity", "rekindle/config",
                                         "rekindle/lineage"};
static const char SEGMENTS_PATH[] = "rekindle/segments";
/* Names stay in their group's header up to this many, HDF5's limit: our reader knows no other place. */
enum { TEXTS = 3, ATTEMPTS = 64, LINKS_MAX = 65535 };

/* One attempt at a layout: what HDF5 is told, and what came of it. */
typedef struct {
    hid_t file, dataset_options, group_options;
    const State *state;
    const char *texts[TEXTS];
    int level;         /* 0: nothing is packed */
    size_t meta_block; /* all metadata must fit into this one block */
    int64_t segments;  /* rows of the table */
    int64_t text_offsets[TEXTS];
    bool spilled; /* the block was too small */
} Layout;

static size_t round_to_page(size_t bytes) {
    return (bytes + CHECKPOINT_PAGE - 1) / CHECKPOINT_PAGE * CHECKPOINT_PAGE;
}

static hid_t standard_type(DType dtype) {
    switch (dtype) {
    case DTYPE_F32:
        return H5T_IEEE_F32LE;
    case DTYPE_F64:
        return H5T_IEEE_F64LE;
    case DTYPE_I64:
        return H5T_STD_I64LE;
    case DTYPE_U64:
        return H5T_STD_U64LE;
    }
    return H5I_INVALID_HID;
}

/* HDF5 would read "a/./b" as "a/b", and two entries would be one. */
static bool path_is_plain(const char *path) {
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.')) return false;
        part += length;
        if (*part == '\0') return true;
    }
}

/* Tells HDF5 how many names a group will hold, so that its header is made in one piece: grown name
 * by name, thousands of them would take minutes. */
static int expect_names(const Layout *layout, const char *prefix) {
    size_t length = strlen(prefix), names = 0, characters = 0;
    for (int i = 0; i < layout->state->count; i++) {
        const char *path = layout->state->entries[i].path;
        if (strncmp(path, prefix, length) != 0 || path[length] != '/') continue;
        names++;
        characters += strcspn(path + length + 1, "/");
    }
    if (names == 0 || names > LINKS_MAX) return 0;
    unsigned average = (unsigned)((characters + names - 1) / names);
    return H5Pset_est_link_info(layout->group_options, (unsigned)names, average) < 0 ? -1
                                                                                     : 0;
}

/* Makes the groups above `path`. */
static int make_groups(const Layout *layout, const char *path) {
    char prefix[STATE_PATH_MAX];
    for (const char *at = path; (at = strchr(at, '/')) != NULL; at++) {
        memcpy(prefix, path, (size_t)(at - path));
        prefix[at - path] = '\0';
        htri_t there = H5Lexists(layout->file, prefix, H5P_DEFAULT);
        if (there > 0) continue;
        if (there < 0 || expect_names(layout, prefix) != 0) return -1;
        hid_t group = H5Gcreate2(layout->file, prefix, H5P_DEFAULT, layout->group_options,
                                 H5P_DEFAULT);
        if (group < 0 || H5Gclose(group) < 0) return -1;
    }
    return 0;
}

static hid_t make_dataset(const Layout *layout, const char *path, hid_t type, int rank,
                          const int64_t *shape, hid_t options) {
    hsize_t extent[TENSOR_RANK_MAX];
    for (int i = 0; i < rank; i++)
        extent[i] = (hsize_t)shape[i];
    hid_t space = rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, extent, NULL);
    hid_t dataset = H5I_INVALID_HID;
    if (space >= 0 && make_groups(layout, path) == 0)
        dataset =
            H5Dcreate2(layout->file, path, type, space, H5P_DEFAULT, options, H5P_DEFAULT);
    if (space >= 0) H5Sclose(space);
    return dataset;
}

static Status refuse_to_place(const char *path) {
    return FAIL(STATUS_USAGE, "no entry's path may lie below another entry's",
                "HDF5 cannot place entry %s", path);
}

/* Creates one dataset and tells where its bytes will lie (-1: it has none). */
static Status place(const Layout *layout, const char *path, hid_t type, int rank,
                    const int64_t *shape, int64_t *offset) {
    hid_t dataset = make_dataset(layout, path, type, rank, shape, layout->dataset_options);
    bool empty = dataset >= 0 && H5Dget_storage_size(dataset) == 0;
    haddr_t address = dataset >= 0 && !empty ? H5Dget_offset(dataset) : HADDR_UNDEF;
    *offset = empty ? -1 : (int64_t)address;
    if (dataset >= 0) H5Dclose(dataset);
    return empty || address != HADDR_UNDEF ? STATUS_OK : refuse_to_place(path);
}

static Status place_packed(const Layout *layout, const Entry *entry,
                           const ChunkGrid *grid) {
    hid_t options = plan_packed_options(layout->dataset_options, layout->level, grid);
    if (options < 0)
        return FAIL(STATUS_UNSUPPORTED, "link with an HDF5 that has the deflate filter",
                    "HDF5 cannot describe the packed entry %s", entry->path);
    hid_t dataset = make_dataset(layout, entry->path, standard_type(entry->dtype),
                                 entry->rank, entry->shape, options);
    bool made = dataset >= 0 && plan_packed_index(dataset, grid);
    if (dataset >= 0) H5Dclose(dataset);
    H5Pclose(options);
    return made ? STATUS_OK : refuse_to_place(entry->path);
}

static Status place_text(Layout *layout, int which) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0 || H5Tset_size(type, strlen(layout->texts[which]) + 1) < 0 ||
        H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        return FAIL(STATUS_MEMORY, NULL, "HDF5 cannot describe the text %s",
                    TEXT_PATHS[which]);
    Status status =
        place(layout, TEXT_PATHS[which], type, 0, NULL, &layout->text_offsets[which]);
    H5Tclose(type);
    return status;
}

static bool is_small(const Entry *entry) {
    return entry->bytes < CHECKPOINT_PAGE;
}

/* In this order they come to lie in the file. */
typedef enum { IN_REGION, BEHIND_IT, PACKED, KINDS } Kind;

static Kind kind_of(const Layout *layout, const Entry *entry) {
    if (is_small(entry)) return IN_REGION;
    bool packed = layout->level > 0 && entry->rank > 0 && entry->bytes >= CHUNK_WORTH_IT;
    return packed ? PACKED : BEHIND_IT;
}

/* Texts, table and small entries first, so that they come to lie before the large tensors. */
static Status place_all(Layout *layout, CheckpointPlan *plan) {
    for (int i = 0; i < TEXTS; i++)
        TRY(place_text(layout, i));
    int64_t table[2] = {layout->segments, 2};
    TRY(place(layout, SEGMENTS_PATH, H5T_STD_U64LE, 2, table, &plan->segments_offset));
    const State *state = layout->state;
    plan->count = plan->small = 0;
    plan->chunks = plan->value_bytes = 0;
    for (Kind pass = IN_REGION; pass < KINDS; pass++) {
        for (int i = 0; i < state->count; i++) {
            const Entry *entry = &state->entries[i];
            if (kind_of(layout, entry) != pass) continue;
            if (!path_is_plain(entry->path) || strncmp(entry->path, "rekindle/", 9) == 0)
                return FAIL(STATUS_USAGE, "give the layer another name",
                            "a checkpoint cannot hold an entry called %s", entry->path);
            PlanEntry *placed = &plan->entries[plan->count++];
            *placed = (PlanEntry){.index = i, .bytes = entry->bytes};
            plan->value_bytes += (int64_t)entry->bytes;
            plan->small += pass == IN_REGION;
            if (pass != PACKED) {
                TRY(place(layout, entry->path, standard_type(entry->dtype), entry->rank,
                          entry->shape, &placed->offset));
                continue;
            }
            /* chosen when the region is known; until then behind all others, in order */
            placed->offset = INT64_MAX - state->count + plan->count;
            placed->grid =
                chunk_grid_choose(dtype_size(entry->dtype), entry->rank, entry->shape);
            TRY(place_packed(layout, entry, &placed->grid));
            plan->chunks += placed->grid.count;
            if (placed->grid.whole > plan->whole) plan->whole = placed->grid.whole;
        }
    }
    return STATUS_OK;
}

/* Everything that fixes the bytes: versions, alignment, no time stamps, one metadata block. */
static Status create_file(Layout *layout, const char *path) {
    hid_t create = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    layout->dataset_options = H5Pcreate(H5P_DATASET_CREATE);
    layout->group_options = H5Pcreate(H5P_GROUP_CREATE);
    bool made = create >= 0 && access >= 0 && layout->dataset_options >= 0 &&
                layout->group_options >= 0 &&
                H5Pset_userblock(create, CHECKPOINT_USER_BLOCK) >= 0 &&
                H5Pset_link_phase_change(create, LINKS_MAX, 0) >= 0 &&
                H5Pset_link_phase_change(layout->group_options, LINKS_MAX, 0) >= 0 &&
                H5Pset_obj_track_times(create, false) >= 0 &&
                H5Pset_obj_track_times(layout->group_options, false) >= 0 &&
                H5Pset_obj_track_times(layout->dataset_options, false) >= 0 &&
                H5Pset_layout(layout->dataset_options, H5D_CONTIGUOUS) >= 0 &&
                H5Pset_alloc_time(layout->dataset_options, H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(layout->dataset_options, H5D_FILL_TIME_NEVER) >= 0 &&
                H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
                H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
                H5Pset_alignment(access, CHECKPOINT_PAGE, CHECKPOINT_PAGE) >= 0 &&
                H5Pset_meta_block_size(access, layout->meta_block) >= 0 &&
                H5Pset_small_data_block_size(access, 0) >= 0;
    if (made) layout->file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    if (create >= 0) H5Pclose(create);
    if (access >= 0) H5Pclose(access);
    return layout->file >= 0 ? STATUS_OK
                             : FAIL(STATUS_IO, "check /dev/shm and TMPDIR",
                                    "HDF5 cannot create the scratch file %s", path);
}

static int by_offset(const void *a, const void *b) {
    const PlanEntry *first = a, *second = b;
    return (first->offset > second->offset) - (first->offset < second->offset);
}

/* True if a byte other than zero lies at or behind `from`: metadata outside of the region. */
static bool anything_behind(int fd, int64_t from, int64_t end) {
    unsigned char page[CHECKPOINT_PAGE];
    while ((from = lseek(fd, from, SEEK_DATA)) >= 0 && from < end) {
        size_t size = (size_t)(end - from < CHECKPOINT_PAGE ? end - from : CHECKPOINT_PAGE);
        if (file_read_at(fd, page, size, from) != 0) return true;
        for (size_t i = 0; i < size; i++)
            if (page[i] != 0) return true;
        from += (int64_t)size;
    }
    return false;
}

Status plan_refuse_layout(void) {
    return FAIL(STATUS_UNSUPPORTED, "link with HDF5 1.10, which this layout was made for",
                "HDF5 laid the file out in a way that a checkpoint cannot have");
}

/* Our own reader must find what HDF5 placed: told now, not when a restore is due. */
static Status check_readable(const CheckpointPlan *plan) {
    UserBlock block = {.version = format_for_level(plan->level),
                       .bytes = plan->bytes,
                       .metadata_bytes = (int64_t)plan->region_bytes};
    Image image;
    TRY(image_list(plan->region, &block, "the planned checkpoint", &image));
    bool same = image.count == plan->count && image.segments == plan->segments &&
                (image.segments == 0 || image.segments_offset == plan->segments_offset);
    int64_t region_end = CHECKPOINT_USER_BLOCK + block.metadata_bytes;
    for (int i = 0; same && i < plan->count; i++) {
        const PlanEntry *entry = &plan->entries[i];
        int packed = image.entries[i].packed;
        same = image.entries[i].offset == entry->offset &&
               image.entries[i].bytes == entry->bytes &&
               (packed > 0) == (entry->grid.count > 0) &&
               (i < plan->small
                    ? entry->offset < region_end
                    : packed > 0 || entry->offset % CHECKPOINT_PAGE == 0); /* O_DIRECT */
    }
    same = same && image.chunks == plan->chunks;
    image_destroy(&image);
    return same ? STATUS_OK : plan_refuse_layout();
}

/* How long region and file will be. */
static void measure(const Layout *layout, CheckpointPlan *plan, int64_t laid_out) {
    laid_out = (int64_t)round_to_page((size_t)laid_out);
    const PlanEntry *behind =
        plan->small < plan->count ? &plan->entries[plan->small] : NULL;
    bool nothing_behind = behind == NULL || behind->grid.count > 0;
    int64_t region_end = nothing_behind ? laid_out : behind->offset;
    plan->region_bytes = (size_t)(region_end - CHECKPOINT_USER_BLOCK);
    plan->bytes = laid_out;
    if (layout->level > 0) {
        int64_t packed = 0;
        plan->chunks_offset = region_end;
        for (int i = plan->small; i < plan->count; i++) {
            const PlanEntry *entry = &plan->entries[i];
            packed += entry->grid.count * (int64_t)entry->grid.whole;
            if (entry->grid.count == 0)
                plan->chunks_offset = entry->offset + (int64_t)round_to_page(entry->bytes);
        }
        plan->bytes = plan->chunks_offset + (int64_t)round_to_page((size_t)packed);
    }
    plan->segments = plan_segments(plan->bytes, (int64_t)plan->region_bytes);
}

/* Reads what HDF5 made and puts the texts in place. */
static Status take_layout(Layout *layout, int fd, CheckpointPlan *plan) {
    qsort(plan->entries, (size_t)plan->count, sizeof *plan->entries, by_offset);
    struct stat info;
    if (fstat(fd, &info) != 0)
        return FAIL(STATUS_IO, NULL, "cannot look at the scratch file: %s",
                    strerror(errno));
    measure(layout, plan, info.st_size);
    int64_t region_end = CHECKPOINT_USER_BLOCK + (int64_t)plan->region_bytes;
    layout->spilled = anything_behind(fd, region_end, info.st_size);
    bool enough = layout->level > 0 ? plan->segments <= layout->segments
                                    : plan->segments == layout->segments;
    if (layout->spilled || !enough) return STATUS_OK; /* again */
    size_t stored = (size_t)(info.st_size < region_end ? info.st_size : region_end);
    plan->region = aligned_alloc(CHECKPOINT_PAGE, plan->region_bytes);
    if (plan->region == NULL)
        return FAIL(STATUS_MEMORY, NULL,
                    "no memory for a checkpoint's metadata (%zu bytes)",
                    plan->region_bytes);
    memset(plan->region, 0, plan->region_bytes);
    if (file_read_at(fd, plan->region, stored - CHECKPOINT_USER_BLOCK,
                     CHECKPOINT_USER_BLOCK) != 0)
        return FAIL(STATUS_IO, NULL, "cannot read the scratch file: %s", strerror(errno));
    for (int i = 0; i < TEXTS; i++)
        if (layout->text_offsets[i] + (int64_t)strlen(layout->texts[i]) < region_end)
            memcpy(plan->region + layout->text_offsets[i] - CHECKPOINT_USER_BLOCK,
                   layout->texts[i], strlen(layout->texts[i]));
    if (plan->chunks > 0) TRY(plan_packed_place(layout->state, plan));
    return check_readable(plan);
}

/* One attempt. plan->region stays NULL when the layout must be tried again with other sizes. */
static Status attempt(Layout *layout, size_t needed, int64_t logical,
                      CheckpointPlan *plan) {
    char path[SCRATCH_PATH];
    int fd;
    TRY(scratch_create(needed, logical, path, &fd));
    layout->file = layout->dataset_options = layout->group_options = H5I_INVALID_HID;
    Status status = create_file(layout, path);
    unlink(path); /* HDF5 and fd hold it; nothing is left even after a SIGKILL */
    if (status == STATUS_OK) status = place_all(layout, plan);
    if (layout->dataset_options >= 0) H5Pclose(layout->dataset_options);
    if (layout->group_options >= 0) H5Pclose(layout->group_options);
    if (layout->file >= 0 && H5Fclose(layout->file) < 0 && status == STATUS_OK)
        status = FAIL(STATUS_IO, "check /dev/shm and TMPDIR",
                      "HDF5 cannot finish the layout of a checkpoint");
    if (status == STATUS_OK) status = take_layout(layout, fd, plan);
    close(fd);
    return status;
}

static Status find_layout(Layout *layout, CheckpointPlan *plan) {
    size_t inside = 0;   /* small entries and texts */
    size_t index = 0;    /* of chunks */
    int64_t logical = 0; /* the whole file, about */
    for (int i = 0; i < TEXTS; i++)
        inside += strlen(layout->texts[i]) + 1 + CHECKPOINT_PAGE;
    for (int i = 0; i < layout->state->count; i++) {
        const Entry *entry = &layout->state->entries[i];
        Kind kind = kind_of(layout, entry);
        if (kind == IN_REGION)
            inside += entry->bytes;
        else if (kind == BEHIND_IT)
            logical += (int64_t)round_to_page(entry->bytes);
        else
            plan_packed_expect(entry, &logical, &index);
    }
    layout->segments = (logical + CHECKPOINT_SEGMENT - 1) / CHECKPOINT_SEGMENT;
    layout->meta_block = round_to_page(2048 + 256 * (size_t)layout->state->count + index);
    for (int i = 0; i < ATTEMPTS && plan->region == NULL; i++) {
        size_t needed = inside + 2 * layout->meta_block + 16 * (size_t)layout->segments;
        TRY(attempt(layout, needed, logical + (int64_t)needed, plan));
        if (layout->spilled)
            layout->meta_block =
                round_to_page(layout->meta_block + layout->meta_block / 8 + 1);
        layout->segments = plan->segments;
    }
    return plan->region != NULL
               ? STATUS_OK
               : FAIL(STATUS_UNSUPPORTED,
                      "link with HDF5 1.10, which this layout was made for",
                      "HDF5 does not keep a checkpoint's metadata in one region");
}

int checkpoint_level(const char *compression) {
    int level = 0;
    return sscanf(compression, "zlib:%1d", &level) == 1 ? level : 0;
}

/* HDF5 1.10.8 dies, and does not fail, where its own start finds no memory: who cannot have that much does not
 * call it. */
static Status check_memory(void) {
    enum { HDF5_NEEDS = 8 << 20 };
    void *volatile probe = malloc(HDF5_NEEDS); /* or the compiler leaves it out */
    free(probe);
    return probe != NULL ? STATUS_OK
                         : FAIL(STATUS_MEMORY, NULL, "no memory for a checkpoint's plan");
}

Status checkpoint_plan(const State *state, const CheckpointText *text, int level,
                       CheckpointPlan **out) {
    *out = NULL;
    TRY(check_memory());
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are told by our own texts */
    CheckpointPlan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a checkpoint's plan");
    plan->entries = calloc((size_t)state->count + 1, sizeof *plan->entries);
    Status status = plan->entries != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for a checkpoint's plan");
    Layout layout = {.state = state,
                     .level = level,
                     .texts = {text->identity, text->config, text->lineage}};
    plan->level = level;
    if (status == STATUS_OK) status = find_layout(&layout, plan);
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(plan->writer, sizeof plan->writer, "rekindle %s, hdf5 %u.%u.%u",
             REKINDLE_VERSION, major, minor, release);
    if (status == STATUS_OK)
        *out = plan;
    else
        checkpoint_plan_destroy(plan);
    return status;
}

void checkpoint_plan_destroy(CheckpointPlan *plan) {
    if (plan == NULL) return;
    free(plan->region);
    free(plan->entries);
    free(plan);
}
