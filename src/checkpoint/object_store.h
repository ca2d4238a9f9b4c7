/* Checkpoints in an object store: s3://bucket/prefix holds the same files under the same names as a run's
 * checkpoints directory.
 *
 * Invariants
 *  1. A checkpoint's object appears whole or not at all, and is never replaced.
 *  2. What comes from a store counts only after it proved itself here, as any file does.
 *  3. A name that stands already is a success when it holds the same state, and else a failure. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/store/store.h"

#include <limits.h>

/* A place in a store. An address whose last part ends in .h5 names one file, every other one a prefix. */
typedef struct {
    Store *store;
    char bucket[STORE_BUCKET];
    char prefix[STORE_KEY];
    char name[NAME_MAX + 1]; /* of the file; empty: a prefix */
} ObjectPlace;

/* Errors: STATUS_USAGE for what is no address, or without credentials. Sends nothing
 * Memory: *out is the caller's (object_place_close), also after a failure */
Status object_place_open(const char *url, const StoreOptions *options, ObjectPlace *out);
/* The same of a prefix only. Errors: also STATUS_USAGE for a file's address */
Status object_prefix_open(const char *url, const StoreOptions *options, ObjectPlace *out);
void object_place_close(ObjectPlace *place);

/* "s3://bucket/prefix/name", as much of it as fits. */
enum { OBJECT_URL = STORE_BUCKET + STORE_KEY + NAME_MAX + 8 };
void object_url(const ObjectPlace *place, const char *name, char text[OBJECT_URL]);

/* Lists the checkpoints under the prefix like a directory's; of each only the user block is read. Nothing
 * is superseded: owner records there (object_claim) say who sends, not from where he went on.
 * Memory: *out is the caller's (catalog_close). Errors: the store's; STATUS_MEMORY */
Status object_catalog(const ObjectPlace *place, Catalog *out);

/* Reads and checks the 4,096 bytes of a user block, and the object's length.
 * Errors: STATUS_NO_CHECKPOINT when it is not there; as userblock_decode; the store's */
Status object_read_user_block(const ObjectPlace *place, const char *name, UserBlock *out);

/* Writes an object into the new file `as` and verifies every digest of it there; nothing is synced.
 * Errors: after any of them `as` is gone. STATUS_CORRUPT when the bytes do not prove themselves;
 * STATUS_NO_CHECKPOINT; STATUS_IO; the store's */
Status object_fetch(const ObjectPlace *place, const char *name, int directory,
                    const char *as, UserBlock *out);

/* Looks at names only: how many checkpoints, and the highest generation of a checkpoint or owner record. */
Status object_count(const ObjectPlace *place, int *count, int64_t *newest_generation);

/* Puts this process's owner record of that generation. Errors: STATUS_EXISTS when another process has
 * put one; the store's */
Status object_claim(const ObjectPlace *place, int64_t generation);

Status object_delete(const ObjectPlace *place, const char *name);

/* What a copy came to. */
typedef struct {
    bool was_there; /* with the same state: nothing was moved */
    UserBlock block;
    StoreUpload upload;
} ObjectCopy;

/* object_fetch, and then `as` appears durably. Errors: STATUS_EXISTS when it holds another state */
Status object_copy_in(const ObjectPlace *place, const char *name, int directory,
                      const char *as, ObjectCopy *out);

/* Verifies a file of ours and puts it. Errors: STATUS_EXISTS when the name holds another state;
 * STATUS_CORRUPT when the file is damaged; the store's */
Status object_copy_out(const ObjectPlace *place, int directory, const char *name,
                       const char *as, ObjectCopy *out);
