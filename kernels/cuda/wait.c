/* How the host waits for the device: it asks instead of blocking, so that the core is free for others, a
 * lost peer is noticed, and a device that hangs ends the launch with a text. */
#include "kernels/cuda/host.h"

#include "src/core/clock.h"

#include <assert.h>
#include <sched.h>
#include <time.h>

/* Short waits are asked for without a pause, those of a step with naps that cost it nothing. */
enum { SPINS = 64, NAP_NS = 20000 };
static const double YIELD_S = 200e-6; /* until then the core is only offered */
static const double PEERS_S = 2e-3;   /* how often peers are asked */

static void rest(double waited_s) {
    if (waited_s < YIELD_S)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

Status cuda_not_recording(const Cuda *cuda, const char *what) {
    if (!cuda->recording) return STATUS_OK;
    return FAIL(STATUS_UNSUPPORTED, "give it outside of what is repeated",
                "%s cannot be part of a recording", what);
}

Status cuda_wait_event(Cuda *cuda, VendorEvent *event) {
    TRY(cuda_not_recording(cuda, "waiting for the device"));
    double begin = 0.0, asked = 0.0;
    for (int turn = 0;; turn++) {
        bool done = false;
        TRY(vendor_event_done(event, &done));
        if (done) return STATUS_OK;
        if (turn < SPINS) continue;
        double now = clock_seconds();
        if (turn == SPINS) begin = asked = now;
        bool patient =
            cuda->patience_s <= 0.0 || (!cuda->hung && now - begin < cuda->patience_s);
        if (cuda->peers != NULL && (!patient || now - asked >= PEERS_S)) {
            TRY(cuda->peers(cuda->peers_context));
            asked = now;
        }
        if (!patient) {
            cuda->hung = true;
            return FAIL(
                STATUS_WATCHDOG,
                "look for the device's errors in the kernel log (Xid); where ranks "
                "exchange over it, look at the other ranks; fault.hang_timeout sets "
                "the patience",
                "the device %s has not finished within %g s; it was last given %s",
                cuda->device.name, cuda->patience_s,
                cuda->doing != NULL ? cuda->doing : "nothing that has a name");
        }
        rest(now - begin);
    }
}

Status cuda_wait(Cuda *cuda, VendorQueue *queue) {
    TRY(cuda_not_recording(cuda, "waiting for the device"));
    TRY(vendor_record(queue, cuda->waited));
    return cuda_wait_event(cuda, cuda->waited);
}

bool cuda_settle(Cuda *cuda) {
    Failure first = *status_failure(); /* clean-up must not hide it */
    if (!cuda->hung && cuda->waited != NULL) {
        if (cuda->work != NULL) (void)cuda_wait(cuda, cuda->work);
        if (cuda->copies != NULL && !cuda->hung) (void)cuda_wait(cuda, cuda->copies);
    }
    if (first.code != STATUS_OK) (void)status_adopt(&first);
    return !cuda->hung;
}

Status cuda_finish(Backend *self, int worker) {
    assert(worker == 0);
    (void)worker;
    Cuda *cuda = cuda_of(self);
    return cuda_wait(cuda, cuda->work);
}
