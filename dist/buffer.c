/* Aligned allocation; large buffers ask for huge pages, which spares most of the TLB misses. */
#include "dist/buffer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

float *buffer_create(int64_t count) {
    if (count < 0 || (uint64_t)count > (SIZE_MAX - HUGE_PAGE) / sizeof(float)) return NULL;
    size_t bytes = (size_t)count * sizeof(float);
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    bytes = (bytes + alignment) / alignment * alignment; /* never zero */
    float *data = aligned_alloc(alignment, bytes);
    if (data == NULL) return NULL;
    if (alignment == HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE); /* a wish: may fail */
    memset(data, 0, bytes);
    return data;
}
