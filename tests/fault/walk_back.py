"""The newest 1, 2, … all checkpoints of a killed run are damaged, each in every way there is.

A relaunch passes over what is damaged, names each file with the reason, goes on from the newest that is left and
finishes with the undisturbed run's bits; the damaged files stay. Where none is left it exits with code 3, writes
nothing, and never begins afresh.

    walk_back.py REKINDLE SHIM
"""

import os
import random
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

SAVED = 5  # steps with a checkpoint when the run is killed
USER_BLOCK = 4096


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def replace(path, make):
    os.unlink(path)
    make()


def zero(path):
    with open(path, "r+b") as file:
        file.write(bytes(os.path.getsize(path)))


# Each takes a checkpoint's path and that of a good file of another step.
DAMAGES = {
    "cut short": lambda path, other: os.truncate(path, os.path.getsize(path) - 1),
    "cut to its user block": lambda path, other: os.truncate(path, USER_BLOCK),
    "empty": lambda path, other: os.truncate(path, 0),
    "a flipped bit in the user block": lambda path, other: flip(path, 300),
    "a flipped bit in the metadata": lambda path, other: flip(path, USER_BLOCK + 100),
    "a flipped bit in a tensor": lambda path, other: flip(path, os.path.getsize(path) - 3000),
    "zeros": lambda path, other: zero(path),
    "another step's bytes": lambda path, other: shutil.copyfile(other, path),
    "a directory": lambda path, other: replace(path, lambda: os.mkdir(path)),
    "a symbolic link to a good file": lambda path, other: replace(path, lambda: os.symlink(other, path)),
    "a link to itself": lambda path, other: replace(path, lambda: os.symlink(os.path.basename(path), path)),
    "a pipe": lambda path, other: replace(path, lambda: os.mkfifo(path)),
}


def passed_over(ended):
    return dict(re.findall(r"checkpoint (\S+\.h5) is damaged and is passed over: (.+)", ended.output))


def damage_and_relaunch(run, prepared, keep, damages):
    """damages: one for each of the newest checkpoints, newest first. Returns what is wrong."""
    run.put(prepared)
    newest_first = run.checkpoint_names()[::-1]
    bad = newest_first[:len(damages)]
    for name, damage in zip(bad, damages):
        other = newest_first[0 if name == newest_first[-1] else -1]
        DAMAGES[damage](run.checkpoint_path(name), os.path.join(keep, other))
    before = run.files()
    ended = run.launch()
    told = passed_over(ended)
    wrong = ["%s is not named" % name for name in bad if name not in told]
    wrong += ["%s is called damaged" % name for name in told if name not in bad]
    if len(bad) == len(newest_first):
        if ended.code != 3 or "fresh start" in ended.output:
            wrong.append("with nothing left it does not exit 3")
        if run.files() != before:
            wrong.append("with nothing left it writes: %s, before %s" % (run.files(), before))
    else:
        wrong += run.check_end(ended, SAVED - len(bad), known_bad=bad)
        wrong += ["%s is gone" % name for name in bad if not os.path.lexists(run.checkpoint_path(name))]
    return wrong + [str(ended), str(run.files())] if wrong else []


def main():
    program, shim = sys.argv[1:]
    work = short_run.work_folder("walk-back")
    tally = rekindle.Tally()
    try:
        run = short_run.ShortRun(program, shim, work)
        run.clear()
        keep_all = ["checkpoint.keep_last=1000"]
        killed = run.prepare_killed("killed", run.count_calls(keep_all), step=SAVED + 1, sets=keep_all)
        keep = os.path.join(killed, "checkpoints")
        plan = [[damage] * count for damage in DAMAGES for count in range(1, SAVED + 1)]
        source = random.Random("mixed")
        plan += [source.choices(list(DAMAGES), k=count) for count in range(1, SAVED + 1) for _ in range(6)]
        for damages in plan:
            wrong = damage_and_relaunch(run, killed, keep, damages)
            tally.check(not wrong, "newest first: %s" % ", ".join(damages), "\n".join(wrong))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=len(plan))


sys.exit(main())
