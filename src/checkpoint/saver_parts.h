/* What the files of the saver share: saver.c is where the ranks meet, saver_jobs.c what a rank does between. Nobody
 * else includes this. */
#pragma once

#include "src/checkpoint/examination.h"
#include "src/checkpoint/saver.h"
#include "src/checkpoint/share.h"
#include "src/core/task.h"

typedef enum { IDLE, CREATING, PERSISTING, COMMITTING } Phase;

/* What becomes of a state. */
typedef enum { DURABLE, HELD, TARGETS } Target;

/* The texts that it holds belong to a plan. */
typedef struct {
    CheckpointPlan *plan;
    Digest texts;
} Planned;

struct Saver {
    Collective *collective;
    const Owner *owner; /* rank 0 only */
    const State *registry;
    const CheckpointText *text; /* of ranks that write */
    Planned planned[TARGETS];
    SaverOptions options;
    Share *share;     /* NULL: whoever writes a file writes it alone */
    Task *task;       /* NULL: in the foreground */
    int failures;     /* in a row; the same on every rank */
    int commits;      /* of this launch; rank 0's count */
    bool cannot_hold; /* this rank could not, the last time, and has said so */
    StateReport *reports;
    Phase phase;
    SaverEvent ended; /* for the next poll */
    /* of the save in flight; while the thread is at work, its own */
    Target target;
    const State *state;
    UserBlock block;
    double begun; /* clock_seconds() */
    StateReport report;
    CheckpointWriting *writing; /* ranks that write, as all below */
    SaverEvent event;
    Status outcome;
    Failure failure;
    Failure complaints[2]; /* of what does not make the save fail: said when it is over */
    int complaint_count;
};

/* Whether this rank puts the state into a file of its own. */
bool saver_writes_file(const Saver *saver);

/* Whether several ranks write the file: what lies in a host's memory is that host's alone. */
bool saver_is_shared(const Saver *saver);

/* A plan holds the texts: one that has changed, even in length, is another plan. What is held is not packed:
 * it is there for speed. */
Status saver_plan_file(Saver *saver, Target target);

/* ---- jobs; their context is the saver, and what came of them is its outcome */
void saver_create(void *context);  /* rank 0, for several writers: makes the file */
void saver_persist(void *context); /* every rank */
void saver_commit(void *context);  /* who writes a file, as below */
void saver_discard(void *context);
