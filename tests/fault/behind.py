"""Ranks killed while the thread behind the training saves, again and again, each time another number of them goes on:
the run that comes out keeps every bit.

Registered: a few relaunches. The soak keeps its tally and goes on where it was stopped:

    behind.py REKINDLE WORK_FOLDER
    behind.py REKINDLE WORK_FOLDER --all [TALLY.json]      default bench/results/behind.json
"""

import os
import random
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import rekindle  # noqa: E402
from short_run import Soak, file_digest  # noqa: E402

# Some 3 MiB of state: a save lasts several steps.
SECTIONS = {
    "run": {"name": "behind", "seed": 9},
    "model": {"arch": "mlp", "widths": "[64, 512, 400, 4]", "classes": 4, "batch_norm": "true"},
    "train": {"epochs": 12, "batch": 64, "shards": 6, "threads": 1},
    "optimizer": {"kind": "adamw", "lr": 0.002, "weight_decay": 0.01, "clip_norm": 1.0},
    "checkpoint": {"background": "true", "every_steps": 3, "keep_last": 2, "every_epoch": "false"},
    "log": {"every_steps": 50},
}
SAMPLES, SIDE = 600, 8
RANKS = (1, 2, 3, 4, 5)
COVERED, SOAKED = 8, 200


class Behind:
    """One run after another, each killed on its way, until enough relaunches were killed."""

    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        data = rekindle.write_data_set(work, SAMPLES, side=SIDE)
        self.run_file = rekindle.write_run_file(work, data, **SECTIONS)
        self.run_dir = os.path.join(work, "run")
        ended = rekindle.train(program, 0, self.run_file, os.path.join(work, "undisturbed"),
                               ["checkpoint.background=false"])
        assert ended.code == 0, ended
        self.digest = rekindle.digest_of(ended)
        self.finished = self.went_on = 0

    def launch(self, choice):
        """A launch that dies at a save of its own; or finishes, before it has come to that one. Returns whether it
        was killed, and what is wrong."""
        ranks = choice.choice(RANKS)
        point = choice.choice(("persist", "before_commit"))
        victim = choice.randrange(ranks) if point == "persist" else 0
        fault = "rank:%d,at:%s,pass:%d" % (victim, point, choice.choice((1, 2, 2, 3, 4)))
        memory, writers = choice.choice(("spare", "overlap")), choice.choice((1, 2, 3))
        ended = rekindle.train(self.program, ranks, self.run_file, self.run_dir,
                               ["checkpoint.memory=" + memory, "checkpoint.writers=%d" % writers],
                               fault=fault, limit=60)
        killed = "REKINDLE_FAULT fires" in ended.output
        self.went_on += "restored g" in ended.output
        what = "%d ranks, %d writers, %s, %s: " % (ranks, writers, fault, memory)
        wrong = []
        if killed and ended.code != 137:
            wrong.append(what + "the kill did not end the launch: %s" % ended)
        if killed and rekindle.processes_left(self.run_dir):
            wrong.append(what + "processes are left")
        if not killed:
            wrong += [what + text for text in self.judge(ended)]
            shutil.rmtree(self.run_dir)
        return killed, wrong

    def judge(self, ended):
        """What must hold of a run that has finished."""
        if ended.code != 0:
            return ["it neither finishes nor was it killed: %s" % ended]
        self.finished += 1
        wrong = []
        if rekindle.digest_of(ended) != self.digest:
            wrong.append("other bits than the undisturbed run's: %s" % ended)
        if rekindle.temporaries(self.run_dir):
            wrong.append("temporary files are left")
        steps = rekindle.saved_steps(self.run_dir)
        if len(steps) > 2 * SECTIONS["checkpoint"]["keep_last"]:
            wrong.append("the checkpoints are more and more: %s" % steps)
        return wrong

    def finish_run(self):
        """Undisturbed from here on. Returns what is wrong."""
        ended = rekindle.train(self.program, 2, self.run_file, self.run_dir)
        return self.judge(ended)


def cover(behind):
    choice, killed = random.Random(4), 0
    while killed < COVERED:
        fired, wrong = behind.launch(choice)
        killed += fired
        behind.tally.check(not wrong, "; ".join(wrong))
    wrong = behind.finish_run()
    behind.tally.check(not wrong, "; ".join(wrong))
    behind.tally.check(behind.went_on > 1, "%d launches went on from a checkpoint: too few" % behind.went_on)
    print("%d launches killed while they saved, %d went on from a checkpoint, %d runs finished" %
          (killed, behind.went_on, behind.finished))
    return behind.tally.finish()


def soak(behind, path):
    """A point of the tally is one relaunch that was killed; they are drawn by their number."""
    tally = Soak(path, file_digest(behind.program), {"relaunches": SOAKED, "sections": SECTIONS})
    for number in range(SOAKED):
        if tally.has(str(number)):
            continue
        choice, killed, wrong = random.Random(number), False, []
        while not killed:
            killed, more = behind.launch(choice)
            wrong += more
        tally.note(str(number), wrong)
    wrong = behind.finish_run()
    tally.note("the last run", wrong)
    tally.write(SOAKED + 1, runs_finished=behind.finished, went_on_from_a_checkpoint=behind.went_on)
    failed = [key for key, verdict in tally.done.items() if verdict != "ok"]
    print("%d relaunches killed while they saved, %d went on from a checkpoint, %d runs finished, %d failed" %
          (SOAKED, behind.went_on, behind.finished, len(failed)))
    return 1 if failed else 0


if __name__ == "__main__":
    behind = Behind(sys.argv[1], sys.argv[2])
    if len(sys.argv) > 3 and sys.argv[3] == "--all":
        default = os.path.join(HERE, "..", "..", "bench", "results", "behind.json")
        sys.exit(soak(behind, sys.argv[4] if len(sys.argv) > 4 else default))
    sys.exit(cover(behind))
