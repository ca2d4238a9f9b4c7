/* The names in a run's checkpoints directory, read once and told apart. */
#pragma once

#include "src/checkpoint/catalog.h"

#include <limits.h>

typedef enum {
    LISTED_OTHER,
    LISTED_CHECKPOINT, /* g0003-step-000000001200.h5 */
    LISTED_MARK, /* g0003-step-000000001200.h5.rejected: why it was passed over, for people */
    LISTED_PIN,       /* g0003-step-000000001200.h5.pinned: retention leaves it alone */
    LISTED_OWNER,     /* owner.g0003 */
    LISTED_BEAT,      /* owner.g0003.beat: changes while the owner lives */
    LISTED_END,       /* owner.g0003.end: the owner has left */
    LISTED_TEMPORARY, /* .g0003… or .owner.g0003…: hidden, unfinished */
} ListedKind;

typedef struct {
    ListedKind kind;
    int64_t generation, step; /* step: checkpoints and marks only */
    char name[NAME_MAX + 1];
} Listed;

typedef struct {
    Listed *names;
    int count;
} Listing;

/* What a single name is, wherever it was found. */
void listing_tell(const char *name, Listed *out);

/* Reads all names, in no order. Ranks: local
 * Memory:  *out is the caller's: listing_free
 * Errors:  STATUS_IO, STATUS_MEMORY */
Status listing_read(int directory, Listing *out);
void listing_free(Listing *listing);

/* Highest generation that an owner record, or (any) any name of ours, carries; 0 for none. */
int64_t listing_newest_owner(const Listing *listing);
int64_t listing_newest_any(const Listing *listing);

/* True if `name` is listed. */
bool listing_has(const Listing *listing, const char *name);
