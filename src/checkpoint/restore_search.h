/* What the files of a restore share: restore_search.c chooses on rank 0, restore.c brings the choice to all
 * ranks. Nobody else includes this. */
#pragma once

#include "src/checkpoint/restore.h"
#include "src/checkpoint/restore_held.h"

#include <limits.h>

typedef enum { RESUME_AUTO, RESUME_NONE, RESUME_MUST, RESUME_PATH } Resume;

/* The candidate that all ranks turn to. */
typedef struct {
    bool held; /* by `rank`, in its host's memory; else rank 0 has opened it */
    int rank;
    char host[64], folder[LOCAL_FOLDER], name[CATALOG_NAME];
} Pick;

/* Rank 0's search. Elsewhere it stays empty, but for the candidate that the rank itself holds. */
typedef struct {
    const RestoreRequest *request;
    RestoreResult *result;
    const State *state;
    Resume resume;
    Catalog catalog;
    int next; /* item to look at */
    RestoreHeldList held;
    int next_held;            /* of those */
    Pick pick;                /* on every rank */
    bool again;               /* the candidate was given a second chance */
    int path_directory;       /* for RESUME_PATH */
    char path[PATH_MAX];      /* resolved */
    const char *path_name;    /* its last part, inside `path` */
    CheckpointReader *reader; /* the candidate, opened and proven as far as its metadata */
    char name[CATALOG_NAME];
    char held_path[PATH_MAX]; /* of the candidate, where this rank holds it */
    RestoreDownload download; /* what `path` is, when a store was asked */
    bool stored; /* nothing here could be used: `path` is what the mirror gave instead */
} Search;

/* What a resume key means. */
Resume search_mode(const char *text);

/* Lists the run directory, filled from the mirror where it is empty, or opens the PATH's directory. Rank 0
 * Errors: STATUS_NO_CHECKPOINT, STATUS_USAGE for a fresh start that would hide checkpoints, STATUS_IO, the
 * store's */
Status search_begin(Search *search);

/* Turns to the next candidate: search->reader is it, or search->pick tells who holds it; without one, and no
 * failure, the run starts afresh. Rank 0. Errors: STATUS_NO_CHECKPOINT, STATUS_USAGE, STATUS_MEMORY */
Status search_choose(Search *search);

/* A candidate's bytes were bad, or could not be read: STATUS_OK when it, or an older one, may be tried. Rank
 * 0; the newest failure tells why */
Status search_after_failure(Search *search, Status why);

/* Opens a candidate; what cannot be read is asked for once more, from its name on: a network file system may
 * have lost it for a moment only. Ranks: local. Errors: as checkpoint_reader_open */
Status search_open(Search *search, int directory, const char *name);

/* The open candidate must be of this run and hold exactly this state. Neither failure says that the file is
 * bad. Ranks: local. Errors: what accept says, as checkpoint_reader_match */
Status search_look(const Search *search);

/* resume: none must not hide what hosts hold. Rank 0. Errors: STATUS_USAGE */
Status search_refuse_to_hide(const Search *search);
