"""What `rekindle checkpoints ls` and `show` tell of a run that had several launches and is mirrored.

    listing.py REKINDLE
"""

import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import store_case  # noqa: E402
from store_case import PREFIX  # noqa: E402

USAGE, NONE, STOPPED = 2, 3, 75
FIRST, MIDDLE, LAST = "g0001-step-000000000002.h5", "g0002-step-000000000002.h5", "g0002-step-000000000003.h5"


def train_twice(case, ranks_of_second=2):
    """A launch that was stopped after step 2, and one on two ranks that finished."""
    sets = ["checkpoint.mirror=" + PREFIX, "checkpoint.keep_best.metric=loss", "train.evaluate_every_steps=1"]
    run_file = case.fixture.run_files["small"]
    for ranks, fault, code in ((0, "rank:0,step:2,at:gradient,send:TERM", STOPPED), (ranks_of_second, None, 0)):
        ended = rekindle.train(case.program, ranks, run_file, case.run_dir, sets, fault=fault, extra=case.server.environment())
        case.says(ended, code)


def ls(case, *arguments, **variables):
    ended = case.command("ls", *arguments, "--json", **variables)
    case.check(ended.code == 0, "ls %s" % (arguments,), ended)
    output = ended.output
    return json.loads(output[output.index("\n[") + 1:] if not output.startswith("[") else output), ended


def run_yaml(case, name="again.yaml"):
    """The run's own configuration as a run file elsewhere."""
    path = os.path.join(case.folder, name)
    shutil.copyfile(os.path.join(case.run_dir, "config.yaml"), path)
    return path


def both_tiers_are_listed_for_a_directory_and_for_a_run_file(case):
    train_twice(case)
    here = sorted(name for name in os.listdir(os.path.join(case.run_dir, "checkpoints")) if name.endswith(".h5"))
    stored = sorted(key.rsplit("/", 1)[1] for key in case.server.objects if key.endswith(".h5"))
    case.check(FIRST in stored and LAST in stored, "the mirror has got them", stored)
    for argument in (case.run_dir, run_yaml(case)):
        listed, ended = ls(case, argument)
        for tier, names in (("directory", here), ("mirror", stored)):
            found = [one["file"] for one in listed if one["tier"] == tier]
            case.check(found == names[::-1], "the %s of %s" % (tier, argument), ended)
        case.check([one["file"] for one in listed] == here[::-1] + stored[::-1] and
                   all(one["verdict"] == "valid" for one in listed), "the directory comes first", ended)
    ended = case.command("ls", case.run_dir)
    case.says(ended, 0, "\nmirror %s\n" % PREFIX)
    case.check(ended.output.count(LAST) == 2, "for people, too", ended)
    inner, _ = ls(case, os.path.join(case.run_dir, "checkpoints"))
    case.check([one["file"] for one in inner] == here[::-1], "the inner directory says nothing of a mirror", inner)


def what_is_pinned_and_what_is_best_is_marked(case):
    train_twice(case)
    case.says(case.command("pin", os.path.join(case.run_dir, "checkpoints", MIDDLE)), 0)
    listed, ended = ls(case, case.run_dir)
    case.check([one["file"] for one in listed if one["pinned"]] == [MIDDLE], "the pinned one", ended)
    losses = {}
    for one in listed:
        if one["tier"] == "directory" and one["metrics"].get("evaluated_step") == one["step"]:
            losses.setdefault(one["metrics"]["loss"], one["file"])
    best = [one["file"] for one in listed if one["best"]]
    case.check(losses and len(best) == 1 and next(one["metrics"]["loss"] for one in listed if one["file"] == best[0])
               == min(losses), "the one with the least loss", ended)
    text = case.command("ls", case.run_dir)
    case.check(re.search(r"^%s .*; pinned" % MIDDLE, text.output, re.MULTILINE) and
               re.search(r"^%s .*; best$" % best[0], text.output, re.MULTILINE), "for people, too", text)


def a_store_that_does_not_answer_is_one_line(case):
    train_twice(case)
    dead = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    ended = case.command("ls", case.run_dir, **dead)
    lines = [line for line in ended.output.splitlines() if "cannot be listed" in line]
    case.check(ended.code == 0 and len(lines) == 1 and PREFIX in lines[0] and LAST in ended.output and
               ended.seconds < 5, "exit code, line and time", ended)
    listed, ended = ls(case, case.run_dir, **dead)
    case.check({one["tier"] for one in listed} == {"directory"} and ended.output.count("cannot be listed") == 1,
               "JSON, too", ended)
    case.says(case.command("ls", case.run_dir, AWS_SECRET_ACCESS_KEY=""), 0, LAST, "cannot be listed", "AWS_ACCESS_KEY_ID")


def a_lost_directory_is_told_and_its_mirror_listed(case):
    train_twice(case)
    run_file = run_yaml(case)
    case.lose_run_dir()
    case.says(case.command("ls", run_file), 0, "no checkpoints in " + case.run_dir, PREFIX, LAST)
    case.says(case.command("ls", case.run_dir), USAGE, "cannot find " + case.run_dir)
    case.says(case.command("ls", case.file("small", 1)), USAGE, ".h5")


def a_damaged_object_is_told_with_its_reason(case):
    train_twice(case)
    case.server.put("runs/first/" + LAST, b"no checkpoint")
    listed, ended = ls(case, case.run_dir)
    verdicts = {one["tier"]: one["verdict"] for one in listed if one["file"] == LAST}
    case.check(verdicts == {"directory": "valid", "mirror": "damaged"}, "only there", ended)


def a_broken_configuration_does_not_hide_the_directory(case):
    train_twice(case)
    with open(os.path.join(case.run_dir, "config.yaml"), "w") as file:
        file.write("train: [\n")
    case.says(case.command("ls", case.run_dir), 0, LAST, "cannot be told", "config.yaml")
    os.unlink(os.path.join(case.run_dir, "config.yaml"))
    listed, ended = ls(case, case.run_dir)
    case.check(listed and {one["tier"] for one in listed} == {"directory"}, "without one there is no mirror", ended)


def show_draws_the_launches_that_led_to_a_file(case):
    train_twice(case)
    path = os.path.join(case.run_dir, "checkpoints", LAST)
    ended = case.command("show", path)
    when = r"20\d\d-\d\d-\d\dT\S+; rekindle \S+"
    tree = (r"^lineage       launch 1: began afresh; 1 rank on 1 host, \S.*; started at " + when +
            r"\n {14}\|- launch 2: went on from step 2 \(%s\); 2 ranks on 1 host, \S.*; started at " % FIRST + when +
            r"\n {14}`- this file: step 3\n\Z")
    case.check(ended.code == 0 and re.search(tree, ended.output, re.MULTILINE), "as a tree", ended)
    lineage = case.json(case.command("show", path, "--json"))["lineage"]
    case.check([(one["generation"], one["ranks"], one["restored_from"]) for one in lineage] == [(1, 1, ""), (2, 2, FIRST)],
               "as JSON", lineage)
    case.says(case.command("show", "%s/%s" % (PREFIX, LAST)), 0, "step          3", "checkpoints copy")
    with open(path, "r+b") as file:
        file.seek(4096 + 200)
        byte = file.read(1)[0]
        file.seek(4096 + 200)
        file.write(bytes([byte ^ 1]))
    ended = case.command("show", path)
    case.says(ended, NONE, "step          3", "the metadata region")


if __name__ == "__main__":
    sys.exit(store_case.run_all(sys.modules["__main__"], os.path.abspath(sys.argv[1])))
