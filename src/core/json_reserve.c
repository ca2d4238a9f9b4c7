/* Memory for jansson where the system has none left. jansson 2.14 without memory writes beyond its buffers, or leaves
 * out a piece of a text and says nothing: so it must never meet that. What it holds at a time is small, and when
 * everything else here gives up in good order, its texts are still needed to say so. */
#include "src/core/json_reserve.h"

#include "src/core/status.h"

#include <pthread.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RESERVE_BYTES = 4 << 20 }; /* pages that are never touched cost nothing */

static alignas(max_align_t) unsigned char reserve[RESERVE_BYTES];
static size_t used;
static int64_t held; /* pieces; with the last one all is free again */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *take_reserve(size_t bytes) {
    size_t room = alignof(max_align_t);
    size_t whole = (bytes + room - 1) / room * room;
    void *piece = NULL;
    pthread_mutex_lock(&lock);
    if (whole >= bytes && whole <= RESERVE_BYTES - used) {
        piece = reserve + used;
        used += whole;
        held++;
    }
    pthread_mutex_unlock(&lock);
    return piece;
}

static void *request(size_t bytes) {
    void *memory = malloc(bytes);
    if (memory == NULL) memory = take_reserve(bytes);
    if (memory != NULL) return memory;
    status_print(
        &(Failure){.what = "no memory for a text, and the reserve is used up",
                   .where = "request (src/core/json_reserve.c)",
                   .fix = "free memory on this machine, or raise the launch's limit"});
    _exit(status_exit_code(STATUS_MEMORY));
}

static void give_back(void *memory) {
    uintptr_t at = (uintptr_t)memory, start = (uintptr_t)reserve;
    if (at < start || at >= start + RESERVE_BYTES) {
        free(memory);
        return;
    }
    pthread_mutex_lock(&lock);
    if (--held == 0) used = 0;
    pthread_mutex_unlock(&lock);
}

/* Before main: they must not change while texts are held. */
__attribute__((constructor)) static void serve_jansson(void) {
    json_set_alloc_funcs(request, give_back);
}

char *json_reserve_print(const json_t *value, size_t flags) {
    char *text = json_dumps(value, flags);
    char *copy = text == NULL ? NULL : strdup(text);
    if (text != NULL) give_back(text);
    return copy;
}
