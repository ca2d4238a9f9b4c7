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

double checkpoints_ratio(const UserBlock *block) {
    bool packed = block->value_bytes > 0 && block->bytes > 0;
    return packed ? (double)block->value_bytes / (double)block->bytes : 0;
}

/* ---- verify */

typedef struct {
    bool as_json;
    json_t *all;
    int checked, bad;
    int newer; /* of a format that this program cannot read: neither right nor damaged */
} Verification;

/* code: STATUS_OK, or why the file is not right, which then stands in `bad`. */
static void note_result(Verification *verification, const char *shown,
                        const UserBlock *block, Status code, const char *bad) {
    bool newer = code == STATUS_USAGE;
    verification->checked++;
    verification->newer += newer;
    verification->bad += code != STATUS_OK && !newer;
    char digest[DIGEST_TEXT], size[32];
    digest_print(block->state_digest, digest);
    checkpoints_size(block->bytes, size);
    if (verification->as_json) {
        json_t *one = json_pack("{s:s, s:b}", "file", shown, "ok", code == STATUS_OK);
        if (code != STATUS_OK) {
            json_object_set_new(one, "reason", json_string(bad));
            json_object_set_new(one, "newer", json_boolean(newer));
        } else {
            json_object_set_new(one, "step", json_integer(block->step));
            json_object_set_new(one, "bytes", json_integer(block->bytes));
            json_object_set_new(one, "state_digest", json_string(digest));
        }
        json_array_append_new(verification->all, one);
    } else if (code != STATUS_OK) {
        printf("%s  %s: %s\n", newer ? "NEWER" : "BAD", shown, bad);
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
    note_result(verification, shown, &block, status,
                status == STATUS_OK ? "" : catalog_reason(name, status_failure()->what));
    return STATUS_OK;
}

/* Each is downloaded, verified and thrown away before the next. */
static Status verify_stored(Verification *verification, const ObjectPlace *place,
                            const char *name, const char *shown) {
    ChosenCheckpoint chosen;
    UserBlock none = {0};
    Status status = checkpoints_download(place, name, &chosen);
    if (status == STATUS_CORRUPT) {
        note_result(verification, shown, &none, status, status_failure()->what);
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
            note_result(verification, item->name, &item->block, item->code, item->reason);
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
        printf("%d checked, %d bad%s\n", verification.checked, verification.bad,
               verification.newer > 0 ? ", others of a newer format" : "");
    if (status == STATUS_OK && verification.newer > 0 && verification.bad == 0)
        status = FAIL(STATUS_USAGE, "use the newer Rekindle that wrote them",
                      "%d checkpoint(s) cannot be verified: this program reads formats up "
                      "to %d",
                      verification.newer, CHECKPOINT_FORMAT_VERSION);
    return status;
}

/* ---- the command */

static const struct {
    const char *name;
    int least, most;
    const char *help;
} parts[] = {
    {"ls", 1, 1,
     "usage: rekindle checkpoints ls DIR|RUN.yaml|s3://BUCKET/PREFIX [--json]\n\n"
     "Lists a run's checkpoints, newest first: step, epoch, size, metrics, whether each\n"
     "counts, and what is pinned or the best. Where the run is mirrored "
     "(checkpoint.mirror in\n"
     "RUN.yaml, or in DIR/config.yaml) the store is listed, too; one that does not answer "
     "is\n"
     "told and changes nothing else; so is what this host holds in its memory "
     "(checkpoint.local).\n"
     "Only commit records are read; `verify` reads everything.\n"},
    {"show", 1, 1,
     "usage: rekindle checkpoints show FILE|DIR|s3://… [--json]\n\n"
     "Prints a checkpoint's commit record and the launches that led to it; of a directory, "
     "the\n"
     "newest valid one's.\n"
     "state_digest covers the state's values alone: two runs are bit-equal when it is "
     "equal.\n"},
    {"verify", 1, CHECKPOINTS_PATHS,
     "usage: rekindle checkpoints verify FILE|DIR|s3://…... [--deep] [--json]\n\n"
     "Reads every byte, checks every digest, and computes the state's digest anew out of "
     "the\n"
     "values: there is nothing deeper, and --deep only says so. Exit code 3 if any file is "
     "bad,\n"
     "2 if none is but some are of a format newer than this program reads.\n"},
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
    "usage: rekindle checkpoints ls DIR|RUN.yaml    what is there, and in its mirror\n"
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
        else if (strcmp(argv[i], "--deep") == 0 && strcmp(parts[part].name, "verify") == 0)
            continue; /* as it is without */
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
        return finish(checkpoints_list(&arguments), 0);
    case 's':
        return finish(checkpoints_show(&arguments), 0);
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
