/* Which shards a rank computes. */
#include "src/collective.h"

ShardRange shard_range(int shards, int rank, int size) {
    int first = (int)((int64_t)rank * shards / size);
    int end = (int)((int64_t)(rank + 1) * shards / size);
    return (ShardRange){first, end - first};
}
