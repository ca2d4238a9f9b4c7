/* Which rows of a batch belong to which shard: a rule, so that uneven batches need no table. */
#include "src/data/data.h"

Rows shard_rows(int64_t n, int shards, int shard) {
    int64_t first = shard * n / shards;
    int64_t end = (shard + 1) * n / shards;
    return (Rows){first, end - first};
}
