/* Finding the state to go on from, and bringing it to every rank. Rank 0 alone lists, chooses, checks
 * and reads; the others learn from it, so that no two can choose differently. Where hosts hold snapshots
 * in their memory each tells rank 0 of its own, and the one that holds the chosen one reads it.
 *
 * Life of one candidate: CHOSEN → STREAMED → COMPARED → restored. What fails on the way is named in
 * the log once, with the reason, and the next older one is tried. Never a fresh start when there is
 * anything to go on from. A file that cannot be read is opened and read once more before it is passed over. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/checkpoint/restore_store.h"
#include "src/collective.h"

typedef struct {
    const char *run_dir;
    /* auto | none | must | the path of one checkpoint file, or its address in a store */
    const char *resume;
    /* Looks at a candidate before its tensors move; on the rank that reads it. Its failure ends the restore
     * and becomes every rank's (another configuration is no reason to try an older file). NULL: all are
     * accepted. */
    Status (*accept)(void *context, const UserBlock *block, const char *identity,
                     const char *name);
    void *context;
    const char
        *mirror; /* s3://bucket/prefix: where an empty run directory is filled from; NULL */
    bool read_only;        /* leave nothing behind: the run directory is another's */
    const char *local_dir; /* where hosts hold snapshots (checkpoint.local.dir); NULL */
} RestoreRequest;

typedef struct {
    char name[CATALOG_NAME];
    char reason[256];
    bool
        unread; /* it could not be read: that is no evidence against it, and it gets no mark */
} RestorePassedOver;

/* The same on every rank, but for `passed_over`. */
typedef struct {
    bool restored; /* false: a fresh start; then all below is empty */
    char name[CATALOG_NAME];
    char path[1024]; /* of a file outside of the run directory; empty: inside */
    bool
        held; /* it is in a host's memory only: the run directory has yet to get that state */
    int holder; /* the rank that read it, 0 unless it was held */
    char holder_host[64];
    UserBlock block;
    char *identity, *config, *lineage; /* texts out of the file */
    double seconds,
        moving; /* in all; of these, while the newest candidate's tensors moved */
    RestorePassedOver *passed_over; /* rank 0: files found damaged on the way */
    int passed_over_count;
    RestoreDownload download; /* rank 0: the file at `path`, where it came from a store */
    int64_t above_generation; /* rank 0: the mirror's newest */
    CatalogSeen seen; /* rank 0: how far the directory had come; nothing for a PATH */
} RestoreResult;

/* Fills `state` from the newest checkpoint that counts and proves itself, in the run directory or held by
 * a host (for auto and must), or finds that the run starts
 * afresh (the state is then all zero, as it came).
 *
 *   auto  the newest valid one; fresh only where there is no checkpoint at all
 *   must  the newest valid one
 *   none  fresh; refused where there are checkpoints, since it would hide them
 *   PATH  that file and no other; symbolic links are resolved. s3://bucket/prefix/name.h5 is downloaded
 *         and verified first; of s3://bucket/prefix it is the newest one that proves itself
 *
 * Where there is no checkpoint at all and the run is mirrored, auto and must first bring the newest one that
 * proves itself from there, under its own name; a mirror that cannot be asked ends the launch. none is
 * refused where the mirror holds any. Where there are checkpoints and all are damaged, the mirror's newest
 * one that proves itself is read as a PATH would be.
 *
 * What is held counts as what lies in the run directory does, by generation and step; of equals the one in the
 * run directory is read. Held snapshots alone do not keep auto from a fresh start when none is whole.
 *
 * Before it returns, all ranks have compared the digest of what they hold with each other and with the
 * file's. An entry that omit_entry names stays zero everywhere; then only ranks are compared.
 *
 * Ranks:   collective. `state` is allocated, and declared alike on all
 * Memory:  result is the caller's: restore_result_free, also after a failure
 * Errors:  the same on every rank. STATUS_NO_CHECKPOINT when files exist but none is valid, or the one
 *          demanded is missing or damaged; STATUS_USAGE for another model's file, a newer format, or
 *          what accept says; STATUS_CORRUPT when ranks hold different bytes; STATUS_IO; STATUS_COMM.
 *          The state is undefined then */
Status restore_newest(Collective *collective, const RestoreRequest *request, State *state,
                      RestoreResult *result);
void restore_result_free(RestoreResult *result);

/* What owner_take needs to know of a result. */
OwnerClaim restore_claim(const RestoreResult *result);

/* Marks what the restore passed over, once the directory is ours. Rank 0; harmless elsewhere. */
void restore_mark_passed_over(const RestoreResult *result, const Owner *owner);
