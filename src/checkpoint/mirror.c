/* The thread that carries checkpoints to a store, and what it believes about whose prefix that is. */
#include "src/checkpoint/mirror.h"

#include "src/checkpoint/listing.h"
#include "src/checkpoint/object_store.h"
#include "src/core/clock.h"
#include "src/core/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 16, NICE = 10 };

struct Mirror {
    const Owner *owner;
    ObjectPlace place; /* the thread's */
    atomic_bool cancel;
    int keep_last;
    bool claimed, off;
    char (*sent)[CATALOG_NAME]; /* put by us and not deleted, the oldest first */
    int sent_count, sent_room;

    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t offered, idle;
    char offer[CATALOG_NAME]; /* empty: none */
    bool sending, ending;
    MirrorEvent events[EVENTS];
    int first, count;
    MirrorCounts counts;
};

/* ---- the thread's work */

static Status lost(const Mirror *mirror, int64_t generation, const char *why) {
    char url[OBJECT_URL];
    object_url(&mirror->place, "", url);
    return FAIL(
        STATUS_LOST_OWNER, "use another prefix, or end one of the launches",
        "%.900s holds what launch %lld wrote%s; this is launch %lld, which sends nothing "
        "more",
        url, (long long)generation, why, (long long)mirror->owner->generation);
}

/* A prefix belongs to whoever has the highest generation there. States of a run do not depend on who
 * computes them, so two at once damage nothing; but only one of them should go on. */
static Status check_generation(Mirror *mirror) {
    int count;
    int64_t newest;
    TRY(object_count(&mirror->place, &count, &newest));
    if (newest > mirror->owner->generation) return lost(mirror, newest, "");
    if (mirror->claimed) return STATUS_OK;
    Status claimed = object_claim(&mirror->place, mirror->owner->generation);
    if (claimed == STATUS_EXISTS)
        return lost(mirror, mirror->owner->generation, " from another run directory");
    TRY(claimed);
    mirror->claimed = true;
    return STATUS_OK;
}

/* Without memory a name is not remembered, and its object stays. */
static void remember(Mirror *mirror, const char *name) {
    for (int i = 0; i < mirror->sent_count; i++)
        if (strcmp(mirror->sent[i], name) == 0) return;
    if (mirror->sent_count == mirror->sent_room) {
        int room = 2 * mirror->sent_room + 16;
        char(*grown)[CATALOG_NAME] =
            realloc(mirror->sent, (size_t)room * sizeof *mirror->sent);
        if (grown == NULL) return;
        mirror->sent = grown;
        mirror->sent_room = room;
    }
    strcpy(mirror->sent[mirror->sent_count++], name);
}

/* The run directory has been pruned before this: what stands there, retention keeps (pinned, the best one,
 * one of keep_every). */
static bool stands_here(const Mirror *mirror, const char *name) {
    return faccessat(mirror->owner->directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
           errno != ENOENT;
}

/* Only names of this launch, only when so many newer ones stand, and only what is gone from the run
 * directory. What fails, or still stands there, is looked at again after the next. */
static void delete_old(Mirror *mirror) {
    for (int i = 0; i < mirror->sent_count - mirror->keep_last;) {
        if (stands_here(mirror, mirror->sent[i]) ||
            object_delete(&mirror->place, mirror->sent[i]) != STATUS_OK) {
            i++;
            continue;
        }
        mirror->sent_count--;
        memmove(mirror->sent[i], mirror->sent[i + 1],
                (size_t)(mirror->sent_count - i) * CATALOG_NAME);
    }
}

static Status send_one(Mirror *mirror, const char *name, MirrorEvent *event) {
    ObjectCopy copy;
    TRY(owner_check(mirror->owner));
    TRY(check_generation(mirror));
    TRY(object_copy_out(&mirror->place, mirror->owner->directory, name, name, &copy));
    event->was_there = copy.was_there;
    event->bytes = copy.block.bytes;
    remember(mirror, name);
    delete_old(mirror);
    return STATUS_OK;
}

static void send_and_tell(Mirror *mirror, const char *name, MirrorEvent *event) {
    double start = clock_seconds();
    Listed named;
    listing_tell(name, &named);
    *event = (MirrorEvent){.status = STATUS_OK, .step = named.step};
    strcpy(event->name, name);
    event->status = send_one(mirror, name, event);
    if (event->status != STATUS_OK) event->failure = *status_failure();
    event->off = event->status == STATUS_LOST_OWNER;
    event->seconds = clock_seconds() - start;
}

/* ---- the thread */

static void keep_event(Mirror *mirror, const MirrorEvent *event) {
    if (mirror->count == EVENTS) { /* nobody asks: the oldest goes */
        mirror->first = (mirror->first + 1) % EVENTS;
        mirror->count--;
    }
    mirror->events[(mirror->first + mirror->count++) % EVENTS] = *event;
    mirror->counts.sent += event->status == STATUS_OK;
    mirror->counts.failed += event->status != STATUS_OK;
    if (event->off) {
        mirror->off = true;
        mirror->offer[0] = '\0';
    }
}

static void *mirror_on(void *context) {
    Mirror *mirror = context;
    MirrorEvent event;
    char name[CATALOG_NAME];
    /* the step's threads come first; failing is harmless */
    (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    pthread_mutex_lock(&mirror->lock);
    for (;;) {
        while (mirror->offer[0] == '\0' && !mirror->ending)
            pthread_cond_wait(&mirror->offered, &mirror->lock);
        if (mirror->ending) break;
        strcpy(name, mirror->offer);
        mirror->offer[0] = '\0';
        mirror->sending = true;
        pthread_mutex_unlock(&mirror->lock);
        /* pruned while it waited: something newer was offered, or will be */
        bool gone =
            faccessat(mirror->owner->directory, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
        if (!gone) send_and_tell(mirror, name, &event);
        pthread_mutex_lock(&mirror->lock);
        mirror->sending = false;
        if (gone)
            mirror->counts.replaced++;
        else
            keep_event(mirror, &event);
        pthread_cond_broadcast(&mirror->idle);
    }
    pthread_mutex_unlock(&mirror->lock);
    return NULL;
}

/* ---- from outside */

static void destroy(Mirror *mirror) {
    object_place_close(&mirror->place);
    free(mirror->sent);
    free(mirror);
}

static Status start(Mirror *mirror) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&mirror->lock, NULL);
    pthread_cond_init(&mirror->offered, &monotonic);
    pthread_cond_init(&mirror->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int failed = thread_start(&mirror->thread, THREAD_FREE, mirror_on, mirror);
    if (failed == 0) return STATUS_OK;
    return FAIL(STATUS_MEMORY, "raise the limit on processes: ulimit -u",
                "cannot start the mirror's thread: %s", strerror(failed));
}

Status mirror_open(const char *url, const Owner *owner, int keep_last, Mirror **out) {
    *out = NULL;
    Mirror *mirror = calloc(1, sizeof *mirror);
    if (mirror == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the mirror");
    mirror->owner = owner;
    mirror->keep_last = keep_last < 1 ? 1 : keep_last;
    StoreOptions options = {.cancel = &mirror->cancel};
    Status status = object_prefix_open(url, &options, &mirror->place);
    if (status == STATUS_OK) status = start(mirror);
    if (status == STATUS_OK)
        *out = mirror;
    else
        destroy(mirror);
    return status;
}

void mirror_offer(Mirror *mirror, const char *name) {
    if (mirror == NULL) return;
    pthread_mutex_lock(&mirror->lock);
    if (!mirror->off) {
        mirror->counts.replaced += mirror->offer[0] != '\0';
        snprintf(mirror->offer, sizeof mirror->offer, "%s", name);
        pthread_cond_signal(&mirror->offered);
    }
    pthread_mutex_unlock(&mirror->lock);
}

bool mirror_poll(Mirror *mirror, MirrorEvent *out) {
    if (mirror == NULL) return false;
    pthread_mutex_lock(&mirror->lock);
    bool any = mirror->count > 0;
    if (any) {
        *out = mirror->events[mirror->first];
        mirror->first = (mirror->first + 1) % EVENTS;
        mirror->count--;
    }
    pthread_mutex_unlock(&mirror->lock);
    return any;
}

bool mirror_finish(Mirror *mirror, double seconds) {
    if (mirror == NULL) return true;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    double whole = (double)end.tv_nsec * 1e-9 + seconds;
    end.tv_sec += (time_t)whole;
    end.tv_nsec = (long)((whole - (double)(time_t)whole) * 1e9);
    pthread_mutex_lock(&mirror->lock);
    int waited = 0;
    while (waited == 0 && (mirror->sending || mirror->offer[0] != '\0'))
        waited = pthread_cond_timedwait(&mirror->idle, &mirror->lock, &end);
    bool done = !mirror->sending && mirror->offer[0] == '\0';
    pthread_mutex_unlock(&mirror->lock);
    return done;
}

MirrorCounts mirror_counts(Mirror *mirror) {
    pthread_mutex_lock(&mirror->lock);
    MirrorCounts counts = mirror->counts;
    pthread_mutex_unlock(&mirror->lock);
    return counts;
}

void mirror_close(Mirror *mirror) {
    if (mirror == NULL) return;
    atomic_store(&mirror->cancel, true);
    pthread_mutex_lock(&mirror->lock);
    mirror->ending = true;
    pthread_cond_signal(&mirror->offered);
    pthread_mutex_unlock(&mirror->lock);
    pthread_join(mirror->thread, NULL);
    pthread_cond_destroy(&mirror->offered);
    pthread_cond_destroy(&mirror->idle);
    pthread_mutex_destroy(&mirror->lock);
    destroy(mirror);
}
