"""What the tests of the object store share: two runs to copy (a small one and one of several parts), a server for
each test, and the commands as a user gives them. Standard library only.

A test is a function whose name is a sentence and that takes a Case; run_all calls all of a module."""

import inspect
import json
import os
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rekindle  # noqa: E402
import s3_server  # noqa: E402

PREFIX = "s3://bucket/runs/first"
NAME = "g0001-step-%012d.h5"
STEPS = 3
WIDTHS = {"small": "[196, 16, 4]", "large": "[196, 1500, 1000, 4]"}  # large: 21 MB, three parts


class Fixture:
    """The runs, made once."""

    def __init__(self, program):
        self.program, self.tally = program, rekindle.Tally()
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.work = tempfile.mkdtemp(prefix="rekindle-store.", dir=base)
        data_part = rekindle.write_data_set(self.work, 80)
        self.runs, self.run_files, self.digests = {}, {}, {}
        for size, widths in WIDTHS.items():
            folder = os.path.join(self.work, size)
            os.mkdir(folder)
            self.run_files[size] = rekindle.write_run_file(
                folder, data_part, run={"name": size, "seed": 3},
                model={"arch": "mlp", "widths": widths, "classes": 4},
                train={"epochs": 1, "batch": 20, "shards": 4, "threads": 1, "max_steps": STEPS},
                optimizer={"kind": "adam", "lr": 0.01}, checkpoint={"every_steps": 1, "keep_last": 10})
            self.runs[size] = os.path.join(folder, "run")
            ended = rekindle.train(program, 0, self.run_files[size], self.runs[size])
            assert ended.code == 0, ended
            self.digests[size] = rekindle.digest_of(ended)


class Case:
    """One test: a server of its own, a folder of its own."""

    def __init__(self, fixture, name, **server):
        self.fixture, self.name, self.tally = fixture, name.replace("_", " "), fixture.tally
        self.server = s3_server.S3Server(**server)
        self.folder = tempfile.mkdtemp(dir=fixture.work)
        self.program = fixture.program

    def check(self, true, what, detail=""):
        return self.tally.check(true, "%s: %s" % (self.name, what), detail)

    def close(self):
        self.check(not self.server.refused or self.expects_refusals, "signatures were refused", self.server.refused)
        self.server.close()
        shutil.rmtree(self.folder)

    expects_refusals = False

    def command(self, *arguments, **variables):
        """`rekindle checkpoints …` to its end."""
        return rekindle.run([self.program, "checkpoints", *arguments], self.server.environment(**variables), limit=60)

    def says(self, ended, code, *texts):
        """It ends with this code and tells what a user needs."""
        return self.check(ended.code == code and all(text in ended.output for text in texts),
                          "exit code %d and %s" % (code, list(texts)), ended)

    def file(self, size, step):
        return os.path.join(self.fixture.runs[size], "checkpoints", NAME % step)

    def bytes(self, size, step):
        with open(self.file(size, step), "rb") as file:
            return file.read()

    def put(self, size="small", steps=range(1, STEPS + 1), prefix="runs/first"):
        """Objects that are there before the test begins."""
        for step in steps:
            data = self.bytes(size, step)
            self.server.put(prefix + "/" + NAME % step, data)

    def object(self, step, prefix="runs/first"):
        return self.server.objects.get(prefix + "/" + NAME % step, (None, None))[0]

    def holds(self, step, size="small"):
        return self.check(self.object(step) == self.bytes(size, step), "the object of step %d is the file" % step)

    @property
    def run_dir(self):
        return os.path.join(self.folder, "run")

    def lose_run_dir(self):
        shutil.rmtree(self.run_dir, ignore_errors=True)  # a launch that was killed early made none

    def events(self, kind):
        """Lines of the run's ledger."""
        with open(os.path.join(self.run_dir, "ledger.jsonl")) as file:
            return [one for one in map(json.loads, file) if one["event"] == kind]

    def left_nothing(self, folder=None):
        found = [name for _, _, names in os.walk(folder or self.folder) for name in names]
        return self.check(not found, "nothing is left behind", found)

    def json(self, ended):
        return json.loads(ended.output)


def run_all(module, program, server={}):
    """All functions of a module that take a case, each with a server of its own. server: function's name → options."""
    fixture = Fixture(program)
    try:
        for name, function in list(vars(module).items()):
            if not inspect.isfunction(function) or function.__module__ != module.__name__ or \
                    str(inspect.signature(function)) != "(case)":
                continue
            began = time.monotonic()
            case = Case(fixture, name, **server.get(name, {}))
            function(case)
            case.close()
            print("%5.2f s  %s" % (time.monotonic() - began, case.name), flush=True)
        return fixture.tally.finish()
    finally:
        shutil.rmtree(fixture.work)
