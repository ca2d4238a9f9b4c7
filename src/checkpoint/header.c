/* Reads the object headers of a checkpoint's metadata region without HDF5. */
#include "src/checkpoint/header.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t UNDEFINED = UINT64_MAX;
static const char TOO_SHORT[] = "has a header that breaks off";
static const char FOREIGN[] = "holds what no checkpoint has";

/* Message types of the specification. */
enum {
    MESSAGE_NIL = 0x00,
    MESSAGE_DATASPACE = 0x01,
    MESSAGE_LINK_INFO = 0x02,
    MESSAGE_DATATYPE = 0x03,
    MESSAGE_FILL_VALUE = 0x05,
    MESSAGE_LINK = 0x06,
    MESSAGE_EXTERNAL = 0x07,
    MESSAGE_LAYOUT = 0x08,
    MESSAGE_GROUP_INFO = 0x0a,
    MESSAGE_FILTER = 0x0b,
    MESSAGE_CONTINUATION = 0x10,
    MESSAGE_REFERENCE_COUNT = 0x16,
};
enum { MESSAGE_IS_SHARED = 2, CONTIGUOUS = 1, CHUNKED = 2, CHECKSUM_BYTES = 4 };
/* HDF5's numbers of its standard filters. */
enum { FILTER_DEFLATE = 1, FILTER_SHUFFLE = 2 };

const unsigned char *cursor_take(Cursor *cursor, uint64_t count) {
    if (cursor->bad || (uint64_t)(cursor->end - cursor->at) < count) {
        cursor->bad = true;
        return NULL;
    }
    const unsigned char *bytes = cursor->at;
    cursor->at += count;
    return bytes;
}

uint64_t cursor_number(Cursor *cursor, int width) {
    const unsigned char *bytes = cursor_take(cursor, (uint64_t)width);
    uint64_t number = 0;
    for (int i = 0; bytes != NULL && i < width; i++)
        number |= (uint64_t)bytes[i] << 8 * i;
    return number;
}

const char *header_enter(HeaderSource *source, uint64_t address, uint64_t size,
                         Cursor *out) {
    if (address > source->size || size > source->size - address)
        return "has a header outside of the metadata region";
    if (size > source->budget) return "has a header that is reached on several ways";
    source->budget -= size;
    *out = (Cursor){source->bytes + address, source->bytes + address + size, false};
    return NULL;
}

const char *header_superblock(const HeaderSource *source, uint64_t base, uint64_t *root,
                              uint64_t *end) {
    Cursor cursor = {source->bytes, source->bytes + source->size, false};
    const unsigned char *signature = cursor_take(&cursor, 8);
    if (signature == NULL || memcmp(signature, "\211HDF\r\n\032\n", 8) != 0)
        return "is not an HDF5 file";
    if (cursor_number(&cursor, 1) != 2)
        return "has another version of HDF5's superblock than 2";
    uint64_t widths = cursor_number(&cursor, 2), flags = cursor_number(&cursor, 1);
    uint64_t stated_base = cursor_number(&cursor, 8), extension = cursor_number(&cursor, 8);
    *end = cursor_number(&cursor, 8);
    *root = cursor_number(&cursor, 8);
    if (cursor.bad || widths != 0x0808 || flags != 0 || stated_base != base ||
        extension != UNDEFINED)
        return "has a superblock that no checkpoint has";
    return NULL;
}

/* ---- one reader per message. Each returns NULL, or what is wrong */
static const char *read_space(Cursor data, Header *header) {
    uint64_t version = cursor_number(&data, 1), rank = cursor_number(&data, 1);
    uint64_t flags = cursor_number(&data, 1), kind = cursor_number(&data, 1);
    if (data.bad) return TOO_SHORT;
    if (version != 2 || flags > 1 || kind > 1) return "has neither a shape nor a value";
    if (rank > HEADER_RANK_MAX) return "has more than 4 dimensions";
    if ((kind == 0) != (rank == 0)) return "has neither a shape nor a value";
    for (uint64_t i = 0; i < HEADER_RANK_MAX; i++)
        header->shape[i] = i < rank ? cursor_number(&data, 8) : 1;
    for (uint64_t i = 0; flags == 1 && i < rank; i++)
        if (cursor_number(&data, 8) != header->shape[i]) return "has a shape that can grow";
    header->rank = (int)rank;
    header->has_space = true;
    return data.bad ? TOO_SHORT : NULL;
}

static const char *read_type(Cursor data, Header *header) {
    /* class, class bits, size, properties, as HDF5 writes them; versions differ in none of it */
    static const struct {
        HeaderType type;
        unsigned char kind, bits[3];
        uint32_t size;
        unsigned char property_count, properties[12];
    } known[] = {
        {HEADER_TYPE_F32,
         1,
         {0x20, 31, 0},
         4,
         12,
         {0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0}},
        {HEADER_TYPE_F64,
         1,
         {0x20, 63, 0},
         8,
         12,
         {0, 0, 64, 0, 52, 11, 0, 52, 255, 3, 0, 0}},
        {HEADER_TYPE_I64, 0, {0x08, 0, 0}, 8, 4, {0, 0, 64, 0}},
        {HEADER_TYPE_U64, 0, {0x00, 0, 0}, 8, 4, {0, 0, 64, 0}},
    };
    uint64_t kind = cursor_number(&data, 1);
    const unsigned char *bits = cursor_take(&data, 3);
    header->type_size = cursor_number(&data, 4);
    header->type = HEADER_TYPE_OTHER;
    if (data.bad) return TOO_SHORT;
    if ((kind & 15) == 3 && (bits[0] & 15) == 0 && bits[0] >> 4 <= 1)
        header->type = HEADER_TYPE_TEXT; /* ends in a zero; ASCII or UTF-8 */
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if ((kind & 15) == known[i].kind && memcmp(bits, known[i].bits, 3) == 0 &&
            header->type_size == known[i].size &&
            (size_t)(data.end - data.at) >= known[i].property_count &&
            memcmp(data.at, known[i].properties, known[i].property_count) == 0)
            header->type = known[i].type;
    return NULL;
}

/* The element counts as one more dimension. */
static const char *read_chunked(Cursor data, Header *header) {
    uint64_t rank = cursor_number(&data, 1);
    header->address = cursor_number(&data, 8);
    if (data.bad) return TOO_SHORT;
    if (rank < 2 || rank > HEADER_RANK_MAX + 1) return "has chunks of impossible shape";
    header->chunk_rank = (int)rank - 1;
    for (int i = 0; i < header->chunk_rank; i++)
        header->chunk[i] = cursor_number(&data, 4);
    header->chunk_element = cursor_number(&data, 4);
    header->is_chunked = header->has_storage = true;
    return data.bad ? TOO_SHORT : NULL;
}

/* Shuffle, then deflate, each with one parameter. */
static const char *read_filters(Cursor data, Header *header) {
    static const uint64_t filters[] = {FILTER_SHUFFLE, FILTER_DEFLATE};
    static const char other[] = "is filtered otherwise than by shuffle and deflate";
    uint64_t version = cursor_number(&data, 1), count = cursor_number(&data, 1);
    if (version != 2 || count != 2) return data.bad ? TOO_SHORT : other;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t filter = cursor_number(&data, 2), flags = cursor_number(&data, 2);
        uint64_t parameters = cursor_number(&data, 2);
        cursor_take(&data, 4); /* the element's size, the level: readers need neither */
        if (data.bad) return TOO_SHORT;
        if (filter != filters[i] || flags > 1 || parameters != 1) return other;
    }
    header->is_packed = true;
    return NULL;
}

static const char *read_layout(Cursor data, Header *header) {
    uint64_t version = cursor_number(&data, 1), kind = cursor_number(&data, 1);
    if (data.bad) return TOO_SHORT;
    if (version == 3 && kind == CHUNKED) return read_chunked(data, header);
    if (version != 3 || kind != CONTIGUOUS) return "is not stored contiguously";
    header->address = cursor_number(&data, 8);
    header->size = cursor_number(&data, 8);
    header->has_storage = true;
    return data.bad ? TOO_SHORT : NULL;
}

static const char *read_link_info(Cursor data, Header *header) {
    uint64_t version = cursor_number(&data, 1), flags = cursor_number(&data, 1);
    if ((flags & 1) != 0) cursor_take(&data, 8);
    uint64_t heap = cursor_number(&data, 8);
    if (data.bad) return TOO_SHORT;
    if (version != 0 || heap != UNDEFINED)
        return "keeps its names where no checkpoint does";
    header->is_group = true;
    return NULL;
}

static const char *read_link(Cursor data, Header *header) {
    uint64_t version = cursor_number(&data, 1), flags = cursor_number(&data, 1);
    if (version != 1) return data.bad ? TOO_SHORT : FOREIGN;
    if ((flags & 0x08) != 0 && cursor_number(&data, 1) != 0)
        return "holds a link to something else";
    if ((flags & 0x04) != 0) cursor_take(&data, 8);
    if ((flags & 0x10) != 0) cursor_take(&data, 1);
    uint64_t length = cursor_number(&data, 1 << (flags & 3));
    const unsigned char *name = cursor_take(&data, length);
    uint64_t address = cursor_number(&data, 8);
    if (data.bad) return TOO_SHORT;
    if (header->link_count == header->link_capacity) {
        int capacity = header->link_capacity == 0 ? 16 : 2 * header->link_capacity;
        HeaderLink *links = realloc(header->links, (size_t)capacity * sizeof *links);
        if (links == NULL) return "has more names than memory can hold";
        header->links = links;
        header->link_capacity = capacity;
    }
    header->links[header->link_count++] =
        (HeaderLink){(const char *)name, (size_t)length, address};
    return NULL;
}

static const char *read_message(uint64_t type, Cursor data, Header *header) {
    switch (type) {
    case MESSAGE_NIL:
    case MESSAGE_FILL_VALUE: /* says nothing about bytes that are all there */
    case MESSAGE_GROUP_INFO: /* advice to writers */
        return NULL;
    case MESSAGE_DATASPACE:
        return read_space(data, header);
    case MESSAGE_LINK_INFO:
        return read_link_info(data, header);
    case MESSAGE_DATATYPE:
        return read_type(data, header);
    case MESSAGE_LINK:
        return read_link(data, header);
    case MESSAGE_LAYOUT:
        return read_layout(data, header);
    case MESSAGE_EXTERNAL:
        return "is stored in another file";
    case MESSAGE_FILTER:
        return read_filters(data, header);
    case MESSAGE_REFERENCE_COUNT:
        return "has several names";
    default:
        return FOREIGN;
    }
}

/* ---- chunks: a header is a first chunk and those that its continuation messages name */
typedef struct {
    uint64_t address, size;
} Chunk;

typedef struct {
    Chunk *items;
    size_t count, capacity;
} ChunkList;

static const char *add_chunk(ChunkList *list, Cursor data) {
    Chunk chunk = {cursor_number(&data, 8), cursor_number(&data, 8)};
    if (data.bad) return TOO_SHORT;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 8 : 2 * list->capacity;
        Chunk *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL) return "has a header larger than memory";
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = chunk;
    return NULL;
}

/* All messages of one chunk. A rest too short for a message is a gap. */
static const char *read_messages(Cursor chunk, bool ordered, Header *header,
                                 ChunkList *more) {
    size_t head = ordered ? 6 : 4;
    while ((size_t)(chunk.end - chunk.at) >= head) {
        uint64_t type = cursor_number(&chunk, 1), size = cursor_number(&chunk, 2);
        uint64_t flags = cursor_number(&chunk, 1);
        if (ordered) cursor_take(&chunk, 2);
        const unsigned char *bytes = cursor_take(&chunk, size);
        if (chunk.bad) return TOO_SHORT;
        if (type != MESSAGE_NIL && (flags & MESSAGE_IS_SHARED) != 0) return FOREIGN;
        Cursor data = {bytes, bytes + size, false};
        const char *wrong = type == MESSAGE_CONTINUATION ? add_chunk(more, data)
                                                         : read_message(type, data, header);
        if (wrong != NULL) return wrong;
    }
    return NULL;
}

/* Enters the first chunk, whose length stands in the header's prefix. */
static const char *enter_first(HeaderSource *source, uint64_t address, Cursor *out,
                               bool *ordered) {
    if (address > source->size) return "has a header outside of the metadata region";
    Cursor prefix = {source->bytes + address, source->bytes + source->size, false};
    const unsigned char *signature = cursor_take(&prefix, 4);
    if (signature == NULL || memcmp(signature, "OHDR", 4) != 0 ||
        cursor_number(&prefix, 1) != 2)
        return "has no object header of version 2";
    uint64_t flags = cursor_number(&prefix, 1);
    if ((flags & 0x20) != 0) cursor_take(&prefix, 16); /* times */
    if ((flags & 0x10) != 0)
        cursor_take(&prefix, 4); /* limits for attributes, of which there are none */
    uint64_t size = cursor_number(&prefix, 1 << (flags & 3));
    if (prefix.bad) return TOO_SHORT;
    *ordered = (flags & 4) != 0;
    return header_enter(source, (uint64_t)(prefix.at - source->bytes), size, out);
}

static const char *enter_continuation(HeaderSource *source, Chunk chunk, Cursor *out) {
    const char *wrong = header_enter(source, chunk.address, chunk.size, out);
    if (wrong != NULL) return wrong;
    const unsigned char *signature = cursor_take(out, 4);
    if (signature == NULL || memcmp(signature, "OCHK", 4) != 0 ||
        out->end - out->at < CHECKSUM_BYTES)
        return TOO_SHORT;
    out->end -= CHECKSUM_BYTES; /* the region's digest has proved it already */
    return NULL;
}

const char *header_read(HeaderSource *source, uint64_t address, Header *header) {
    *header = (Header){.type = HEADER_TYPE_NONE};
    ChunkList more = {0};
    bool ordered = false;
    Cursor chunk;
    const char *wrong = enter_first(source, address, &chunk, &ordered);
    if (wrong == NULL) wrong = read_messages(chunk, ordered, header, &more);
    for (size_t i = 0; wrong == NULL && i < more.count; i++) {
        wrong = enter_continuation(source, more.items[i], &chunk);
        if (wrong == NULL) wrong = read_messages(chunk, ordered, header, &more);
    }
    free(more.items);
    return wrong;
}

/* ---- the superblock's checksum: Jenkins' lookup3, which HDF5 uses for all its metadata. Three numbers
 * take turns: the one whose turn it is is changed by its neighbours, round after round. */
static uint32_t turned(uint32_t word, int bits) {
    return word << bits | word >> (32 - bits);
}

static uint32_t checksum_of(const unsigned char *bytes, uint32_t count) {
    static const int mixing[] = {4, 6, 8, 16, 19, 4};
    static const int ending[] = {14, 11, 25, 16, 4, 14, 24};
    Cursor cursor = {bytes, bytes + count, false};
    uint32_t word[3];
    for (int i = 0; i < 3; i++)
        word[i] = 0xdeadbeefu + count;
    for (uint32_t left = count / 4; left > 0;) {
        for (int i = 0; i < 3 && left > 0; i++, left--)
            word[i] += (uint32_t)cursor_number(&cursor, 4);
        for (int i = 0; i < 6 && left > 0; i++) {
            uint32_t *turn = &word[i % 3], *next = &word[(i + 1) % 3];
            uint32_t *before = &word[(i + 2) % 3];
            *turn = (*turn - *before) ^ turned(*before, mixing[i]);
            *before += *next;
        }
    }
    for (int i = 0; i < 7; i++) {
        uint32_t *turn = &word[(i + 2) % 3], before = word[(i + 1) % 3];
        *turn = (*turn ^ before) - turned(before, ending[i]);
    }
    return word[2];
}

bool header_set_end(unsigned char *superblock, uint64_t end) {
    enum { END = 28, CHECKSUM = 44 }; /* their places; numbers are little-endian */
    Cursor stored = {superblock + CHECKSUM, superblock + CHECKSUM + CHECKSUM_BYTES, false};
    if (cursor_number(&stored, CHECKSUM_BYTES) != checksum_of(superblock, CHECKSUM))
        return false;
    for (int i = 0; i < 8; i++)
        superblock[END + i] = (unsigned char)(end >> 8 * i);
    uint32_t sum = checksum_of(superblock, CHECKSUM);
    for (int i = 0; i < CHECKSUM_BYTES; i++)
        superblock[CHECKSUM + i] = (unsigned char)(sum >> 8 * i);
    return true;
}
