/* The checkpoints of one run directory, who owns it, and what may be deleted.
 *
 * Files: checkpoints/g0003-step-000000001200.h5 (generation, step) and owner.g0003 (JSON). A launch takes
 * the next generation by publishing owner.gNNNN exclusively. Readers go from the highest generation
 * down; of an earlier generation only files up to the step that its successor restored from count,
 * whatever a zombie writes later. */
#pragma once

#include "src/checkpoint/checkpoint.h"
#include "src/core/config.h"

enum { CATALOG_NAME = 64 };

typedef enum {
    CHECKPOINT_VALID,    /* user block right (and, where asked for, every digest) */
    CHECKPOINT_REJECTED, /* damaged or incomplete: see reason. Never deleted by us */
    CHECKPOINT_SUPERSEDED, /* written by an earlier generation after its successor's restore point */
} CheckpointVerdict;

typedef struct {
    char name[CATALOG_NAME];
    int64_t generation, step; /* from the name; the user block must agree */
    CheckpointVerdict verdict;
    Status code; /* of the check that rejected it; STATUS_USAGE: a format newer than ours */
    char reason[256];
    bool marked;     /* NAME.rejected stands beside it: an earlier restore passed over it */
    bool pinned;     /* NAME.pinned stands beside it: retention leaves it alone */
    UserBlock block; /* when not rejected */
} CatalogItem;

typedef struct {
    int directory;      /* open descriptor of run.dir/checkpoints */
    CatalogItem *items; /* newest first: generation down, then step down */
    int count;
    int64_t newest_generation; /* highest owner record; 0 for none */
    /* the highest that began from nothing; files before it do not count */
    int64_t fresh_generation;
    struct OwnerRecord *records; /* as read (src/checkpoint/owner.h), newest first */
    int record_count;
} Catalog;

/* Lists a run directory (checks names and user blocks; no tensor bytes). A missing directory is an
 * empty catalogue with directory -1. Ranks: local; one rank lists for all
 * Errors: STATUS_IO when the directory cannot be read */
Status catalog_open(const char *run_dir, Catalog *out);
/* The same of an open checkpoints directory, which on success becomes the catalogue's. */
Status catalog_open_at(int directory, Catalog *out);
void catalog_close(Catalog *catalog);

/* What the owner records say of a file that lies elsewhere: superseded, or left as it is. */
void catalog_limit(const Catalog *catalog, CatalogItem *item);

/* True if any checkpoint file exists, valid or not: then a fresh start would hide lost work. */
bool catalog_has_any(const Catalog *catalog);

/* Rejected only because it was written in a format newer than ours: nothing speaks against the file. Whoever
 * looks for the newest one must stop there and say so, for what lies behind it is older. */
bool catalog_is_newer_format(const CatalogItem *item);

/* A failure's text without the file name in front of it. */
const char *catalog_reason(const char *name, const char *text);

/* Order of items, for qsort: generation down, then step down. */
int catalog_newest_first(const void *a, const void *b);

/* Name for a generation and step. */
void catalog_name(int64_t generation, int64_t step, char name[CATALOG_NAME]);

/* ---- ownership */

/* An owner beats once in so many seconds, and a taker watches it for so long. */
enum { OWNER_BEAT_S = 1, OWNER_WATCH_S = 5 };

typedef struct OwnerBeat OwnerBeat;

typedef struct {
    int64_t generation;
    int directory; /* run.dir/checkpoints, open */
    char run_dir[512];
    char restored_from[CATALOG_NAME]; /* file, or empty */
    int64_t restored_step;
    Digest restored_digest;
    OwnerBeat *beat; /* the thread that shows that we live */
} Owner;

/* How far a directory had come when a restore looked at it. */
typedef struct {
    bool looked;              /* false: nothing is known, nothing is compared */
    int64_t owner_generation; /* newest owner record; 0 for none */
    int64_t generation, step; /* newest checkpoint by name; 0, 0 for none */
} CatalogSeen;

/* What a launch says of itself and its restore point in its owner record. */
typedef struct {
    CatalogSeen seen;                 /* when it chose what it restored from */
    char restored_from[CATALOG_NAME]; /* empty: fresh start */
    int64_t restored_step;
    Digest restored_digest;
    /* where that file lies when not in this directory; empty: here */
    char restored_path[1024];
    /* this launch will save that very step itself, since an evaluation was cut short, or the state is in a
     * host's memory only: its name under the own generation stays free for that */
    bool saved_anew;
    /* the next generation is above this one, too: it stands where the run's checkpoints are mirrored */
    int64_t above_generation;
} OwnerClaim;

/* Takes the next generation. Refused while the newest owner lives, for which it is watched `watch_s`
 * seconds: same host and its pid (with the same start time) still runs, or another host and its
 * heartbeat moves by this process's own monotonic clock, unless a supervisor vouches (REKINDLE_OWNER_DEAD=generation) or the
 * scheduler job is the same with a higher restart count.
 * Then keeps the restored file under the own generation (hard link, else copy), and from here on a
 * thread shows our heartbeat, whatever the caller is busy with.
 * Refused, too, when somebody wrote after the restore had looked (claim->seen): a launch that was
 * stopped in between must not set aside what has been saved since. After any failure the own record is
 * withdrawn.
 * Ranks: local; rank 0. Memory: *out is the caller's: owner_release
 * Errors: STATUS_USAGE naming the live owner and what to do; STATUS_LOST_OWNER when the directory went
 * on; STATUS_IO, STATUS_MEMORY */
Status owner_take(const char *run_dir, const OwnerClaim *claim, double watch_s, Owner *out);

/* Still ours? Call it before each publication. Errors: STATUS_LOST_OWNER naming the successor */
Status owner_check(const Owner *owner);

/* Ends the heartbeat and marks the record as ended, so that the next launch need not watch. In a
 * forked child it only closes: the parent stays the owner. NULL-safe, idempotent. */
void owner_release(Owner *owner);

/* ---- retention */

/* What stays besides what is pinned, marked or rejected. */
typedef struct {
    int keep_last;      /* the newest so many; at least 1 */
    int64_t keep_every; /* steps that are multiples of it, for ever; 0: none */
    char best_metric
        [16]; /* the one with the best value of this metric of its own state; empty: none */
    bool best_is_least;
} Retention;

/* What the keys under checkpoint mean. */
Retention catalog_retention(const Config *config);

/* For `commits`: of an owner who trains nothing and only tidies up. All generations count together. */
enum { RETENTION_ALONE = -1 };

/* The best one by the retention's metric, of equals the earliest step's; -1: none, or no metric. */
int catalog_best(const Catalog *catalog, const Retention *retention);

/* Chooses what goes from the point of view of the owner of `generation` (0: of a new one, who goes on from
 * the newest valid file): goes[i] for each item, and of those that stay, why[i] ("best accuracy").
 * Memory: goes and why are the caller's, catalog->count each */
void catalog_choose(const Catalog *catalog, int64_t generation, const Retention *retention,
                    int commits, bool *goes, const char **why);

/* After a commit: keeps the newest `keep_last` of the own generation; deletes only names of its own, and of
 * older generations all after two commits of its own (`commits`), before that what lies beyond their newest
 * `keep_last`; of several names for one state all but the newest.
 * Ranks: local; rank 0. Errors: STATUS_IO (reported, never fatal) */
Status catalog_prune(const Owner *owner, const Retention *retention, int commits);

/* Puts NAME.pinned beside a checkpoint, or takes it away. Anybody may, at any time.
 * Errors: STATUS_IO; STATUS_USAGE when it is no checkpoint's name, or the file is not there (any more) */
Status catalog_pin(int directory, const char *name);
Status catalog_unpin(int directory, const char *name);

/* Writes NAME.rejected with the reason beside a checkpoint that a restore passed over: for people,
 * and so that retention leaves the file alone. Only the owner calls it. Failing is harmless. */
void catalog_mark_rejected(const Owner *owner, const char *name, const char *reason);

/* Removes hidden temporaries of dead launches. Only the owner calls it, before its first save. */
void catalog_sweep(const Owner *owner);
