/* What people and schedulers ask of a running rank by signals. The handlers only set flags; the
 * training loop takes them and tells the other ranks through the control word. */
#pragma once

#include "src/collective.h"

#include <stdbool.h>

/* Two deliveries closer than this are one request: launcher and scheduler may both pass it on, and
 * the kernel may merge two into one. */
enum { SIGNALS_APART_MS = 500, SIGNALS_EXIT_CODE = 143 };

/* Catches SIGTERM, SIGUSR1 and SIGINT (stop) and SIGUSR2 (save and go on) on a thread of its own,
 * and blocks them on the calling thread and all that start later: a handler on a thread that computes
 * would corrupt what it computes (see signals.c). Ignores SIGPIPE and SIGXFSZ (the write reports
 * them). Call it first of all, before world_start: until then these signals kill. A later second
 * request to stop sets the hurry flag, a third leaves at once with SIGNALS_EXIT_CODE. Ranks: local */
void signals_install(void);

/* The requests since the last call: CONTROL_STOP, CONTROL_SAVE or both. Any thread. Ranks: local */
uint32_t signals_take(void);

/* True while there is a request that signals_take has not given yet. Any thread. Ranks: local */
bool signals_waiting(void);

/* True once someone asked a second time to stop. Any thread. Ranks: local */
bool signals_hurry(void);
