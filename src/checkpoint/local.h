/* Snapshots that are held in each host's own memory (a directory such as /dev/shm), so that a crash of a
 * process costs a few steps only. They are ordinary checkpoint files, but nobody calls them saved: a
 * machine that goes down takes them along.
 *
 *   DIR/rekindle-UID/KEY/                 mode 0700; KEY is the digest of the run directory's real path
 *       run                               that path, for people
 *       g0003-9b1c…/                      one launch: its generation, and the digest of its owner record
 *           g0003-step-000000001200.h5
 *
 * Invariants
 *  1. A file counts only if the run directory holds the very owner record that its folder names: what
 *     another run, or a deleted one of the same path, left there is never restored. The limits of owner
 *     records hold for these files as for all others (src/checkpoint/catalog.h).
 *  2. A place that is not ours alone (another owner, open to others, a link) is not used.
 *  3. At most LOCAL_KEEP files of a run stand there, and only the launch that owns the run directory
 *     deletes: its own, and those of earlier generations. */
#pragma once

#include "src/checkpoint/catalog.h"

enum {
    LOCAL_KEEP = 2,
    LOCAL_FOLDER = 48,  /* bytes of a launch's folder name */
    LOCAL_FOLDERS = 64, /* launches whose files are looked for */
    LOCAL_FILES = 8,    /* files that a host tells of */
};

/* Where a run's snapshots lie on any host. Rank 0 makes it of the run directory; it may travel. */
typedef struct {
    char key[DIGEST_TEXT]; /* empty: nothing can be held */
    char run_path[512];    /* for people */
    int count;
    char folders[LOCAL_FOLDERS]
                [LOCAL_FOLDER]; /* that owner records vouch for, newest first */
} LocalRun;

typedef struct {
    char folder[LOCAL_FOLDER];
    char name[CATALOG_NAME];
    int64_t generation, step;
    Status code; /* of a look at its user block */
    char reason[160];
    Digest state_digest;
} LocalFile;

/* What the owner records of an open run directory vouch for. A directory that is not there holds nothing.
 * Ranks: local; rank 0. Errors: STATUS_IO */
Status local_describe(const char *run_dir, const Catalog *catalog, LocalRun *out);

/* The same of one launch alone, the owner. */
Status local_describe_owner(const Owner *owner, LocalRun *out);

/* Lists this host's files of a run, newest first, at most LOCAL_FILES. None where there is no such place.
 * Ranks: local. Errors: STATUS_IO, also for a place that is not ours alone */
Status local_list(const char *dir, const LocalRun *run, LocalFile *files, int *count);

/* The open folder of one of them, and its path. Errors: STATUS_IO */
Status local_open_folder(const char *dir, const LocalRun *run, const char *folder, int *out,
                         char *path, size_t path_bytes);

/* What the owner records of a run directory say of a file that is held. */
void local_judge(const Catalog *catalog, const LocalFile *file, CatalogItem *out);

/* Everything that this host holds of a run, newest first, judged. Its directory is -1.
 * Ranks: local. Memory: *out is the caller's: catalog_close. Errors: STATUS_IO, STATUS_MEMORY */
Status local_catalog(const char *dir, const char *run_dir, Catalog *out);

/* ---- writing */

/* LOCAL_LAUNCH is the folder where checkpoint_write puts a file. */
enum { LOCAL_DIR, LOCAL_USER, LOCAL_RUN, LOCAL_LAUNCH };

typedef struct {
    int fds[4]; /* LOCAL_DIR, …, open; -1: the place is closed */
    int64_t generation, restored_step;
    char key[DIGEST_TEXT], folder[LOCAL_FOLDER];
    char path[1024]; /* of this launch's folder */
} LocalPlace;

/* Makes the place of the launch that owns a run directory, and deletes there what no longer counts: of
 * earlier launches' files all but those next to the step that was restored.
 *
 * run->folders[0] must be the owner's own (local_describe_owner).
 * Ranks:   local; one a host
 * Memory:  *out is the caller's: local_close
 * Errors:  STATUS_IO, also for a place that is not ours alone; *out is closed then */
Status local_open(const char *dir, const LocalRun *run, int64_t restored_step,
                  LocalPlace *out);

/* Before a file is written: deletes all but LOCAL_KEEP - 1; the newest that counts stays.
 * Errors: STATUS_IO when there is no room for `needed` bytes then: where there is too little, nothing is tried */
Status local_make_room(const LocalPlace *place, size_t needed);

/* Closes the place; its files stay. */
void local_close(LocalPlace *place);

/* The run is complete: deletes all that this and earlier launches hold here, and the place itself unless
 * something else is in it; then closes it. */
void local_remove(LocalPlace *place);
