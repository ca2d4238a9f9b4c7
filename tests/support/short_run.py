"""A run of six steps that takes a tenth of a second, launched under the fault shim, and the judge that looks
at its directory afterwards. Standard library only."""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rekindle  # noqa: E402

STEPS = 6
KEEP_LAST = 2
FAULT_CODES = (1, 2, 3)  # a fault, wrong usage, no valid checkpoint: never a signal's
# Tensors of more than a page, so that a save writes segments, the metadata region and the user block.
SECTIONS = {
    "run": {"name": "short", "seed": 5},
    "device": "reference",
    "model": {"arch": "mlp", "widths": "[16, 96, 4]", "classes": 4},
    "train": {"epochs": 2, "batch": 8, "shards": 2, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "checkpoint": {"every_steps": 1, "keep_last": KEEP_LAST, "max_failures": 1000},
    "log": {"every_steps": 1},
}
CHECKPOINT = "g%04d-step-%012d.h5"


def work_folder(prefix):
    """In memory where there is room: the calls are the same, and a launch takes a third of the time."""
    return tempfile.mkdtemp(prefix="rekindle-%s." % prefix, dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


class Call:
    """One watched call: what the shim wrote about it."""

    def __init__(self, line):
        self.number, self.kind, self.name, self.path = line.split(" ", 3)
        self.number = int(self.number)

    def __str__(self):
        return "%d %s %s" % (self.number, self.name, re.sub(r"\.[0-9a-f]{16}\.tmp", ".*.tmp", self.path))


class Launch(rekindle.Ended):
    """How a launch ended, and the injections that fired in it."""

    def __init__(self, ended, fired):
        super().__init__(ended.code, ended.output, ended.seconds)
        self.fired = fired

    @property
    def restored_step(self):
        found = re.search(r"^restored .*: step (\d+) of", self.output, re.MULTILINE)
        return int(found.group(1)) if found else None

    @property
    def saved_steps(self):
        return [int(step) for step in re.findall(r"^saved step (\d+) ", self.output, re.MULTILINE)]

    def __str__(self):
        return "%s\nfired: %s" % (super().__str__(), self.fired)


class ShortRun:
    def __init__(self, program, shim, work):
        self.program, self.shim, self.work = program, shim, work
        os.makedirs(work, exist_ok=True)
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, 24, side=4), **SECTIONS)
        self.run_dir = os.path.join(os.path.realpath(work), "run")
        ended = self.launch(sets=["checkpoint.keep_last=1000"])
        assert ended.code == 0, ended
        self.final = rekindle.digest_of(ended)
        self.digests = {one["step"]: one["state_digest"] for one in self.verify()}
        assert sorted(self.digests) == list(range(1, STEPS + 1)), self.digests
        assert self.digests[STEPS] == self.final
        self.metrics = rekindle.metrics(self.run_dir)

    # ---- launches

    def command(self, sets=()):
        return rekindle.train_command(self.program, 0, self.run_file, self.run_dir, sets)

    def shim_environment(self, at=None, do=None, always=False, trace=None):
        extra = {"LD_PRELOAD": self.shim, "SHIM_PATH": self.run_dir, "SHIM_REPORT": self.report(),
                 "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
        if trace is not None:
            extra["SHIM_TRACE"] = trace
        if at is not None:
            extra.update({"SHIM_AT": str(at), "SHIM_DO": do})
        if always:
            extra["SHIM_ALWAYS"] = "1"
        return extra

    def report(self):
        return os.path.join(self.work, "shim.report")

    def launch(self, sets=(), limit=60, shim=None, under=()):
        """shim: what shim_environment gave; None: without it. under: a command that runs the launch."""
        if os.path.exists(self.report()):
            os.unlink(self.report())
        ended = rekindle.run([*under, *self.command(sets)], shim, limit)
        return Launch(ended, self.fired())

    def fired(self):
        if not os.path.exists(self.report()):
            return []
        with open(self.report()) as file:
            return file.read().splitlines()

    def count_calls(self, sets=()):
        """The calls of an undisturbed launch on the directory as it is now."""
        trace = os.path.join(self.work, "shim.trace")
        if os.path.exists(trace):
            os.unlink(trace)
        ended = self.launch(sets, shim=self.shim_environment(trace=trace))
        assert ended.code == 0 and rekindle.digest_of(ended) == self.final, ended
        with open(trace) as file:
            return [Call(line.rstrip("\n")) for line in file]

    # ---- directories

    def clear(self):
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def put(self, prepared):
        """Makes the run directory what `prepared` holds; None: nothing."""
        self.clear()
        if prepared is not None:
            shutil.copytree(prepared, self.run_dir, symlinks=True)

    def prepare(self, name):
        """Keeps the run directory as it is now for put."""
        kept = os.path.join(self.work, name)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.run_dir, kept, symlinks=True)
        return kept

    def prepare_killed(self, name, calls, step=4, sets=()):
        """A run whose launch was killed between two writes of a checkpoint: it leaves a temporary file, lines
        ahead of the newest checkpoint, and a record of an owner who is gone."""
        half = [call for call in calls if call.kind == "write" and CHECKPOINT % (1, step) in call.path]
        self.clear()
        ended = self.launch(sets, shim=self.shim_environment(half[0].number, "kill-after"))
        assert ended.code == -9 and len(ended.fired) == 1, ended
        assert any(".tmp" in path for path in self.files()), self.files()
        return self.prepare(name)

    def files(self):
        return sorted(os.path.relpath(os.path.join(folder, name), self.run_dir)
                      for folder, _, names in os.walk(self.run_dir) for name in names)

    def checkpoint_names(self):
        return [os.path.basename(path) for path in self.files() if path.endswith(".h5")]

    def checkpoint_path(self, name):
        return os.path.join(self.run_dir, "checkpoints", name)

    # ---- the judge

    def verify(self):
        """Every checkpoint that is there, newest first, each read whole by the program."""
        ended = rekindle.run([self.program, "checkpoints", "verify", self.run_dir, "--json"])
        if "no checkpoints in" in ended.output or "No such file" in ended.output:
            return []
        assert ended.code in (0, 3), ended
        return json.loads(ended.output)

    def check_directory(self, ended, known_bad=()):
        """What must hold after any fault: the files are whole and right, and nothing that was called saved is
        lost. Returns the step of the newest valid checkpoint (None: there is none) and what is wrong."""
        wrong, newest = [], None
        for one in self.verify():
            if not one["ok"]:
                if one["file"] not in known_bad:
                    wrong.append("%s is bad" % one)
                continue
            if one["state_digest"] != self.digests.get(one["step"]):
                wrong.append("%s holds other bits than the undisturbed run after its step" % one)
            newest = max(newest or 0, one["step"])
        promised = max(ended.saved_steps, default=None)
        if promised is not None and (newest is None or newest < promised):
            wrong.append("step %d was called saved, but the newest checkpoint is of %s" % (promised, newest))
        return newest, wrong

    def check_ending(self, ended):
        """What must hold of a launch under a fault: it finishes with the undisturbed run's bits, or ends with a
        documented code and says why. Returns what is wrong."""
        if ended.code == 0:
            return [] if rekindle.digest_of(ended) == self.final else ["it finishes with other bits"]
        if ended.code not in FAULT_CODES:
            return ["it ends with code %d" % ended.code]
        text = "\n" + ended.output
        told = all(mark in text for mark in ("\nrekindle: ", "\n  where: ", "\n  fix:   "))
        return [] if told else ["it ends without saying why, where, and what to do"]

    def check_end(self, ended, newest, metrics=True, known_bad=(), bounded=True):
        """What must hold after the relaunch: it went on from the newest checkpoint, ended with the undisturbed
        run's bits, and left no litter. bounded: it pruned. Returns what is wrong."""
        if ended.code != 0:
            return ["the relaunch does not finish"]
        wrong = []
        if rekindle.digest_of(ended) != self.final:
            wrong.append("the relaunch ends with other bits")
        if ended.restored_step != newest:
            wrong.append("the relaunch went on from step %s, not %s" % (ended.restored_step, newest))
        files = self.files()
        wrong += ["%s was left behind" % path for path in files if path.endswith(".tmp")]
        # two generations' worth at most, and what is kept as evidence
        if bounded and len([name for name in self.checkpoint_names() if name not in known_bad]) > 2 * KEEP_LAST:
            wrong.append("too many checkpoints were left: %s" % files)
        if metrics and rekindle.metrics(self.run_dir) != self.metrics:
            wrong.append("metrics.jsonl is not the undisturbed run's")
        return wrong


def file_digest(*paths):
    """Names a build: a tally of another program's points must not count for this one."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


class Soak:
    """A tally on disk that an interrupted soak takes up again, and one with failures. Of others only the sums stay."""

    def __init__(self, path, build, plan):
        """plan: what this soak is; a tally of another plan or build is begun anew. path None: no tally."""
        self.path, self.head = path, {"build": build, "plan": plan}
        self.done = {}
        if path is not None and os.path.exists(path):
            with open(path) as file:
                old = json.load(file)
            if {key: old.get(key) for key in self.head} == self.head:
                self.done = old.get("points", {})

    def has(self, key):
        return self.done.get(key) == "ok"

    def note(self, key, wrong):
        self.done[key] = "; ".join(wrong)[:300] if wrong else "ok"
        if len(self.done) % 50 == 0:
            self.write()

    def write(self, planned=None, **more):
        """planned: how many points the whole soak has, when it is through."""
        if self.path is None:
            return
        failed = {key: verdict for key, verdict in sorted(self.done.items()) if verdict != "ok"}
        whole = {**self.head, "planned": planned, "passed": len(self.done) - len(failed), "failed": failed, **more}
        if planned is None or failed:
            whole["points"] = self.done
        with open(self.path + ".new", "w") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")
        os.replace(self.path + ".new", self.path)
