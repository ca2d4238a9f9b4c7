/* cmocka with its prerequisites, and what several tests share. */
#pragma once

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */

#include "src/core/status.h"

/* Fails with the failure's own text, so that a broken test says why. */
#define assert_ok(call)                                            \
    do {                                                           \
        if ((call) != STATUS_OK)                                   \
            fail_msg("%s: %s (%s)", #call, status_failure()->what, \
                     status_failure()->where);                     \
    } while (0)

/* The call fails with this code, and its text names what a user needs. */
#define assert_fails(call, expected_code, text)                                \
    do {                                                                       \
        assert_int_equal((call), (expected_code));                             \
        if (strstr(status_failure()->what, (text)) == NULL &&                  \
            strstr(status_failure()->fix, (text)) == NULL)                     \
            fail_msg("\"%s\" not in: %s | %s", (text), status_failure()->what, \
                     status_failure()->fix);                                   \
    } while (0)
