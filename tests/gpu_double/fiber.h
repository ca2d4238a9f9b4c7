/* Fibers: stacks that one thread switches between. The scheduler (block.cpp) runs on the thread's own
 * stack; a fiber runs from fiber_run until it calls fiber_pause. */
#pragma once

struct Fiber;

/* A fiber whose body runs whenever it is started afresh. Memory: kept by a pool, never freed. */
Fiber *fiber_take(void (*body)());
void fiber_give_back(Fiber *fiber);
/* Runs the fiber until it pauses or its body is done; true: done. Call it on the thread's own stack. */
bool fiber_run(Fiber *fiber);
/* Back to the scheduler. Call it on a fiber. */
void fiber_pause();
Fiber *fiber_current(); /* nullptr on the thread's own stack */
/* Forgets where a paused fiber was: it is in the pool again. */
void fiber_abandon(Fiber *fiber);
