"""Snapshots in a host's memory: a run whose ranks are killed between two saves goes on from the newest one that is
held and ends with the undisturbed run's bits; what is damaged, deleted, a zombie's or another run's does not count;
a memory that is full, missing or not ours costs no step; a run that ends leaves nothing there.

    held.py REKINDLE WORK_FOLDER
    held.py REKINDLE WORK_FOLDER --all [TALLY.json]      default bench/results/held.json

The latter is a soak: hundreds of launches killed anywhere, on other numbers of ranks, some with their memory damaged or
lost in between; each must go on from the newest state that is left, wherever it lies. It goes on where it was stopped.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import ledger  # noqa: E402
import rekindle  # noqa: E402
from short_run import Soak, file_digest  # noqa: E402

SECTIONS = {
    "run": {"name": "held", "seed": 11},
    "device": "reference",
    "model": {"arch": "mlp", "widths": "[16, 96, 4]", "classes": 4},
    "train": {"epochs": 4, "batch": 8, "shards": 4, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "checkpoint": {"background": "true", "every_steps": 5, "every_epoch": "false", "keep_last": 1000},
    "log": {"every_steps": 1},
}
SAMPLES, SAVED_EACH, STEPS = 24, 5, 12
NAME = "g%04d-step-%012d.h5"
LONG = ["train.epochs=40", "checkpoint.every_steps=1000", "model.widths=[16, 700, 500, 4]", "train.evaluate_every_steps=1000"]
EACH_STEP = "checkpoint.background=false"  # no step is passed over for a save in flight


class Held:
    def __init__(self, program, work):
        self.program, self.work = program, os.path.realpath(work)
        self.run_dir, self.memory = os.path.join(self.work, "run"), os.path.join(self.work, "memory")
        subprocess.run(["umount", self.memory], stderr=subprocess.DEVNULL)  # of a test that was killed
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(self.memory)
        self.run_file = rekindle.write_run_file(self.work, rekindle.write_data_set(self.work, SAMPLES, side=4), **SECTIONS)
        ended = rekindle.train(program, 0, self.run_file, os.path.join(self.work, "undisturbed"))
        assert ended.code == 0, ended
        self.final = rekindle.digest_of(ended)
        self.tally, self.fired = rekindle.Tally(), 0

    def clear(self):
        for folder in (self.run_dir, self.memory):
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(self.memory)

    def launch(self, ranks, fault=None, sets=(), memory=None):
        ended = rekindle.train(self.program, ranks, self.run_file, self.run_dir,
                               ["checkpoint.local.dir=" + (memory or self.memory), "checkpoint.local.every_steps=1", *sets],
                               fault=fault, limit=60)
        self.fired += "REKINDLE_FAULT fires" in ended.output
        return ended

    def kill(self, ranks, fault, sets=(EACH_STEP,)):
        """A launch that must die of the fault."""
        ended = self.launch(ranks, fault, sets)
        fired = "REKINDLE_FAULT fires" in ended.output and ended.code in (137, -9)
        self.tally.check(fired, "%s kills a launch on %d ranks" % (fault, ranks), str(ended))
        return ended

    def files(self):
        """Step → path of what is held, of every launch."""
        found = {}
        for folder, _, names in os.walk(self.memory):
            for name in names:
                if name.endswith(".h5"):
                    found[int(re.search(r"step-(\d+)", name).group(1))] = os.path.join(folder, name)
        return found

    def check_end(self, what, ended, restored, held=True):
        """A launch that must have gone on from that step, have saved it first, and have finished with the right bits."""
        pattern = r"^(?:\[rank 0\] )?restored (\S+)%s: step %d of" % (", held by rank \\d+ on \\S+" if held else "", restored)
        wrong = []
        if ended.code != 0 or rekindle.digest_of(ended) != self.final:
            wrong.append("it does not finish with the undisturbed run's bits")
        if not re.search(pattern, ended.output, re.MULTILINE):
            wrong.append("it does not go on from step %d" % restored)
        if held and restored not in rekindle.saved_steps(self.run_dir):
            wrong.append("the step that it went on from is not saved")
        if os.listdir(self.memory):
            wrong.append("something is left in memory: %s" % list(os.walk(self.memory)))
        if rekindle.temporaries(self.run_dir):
            wrong.append("temporary files are left")
        misdescribed, events = ledger.trouble(self.run_dir)
        wrong += misdescribed + ([] if "hold" in events else ["the ledger tells of no hold"])
        self.tally.check(not wrong, what, "; ".join(wrong) + "\n" + str(ended))


def kills(held):
    """Killed in several places; the relaunch has another number of ranks."""
    for ranks, then, fault, step in ((2, 3, "rank:1,step:9,at:reduce", 8), (1, 2, "step:4,at:optimizer", 3),
                                     (3, 1, "rank:0,at:held,pass:7", None), (2, 1, "rank:0,step:8,at:before_commit", None)):
        held.clear()
        held.kill(ranks, fault)
        newest = max(held.files())
        held.tally.check(step is None or newest == step, "%s: step %s is held" % (fault, step), str(held.files()))
        held.check_end("after %s on %d ranks, %d go on" % (fault, ranks, then), held.launch(then), newest)


def behind(held):
    """The same behind the training: what is held is what the thread has come to."""
    held.clear()
    undisturbed = held.launch(0, sets=LONG)
    steps = int(re.search(r"held in memory: (\d+) states", undisturbed.output).group(1))
    held.tally.check(steps >= 3 and not re.search(r"\b0 passed over", undisturbed.output),
                     "some steps are held and some passed over", str(undisturbed))
    held.clear()
    held.kill(2, "rank:1,at:held,pass:3", sets=LONG)
    newest = max(held.files())
    ended = held.launch(3, sets=LONG)
    held.tally.check("step %d of" % newest in ended.output and ", held by rank 0 on" in ended.output,
                     "killed behind the training: the newest is gone on from", str(ended))
    held.tally.check(rekindle.digest_of(ended) == rekindle.digest_of(undisturbed) and not os.listdir(held.memory),
                     "killed behind the training: the same bits", str(ended))


def through_memory_alone(held):
    """Killed again before the first save of what was held is durable; and so on."""
    held.clear()
    held.kill(2, "step:3,at:reduce")
    for ranks in (0, 0):
        held.kill(ranks, "rank:0,at:before_commit,pass:1")
        held.tally.check(not rekindle.saved_steps(held.run_dir) and max(held.files()) == 2,
                         "killed again: nothing is saved yet", str(held.files()))
    held.check_end("from launch to launch through memory alone", held.launch(2), 2)


def listing(held):
    """`checkpoints ls` shows what is held, and whether it counts."""
    held.clear()
    held.kill(0, "step:9,at:reduce")
    os.truncate(held.files()[7], 5000)
    ended = rekindle.run([held.program, "checkpoints", "ls", held.run_dir, "--json"])
    found = [(one["tier"], one["step"], one["verdict"]) for one in json.loads(ended.output)]
    held.tally.check(found == [("directory", 5, "valid"), ("memory", 8, "valid"), ("memory", 7, "damaged")], "ls --json", str(ended))
    ended = rekindle.run([held.program, "checkpoints", "ls", held.run_dir])
    held.tally.check(ended.code == 0 and "\nmemory %s\n" % held.memory in ended.output and NAME % (1, 8) in ended.output, "ls", str(ended))
    shutil.rmtree(held.memory)
    ended = rekindle.run([held.program, "checkpoints", "ls", held.run_dir])
    held.tally.check(ended.code == 0 and "the memory %s cannot be listed" % held.memory in ended.output, "ls without memory", str(ended))


def damage(held):
    held.clear()
    held.kill(0, "step:9,at:reduce")
    path = held.files()[8]
    with open(path, "r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"damage")
    ended = held.launch(0)
    held.check_end("a damaged one is passed over", ended, 7)
    held.tally.check("%s, held by rank 0 on" % (NAME % (1, 8)) in ended.output and
                     "is damaged and is passed over: segment" in ended.output, "it is named with the reason", str(ended))

    held.clear()
    held.kill(0, "step:9,at:reduce")
    for path in held.files().values():
        os.truncate(path, 5000)
    held.check_end("with all damaged the saved one is gone on from", held.launch(0), 5, held=False)

    held.clear()
    held.kill(0, "step:9,at:reduce")
    shutil.rmtree(held.memory)
    os.mkdir(held.memory)
    held.check_end("with memory lost the saved one is gone on from", held.launch(0), 5, held=False)


def others(held):
    """What does not count, whoever left it there."""
    held.clear()
    held.kill(0, "step:9,at:reduce")  # holds 7 and 8
    zombie = os.path.join(held.work, "zombie")
    shutil.rmtree(zombie, ignore_errors=True)
    os.rename(held.memory, zombie)
    os.mkdir(held.memory)
    held.kill(0, "step:6,at:reduce")  # went on from 5 and holds nothing
    os.unlink(os.path.join(held.run_dir, "checkpoints", NAME % (2, 5)))
    for folder in os.listdir(zombie):
        shutil.copytree(os.path.join(zombie, folder), os.path.join(held.memory, folder), dirs_exist_ok=True)
    ended = held.launch(0)
    held.check_end("a zombie's does not count", ended, 5, held=False)
    held.tally.check(len(re.findall("held by rank 0 on .*, does not count: generation 2 went on from step 5", ended.output)) == 2,
                     "and it is told why", str(ended))

    held.clear()
    held.kill(0, "step:9,at:reduce")
    shutil.rmtree(held.run_dir)
    ended = held.launch(0)
    held.tally.check(ended.code == 0 and "fresh start" in ended.output and rekindle.digest_of(ended) == held.final and
                     not os.listdir(held.memory), "a deleted run directory begins afresh", str(ended))

    held.clear()
    held.kill(0, "step:4,at:reduce")
    ended = held.launch(0, sets=["resume=none"])
    held.tally.check(ended.code == 2 and "holds " + NAME % (1, 3) in ended.output, "resume: none hides nothing", str(ended))


def check_useless(held, what, ended, text):
    told = len(re.findall(text, ended.output))
    held.tally.check(ended.code == 0 and rekindle.digest_of(ended) == held.final and told == 1,
                     "%s: said once, and training goes on" % what, "said %d times\n%s" % (told, ended))


def no_room(held):
    held.clear()
    check_useless(held, "a missing directory", held.launch(0, memory=held.memory + "/none"), "holds no snapshots: cannot open")
    os.chmod(held.memory, 0o755)
    user = os.path.join(held.memory, "rekindle-%d" % os.geteuid())
    os.mkdir(user, 0o700)
    os.chmod(user, 0o777)
    shutil.rmtree(held.run_dir)
    check_useless(held, "a place that others can write to", held.launch(0), "holds no snapshots: .* mode 777")
    held.clear()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", held.memory], stderr=subprocess.DEVNULL).returncode != 0:
        print("no tmpfs can be mounted here: its part is skipped")
        return
    try:
        check_useless(held, "a tmpfs smaller than a snapshot", held.launch(0), "is not held in")
        subprocess.run(["mount", "-o", "remount,size=8m", held.memory], check=True)
        with open(os.path.join(held.memory, "ballast"), "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        shutil.rmtree(held.run_dir)
        check_useless(held, "a full tmpfs", held.launch(0), "is not held in")
        held.tally.check(os.listdir(held.memory) == ["ballast"], "and nothing of ours is left there", str(os.listdir(held.memory)))
    finally:
        subprocess.run(["umount", held.memory], check=True)


def stops(held):
    held.clear()
    ended = held.launch(2, "rank:0,step:7,at:data,send:USR1", sets=[EACH_STEP])
    held.tally.check(ended.code == 75 and not os.listdir(held.memory), "a stop leaves no memory behind", str(ended))
    ended = held.launch(0)
    held.tally.check(ended.code == 0 and rekindle.digest_of(ended) == held.final, "and the run goes on", str(ended))


# ---- the soak

SOAKED = 300
SOAK_SETS = LONG + ["checkpoint.every_steps=40", "checkpoint.keep_last=2"]
EVERY_STEP = ("data", "gradient", "reduce", "optimizer")
BY_THE_SAVER = ("persist", "before_commit", "held", "after_commit")
ONCE = ("start", "restore", "save")


class Storm:
    """One run after another, killed on its way again and again."""

    def __init__(self, held):
        self.held, self.finished, self.through_memory = held, 0, 0
        held.clear()
        ended = held.launch(0, sets=SOAK_SETS)
        assert ended.code == 0, ended
        self.final = rekindle.digest_of(ended)
        held.clear()

    def newest(self):
        """(generation, step, whether it is held) of the newest state that is left."""
        found = [(-1, 0, False)]
        for folder, held in ((os.path.join(self.held.run_dir, "checkpoints"), False), (self.held.memory, True)):
            for above, _, names in os.walk(folder):
                for name in names:
                    match = re.fullmatch(r"g(\d+)-step-(\d+)\.h5", name)
                    if match and os.path.getsize(os.path.join(above, name)) > 5000:
                        found.append((int(match.group(1)), int(match.group(2)), held))
        return max(found, key=lambda one: (one[0], one[1], not one[2]))

    def trouble(self, choice):
        """Now and then a host loses its memory, or a bit of it."""
        what = choice.random()
        if what < 0.1:
            shutil.rmtree(self.held.memory)
            os.makedirs(self.held.memory)
        elif what < 0.25 and self.held.files():
            os.truncate(self.held.files()[max(self.held.files())], 5000)

    def launch(self, choice):
        """Returns whether it was killed, and what is wrong."""
        _, expected, held = self.newest()
        ranks = choice.choice((1, 2, 3, 4))
        points, passes = choice.choice(((EVERY_STEP, 60), (BY_THE_SAVER, 12), (ONCE, 1)))
        fault = "rank:%d,at:%s,pass:%d" % (choice.randrange(ranks), choice.choice(points), choice.randint(1, passes))
        background = choice.choice(("true", "true", "false"))
        ended = self.held.launch(ranks, fault, SOAK_SETS + ["checkpoint.background=" + background])
        killed = "REKINDLE_FAULT fires" in ended.output
        what = "%d ranks, %s, background %s, after step %d%s: " % (ranks, fault, background, expected, " (held)" if held else "")
        wrong = []
        restored = re.search(r"restored \S+?(, held by rank 0 on \S+)?: step (\d+) of", ended.output)
        if restored and (int(restored.group(2)), restored.group(1) is not None) != (expected, held):
            wrong.append("it goes on from elsewhere")
        if not restored and expected and ("fresh start" in ended.output or not killed):
            wrong.append("it does not go on")
        self.through_memory += restored is not None and held
        files = [name for _, _, names in os.walk(self.held.memory) for name in names]
        if sum(name.endswith(".h5") for name in files) > 2 or sum(name.endswith(".tmp") for name in files) > 2:
            wrong.append("memory fills up: %s" % files)
        if killed and ended.code not in (137, -9):
            wrong.append("the kill does not end the launch")
        if not killed:
            self.finished += 1
            if ended.code != 0 or rekindle.digest_of(ended) != self.final or os.listdir(self.held.memory):
                wrong.append("it does not finish with the undisturbed run's bits and an empty memory")
            self.held.clear()
        return killed, [what + text + "\n" + str(ended) for text in wrong]


def soak(held, path):
    """A point of the tally is one launch that was killed; they are drawn by their number."""
    tally = Soak(path, file_digest(held.program), {"launches": SOAKED, "sections": SECTIONS, "sets": SOAK_SETS})
    storm = Storm(held)
    for number in range(SOAKED):
        if tally.has(str(number)):
            continue
        choice, killed, wrong = random.Random(number), False, []
        while not killed:
            killed, more = storm.launch(choice)
            wrong += more
        storm.trouble(choice)
        tally.note(str(number), wrong)
    tally.write(SOAKED, runs_finished=storm.finished, went_on_from_memory=storm.through_memory)
    failed = [key for key, verdict in tally.done.items() if verdict != "ok"]
    print("%d launches killed, %d went on from memory, %d runs finished, %d failed" %
          (SOAKED, storm.through_memory, storm.finished, len(failed)))
    return 1 if failed else 0


def cover(held):
    for part in (kills, behind, through_memory_alone, listing, damage, others, no_room, stops):
        part(held)
    print("%d launches were killed or stopped" % held.fired)
    return held.tally.finish()


def main():
    held = Held(*sys.argv[1:3])
    try:
        if sys.argv[3:4] != ["--all"]:
            return cover(held)
        default = os.path.join(HERE, "..", "..", "bench", "results", "held.json")
        return soak(held, sys.argv[4] if len(sys.argv) > 4 else default)
    finally:
        shutil.rmtree(held.work, ignore_errors=True)


sys.exit(main())
