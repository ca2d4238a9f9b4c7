/* Switches stacks: some ten instructions, since a switch by ucontext would cost a system call and a
 * block of 1,024 threads makes thousands. */
#include "tests/gpu_double/fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 256 << 10, GUARD_BYTES = 4096 };

struct Fiber {
    void *stack_pointer;
    char *stack;
    void (*body)();
    bool done;
    void *fake_stack; /* the address sanitizer's */
};

/* Saves the callee's registers and the stack pointer in *save, goes on where `load` was saved. */
extern "C" void fiber_switch(void **save, void *load);
__asm__(".text\n"
        ".type fiber_switch, @function\n"
        "fiber_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n"
        "    jmp *%rcx\n"
        ".size fiber_switch, .-fiber_switch\n");

/* The engine's lock is held whenever fibers run: one scheduler at a time. */
static Fiber *running;
static void *scheduler;
static std::vector<Fiber *> pool;

#if defined(__SANITIZE_ADDRESS__)
static void *scheduler_fake_stack;
static const void *scheduler_bottom;
static size_t scheduler_size;

static void to_fiber(Fiber *fiber) {
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, STACK_BYTES);
    fiber_switch(&scheduler, fiber->stack_pointer);
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

static void to_scheduler(Fiber *fiber) {
    __sanitizer_start_switch_fiber(&fiber->fake_stack, scheduler_bottom, scheduler_size);
    fiber_switch(&fiber->stack_pointer, scheduler);
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &scheduler_bottom, &scheduler_size);
}

static void arrived() {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
}

static void forget(Fiber *fiber) {
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
}
#else
static void to_fiber(Fiber *fiber) {
    fiber_switch(&scheduler, fiber->stack_pointer);
}

static void to_scheduler(Fiber *fiber) {
    fiber_switch(&fiber->stack_pointer, scheduler);
}

static void arrived() {
}

static void forget(Fiber *) {
}
#endif

/* The first function of each stack. It never returns: there is nothing to return to. */
extern "C" [[noreturn]] __attribute__((used)) void fiber_first() {
    arrived();
    for (;;) {
        running->body();
        running->done = true;
        to_scheduler(running);
    }
}

/* Puts the stack into the state in which fiber_switch would have left it in front of fiber_first. The
 * tops lie at different places within their pages, or all stacks would share the same few cache sets. */
static void prepare(Fiber *fiber, size_t index) {
    char *top = fiber->stack + STACK_BYTES - (index * 7 % 61) * 64;
    uint64_t *frame = (uint64_t *)top - 8;
    for (int i = 0; i < 8; i++)
        frame[i] = 0;
    frame[6] = (uint64_t)&fiber_first; /* behind six registers; then as after a call */
    fiber->stack_pointer = frame;
    fiber->fake_stack = nullptr;
}

static Fiber *create() {
    static size_t count;
    void *memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
        fputs("gpu_double: no memory for a fiber's stack\n", stderr);
        abort();
    }
    Fiber *fiber = new Fiber();
    fiber->stack = (char *)memory + GUARD_BYTES;
    prepare(fiber, count++);
    return fiber;
}

Fiber *fiber_take(void (*body)()) {
    Fiber *fiber;
    if (pool.empty()) {
        fiber = create();
    } else {
        fiber = pool.back();
        pool.pop_back();
    }
    fiber->body = body;
    fiber->done = false;
    return fiber;
}

void fiber_give_back(Fiber *fiber) {
    pool.push_back(fiber);
}

bool fiber_run(Fiber *fiber) {
    running = fiber;
    to_fiber(fiber);
    running = nullptr;
    return fiber->done;
}

void fiber_pause() {
    to_scheduler(running);
}

Fiber *fiber_current() {
    return running;
}

void fiber_abandon(Fiber *fiber) {
    forget(fiber);
    prepare(fiber, 0);
    pool.push_back(fiber);
}
