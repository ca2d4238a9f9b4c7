/* `rekindle checkpoints show`: what one checkpoint says of itself, and of the launches that led to it. */
#include "src/cli/checkpoints.h"

#include <stdio.h>

json_t *checkpoints_block_json(const char *name, const UserBlock *block) {
    char state[DIGEST_TEXT], parent[DIGEST_TEXT], metadata[DIGEST_TEXT];
    digest_print(block->state_digest, state);
    digest_print(block->parent_digest, parent);
    digest_print(block->metadata_digest, metadata);
    json_t *metrics = json_loads(block->metrics, 0, NULL);
    json_t *json = json_pack(
        "{s:s, s:i, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:s, s:s, s:s, s:s, s:i, s:s, s:s, "
        "s:s, s:s, s:s, s:s}",
        "file", name, "version", block->version, "run", block->run, "generation",
        (json_int_t)block->generation, "step", (json_int_t)block->step, "epoch",
        (json_int_t)block->epoch, "metrics", metrics != NULL ? metrics : json_object(),
        "bytes", (json_int_t)block->bytes, "metadata_bytes",
        (json_int_t)block->metadata_bytes, "metadata_digest", metadata, "state_digest",
        state, "parent", block->parent, "parent_digest", parent, "ranks", block->ranks,
        "device_kind", block->device_kind, "created_at", block->created_at, "writer",
        block->writer, "author", block->author, "note", block->note, "compression",
        block->compression);
    if (checkpoints_ratio(block) > 0) {
        json_object_set_new(json, "value_bytes", json_integer(block->value_bytes));
        json_object_set_new(json, "ratio", json_real(checkpoints_ratio(block)));
    }
    return json;
}

static void print_block(const char *name, const UserBlock *block) {
    char state[DIGEST_TEXT], parent[DIGEST_TEXT], size[32];
    digest_print(block->state_digest, state);
    digest_print(block->parent_digest, parent);
    checkpoints_size(block->bytes, size);
    printf("file          %s\n", name);
    printf("run           %s\n", block->run);
    printf("step          %lld (epoch %lld)\n", (long long)block->step,
           (long long)block->epoch);
    printf("metrics       %s\n", block->metrics);
    printf("state_digest  %s\n", state);
    printf("size          %s (%lld bytes, %lld of them metadata)\n", size,
           (long long)block->bytes, (long long)block->metadata_bytes);
    if (checkpoints_ratio(block) > 0)
        printf("compression   %s (%lld bytes of values, ratio %.2f)\n", block->compression,
               (long long)block->value_bytes, checkpoints_ratio(block));
    printf("generation    %lld\n", (long long)block->generation);
    if (block->parent[0] != '\0') printf("parent        %s (%s)\n", block->parent, parent);
    printf("ranks         %d\n", block->ranks);
    printf("device_kind   %s\n", block->device_kind);
    printf("created_at    %s\n", block->created_at);
    printf("writer        %s (format %d)\n", block->writer, block->version);
    if (block->author[0] != '\0') printf("author        %s\n", block->author);
    if (block->note[0] != '\0') printf("note          %s\n", block->note);
}

/* ---- lineage */

static const char *text_of(const json_t *launch, const char *key) {
    const char *text = json_string_value(json_object_get(launch, key));
    return text == NULL || text[0] == '\0' ? "?" : text;
}

static long long number_of(const json_t *launch, const char *key) {
    return (long long)json_integer_value(json_object_get(launch, key));
}

static void print_launch(const json_t *launch) {
    const char *file = json_string_value(json_object_get(launch, "restored_from"));
    long long ranks = number_of(launch, "ranks"), hosts = number_of(launch, "hosts");
    printf("launch %lld: ", number_of(launch, "generation"));
    if (file == NULL || file[0] == '\0')
        printf("began afresh");
    else
        printf("went on from step %lld (%s)", number_of(launch, "restored_step"), file);
    printf("; %lld rank%s on %lld host%s, %s; started at %s; rekindle %s\n", ranks,
           ranks == 1 ? "" : "s", hosts, hosts == 1 ? "" : "s",
           text_of(launch, "device_kind"), text_of(launch, "started_at"),
           text_of(launch, "version"));
}

/* The branch of the run's tree on which the file lies: launches whose work it does not hold are not on it. */
static void print_lineage(const json_t *launches, const UserBlock *block) {
    for (size_t i = 0; i < json_array_size(launches); i++) {
        printf("%-14s%s", i == 0 ? "lineage" : "", i == 0 ? "" : "|- ");
        print_launch(json_array_get(launches, i));
    }
    printf("%14s`- this file: step %lld\n", "", (long long)block->step);
}

/* Behind the user block: what proves the file as far as the end of its metadata. */
static Status read_lineage(const ChosenCheckpoint *chosen, json_t **out) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(chosen->directory, chosen->name, &reader));
    const char *text = checkpoint_reader_text(reader, "lineage");
    *out = text == NULL ? NULL : json_loads(text, 0, NULL);
    checkpoint_reader_close(reader);
    return STATUS_OK;
}

/* Shows also what a damaged file's good user block says, and then that it is damaged. */
Status checkpoints_show(const CheckpointsArguments *arguments) {
    ChosenCheckpoint chosen;
    UserBlock block;
    json_t *launches = NULL;
    Status read, lineage = STATUS_OK;
    bool stored = store_url_is(arguments->paths[0]);
    if (stored) {
        read = checkpoints_show_stored(arguments->paths[0], chosen.name, &block);
    } else {
        TRY(checkpoints_choose(arguments->paths[0], &chosen));
        read = checkpoint_read_user_block(chosen.directory, chosen.name, &block);
        if (read == STATUS_OK) lineage = read_lineage(&chosen, &launches);
        checkpoints_release(&chosen);
    }
    TRY(checkpoints_damaged(read));
    if (arguments->json) {
        json_t *json = checkpoints_block_json(chosen.name, &block);
        if (launches != NULL) json_object_set(json, "lineage", launches);
        checkpoints_print_json(json);
    } else {
        print_block(chosen.name, &block);
        if (launches != NULL) print_lineage(launches, &block);
        if (stored) printf("lineage       is shown of files here: checkpoints copy\n");
    }
    json_decref(launches);
    return checkpoints_damaged(lineage);
}
