/* LD_PRELOAD library that numbers the memory requests of chosen images, after the program has begun, and
 * refuses one of them, or all from one on. It says what it did.
 *
 *   ALLOC_FROM    beside the program itself: parts of the names of libraries whose requests count, "a:b"
 *   ALLOC_AT      number of the request to refuse, from 1; none: only count
 *   ALLOC_ALWAYS  set: every later one is refused, too
 *   ALLOC_REPORT  file that gets one line for the first refusal, or at the end the count
 *
 * Who asks is told by the return address; what asks for a library's sake (the loader, C++) is never refused. */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

enum { RANGES = 64 };
static struct { uintptr_t from, to; } ranges[RANGES];
static int range_count;
static const char *libraries, *report;
static long wanted;
static bool always;
static atomic_long asked, refused;
static atomic_bool begun;

static bool is_chosen(const char *name, bool first) {
    if (first) return true; /* the program */
    char list[256];
    const char *slash = strrchr(name, '/');
    snprintf(list, sizeof list, "%s", libraries == NULL ? "" : libraries);
    for (char *save = NULL, *part = strtok_r(list, ":", &save); part != NULL;
         part = strtok_r(NULL, ":", &save))
        if (slash != NULL && strstr(slash, part) != NULL) return true;
    return false;
}

static int add_image(struct dl_phdr_info *image, size_t size, void *context) {
    (void)size;
    bool *first = context;
    if (is_chosen(image->dlpi_name, *first))
        for (int i = 0; i < image->dlpi_phnum && range_count < RANGES; i++) {
            const ElfW(Phdr) *part = &image->dlpi_phdr[i];
            if (part->p_type != PT_LOAD || (part->p_flags & PF_X) == 0) continue;
            ranges[range_count].from = image->dlpi_addr + part->p_vaddr;
            ranges[range_count].to = image->dlpi_addr + part->p_vaddr + part->p_memsz;
            range_count++;
        }
    *first = false;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("ALLOC_AT");
    bool first = true;
    libraries = getenv("ALLOC_FROM");
    report = getenv("ALLOC_REPORT");
    always = getenv("ALLOC_ALWAYS") != NULL;
    wanted = at == NULL ? 0 : atol(at);
    dl_iterate_phdr(add_image, &first);
    unsetenv("LD_PRELOAD"); /* programs that it starts are not meant */
    atomic_store(&begun, report != NULL);
}

static void say(const char *what, long number) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %ld\n", what, number);
    int fd = open(report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)length) != length) _exit(99);
    close(fd);
}

__attribute__((destructor)) static void end(void) {
    if (!atomic_load(&begun)) return;
    say("asked", atomic_load(&asked));
    say("refused", atomic_load(&refused));
}

static bool refuses(const void *caller) {
    if (!atomic_load(&begun)) return false;
    uintptr_t at = (uintptr_t)caller;
    for (int i = 0; i < range_count; i++) {
        if (at < ranges[i].from || at >= ranges[i].to) continue;
        long number = atomic_fetch_add(&asked, 1) + 1;
        bool no = wanted > 0 && (number == wanted || (always && number > wanted));
        if (no && atomic_fetch_add(&refused, 1) == 0) say("refuses", number);
        if (no) errno = ENOMEM;
        return no;
    }
    return false;
}

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

EXPORT void *malloc(size_t size) {
    return refuses(CALLER) ? NULL : __libc_malloc(size);
}
EXPORT void *calloc(size_t count, size_t size) {
    return refuses(CALLER) ? NULL : __libc_calloc(count, size);
}
EXPORT void *realloc(void *old, size_t size) {
    return refuses(CALLER) ? NULL : __libc_realloc(old, size);
}
EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    return refuses(CALLER) ? NULL : __libc_memalign(alignment, size);
}
EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
    if (refuses(CALLER)) return ENOMEM;
    void *memory = __libc_memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *out = memory;
    return 0;
}
