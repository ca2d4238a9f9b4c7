/* The rules of schedule.h, in double and by our own elementary functions: the rate is part of what
 * must come out the same on every machine. */
#include "src/train/schedule.h"

#include "src/core/elementary.h"

#include <assert.h>
#include <string.h>

static const double PI = 0x1.921fb54442d18p+1;

/* t/T, held in [0, 1]: a run that is trained past its plan stays at the last rate. */
static double progress(int64_t t, int64_t total) {
    if (total < 1 || t >= total) return 1.0;
    return (double)t / (double)total;
}

double schedule_rate(const Config *config, Horizon horizon, int64_t step) {
    double lr = config->optimizer.lr, min_lr = config->schedule.min_lr;
    double gamma = config->schedule.gamma;
    const char *kind = config->schedule.kind;
    int64_t warmup = config->schedule.warmup_steps;
    if (step < warmup) return lr * (double)(step + 1) / (double)warmup;

    int64_t t = step - warmup, total = horizon.total_steps - warmup;
    if (strcmp(kind, "constant") == 0) return lr;
    if (strcmp(kind, "step") == 0)
        return lr * element_pow_int(gamma, step / config->schedule.step_size);
    if (strcmp(kind, "multistep") == 0) {
        int64_t passed = 0;
        for (int i = 0; i < config->schedule.milestones.count; i++)
            passed += config->schedule.milestones.values[i] <= (double)step;
        return lr * element_pow_int(gamma, passed);
    }
    if (strcmp(kind, "exponential") == 0)
        return lr * element_pow_int(gamma, step / horizon.steps_per_epoch);
    if (strcmp(kind, "polynomial") == 0)
        return min_lr + (lr - min_lr) *
                            element_pow64(1.0 - progress(t, total), config->schedule.power);
    assert(strcmp(kind, "cosine") == 0); /* config_load lets no other kind pass */
    return min_lr + (lr - min_lr) * (1.0 + element_cos64(PI * progress(t, total))) / 2.0;
}
