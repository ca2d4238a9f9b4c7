/* A request to save that comes soon after another one is the same. */
#include "src/train/requests.h"

#include "src/collective.h"
#include "src/core/clock.h"

#define SAVES_APART_S 0.5

uint32_t requests_take(Requests *requests) {
    uint32_t bits = requests->take();
    if (requests->saved_at > 0 && clock_seconds() - requests->saved_at < SAVES_APART_S)
        bits &= ~(uint32_t)CONTROL_SAVE;
    if (requests->timetable != NULL)
        bits |= timetable_look(requests->timetable, clock_seconds());
    return bits;
}

void requests_heard(Requests *requests, uint32_t word) {
    if ((word & CONTROL_SAVE) != 0) requests->saved_at = clock_seconds();
}
