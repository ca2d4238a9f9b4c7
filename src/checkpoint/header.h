/* HDF5's object headers, as far as a checkpoint uses them (HDF5 file format specification 3.0,
 * sections II.A, IV.A.1.b and IV.A.2): superblock 2, headers of version 2, links kept in their
 * group's header, contiguous storage or chunks that were shuffled and deflated (chunk_index.h reads
 * their index), four number types and fixed-length text.
 *
 * HDF5 1.10 corrupts its heap on many damaged headers (measured), and whoever can write a file can
 * sign it. So no file is given to HDF5: the little that a checkpoint needs is read here, every byte
 * against the region's end, and all else is refused. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEADER_RANK_MAX = 4 };

/* Bytes that are being read; once something is missing, `bad` stays set and zeros are read. */
typedef struct {
    const unsigned char *at, *end;
    bool bad;
} Cursor;

typedef enum {
    HEADER_TYPE_NONE,
    HEADER_TYPE_F32,
    HEADER_TYPE_F64,
    HEADER_TYPE_I64,
    HEADER_TYPE_U64,
    HEADER_TYPE_TEXT,
    HEADER_TYPE_OTHER
} HeaderType;

typedef struct {
    const char *name; /* not terminated */
    size_t length;
    uint64_t address; /* of the object's header */
} HeaderLink;

/* What the messages of one header said. */
typedef struct {
    bool is_group, has_space, has_storage;
    bool is_chunked; /* then `address` is the index's, and `size` nothing */
    bool is_packed;  /* by shuffle and deflate, nothing else */
    int chunk_rank;
    uint64_t chunk[HEADER_RANK_MAX], chunk_element;
    HeaderType type;
    uint64_t type_size;
    int rank;
    uint64_t shape[HEADER_RANK_MAX];
    uint64_t address, size; /* of the storage; counted from the region's start */
    HeaderLink *links;
    int link_count, link_capacity;
} Header;

/* The region that headers are read from. `budget` starts at its size: each byte is some header's
 * at most once, so whoever comes back to one runs out of it. */
typedef struct {
    const unsigned char *bytes;
    uint64_t size;
    uint64_t budget;
} HeaderSource;

/* Bytes of the cursor: `count` of them (NULL when there are fewer), or a little-endian number of `width`
 * bytes. */
const unsigned char *cursor_take(Cursor *cursor, uint64_t count);
uint64_t cursor_number(Cursor *cursor, int width);

/* [address, +size) of the source, paid for from the budget. NULL, or what is wrong. */
const char *header_enter(HeaderSource *source, uint64_t address, uint64_t size,
                         Cursor *out);

/* Address of the root group's header, and the file's end as HDF5 knows it. NULL, or what is wrong. */
const char *header_superblock(const HeaderSource *source, uint64_t base, uint64_t *root,
                              uint64_t *end);

/* Reads the header at `address`. NULL, or what is wrong (a text to follow the object's name).
 * Memory: header->links is the caller's (free), also after a failure; names point into the source */
const char *header_read(HeaderSource *source, uint64_t address, Header *header);

/* Changes the file's end in a superblock that HDF5 made, and its checksum. False when the checksum was
 * not what this program takes it for. */
bool header_set_end(unsigned char *superblock, uint64_t end);
