/* Snapshots in the memory of each host, between two saves: where they go, when one is due, and what is said of
 * them. Nobody calls them saved. The saver does the work (src/train/saving.c). */
#include "src/train/trainer_parts.h"

#include "src/core/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- what files need on ranks that have not written any */

/* Rank 0's lineage, where it has changed since it was told last. Collective. */
static Status share_lineage(Trainer *self) {
    Collective *collective = self->base.collective;
    bool first = trainer_is_first(self);
    const char *text = self->text.lineage;
    uint64_t bytes = 0;
    if (first) {
        Digest digest = digest_of(text, strlen(text));
        if (!digest_equal(digest, self->holding.told)) bytes = strlen(text) + 1;
        self->holding.told = digest;
    }
    TRY(collective->ops->broadcast(collective, &bytes, sizeof bytes, 0));
    if (bytes == 0) return STATUS_OK;
    char *copy = malloc(bytes);
    Status mine = copy != NULL ? STATUS_OK
                               : FAIL(STATUS_MEMORY, NULL,
                                      "no memory for a checkpoint's lineage (%llu bytes)",
                                      (unsigned long long)bytes);
    mine = collective->ops->agree(collective, mine);
    if (mine == STATUS_OK && first) memcpy(copy, text, bytes);
    if (mine == STATUS_OK) mine = collective->ops->broadcast(collective, copy, bytes, 0);
    if (mine != STATUS_OK || first) {
        free(copy);
        return mine;
    }
    free(self->holding.lineage);
    self->text.lineage = self->holding.lineage = copy;
    return STATUS_OK;
}

/* Rank 0 has its texts since it owns the directory. */
static Status make_texts(Trainer *self) {
    if (trainer_is_first(self)) return STATUS_OK;
    TRY(config_to_yaml(self->base.config, &self->config_yaml));
    self->text.identity = self->base.identity;
    self->text.config = self->config_yaml;
    return STATUS_OK;
}

/* All ranks have heard of it. Any other failure is handed through. */
static Status give_up_without_memory(Trainer *self, Status shared) {
    if (shared != STATUS_MEMORY) return shared;
    self->holding.on = false;
    if (trainer_is_first(self))
        LOG_W("from here on nothing is held in memory: %s (%s)", status_failure()->what,
              status_failure()->fix);
    return STATUS_OK;
}

Status holding_prepare(Trainer *self) {
    return self->holding.on ? give_up_without_memory(self, share_lineage(self)) : STATUS_OK;
}

/* ---- opening */

/* This host's place; one that cannot be had costs nothing but itself. */
static bool open_place(Trainer *self, const LocalRun *run) {
    const RestoreResult *restored = &self->base.restored;
    const Collective *collective = self->base.collective;
    if (collective->host_rank != 0) return false;
    if (local_open(self->base.config->checkpoint.local.dir, run,
                   restored->restored ? restored->block.step : -1,
                   &self->holding.place) == STATUS_OK)
        return true;
    LOG_W("%s holds no snapshots: %s (%s)", collective->host, status_failure()->what,
          status_failure()->fix);
    return false;
}

Status holding_open(Trainer *self) {
    const Config *config = self->base.config;
    Collective *collective = self->base.collective;
    for (size_t i = 0; i < sizeof self->holding.place.fds / sizeof(int); i++)
        self->holding.place.fds[i] = -1;
    self->holding.opened = true;
    if (config->checkpoint.local.dir[0] == '\0') return STATUS_OK;
    LocalRun run;
    memset(&run, 0, sizeof run); /* padding too: it travels */
    if (trainer_is_first(self) && local_describe_owner(&self->owner, &run) != STATUS_OK)
        LOG_W("nothing is held in memory: %s (%s)", status_failure()->what,
              status_failure()->fix);
    TRY(collective->ops->broadcast(collective, &run, sizeof run, 0));
    if (run.count == 0) return STATUS_OK;
    uint32_t any = open_place(self, &run);
    TRY(collective->ops->control(collective, &any));
    self->holding.on = any != 0;
    if (!self->holding.on) return STATUS_OK;
    TRY(give_up_without_memory(self, collective->ops->agree(collective, make_texts(self))));
    return holding_prepare(self);
}

void holding_print(const Trainer *self) {
    const Config *config = self->base.config;
    if (self->holding.on)
        LOG_I("every %lld step(s) each host holds the state in %s, besides what is saved",
              (long long)config->checkpoint.local.every_steps,
              config->checkpoint.local.dir);
}

/* ---- at a boundary */

bool holding_is_due(const Trainer *self) {
    int64_t step = *self->base.scalars.step;
    return self->holding.on && step > 0 && step != self->taken_step &&
           step % self->base.config->checkpoint.local.every_steps == 0;
}

void holding_skip(Trainer *self) {
    self->holding.skipped++;
}

/* The first one, and each one with another outcome than the one before: there are many. */
void holding_tell(Trainer *self, const SaverEvent *event) {
    self->holding.count += event->hosts > 0;
    self->holding.failed += event->hosts == 0;
    bool news = !self->holding.any || event->hosts != self->holding.hosts;
    self->holding.any = true;
    self->holding.hosts = event->hosts;
    if (!news || !trainer_is_first(self)) return;
    const char *dir = self->base.config->checkpoint.local.dir;
    int hosts = self->base.collective->hosts;
    if (event->hosts > 0)
        LOG_I("held step %lld in %s (%d of %d host%s): %s, %.1f MiB in %.2f s",
              (long long)event->step, dir, event->hosts, hosts, hosts == 1 ? "" : "s",
              event->name, (double)event->bytes / 1048576.0, event->seconds);
    ledger_note_hold(self, event);
}

/* ---- the end */

void holding_finish(Trainer *self) {
    local_remove(&self->holding.place);
    if (!self->holding.on || !trainer_is_first(self)) return;
    LOG_I(
        "held in memory: %d state%s, %d failed, %d passed over for a save in flight; they "
        "are removed now",
        self->holding.count, self->holding.count == 1 ? "" : "s", self->holding.failed,
        self->holding.skipped);
}

void holding_close(Trainer *self) {
    if (self->holding.opened) local_close(&self->holding.place);
    free(self->holding.lineage);
}
