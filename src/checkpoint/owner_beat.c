/* Shows other hosts that an owner lives: a small thread of its own, since an evaluation or a save may
 * keep the main thread busy for longer than a taker watches.
 *
 * It shares nothing with the rest of the process but a descriptor of its own, takes no lock that
 * others hold, writes to no stream and sees no signals. A forked child has no such thread: there
 * owner_beat_stop leaves everything to the parent. */
#include "src/checkpoint/owner.h"

#include "src/core/file.h"
#include "src/core/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct OwnerBeat {
    int directory; /* a duplicate */
    char name[CATALOG_NAME];
    int64_t count;
    pid_t pid; /* the process that the thread belongs to */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* by CLOCK_MONOTONIC */
    bool ending;
};

/* Of one width and never truncated, so that no reader finds it empty; never synced: it is news only
 * for as long as we live. A beat that cannot be written is not shown, which is all it can say: the
 * next save meets the same error and reports it. */
static void beat_once(OwnerBeat *beat) {
    char text[32];
    int length = snprintf(text, sizeof text, "%020lld\n", (long long)++beat->count);
    int fd;
    if (file_open(beat->directory, beat->name, O_WRONLY | O_CREAT, &fd) != STATUS_OK)
        return;
    (void)file_write_at(fd, text, (size_t)length, 0);
    close(fd);
}

static void *beat_on(void *argument) {
    OwnerBeat *beat = argument;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    pthread_mutex_lock(&beat->lock);
    while (!beat->ending) {
        next.tv_sec += OWNER_BEAT_S;
        while (!beat->ending &&
               pthread_cond_timedwait(&beat->wake, &beat->lock, &next) != ETIMEDOUT)
            ;
        if (beat->ending) break;
        pthread_mutex_unlock(&beat->lock);
        beat_once(beat);
        pthread_mutex_lock(&beat->lock);
    }
    pthread_mutex_unlock(&beat->lock);
    return NULL;
}

static void destroy(OwnerBeat *beat) {
    pthread_cond_destroy(&beat->wake);
    pthread_mutex_destroy(&beat->lock);
    close(beat->directory);
    free(beat);
}

Status owner_beat_start(int directory, int64_t generation, OwnerBeat **out) {
    *out = NULL;
    OwnerBeat *beat = calloc(1, sizeof *beat);
    if (beat == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the heartbeat");
    beat->directory = fcntl(directory, F_DUPFD_CLOEXEC, 0);
    if (beat->directory < 0) {
        free(beat);
        return FAIL(STATUS_IO, file_fix_for(errno),
                    "cannot keep the checkpoints' directory open: %s", strerror(errno));
    }
    owner_name(generation, ".beat", beat->name);
    beat->pid = getpid();
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&beat->lock, NULL);
    pthread_cond_init(&beat->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    beat_once(beat);
    int failed = thread_start(&beat->thread, THREAD_FREE, beat_on, beat);
    if (failed != 0) {
        destroy(beat);
        return FAIL(STATUS_MEMORY, "raise the limit on processes: ulimit -u",
                    "cannot start the heartbeat's thread: %s", strerror(failed));
    }
    *out = beat;
    return STATUS_OK;
}

bool owner_beat_is_ours(const OwnerBeat *beat) {
    return beat->pid == getpid();
}

void owner_beat_stop(OwnerBeat *beat) {
    if (!owner_beat_is_ours(beat)) return; /* the lock may be held by nobody of ours */
    pthread_mutex_lock(&beat->lock);
    beat->ending = true;
    pthread_cond_signal(&beat->wake);
    pthread_mutex_unlock(&beat->lock);
    pthread_join(beat->thread, NULL);
    destroy(beat);
}
