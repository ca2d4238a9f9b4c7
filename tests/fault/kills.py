"""A rank killed anywhere, and any other number of ranks: the result keeps every bit.

Registered: a covering part. The soak goes through every case, keeps its tally and goes on where it
was stopped:

    kills.py REKINDLE WORK_FOLDER
    kills.py REKINDLE WORK_FOLDER --all [TALLY.json]      default bench/results/kills.json
"""

import json
import os
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import rekindle  # noqa: E402

# 8 steps an epoch; the epoch's last batch has 8 samples, so that 4 of the 12 shards stay empty.
SECTIONS = {
    "run": {"name": "kills", "seed": 5},
    "model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
    "data": {"augment": "[crop, flip]", "crop_padding": 2},
    "train": {"epochs": 2, "batch": 100, "shards": 12, "threads": 1},
    "optimizer": {"kind": "adamw", "lr": 0.002, "weight_decay": 0.01, "clip_norm": 1.0},
    "schedule": {"kind": "cosine", "warmup_steps": 3},
    "checkpoint": {"every_steps": 3, "keep_last": 2},
    "log": {"every_steps": 1},
}
SAMPLES = 708

# Where a rank can die: the fault's text after its rank, and whether only rank 0 passes there. The steps
# lie in the second epoch, between two checkpoints but for those about a save.
POINTS = {
    "start": ("at:start", False),
    "restore": ("at:restore", False),
    "data": ("step:11,at:data", False),
    "gradient": ("step:11,at:gradient", False),
    "reduce": ("step:11,at:reduce", False),
    "optimizer": ("step:11,at:optimizer", False),
    "evaluate": ("step:8,at:evaluate", False),
    "save": ("step:12,at:save", False),
    "before_commit": ("step:12,at:before_commit", True),
    "after_commit": ("step:12,at:after_commit", False),
    "finish": ("at:finish", False),
    "first step": ("step:1,at:reduce", False),
    "first save": ("step:3,at:before_commit", True),
}
# Killed while it restores: there must be something to restore, so an earlier kill comes before.
RESUMING = ("start", "restore")
COVERING = [  # point, ranks, victim, ranks that go on
    ("start", 2, 1, 3), ("restore", 3, 0, 2), ("data", 2, 0, 1), ("gradient", 3, 2, 4),
    ("reduce", 2, 1, 3), ("optimizer", 1, 0, 2), ("evaluate", 2, 1, 8), ("save", 3, 1, 2),
    ("before_commit", 2, 0, 3), ("after_commit", 2, 0, 1), ("finish", 2, 1, 3),
    ("first step", 2, 0, 2), ("first save", 3, 0, 2),
]
COVERING_LAUNCHES = [(1, 2), (2, 1), (3, 2), (4, 1), (5, 2), (8, 1)]  # ranks, threads


def every_case():
    for point, (_, only_first) in POINTS.items():
        for ranks in (1, 2, 3, 4):
            for victim in range(1 if only_first else ranks):
                for then in (1, 2, 3, 4, 8):
                    yield point, ranks, victim, then


class Kills:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, SAMPLES), **SECTIONS)
        self.run_dir = os.path.join(work, "run")
        ended = rekindle.train(program, 0, self.run_file, os.path.join(work, "undisturbed"))
        assert ended.code == 0, ended
        self.digest = rekindle.digest_of(ended)
        self.metrics = rekindle.metrics(os.path.join(work, "undisturbed"))

    def finishes_alike(self, what, ranks, threads=1):
        """The launch finishes, with the undisturbed run's values and metrics, and leaves no litter."""
        ended = rekindle.train(self.program, ranks, self.run_file, self.run_dir,
                               ["train.threads=%d" % threads])
        return (self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.digest,
                                 what + ": other bits than the undisturbed run's", ended) and
                self.tally.check(rekindle.metrics(self.run_dir) == self.metrics,
                                 what + ": other metrics", ended) and
                self.tally.check(rekindle.temporaries(self.run_dir) == [], what + ": temporary files are left"))

    def launch(self, ranks, threads):
        shutil.rmtree(self.run_dir, ignore_errors=True)
        return self.finishes_alike("%d ranks, %d threads" % (ranks, threads), ranks, threads)

    def dies(self, what, ranks, fault):
        ended = rekindle.train(self.program, ranks, self.run_file, self.run_dir, fault=fault, limit=30)
        fired = "REKINDLE_FAULT fires" in ended.output and ended.code == 137
        return (self.tally.check(fired, what + ": the kill did not end the launch", ended) and
                self.tally.check(rekindle.processes_left(self.run_dir) == [], what + ": processes are left"))

    def kill(self, point, ranks, victim, then):
        what = "%s, rank %d of %d killed, %d go on" % (point, victim, ranks, then)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if point in RESUMING and not self.dies(what, ranks, "rank:0,step:5,at:reduce"):
            return False
        return (self.dies(what, ranks, "rank:%d,%s" % (victim, POINTS[point][0])) and
                self.finishes_alike(what, then))


def cover(kills):
    for ranks, threads in COVERING_LAUNCHES:
        kills.launch(ranks, threads)
    for case in COVERING:
        kills.kill(*case)
    assert {case[0] for case in COVERING} == set(POINTS)
    resuming = sum(case[0] in RESUMING for case in COVERING)
    return kills.tally.finish(planned=3 * len(COVERING_LAUNCHES) + 5 * len(COVERING) + 2 * resuming)


def soak(kills, path):
    """Cases that failed are tried again by the next call; those that passed are not."""
    done = {}
    if os.path.exists(path):
        with open(path) as file:
            done = json.load(file)["cases"]
    cases = [("ranks %d, threads %d" % (ranks, threads), kills.launch, (ranks, threads))
             for ranks in (1, 2, 3, 4, 5, 8, 12) for threads in (1, 2)]
    cases += [("%s: rank %d of %d, then %d" % (point, victim, ranks, then), kills.kill,
               (point, ranks, victim, then)) for point, ranks, victim, then in every_case()]
    for name, check, arguments in cases:
        if done.get(name) == "passed":
            continue
        try:
            passed = check(*arguments)
        except AssertionError as error:  # a launch that hangs
            passed = kills.tally.check(False, name, error)
        done[name] = "passed" if passed else "FAILED"
        count = sum(result == "passed" for result in done.values())
        summary = {"date": time.strftime("%Y-%m-%d"), "digest": kills.digest, "planned": len(cases),
                   "passed": count, "failed": len(done) - count, "cases": done}
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path + ".new", "w") as file:
            json.dump(summary, file, indent=1)
        os.replace(path + ".new", path)
        print("%d of %d: %s %s" % (len(done), len(cases), name, done[name]), flush=True)
    print("%d of %d cases passed" % (sum(result == "passed" for result in done.values()), len(cases)))
    return 0 if all(done.get(name) == "passed" for name, _, _ in cases) else 1


def main():
    program, work, *rest = sys.argv[1:]
    kills = Kills(os.path.abspath(program), os.path.abspath(work))
    if rest[:1] == ["--all"]:
        default = os.path.join(HERE, "..", "..", "bench", "results", "kills.json")
        return soak(kills, rest[1] if len(rest) > 1 else os.path.normpath(default))
    return cover(kills)


sys.exit(main())
