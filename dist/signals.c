/* Handlers run on a thread of their own and nowhere else. On a thread that computes they are not
 * safe: compiled kernels of oneDNN 2.6.3 keep data below the stack pointer, beyond what the system
 * spares, and a handler's frame overwrites it. Measured: SIGUSR2 a few dozen times to a training
 * process, and its heap was corrupt; worse, a result could be. So every other thread blocks them. */
#include "dist/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "handlers must not wait for a lock");

static atomic_uint requested;
static atomic_int stops;
static atomic_llong last_stop_ms;

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void on_save(int signal_number) {
    (void)signal_number;
    atomic_fetch_or(&requested, CONTROL_SAVE);
}

static void on_stop(int signal_number) {
    (void)signal_number;
    atomic_fetch_or(&requested, CONTROL_STOP);
    long long now = now_ms(), last = atomic_load(&last_stop_ms);
    if (atomic_load(&stops) > 0 && now - last < SIGNALS_APART_MS) return;
    /* of two threads that are here at once, one counts */
    if (!atomic_compare_exchange_strong(&last_stop_ms, &last, now)) return;
    if (atomic_fetch_add(&stops, 1) + 1 >= 3) _exit(SIGNALS_EXIT_CODE);
}

static void caught_signals(sigset_t *caught) {
    sigemptyset(caught);
    sigaddset(caught, SIGTERM);
    sigaddset(caught, SIGUSR1);
    sigaddset(caught, SIGINT);
    sigaddset(caught, SIGUSR2);
}

static void *wait_for_signals(void *unused) {
    (void)unused;
    sigset_t caught;
    caught_signals(&caught);
    pthread_sigmask(SIG_UNBLOCK, &caught, NULL);
    for (;;)
        pause();
    return NULL;
}

void signals_install(void) {
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    struct sigaction save = {.sa_handler = on_save, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t caught;
    caught_signals(&caught);
    stop.sa_mask = caught;
    save.sa_mask = caught;
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGUSR1, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGUSR2, &save, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
    /* threads that start later inherit the mask; whoever is alone with it waits in pause() */
    pthread_sigmask(SIG_BLOCK, &caught, NULL);
    pthread_t waiter;
    if (pthread_create(&waiter, NULL, wait_for_signals, NULL) == 0)
        pthread_detach(waiter);
    else /* better at risk than deaf */
        pthread_sigmask(SIG_UNBLOCK, &caught, NULL);
}

uint32_t signals_take(void) {
    return atomic_exchange(&requested, 0);
}

bool signals_waiting(void) {
    return atomic_load(&requested) != 0;
}

bool signals_hurry(void) {
    return atomic_load(&stops) >= 2;
}
