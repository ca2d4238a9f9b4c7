/* Plans packed entries: HDF5 makes their indexes, the places of their chunks are ours. */
#include "src/checkpoint/plan_packed.h"

#include "src/checkpoint/format.h"
#include "src/checkpoint/image.h"

#include <stdlib.h>
#include <string.h>

hid_t plan_packed_options(hid_t plain, int level, const ChunkGrid *grid) {
    hsize_t chunk[TENSOR_RANK_MAX];
    for (int i = 0; i < grid->rank; i++)
        chunk[i] = grid->chunk[i];
    hid_t options = H5Pcopy(plain);
    if (options < 0 ||
        (H5Pset_chunk(options, grid->rank, chunk) >= 0 &&
         H5Pset_alloc_time(options, H5D_ALLOC_TIME_INCR) >= 0 &&
         H5Pset_shuffle(options) >= 0 && H5Pset_deflate(options, (unsigned)level) >= 0))
        return options;
    H5Pclose(options);
    return H5I_INVALID_HID;
}

bool plan_packed_index(hid_t dataset, const ChunkGrid *grid) {
    const unsigned char zero = 0;
    for (int64_t i = 0; i < grid->count; i++) {
        hsize_t at[TENSOR_RANK_MAX];
        for (int axis = 0; axis < grid->rank; axis++)
            at[axis] = chunk_grid_place(grid, i, axis);
        if (H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, at, 1, &zero) < 0) return false;
    }
    return true;
}

void plan_packed_expect(const Entry *entry, int64_t *logical, size_t *index) {
    enum { NODE_CHUNKS = 64, USED_OF_THEM = 56 };
    ChunkGrid grid = chunk_grid_choose(dtype_size(entry->dtype), entry->rank, entry->shape);
    size_t pair = 16 + 8 * ((size_t)entry->rank + 1);
    size_t node = 32 + pair * (NODE_CHUNKS + 1);
    size_t nodes = 1 + (size_t)grid.count / NODE_CHUNKS;
    if (nodes > 1) nodes = 2 + (size_t)grid.count / USED_OF_THEM;
    *logical += grid.count * (int64_t)grid.whole;
    *index += nodes * node;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const CheckpointEntry *)a)->path, ((const CheckpointEntry *)b)->path);
}

/* Chooses where a packed entry lies: from *at on, each chunk as long as if nothing were gained. False when
 * HDF5 made another index than we know. */
static bool place_chunks(CheckpointPlan *plan, PlanEntry *entry, ImagePacked *packed,
                         int64_t *at) {
    entry->offset = *at;
    entry->chunk_index = packed->index;
    if (packed->grid.count != entry->grid.count || packed->grid.whole != entry->grid.whole)
        return false;
    for (int64_t i = 0; i < entry->grid.count; i++, *at += (int64_t)entry->grid.whole)
        packed->places[i] = (ChunkPlace){.address = (uint64_t)(*at - CHECKPOINT_USER_BLOCK),
                                         .bytes = (uint32_t)entry->grid.whole,
                                         .plain = true};
    return chunk_index_write(plan->region, plan->region_bytes, entry->chunk_index,
                             &entry->grid, packed->places) == NULL;
}

/* All of them behind all others. A save does the same with the chunks' true lengths. */
static Status place_packed_entries(const State *state, CheckpointPlan *plan, Image *image) {
    int64_t at = plan->chunks_offset;
    qsort(image->entries, (size_t)image->count, sizeof *image->entries, by_path);
    for (int i = 0; i < plan->count; i++) {
        if (plan->entries[i].grid.count == 0) continue;
        CheckpointEntry wanted;
        strcpy(wanted.path, state->entries[plan->entries[i].index].path);
        const CheckpointEntry *found =
            bsearch(&wanted, image->entries, (size_t)image->count, sizeof wanted, by_path);
        if (found == NULL || found->packed == 0 ||
            !place_chunks(plan, &plan->entries[i], &image->packed[found->packed - 1], &at))
            return plan_refuse_layout();
    }
    return header_set_end(plan->region, (uint64_t)plan->bytes) ? STATUS_OK
                                                               : plan_refuse_layout();
}

Status plan_packed_place(const State *state, CheckpointPlan *plan) {
    UserBlock block = {.version = format_for_level(plan->level),
                       .bytes = plan->bytes,
                       .metadata_bytes = (int64_t)plan->region_bytes};
    Image image;
    TRY(image_list_planned(plan->region, &block, "the planned checkpoint", &image));
    Status status = place_packed_entries(state, plan, &image);
    image_destroy(&image);
    return status;
}
