/* `rekindle checkpoints`: what is there, what is in it, and whether it is whole. */
#include "src/cli/checkpoints.h"

#include "src/cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- printing */

void checkpoints_print_json(json_t *json) {
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
    json_decref(json);
}

void checkpoints_size(int64_t bytes, char text[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < sizeof units / sizeof *units; unit++)
        value /= 1024;
    snprintf(text, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static const char *verdict_name(CheckpointVerdict verdict) {
    static const char *const names[] = {"valid", "damaged", "superseded"};
    return names[verdict];
}

/* {"loss":0.31,"accuracy":0.912} → loss 0.31 accuracy 0.912 */
static void metrics_for_people(const char *metrics, char *out, size_t bytes) {
    json_t *object = json_loads(metrics, 0, NULL), *value;
    const char *key;
    size_t length = 0;
    out[0] = '\0';
    json_object_foreach(object, key, value) {
        if (!json_is_number(value) || length >= bytes) continue;
        length += (size_t)snprintf(out + length, bytes - length, "%s%s %.5g",
                                   length > 0 ? " " : "", key, json_number_value(value));
    }
    json_decref(object);
}

/* Values for each byte of the file; 0: not packed. */
static double ratio_of(const UserBlock *block) {
    bool packed = block->value_bytes > 0 && block->bytes > 0;
    return packed ? (double)block->value_bytes / (double)block->bytes : 0;
}

static json_t *block_json(const char *name, const UserBlock *block) {
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
    if (ratio_of(block) > 0) {
        json_object_set_new(json, "value_bytes", json_integer(block->value_bytes));
        json_object_set_new(json, "ratio", json_real(ratio_of(block)));
    }
    return json;
}

/* ---- ls */

static json_t *item_json(const CatalogItem *item) {
    json_t *json =
        item->verdict == CHECKPOINT_REJECTED
            ? json_pack("{s:s, s:I, s:I}", "file", item->name, "generation",
                        (json_int_t)item->generation, "step", (json_int_t)item->step)
            : block_json(item->name, &item->block);
    json_object_set_new(json, "verdict", json_string(verdict_name(item->verdict)));
    json_object_set_new(json, "reason", json_string(item->reason));
    json_object_set_new(json, "pinned", json_boolean(item->pinned));
    /* the name's, where a kept file's own block says an older one */
    json_object_set_new(json, "generation", json_integer(item->generation));
    return json;
}

static void print_item(const CatalogItem *item) {
    char size[32] = "-", ratio[32] = "-", metrics[160] = "", digest[DIGEST_TEXT] = "-";
    const UserBlock *block = &item->block;
    if (ratio_of(block) > 0) snprintf(ratio, sizeof ratio, "%.2f", ratio_of(block));
    if (item->verdict != CHECKPOINT_REJECTED) {
        checkpoints_size(block->bytes, size);
        metrics_for_people(block->metrics, metrics, sizeof metrics);
        digest_print(block->state_digest, digest);
    }
    printf("%-28s %10lld %6lld %10s %6s  %-10s  %-12.12s  %s%s%s%s\n", item->name,
           (long long)item->step, (long long)block->epoch, size, ratio,
           verdict_name(item->verdict), digest, metrics,
           metrics[0] != '\0' && item->reason[0] != '\0' ? "; " : "", item->reason,
           item->pinned ? "; pinned" : "");
}

static Status list(const CheckpointsArguments *arguments) {
    Catalog catalog;
    TRY(checkpoints_catalog(arguments->paths[0], &catalog));
    if (arguments->json) {
        json_t *all = json_array();
        for (int i = 0; i < catalog.count; i++)
            json_array_append_new(all, item_json(&catalog.items[i]));
        checkpoints_print_json(all);
    } else if (catalog.count == 0) {
        printf("no checkpoints in %s\n", arguments->paths[0]);
    } else {
        printf("%-28s %10s %6s %10s %6s  %-10s  %-12s  %s\n", "FILE", "STEP", "EPOCH",
               "SIZE", "RATIO", "VERDICT", "STATE", "METRICS");
        for (int i = 0; i < catalog.count; i++)
            print_item(&catalog.items[i]);
    }
    catalog_close(&catalog);
    return STATUS_OK;
}

/* ---- show */

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
    if (ratio_of(block) > 0)
        printf("compression   %s (%lld bytes of values, ratio %.2f)\n", block->compression,
               (long long)block->value_bytes, ratio_of(block));
    printf("generation    %lld\n", (long long)block->generation);
    if (block->parent[0] != '\0') printf("parent        %s (%s)\n", block->parent, parent);
    printf("ranks         %d\n", block->ranks);
    printf("device_kind   %s\n", block->device_kind);
    printf("created_at    %s\n", block->created_at);
    printf("writer        %s (format %d)\n", block->writer, block->version);
    if (block->author[0] != '\0') printf("author        %s\n", block->author);
    if (block->note[0] != '\0') printf("note          %s\n", block->note);
}

static Status show(const CheckpointsArguments *arguments) {
    ChosenCheckpoint chosen;
    UserBlock block;
    Status read;
    if (store_url_is(arguments->paths[0])) {
        read = checkpoints_show_stored(arguments->paths[0], chosen.name, &block);
    } else {
        TRY(checkpoints_choose(arguments->paths[0], &chosen));
        read = checkpoint_read_user_block(chosen.directory, chosen.name, &block);
        checkpoints_release(&chosen);
    }
    TRY(checkpoints_damaged(read));
    if (arguments->json)
        checkpoints_print_json(block_json(chosen.name, &block));
    else
        print_block(chosen.name, &block);
    return STATUS_OK;
}

/* ---- verify */

typedef struct {
    bool as_json;
    json_t *all;
    int checked, bad;
} Verification;

static void note_result(Verification *verification, const char *shown,
                        const UserBlock *block, const char *bad) {
    verification->checked++;
    verification->bad += bad != NULL;
    char digest[DIGEST_TEXT], size[32];
    digest_print(block->state_digest, digest);
    checkpoints_size(block->bytes, size);
    if (verification->as_json) {
        json_t *one = json_pack("{s:s, s:b}", "file", shown, "ok", bad == NULL);
        if (bad != NULL) json_object_set_new(one, "reason", json_string(bad));
        if (bad == NULL) {
            json_object_set_new(one, "step", json_integer(block->step));
            json_object_set_new(one, "bytes", json_integer(block->bytes));
            json_object_set_new(one, "state_digest", json_string(digest));
        }
        json_array_append_new(verification->all, one);
    } else if (bad != NULL) {
        printf("BAD  %s: %s\n", shown, bad);
    } else {
        printf("ok   %s  step %lld, %s, state %s\n", shown, (long long)block->step, size,
               digest);
    }
}

static Status verify_one(Verification *verification, int directory, const char *name,
                         const char *shown) {
    UserBlock block = {0};
    Status status = checkpoint_verify(directory, name, &block);
    if (status == STATUS_MEMORY) return status;
    note_result(verification, shown, &block,
                status == STATUS_OK ? NULL : catalog_reason(name, status_failure()->what));
    return STATUS_OK;
}

/* Each is downloaded, verified and thrown away before the next. */
static Status verify_stored(Verification *verification, const ObjectPlace *place,
                            const char *name, const char *shown) {
    ChosenCheckpoint chosen;
    UserBlock none = {0};
    Status status = checkpoints_download(place, name, &chosen);
    if (status == STATUS_CORRUPT) {
        note_result(verification, shown, &none, status_failure()->what);
        return STATUS_OK;
    }
    TRY(status);
    status = verify_one(verification, chosen.directory, chosen.name, shown);
    checkpoints_release(&chosen);
    return status;
}

static Status verify_directory(Verification *verification, const char *path) {
    Catalog catalog;
    ObjectPlace place = {.store = NULL};
    TRY(checkpoints_catalog(path, &catalog));
    Status status = STATUS_OK;
    if (store_url_is(path)) status = object_place_open(path, NULL, &place);
    for (int i = 0; i < catalog.count && status == STATUS_OK; i++) {
        const CatalogItem *item = &catalog.items[i];
        if (item->verdict == CHECKPOINT_REJECTED)
            note_result(verification, item->name, &item->block, item->reason);
        else if (place.store != NULL)
            status = verify_stored(verification, &place, item->name, item->name);
        else
            status = verify_one(verification, catalog.directory, item->name, item->name);
    }
    object_place_close(&place);
    catalog_close(&catalog);
    return status;
}

static Status verify_url(Verification *verification, const char *url) {
    ObjectPlace place;
    Status status = object_place_open(url, NULL, &place);
    if (status == STATUS_OK && place.name[0] != '\0')
        status = verify_stored(verification, &place, place.name, url);
    else if (status == STATUS_OK)
        status = verify_directory(verification, url);
    object_place_close(&place);
    return status;
}

static Status verify_path(Verification *verification, const char *path) {
    struct stat about;
    if (store_url_is(path)) return verify_url(verification, path);
    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        return verify_directory(verification, path);
    ChosenCheckpoint chosen;
    TRY(checkpoints_choose(path, &chosen));
    Status status = verify_one(verification, chosen.directory, chosen.name, path);
    checkpoints_release(&chosen);
    return status;
}

static Status verify(const CheckpointsArguments *arguments, bool *any_bad) {
    Verification verification = {.as_json = arguments->json, .all = json_array()};
    Status status = STATUS_OK;
    for (int i = 0; i < arguments->count && status == STATUS_OK; i++)
        status = verify_path(&verification, arguments->paths[i]);
    *any_bad = verification.bad > 0;
    if (status == STATUS_OK && verification.checked == 0)
        status = FAIL(STATUS_NO_CHECKPOINT, "check the path", "no checkpoints in %s",
                      arguments->paths[0]);
    if (status == STATUS_OK && arguments->json)
        checkpoints_print_json(verification.all);
    else
        json_decref(verification.all);
    if (status == STATUS_OK && !arguments->json)
        printf("%d checked, %d bad\n", verification.checked, verification.bad);
    return status;
}

/* ---- the command */

static const struct {
    const char *name;
    int least, most;
    const char *help;
} parts[] = {
    {"ls", 1, 1,
     "usage: rekindle checkpoints ls DIR|s3://BUCKET/PREFIX [--json]\n\n"
     "Lists a run's checkpoints, newest first: step, epoch, size, metrics, and whether "
     "each\n"
     "counts. Only the commit records are read; `verify` reads everything.\n"},
    {"show", 1, 1,
     "usage: rekindle checkpoints show FILE|DIR|s3://… [--json]\n\n"
     "Prints a checkpoint's commit record; of a directory, the newest valid one's.\n"
     "state_digest covers the state's values alone: two runs are bit-equal when it is "
     "equal.\n"},
    {"verify", 1, CHECKPOINTS_PATHS,
     "usage: rekindle checkpoints verify FILE|DIR|s3://…... [--json]\n\n"
     "Reads every byte and checks every digest. Exit code 3 if any file is bad.\n"},
    {"diff", 2, 2,
     "usage: rekindle checkpoints diff A B [--json]\n\n"
     "Compares two checkpoints (files, or directories: their newest valid ones) entry by\n"
     "entry, bit by bit. Exit code 0 if all are equal, 1 if any differs.\n"},
    {"copy", 2, 2,
     "usage: rekindle checkpoints copy FILE|DIR s3://BUCKET/PREFIX [--json]\n"
     "       rekindle checkpoints copy s3://BUCKET/PREFIX[/NAME.h5] DIR|NAME.h5 "
     "[--json]\n\n"
     "Copies a checkpoint, or all valid ones, to an object store or from it; each is "
     "verified\n"
     "on this side. A name that exists is never replaced: holding the same state it is a\n"
     "success. An interrupted upload goes on where it was. DIR is a run directory (made "
     "where\n"
     "there is none), or a directory that itself holds the files. Credentials and region "
     "come\n"
     "from AWS_… variables or ~/.aws/credentials, other stores from AWS_ENDPOINT_URL.\n"},
    {"pin", 1, CHECKPOINTS_PATHS,
     "usage: rekindle checkpoints pin FILE...\n\n"
     "Retention leaves pinned checkpoints alone: NAME.pinned stands beside each. At any "
     "time.\n"},
    {"unpin", 1, CHECKPOINTS_PATHS,
     "usage: rekindle checkpoints unpin FILE...\n\n"
     "Takes the pin away; the next save of the run may then delete the file.\n"},
    {"prune", 1, 1,
     "usage: rekindle checkpoints prune DIR [--dry-run] [--json]\n\n"
     "Deletes what the run's config.yaml (checkpoint.keep_last, keep_every, keep_best) "
     "does not\n"
     "keep, and what killed launches left unfinished. Only while no launch owns the "
     "directory.\n"
     "--dry-run only tells what would go, and why the others stay.\n"},
};
enum { PARTS = sizeof parts / sizeof *parts };

static const char help[] =
    "usage: rekindle checkpoints ls DIR             what is there\n"
    "       rekindle checkpoints show FILE|DIR      what one says of itself\n"
    "       rekindle checkpoints verify FILE...|DIR whether every byte is right\n"
    "       rekindle checkpoints diff A B           whether two hold the same state\n"
    "       rekindle checkpoints copy FROM TO       to an object store, or from it\n"
    "       rekindle checkpoints pin|unpin FILE...  what retention leaves alone\n"
    "       rekindle checkpoints prune DIR          deletes what the run does not keep\n"
    "FILE and DIR may be s3://BUCKET/PREFIX[/NAME.h5]. Each takes --json, and --help.\n";

static Status parse(int argc, char **argv, int part, CheckpointsArguments *out) {
    *out = (CheckpointsArguments){.json = false};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            out->json = true;
        else if (strcmp(argv[i], "--dry-run") == 0 &&
                 strcmp(parts[part].name, "prune") == 0)
            out->dry_run = true;
        else if (argv[i][0] == '-')
            return FAIL(STATUS_USAGE, "--help tells which there are", "no option %s of %s",
                        argv[i], parts[part].name);
        else if (out->count == parts[part].most)
            return FAIL(STATUS_USAGE, "--help tells how many",
                        "checkpoints %s takes at most %d path(s); %s is one too many",
                        parts[part].name, parts[part].most, argv[i]);
        else
            out->paths[out->count++] = argv[i];
    }
    if (out->count < parts[part].least)
        return FAIL(STATUS_USAGE, "--help tells which", "checkpoints %s needs %d path(s)",
                    parts[part].name, parts[part].least);
    return STATUS_OK;
}

static int finish(Status status, int code) {
    fflush(stdout);
    if (status == STATUS_OK) return code;
    status_print(status_failure());
    return status_exit_code(status);
}

int checkpoints_main(int argc, char **argv) {
    int part = 0;
    while (argc > 0 && part < PARTS && strcmp(argv[0], parts[part].name) != 0)
        part++;
    bool wants_help = false;
    for (int i = 0; i < argc; i++)
        wants_help |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    if (wants_help) {
        fputs(part < PARTS ? parts[part].help : help, stdout);
        return finish(STATUS_OK, 0);
    }
    if (argc == 0) {
        fputs(help, stderr);
        return status_exit_code(STATUS_USAGE);
    }
    if (part == PARTS)
        return finish(FAIL(STATUS_USAGE,
                           "use ls, show, verify, diff, copy, pin, unpin or prune",
                           "rekindle checkpoints has no part \"%s\"", argv[0]),
                      0);
    CheckpointsArguments arguments;
    Status status = parse(argc, argv, part, &arguments);
    bool found = false; /* something bad, or some difference */
    if (status != STATUS_OK) return finish(status, 0);
    switch (parts[part].name[0]) {
    case 'l':
        return finish(list(&arguments), 0);
    case 's':
        return finish(show(&arguments), 0);
    case 'v':
        status = verify(&arguments, &found);
        return finish(status, found ? status_exit_code(STATUS_NO_CHECKPOINT) : 0);
    case 'c':
        status = checkpoints_copy(&arguments, &found);
        return finish(status, found ? status_exit_code(STATUS_NO_CHECKPOINT) : 0);
    case 'u':
        return finish(checkpoints_unpin(&arguments), 0);
    case 'p':
        return finish(strcmp(parts[part].name, "pin") == 0 ? checkpoints_pin(&arguments)
                                                           : checkpoints_prune(&arguments),
                      0);
    default:
        status = checkpoints_diff(&arguments, &found);
        return finish(status, found ? 1 : 0);
    }
}
