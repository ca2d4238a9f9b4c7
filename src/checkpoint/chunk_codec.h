/* One chunk, packed and unpacked: bytes shuffled, then deflated in zlib's format, as HDF5's two standard
 * filters do it. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Levels as of zlib. 1 to 3 are made by ISA-L at its own levels 1 to 3, which are ten times as fast as
 * zlib's; from 4 on by zlib. */
enum { CHUNK_LEVEL_MOST = 9, CHUNK_LEVEL_ISAL = 3 };

/* What one thread needs to work. */
typedef struct ChunkCodec ChunkCodec;

/* level 0: it only unpacks; else it only packs. `most`: bytes of the largest chunk.
 * Memory: *out is the caller's (chunk_codec_destroy). Errors: STATUS_MEMORY */
Status chunk_codec_create(int level, size_t most, ChunkCodec **out);
void chunk_codec_destroy(ChunkCodec *codec); /* NULL is allowed */

/* Packs `bytes` of values, filled up with zeros to `whole`, into `packed` (room for `whole` bytes).
 * Gives its length; `whole` itself means that packing gains nothing: the values lie there as they are,
 * and HDF5 is told to pass both filters over. */
size_t chunk_pack(ChunkCodec *codec, const unsigned char *values, size_t bytes,
                  size_t whole, size_t element, unsigned char *packed);

/* Unpacks into `values` (room for `whole` bytes); plain: both filters were passed over. NULL, or what is
 * wrong: it never writes past the values, and a stream that does not end with its last byte and their
 * last byte is refused. */
const char *chunk_unpack(ChunkCodec *codec, const unsigned char *packed, size_t bytes,
                         bool plain, size_t whole, size_t element, unsigned char *values);
