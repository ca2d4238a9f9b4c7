/* Many random numbers at once: rng_uniform's values for consecutive lanes of one sample, eight
 * Philox blocks side by side. */
#pragma once

#include "src/core/rng.h"

enum { UNIFORMS_GROUP = 32 }; /* numbers made at a time */

/* out[i] = rng_uniform(rng, sample, UNIFORMS_GROUP · group + i), for i below UNIFORMS_GROUP. */
void uniforms_group(Rng rng, uint32_t sample, uint32_t group, float out[UNIFORMS_GROUP]);
