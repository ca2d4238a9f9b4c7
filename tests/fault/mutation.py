"""Every entry of the state matters: a restore that forgets one must be found out.

A run is killed in the middle of an epoch, then finished by rekindle_mutant, which leaves out of the
restore the entry that REKINDLE_OMIT_ENTRY names: once for each entry of the registry. The comparison
with the undisturbed run must fail each time, and hold when nothing is left out.

    mutation.py REKINDLE MUTANT WORK_FOLDER
"""

import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

# 8 steps an epoch. The kill in step 11 throws the run back to step 10: in the second epoch, right after
# an evaluation. Step 12 is saved before the next evaluation replaces what the first one left.
SECTIONS = {
    "run": {"name": "mutation", "seed": 11},
    "device": "reference",
    "model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
    "data": {"augment": "[crop, flip]", "crop_padding": 2},
    "train": {"epochs": 3, "batch": 10, "shards": 2, "threads": 1, "evaluate_every_steps": 5},
    "optimizer": {"kind": "adam", "lr": 0.002},
    "schedule": {"kind": "cosine", "warmup_steps": 4},
    "checkpoint": {"every_steps": 2, "keep_last": 100},
    "log": {"every_steps": 1},
}
FAULT = "step:11,at:optimizer"
RESTORED_STEP = 10
ARENAS = ("model/", "optimizer/", "progress/", "rng/", "schedule/", "evaluation/", "best/", "epoch/")


def entries_of(program, run_dir):
    listed = rekindle.run([program, "checkpoints", "diff", run_dir, run_dir, "--json"])
    assert listed.code == 0, listed
    return [entry["path"] for entry in json.loads(listed.output)["entries"]]


def compare(program, a, b):
    return rekindle.run([program, "verify-resume", "--compare", a, b])


def main():
    program, mutant, work = sys.argv[1:]
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, 80), **SECTIONS)
    folder = {name: os.path.join(work, name) for name in ("undisturbed", "killed", "resumed")}
    tally = rekindle.Tally()

    ended = rekindle.train(program, 0, run_file, folder["undisturbed"])
    tally.check(ended.code == 0, "the undisturbed run finishes", ended)
    ended = rekindle.train(mutant, 0, run_file, folder["killed"], fault=FAULT)
    tally.check(ended.code == -9, "the fault kills the run", ended)

    entries = entries_of(program, folder["killed"])
    for prefix in ARENAS:
        tally.check(any(path.startswith(prefix) for path in entries), "the state has entries under " + prefix)

    for omitted in [None, *entries]:
        shutil.rmtree(folder["resumed"], ignore_errors=True)
        shutil.copytree(folder["killed"], folder["resumed"])
        ended = rekindle.train(mutant, 0, run_file, folder["resumed"],
                               extra={"REKINDLE_OMIT_ENTRY": omitted or ""})
        restored = "step-%012d.h5: step" % RESTORED_STEP in ended.output or omitted == "progress/step"
        if not tally.check(restored, "the run goes on from step %d without %s" % (RESTORED_STEP, omitted), ended):
            continue
        if omitted is None:
            tally.check(ended.code == 0, "the run finishes when nothing is left out", ended)
        verdict = compare(program, folder["undisturbed"], folder["resumed"])
        if omitted is None:
            tally.check(verdict.code == 0, "nothing left out gives the same bits", verdict)
        else:
            tally.check(verdict.code == 1 and "DIFFERENT: " in verdict.output,
                        "leaving out %s is found out" % omitted, str(verdict) + str(ended))
            print("%-36s %s" % (omitted, verdict.output.strip()[:150]))
    return tally.finish(planned=2 + len(ARENAS) + 3 + 2 * len(entries))


sys.exit(main())
