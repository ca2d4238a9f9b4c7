/* Walks the index of a dataset's chunks, to read it or to fill it in. */
#include "src/checkpoint/chunk_index.h"

#include <string.h>

static const char FOREIGN[] = "has an index of its chunks that no checkpoint has";
enum { NODE_HEAD = 24, KEY_SIZES = 8, LEVELS = 16, CHUNK_NODE = 1 };
/* A filter's bit is set where it was passed over. */
enum { NO_FILTER_PASSED_OVER = 0, BOTH_PASSED_OVER = 3 };

typedef struct {
    HeaderSource *source;
    const ChunkGrid *grid;
    ChunkPlace *found;        /* reading; else NULL */
    const ChunkPlace *placed; /* writing … */
    unsigned char *region;    /* … into this */
    int64_t next;             /* chunk that must come now */
} Walk;

static void put_number(unsigned char *at, int width, uint64_t number) {
    for (int i = 0; i < width; i++)
        at[i] = (unsigned char)(number >> 8 * i);
}

/* A key: bytes, mask, and where in the dataset the chunk begins (the element's axis comes last). */
static const char *take_key(const Walk *walk, Cursor *cursor, uint64_t *bytes,
                            uint64_t *mask) {
    *bytes = cursor_number(cursor, 4);
    *mask = cursor_number(cursor, 4);
    for (int axis = 0; axis < walk->grid->rank; axis++)
        if (cursor_number(cursor, 8) != chunk_grid_place(walk->grid, walk->next, axis))
            return FOREIGN;
    return cursor_number(cursor, 8) != 0 || cursor->bad ? FOREIGN : NULL;
}

static const char *take_chunk(Walk *walk, uint64_t bytes, uint64_t mask, uint64_t address) {
    if (walk->found == NULL) return NULL;
    if (mask != NO_FILTER_PASSED_OVER && mask != BOTH_PASSED_OVER)
        return "has a chunk with only one filter";
    walk->found[walk->next] =
        (ChunkPlace){address, (uint32_t)bytes, mask == BOTH_PASSED_OVER};
    return NULL;
}

/* Overwrites a key's sizes; `child`: and the address behind the key, where it is a chunk's. */
static void write_key(const Walk *walk, const unsigned char *key,
                      const unsigned char *child) {
    if (walk->placed == NULL) return;
    const ChunkPlace *place = &walk->placed[walk->next];
    unsigned char *at = walk->region + (key - walk->source->bytes);
    put_number(at, 4, place->bytes);
    put_number(at + 4, 4, place->plain ? BOTH_PASSED_OVER : NO_FILTER_PASSED_OVER);
    if (child != NULL)
        put_number(walk->region + (child - walk->source->bytes), 8, place->address);
}

/* level < 0: the root, whose level is not known yet. */
static const char *walk_node(Walk *walk, uint64_t address, int level) {
    Cursor head, entries;
    const char *wrong = header_enter(walk->source, address, NODE_HEAD, &head);
    if (wrong != NULL) return wrong;
    const unsigned char *signature = cursor_take(&head, 4);
    uint64_t kind = cursor_number(&head, 1), stated = cursor_number(&head, 1);
    uint64_t used = cursor_number(&head, 2);
    if (memcmp(signature, "TREE", 4) != 0 || kind != CHUNK_NODE || used == 0 ||
        (level < 0 ? stated >= LEVELS : stated != (uint64_t)level))
        return FOREIGN;
    uint64_t pair = KEY_SIZES + 8 * ((uint64_t)walk->grid->rank + 1) + 8;
    wrong = header_enter(walk->source, address + NODE_HEAD, used * pair, &entries);
    for (uint64_t i = 0; wrong == NULL && i < used; i++) {
        uint64_t bytes, mask;
        if (walk->next >= walk->grid->count) return FOREIGN;
        const unsigned char *key = entries.at;
        wrong = take_key(walk, &entries, &bytes, &mask);
        if (wrong != NULL) break;
        const unsigned char *at = entries.at;
        uint64_t child = cursor_number(&entries, 8);
        write_key(walk, key, stated == 0 ? at : NULL);
        if (stated > 0) { /* its key is its first chunk's */
            wrong = walk_node(walk, child, (int)stated - 1);
            continue;
        }
        wrong = take_chunk(walk, bytes, mask, child);
        walk->next++;
    }
    return wrong;
}

static const char *walk_all(Walk *walk, uint64_t address) {
    const char *wrong = walk_node(walk, address, -1);
    return wrong == NULL && walk->next != walk->grid->count ? FOREIGN : wrong;
}

const char *chunk_index_read(HeaderSource *source, uint64_t address, const ChunkGrid *grid,
                             ChunkPlace *places) {
    Walk walk = {.source = source, .grid = grid, .found = places};
    return walk_all(&walk, address);
}

const char *chunk_index_write(unsigned char *region, uint64_t size, uint64_t address,
                              const ChunkGrid *grid, const ChunkPlace *places) {
    HeaderSource source = {region, size, size};
    Walk walk = {.source = &source, .grid = grid, .placed = places, .region = region};
    return walk_all(&walk, address);
}
