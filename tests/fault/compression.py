"""A run that is killed inside a save and relaunched with another compression, in every direction: it goes on
from what the other one wrote, and finishes with the bits of the run that was never packed nor disturbed. Then the
commands on packed files: they show the ratio, find a flipped bit, and see no difference to plain ones.

    compression.py REKINDLE SHIM
"""

import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

# one tensor and its two moments are worth packing
short_run.SECTIONS = dict(short_run.SECTIONS, model={"arch": "mlp", "widths": "[16, 2400, 4]", "classes": 4})
KILLED = 4
SWITCHES = [("none", "zlib:1"), ("zlib:1", "none"), ("zlib:1", "zlib:9"), ("zlib:9", "zlib:2"), ("zlib:3", "zlib:3")]


def compressed(level):
    return ["checkpoint.compression=%s" % level, "checkpoint.keep_last=1000"]


def listing(run):
    ended = rekindle.run([run.program, "checkpoints", "ls", run.run_dir, "--json"])
    assert ended.code == 0, ended
    return json.loads(ended.output)


def check_switch(run, before, after):
    """Returns what is wrong."""
    run.clear()
    killed = run.prepare_killed("killed", run.count_calls(compressed(before)), KILLED, compressed(before))
    run.put(killed)
    ended = run.launch(compressed(after))
    if ended.code != 0:
        return ["the relaunch does not finish: %s" % ended]
    wrong = [] if rekindle.digest_of(ended) == run.final else ["the relaunch ends with other bits"]
    if ended.restored_step != KILLED - 1:
        wrong.append("the relaunch went on from step %s" % ended.restored_step)
    newest, more = run.check_directory(ended)
    for one in listing(run):
        expected = before if one["step"] < KILLED else after
        if one["compression"] != expected or (expected != "none") != ("ratio" in one):
            wrong.append("%s has compression %s, not %s" % (one["file"], one["compression"], expected))
        if expected != "none" and not 1.02 < one["ratio"] < 4:
            wrong.append("%s has a ratio of %s" % (one["file"], one["ratio"]))
    return wrong + more


def check_commands(run):
    """On the directory that the last switch left, all of it packed. Returns what is wrong."""
    def command(*words):
        return rekindle.run([run.program, "checkpoints", *words])

    wrong = []
    kept = run.prepare("kept")
    plain = os.path.join(run.work, "plain.h5")
    run.clear()
    assert run.launch(compressed("none")).code == 0
    shutil.copyfile(run.checkpoint_path(run.checkpoint_names()[-1]), plain)
    run.put(kept)
    packed = run.checkpoint_path(run.checkpoint_names()[-1])
    if os.path.getsize(packed) >= os.path.getsize(plain):
        wrong.append("the packed file is not smaller")
    shown = command("show", packed)
    if "compression   zlib:" not in shown.output or "ratio" not in shown.output:
        wrong.append("show does not tell of the compression: %s" % shown)
    same = command("diff", packed, plain)
    if same.code != 0:
        wrong.append("packed and plain differ: %s" % same)
    if command("verify", packed, plain).code != 0:
        wrong.append("verify refuses a sound file")
    with open(packed, "r+b") as file:
        file.seek(-5000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5000, os.SEEK_END)
        file.write(bytes([byte ^ 2]))
    if command("verify", packed).code != 3:
        wrong.append("verify accepts a flipped bit")
    return wrong


def main():
    program, shim = sys.argv[1:]
    work = short_run.work_folder("compression")
    tally = rekindle.Tally()
    try:
        run = short_run.ShortRun(program, shim, work)
        for before, after in SWITCHES:
            wrong = check_switch(run, before, after)
            tally.check(not wrong, "from %s to %s" % (before, after), "\n".join(wrong))
        wrong = check_commands(run)
        tally.check(not wrong, "commands on packed files", "\n".join(wrong))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=len(SWITCHES) + 1)


sys.exit(main())
