/* Owner records: what a launch wrote when it took a run directory. For the files of this room;
 * others use catalog.h. */
#pragma once

#include "src/checkpoint/catalog.h"

/* Where a launch went on: files of earlier generations count only up to that step. */
typedef struct {
    int64_t generation; /* the launch */
    int64_t step;       /* -1: it began afresh */
} OwnerLimit;

enum { OWNER_LIMITS = 256 };

/* A record as read. Only `readable` ones may be believed: the text carries its own checksum. */
typedef struct OwnerRecord {
    int64_t generation;
    Digest digest; /* of its bytes; it tells two launches of one generation apart */
    bool readable;
    bool io_failed; /* not readable, but perhaps right: no byte of it was seen */
    bool starved;   /* the same, for want of memory */
    char unreadable_why[200];
    char host[64];          /* for people */
    char boot_id[40];       /* which running kernel: decides what "this host" is */
    char pid_namespace[40]; /* pids mean something only inside of one */
    int64_t pid;
    int64_t pid_start; /* clock ticks since boot: tells a reused pid apart */
    char job[64];      /* scheduler's job, or empty */
    int64_t restart_count;
    bool fresh; /* restored from nothing */
    char restored_from[CATALOG_NAME];
    int64_t restored_step; /* -1 when fresh */
    Digest restored_digest;
    char created_at[40];
    /* what the records of launches before said, as far as ours does not say more: so that theirs may go.
     * Oldest first; the newest OWNER_LIMITS of them */
    OwnerLimit limits[OWNER_LIMITS];
    int limit_count;
} OwnerRecord;

/* "owner.g0003" + suffix ("", ".beat", ".end"). */
void owner_name(int64_t generation, const char *suffix, char name[CATALOG_NAME]);

/* Reads a generation's record; one that is missing or damaged comes back as not readable, with the
 * reason. Ranks: local */
void owner_read(int directory, int64_t generation, OwnerRecord *out);

/* What this process would write. */
void owner_describe_self(OwnerRecord *out);

/* Takes over what an older readable record limits. Call it for records in order of generation. */
void owner_inherit(OwnerRecord *record, const OwnerRecord *older);

/* Drops limits that later ones, or the record's own restore point, make needless; keeps the newest. */
void owner_settle_limits(OwnerRecord *record);

/* True when `record` limits earlier generations at least as much as a readable older one does. */
bool owner_implies(const OwnerRecord *record, const OwnerRecord *older);

/* A record as JSON text with its checksum. Memory: the caller's (free); NULL when there is none. */
char *owner_format(const OwnerRecord *record);

/* True when the record's writer must be taken for alive; `why` then says what speaks for it. */
bool owner_lives(int directory, const OwnerRecord *record, double watch_s, char *why,
                 size_t why_bytes);

/* Beats at once, then every OWNER_BEAT_S in a thread of its own.
 *
 * Ranks:   local
 * Memory:  *out is the caller's: owner_beat_stop. `directory` stays the caller's
 * Errors:  STATUS_MEMORY, STATUS_IO: an owner without a heartbeat would pass for dead */
Status owner_beat_start(int directory, int64_t generation, OwnerBeat **out);
bool owner_beat_is_ours(const OwnerBeat *beat); /* false in a forked child */
void owner_beat_stop(OwnerBeat *beat); /* no beat after it; nothing in a forked child */
