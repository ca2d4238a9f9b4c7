/* The part of a plan that is about packed entries. For plan.c. */
#pragma once

#include "src/checkpoint/plan.h"

#include <hdf5.h>

/* Options of a dataset that will be packed, made from those of one that is not. Negative when HDF5 lacks a
 * filter. Memory: the caller's (H5Pclose) */
hid_t plan_packed_options(hid_t plain, int level, const ChunkGrid *grid);

/* Gives every chunk one zero byte, so that HDF5 makes the whole index; its addresses mean nothing yet. */
bool plan_packed_index(hid_t dataset, const ChunkGrid *grid);

/* Adds what a packed entry takes of the file at most, and what its index takes of the region: a node, and
 * more when its chunks do not fit into one. */
void plan_packed_expect(const Entry *entry, int64_t *logical, size_t *index);

/* Finds the indexes in a finished region and fills them in: all packed entries behind all others, each
 * chunk as long as if nothing were gained. A save does the same with the chunks' true lengths.
 * Errors: STATUS_UNSUPPORTED when HDF5 made something else than we know; as image_list */
Status plan_packed_place(const State *state, CheckpointPlan *plan);
