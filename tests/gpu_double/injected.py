"""An error at the calls that a whole run makes through the seam, one at a time, on one rank, once: of a run from its
beginning and of one that is taken up again, on one rank, on two, and on two that share a GPU.

The launch must end within seconds, with a documented code and one text that says who, what, where and what to do,
and leave no process and no temporary file. The same launch without the error then finishes with the bits of the
undisturbed run. An error that comes while all is being closed, behind the result, harms nothing: it must be the
right result. An error that did not fire proves nothing.

    injected.py REKINDLE WORK_FOLDER [--all TALLY.json]

Without --all of each function the first, a middle and the last call of a run on one rank, and one of them on two
ranks, in turn; --all takes every call and keeps a tally, so that it can be interrupted.
"""

import argparse
import collections
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

LIMIT_S = 20  # a launch takes half a second
PATIENCE_S = 2
# Three steps an epoch; behind each epoch an evaluation and a save.
SECTIONS = {
    "run": {"name": "injected", "seed": 5},
    "device": "cuda",
    "model": {"arch": "mlp", "widths": "[64, 24, 4]", "classes": 4, "dropout": 0.1},
    "train": {"epochs": 2, "batch": 16, "shards": 2, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.01, "clip_norm": 1.0},
    "checkpoint": {"every_steps": 3, "keep_last": 2},
    "log": {"every_steps": 1},
}
SAMPLES, STEPS = 48, 6
FAULT, USAGE, WATCHDOG = 1, 2, 4
ASKED = ("vendor_event_done", "vendor_comm_poll")  # as often as time allows: other launches ask less often
ASKED_SURELY = 0.1                                 # of what was counted once
ASKED_MOST = 20                                    # so many of them in a soak: each has the same few callers
CLOSING = ["vendor_record"]  # also called by whoever waits before a release, when all results are there
BLOCK = re.compile(r"^rekindle: (.*)\n  where: (.*)\n(?:  fix:   (.*)\n)?", re.MULTILINE)

Point = collections.namedtuple("Point", "scenario rank function occurrence kind")


class Scenario:
    """Launches on so many ranks from a directory that is prepared, and the calls of each rank."""

    def __init__(self, name, ranks, prepared, environment, calls):
        self.name, self.ranks, self.prepared, self.environment, self.calls = name, ranks, prepared, environment, calls


class Injected:
    def __init__(self, program, work):
        self.program, self.work = program, work
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, SAMPLES, side=8), **SECTIONS)
        self.run_dir = os.path.join(work, "run")
        self.final, self.slowest, self.endings = None, 0.0, collections.Counter()
        killed = os.path.join(work, "killed")
        ended = self.launch(0, None, fault="rank:0,step:4,at:gradient")
        assert "REKINDLE_FAULT fires" in ended.output and rekindle.saved_steps(self.run_dir) == [3], ended
        shutil.copytree(self.run_dir, killed)
        one_gpu = {"GPU_DOUBLE_DEVICES": "1"}
        self.scenarios = [self.count("alone", 0, None, {}), self.count("alone again", 0, killed, {}),
                          self.count("two", 2, None, {}), self.count("two again", 2, killed, {}),
                          self.count("two on one GPU", 2, None, one_gpu)]

    def launch(self, ranks, prepared, extra=None, fault=None, sets=()):
        """From the directory as `prepared` holds it; None: from none, True: as it is."""
        if prepared is not True:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        if isinstance(prepared, str):
            shutil.copytree(prepared, self.run_dir)
        return rekindle.train(self.program, ranks, self.run_file, self.run_dir, sets, fault, extra, LIMIT_S)

    def count(self, name, ranks, prepared, environment):
        file = os.path.join(self.work, "calls")
        ended = self.launch(ranks, prepared, {**environment, "GPU_DOUBLE_COUNT": file})
        assert ended.code == 0, ended
        self.final = self.final or rekindle.digest_of(ended)
        assert rekindle.digest_of(ended) == self.final, ended
        calls = []
        for rank in range(max(ranks, 1)):
            with open(file + (".%d" % rank if rank > 0 else "")) as counted:
                calls.append({line.split()[0]: int(line.split()[1]) for line in counted})
        return Scenario(name, ranks, prepared, environment, calls)

    # ---- one error

    def check(self, point):
        """What is wrong when this call fails: nothing, or some lines. None: it was not made in this launch."""
        scenario = point.scenario
        rule = "rank:%d,%s:%d" % (point.rank, point.function, point.occurrence)
        sets = ["fault.hang_timeout=%d" % PATIENCE_S] if point.kind == "HANG" else []
        try:
            failed = self.launch(scenario.ranks, scenario.prepared,
                                 {**scenario.environment, "GPU_DOUBLE_" + point.kind: rule}, sets=sets)
        except AssertionError as hung:
            return [str(hung)]
        fired = failed.output.count("gpu_double: injected")
        if fired == 0 and failed.code == 0 and point.function in ASKED and point.occurrence > 1:
            return None
        wrong = [] if fired == 1 else ["it fired %d times" % fired]
        self.slowest = max(self.slowest, failed.seconds)
        self.endings[failed.code] += 1
        wrong += self.judge_success(point, failed) if failed.code == 0 else self.judge_failure(point, failed)
        left = rekindle.processes_left(self.run_dir)
        if left:
            wrong.append("processes are left: %s" % left)
        wrong += ["%s is left" % name for name in rekindle.temporaries(self.run_dir)]
        relaunched = self.launch(0, True)
        if relaunched.code != 0 or rekindle.digest_of(relaunched) != self.final:
            wrong.append("the relaunch does not finish with %s: %s" % (self.final, relaunched))
        wrong += ["%s is left by the relaunch" % name for name in rekindle.temporaries(self.run_dir)]
        return wrong + [str(failed)] if wrong else []

    def judge_success(self, point, ended):
        calls = point.scenario.calls[point.rank]
        closing = False
        if point.scenario.ranks > 0:  # mpirun does not keep the order of lines
            closing = point.function in ASKED
            if point.function in CLOSING:  # two queues are waited for before each release, and at three ends
                last = 2 * (calls["vendor_allocate"] + calls["vendor_pin"]) + 6
                closing = point.occurrence > calls[point.function] - last
        elif point.function in ASKED or point.function in CLOSING:
            last, error = (ended.output.find(text) for text in ("\nsaved step %d " % STEPS, "gpu_double: injected"))
            closing = 0 < last < error
        wrong = [] if closing else ["it goes on as if nothing had happened"]
        if rekindle.digest_of(ended) != self.final:
            wrong.append("it finishes with other bits")
        return wrong

    @staticmethod
    def judge_failure(point, ended):
        wrong = []
        cannot_open = point.function in ("vendor_count", "vendor_open")
        allowed = (WATCHDOG,) if point.kind == "HANG" else (USAGE, FAULT) if cannot_open else (FAULT,)
        if ended.code not in allowed:
            wrong.append("the exit code is %d, not of %s" % (ended.code, allowed))
        blocks, texts = BLOCK.findall(ended.output), len(re.findall("^rekindle: ", ended.output, re.MULTILINE))
        # what hangs lets all ranks wait, and each that loses its patience says on what, at the same moment
        most = max(point.scenario.ranks, 1) if point.kind == "HANG" else 1
        if len(blocks) != texts or not 1 <= texts <= most or len(set(blocks)) != texts:
            wrong.append("%d texts tell of it" % texts)
        for what, where, fix in blocks:
            if point.scenario.ranks > 0 and not re.match(r"rank \d+ on ", what):
                wrong.append("who failed is not told")
            if not where or not fix:
                wrong.append("where it failed, or what to do, is not told")
        return wrong


def choose(count, function):
    """The first, a middle and the last call; of what is asked as often as time allows, one that surely comes."""
    if function in ASKED:
        count = max(int(count * ASKED_SURELY), 1)
    return [1, (count + 1) // 2, count]


def choose_points(scenarios):
    alone, again, *others = scenarios
    points = []
    for number, (function, count) in enumerate(alone.calls[0].items()):
        points += [Point(alone, 0, function, k, "FAIL") for k in sorted(set(choose(count, function)))]
        points.append(Point(again, 0, function, choose(again.calls[0][function], function)[number % 3], "FAIL"))
    for number, function in enumerate(sorted(set().union(*others[0].calls))):
        # of three scenarios, three places and two ranks each comes with each other
        scenario, rank = others[number % 3], number // 9 % 2
        if function not in scenario.calls[rank]:
            scenario, rank = others[0], int(function not in others[0].calls[0])
        place = (number + number // 3) % 3
        k = choose(scenario.calls[rank][function], function)[place]
        points.append(Point(scenario, rank, function, k, "FAIL"))
    return points


def all_points(scenarios):
    return [Point(scenario, rank, function, k, "FAIL") for scenario in scenarios
            for rank, calls in enumerate(scenario.calls) for function, count in calls.items()
            for k in range(1, (min(count, ASKED_MOST) if function in ASKED else count) + 1)]


def late_and_hung(scenarios):
    """The call succeeds, and what comes of it is an error or nothing at all."""
    alone, _, two = scenarios[:3]
    return [Point(alone, 0, "launch", 20, "FAIL_LATE"), Point(two, 1, "vendor_all_gather", 2, "FAIL_LATE"),
            Point(alone, 0, "launch", 20, "HANG"), Point(two, 1, "vendor_all_gather", 2, "HANG"),
            # found where something is released afterwards: in an evaluation, in the first copies, in the last step
            Point(alone, 0, "launch", 72, "HANG"), Point(alone, 0, "vendor_copy_in", 1, "HANG"),
            Point(alone, 0, "vendor_copy_out", 19, "HANG"), Point(alone, 0, "vendor_plan_run", 36, "HANG")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("work")
    parser.add_argument("--all", dest="tally_path")
    parser.add_argument("--only", default="", help="scenarios, with a comma between")
    arguments = parser.parse_args()
    program, work = os.path.abspath(arguments.program), os.path.abspath(arguments.work)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    injected = Injected(program, work)
    scenarios = injected.scenarios
    points = (all_points if arguments.tally_path else choose_points)(scenarios) + late_and_hung(scenarios)
    if arguments.only:
        points = [point for point in points if point.scenario.name in arguments.only.split(",")]
    module = os.path.join(os.path.dirname(program), "rekindle_cuda.so")
    plan = {scenario.name: [sum(count for function, count in calls.items() if function not in ASKED)
                            for calls in scenario.calls] for scenario in scenarios}
    soak = short_run.Soak(arguments.tally_path, short_run.file_digest(program, module), plan)
    print("calls of each rank: %s; %d points planned" % (plan, len(points)), flush=True)
    tally, unasked = rekindle.Tally(), 0
    for point in points:
        key = "%s, rank %d, %s %s:%d" % (point.scenario.name, point.rank, point.kind, point.function,
                                            point.occurrence)
        if soak.has(key):
            tally.passed += 1
            continue
        wrong = injected.check(point)
        if wrong is None:
            unasked += 1
            continue
        tally.check(not wrong, key, "\n".join(wrong))
        soak.note(key, wrong)
    soak.write(planned=len(points), not_asked=unasked)
    print("exit codes: %s; slowest end %.1f s; %d times an event was not asked so often"
          % (dict(sorted(injected.endings.items())), injected.slowest, unasked))
    return tally.finish(planned=len(points) - unasked)


sys.exit(main())
