/* The batch on its way from the loader to the device: a rank's images and labels in fixed device memory,
 * so that recorded work finds every batch of a size in the same place. Where the device's memory is the
 * host's, the loader's own memory is handed through. */
#pragma once

#include "src/backend.h"
#include "src/data/data.h"

typedef struct Feed Feed;

/* Room for `shards` shards of at most `rows` rows of `sample_floats` floats. Ranks: local
 * Memory: *out is the caller's; the backend outlives it. Errors: STATUS_MEMORY, the backend's */
Status feed_open(Backend *backend, int shards, int64_t rows, int64_t sample_floats,
                 Feed **out);
void feed_close(Feed *feed); /* NULL is allowed */

/* Gives *out: the same batch in device memory, in order with the work of worker 0. Valid until the next
 * call, and, where memory is the host's, as long as `batch` is. Errors: the backend's */
Status feed_batch(Feed *feed, const Batch *batch, const Batch **out);
