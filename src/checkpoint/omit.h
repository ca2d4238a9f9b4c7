/* The mutation check's one hook: which registry entry a restore leaves out. The program links
 * omit_nothing.c; the test build links omit_entry.c, which reads REKINDLE_OMIT_ENTRY. */
#pragma once

#include <stdbool.h>

/* True if the restore must leave this entry as a fresh registry has it (zero). */
bool omit_entry(const char *path);
