/* The list of launches, and its text. */
#include "src/train/lineage.h"

#include "src/core/json_reserve.h"

#include <stdlib.h>
#include <string.h>

struct Lineage {
    json_t *launches;
    char *text;
};

static Status no_memory(void) {
    return FAIL(STATUS_MEMORY, NULL, "no memory for the lineage");
}

static Status print(Lineage *self) {
    char *text = json_reserve_print(self->launches, JSON_COMPACT);
    if (text == NULL) return no_memory();
    free(self->text);
    self->text = text;
    return STATUS_OK;
}

Status lineage_open(const char *earlier, const char *where, json_t *launch, Lineage **out) {
    *out = NULL;
    Lineage *self = calloc(1, sizeof *self);
    Status status = self == NULL || launch == NULL ? no_memory() : STATUS_OK;
    if (status == STATUS_OK) {
        self->launches = earlier == NULL ? json_array() : json_loads(earlier, 0, NULL);
        if (!json_is_array(self->launches))
            status = FAIL(STATUS_CORRUPT, NULL, "the lineage in %s is not a list", where);
    }
    if (status == STATUS_OK && json_array_append(self->launches, launch) != 0)
        status = no_memory();
    if (status == STATUS_OK) status = print(self);
    json_decref(launch);
    if (status != STATUS_OK) {
        lineage_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void lineage_close(Lineage *self) {
    if (self == NULL) return;
    json_decref(self->launches);
    free(self->text);
    free(self);
}

static const char *text_of(const json_t *launch, const char *key) {
    const char *text = json_string_value(json_object_get(launch, key));
    return text == NULL ? "" : text;
}

Status lineage_note_plans(Lineage *self, const char *plans) {
    size_t last = json_array_size(self->launches) - 1;
    json_t *launch = json_array_get(self->launches, last);
    if (strcmp(text_of(launch, "plans"), plans) == 0) return STATUS_OK;
    if (json_object_set_new(launch, "plans", json_string(plans)) != 0) return no_memory();
    for (size_t i = 0; i < last; i++) {
        json_t *earlier = json_array_get(self->launches, i);
        if (strcmp(text_of(earlier, "device_kind"), text_of(launch, "device_kind")) == 0)
            json_object_del(earlier, "plans");
    }
    return print(self);
}

const char *lineage_text(const Lineage *self) {
    return self->text;
}

Status lineage_find_plans(const char *text, char **kind, char **plans) {
    *kind = *plans = NULL;
    json_t *launches = json_loads(text, 0, NULL);
    Status status = STATUS_OK;
    for (size_t i = json_array_size(launches); i-- > 0 && *plans == NULL;) {
        const json_t *launch = json_array_get(launches, i);
        if (text_of(launch, "plans")[0] == '\0') continue;
        *kind = strdup(text_of(launch, "device_kind"));
        *plans = strdup(text_of(launch, "plans"));
        if (*kind == NULL || *plans == NULL) {
            free(*kind);
            free(*plans);
            *kind = *plans = NULL;
            status = no_memory();
            break;
        }
    }
    json_decref(launches);
    return status;
}
