/* The devices that are linked in. */
#pragma once

#include "src/backend.h"

Status cpu_open(const BackendOptions *options, Backend **out);
Status reference_open(const BackendOptions *options, Backend **out);
