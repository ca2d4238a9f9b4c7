"""Two launches on one run directory.

    two_launches.py REKINDLE SHIM [--races N] [--zombies N] [--all TALLY.json]

--all keeps a tally, so that a long soak can be interrupted.

Races: two launches begin at about the same time; the winner is held at its first save. Exactly one trains, the
other exits 2 and says who owns the directory; the winner, let go, finishes with the undisturbed run's bits.

Zombies: a launch is stopped (SIGSTOP) at a random system call on the directory, another one takes over with
REKINDLE_OWNER_DEAD and runs to its end, or is itself stopped somewhere up to its first steps; the old one is
woken, saves and prunes as far as it gets, and ends; then the other one goes on. Nothing that the new owner has is
touched, nothing that the finished one called saved is lost, and a last launch finds the undisturbed run's bits.
"""

import argparse
import concurrent.futures as futures
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

LIMIT_S = 60
LANES = 12  # races at once: the loser watches the winner for seconds
EARLY_CALLS = 40  # a launch that takes over makes more than these


class Racer:
    """A launch that stops at one of its calls (None: at none) and is let go later."""

    def __init__(self, run, name, at, mode="stop-before", extra=None):
        self.report = os.path.join(run.work, name + ".report")
        self.output_path = os.path.join(run.work, name + ".output")
        if os.path.exists(self.report):
            os.unlink(self.report)
        environment = {**run.shim_environment(at, mode), "SHIM_REPORT": self.report, **(extra or {})}
        with open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(run.command(), stdout=output, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, env=rekindle.environment(environment),
                                            start_new_session=True)
        self.began, self.code, self.stopped = time.monotonic(), None, False

    def look(self):
        """Has it stopped or ended?"""
        if self.code is None and not self.stopped:
            pid, status = os.waitpid(self.process.pid, os.WNOHANG | os.WUNTRACED)
            if pid != 0 and os.WIFSTOPPED(status):
                self.stopped = True
            elif pid != 0:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.stopped or self.code is not None

    def wait(self):
        while not self.look():
            if time.monotonic() - self.began > LIMIT_S:
                self.kill()
                raise AssertionError("no end after %d s: %s" % (LIMIT_S, self))
            time.sleep(0.005)

    def wake(self):
        if self.stopped:
            self.stopped, self.began = False, time.monotonic()
            os.kill(self.process.pid, signal.SIGCONT)
        self.wait()

    def kill(self):
        if self.code is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def fired(self):
        return os.path.exists(self.report)

    def ended(self):
        with open(self.output_path, errors="replace") as file:
            return short_run.Launch(rekindle.Ended(self.code, file.read(), 0.0), [])

    def __str__(self):
        return str(self.ended())


# ---- at the same time

def race(run, prepared, first_save, delay):
    run.put(prepared)
    racers = [Racer(run, "first", first_save)]
    time.sleep(delay)
    racers.append(Racer(run, "second", first_save))
    for racer in racers:
        racer.wait()
    winners = [racer for racer in racers if racer.stopped]
    losers = [racer for racer in racers if racer.code == 2 and "has an owner, launch" in racer.ended().output]
    wrong = []
    if len(winners) != 1 or len(losers) != 1:
        wrong.append("%d train and %d are refused" % (len(winners), len(losers)))
    for racer in racers:
        racer.wake()
    for winner in winners:
        wrong += run.check_ending(winner.ended())
        if winner.code != 0:
            wrong.append("the winner does not finish")
    if len(winners) == 1 and rekindle.metrics(run.run_dir) != run.metrics:
        wrong.append("metrics.jsonl is not the undisturbed run's")
    return wrong + [str(racer) for racer in racers] if wrong else []


# ---- one after the other

def generation_of(ended):
    found = re.search(r", generation (\d+)$", ended.output, re.MULTILINE)
    return int(found.group(1)) if found else None


def files_of(run, generation):
    """What a generation's checkpoints and owner record are, by name and inode."""
    folder = os.path.join(run.run_dir, "checkpoints")
    own = re.compile(r"^(g%04d-step-.*\.h5|owner\.g%04d)$" % (generation, generation))
    return {name: os.stat(os.path.join(folder, name)).st_ino for name in os.listdir(folder) if own.match(name)}


def rewinding(made):
    """The numbers of the calls between the last look at the owner records and the rewound metrics.jsonl: who is
    stopped there rewinds another's lines, which are for people and no part of the promise."""
    first = next(call.number for call in made if call.path.endswith("/metrics.jsonl"))
    last = next(call.number for call in made if call.path.endswith("/ledger.jsonl"))
    looked = max(call.number for call in made
                 if call.name == "readdir" and call.path.endswith("/checkpoints") and call.number < first)
    return range(looked, last + 1)


def haunt(run, prepared, generation, old_call, old_mode, new_at, made):
    """generation: what the old launch takes, where it gets so far; made: its calls. Returns what is wrong, and
    how many stops did not fire."""
    run.put(prepared)
    old = Racer(run, "old", old_call.number, old_mode)
    old.wait()
    new = Racer(run, "new", new_at, extra={"REKINDLE_OWNER_DEAD": str(generation)})
    new.wait()
    missed = (not old.fired) + (new_at is not None and not new.fired)
    owned = generation_of(new.ended())
    before = files_of(run, owned) if owned is not None else {}
    old.wake()
    wrong = []
    if owned is not None and files_of(run, owned) != before:
        wrong.append("the old launch changed the new one's files: %s, now %s" % (before, files_of(run, owned)))
    new.wake()
    for launch in (old, new):
        wrong += run.check_ending(launch.ended())
    # the old one may save once more while the new one takes over: then that one asks for another launch
    gave_up = new.code == 1 and "launch again" in new.ended().output
    if old.code != 0 and new.code != 0 and not gave_up:
        wrong.append("neither finishes")
    saved = max(old.ended().saved_steps + new.ended().saved_steps, default=0)
    last = run.launch()
    if last.code != 0 or rekindle.digest_of(last) != run.final:
        wrong.append("the last launch does not end with the undisturbed run's bits")
    elif (last.restored_step or 0) < (short_run.STEPS if 0 in (old.code, new.code) else saved):
        wrong.append("step %d was called saved and codes %d and %d given, but the last launch goes on from step %s"
                     % (saved, old.code, new.code, last.restored_step))
    elif old_call.number not in rewinding(made) and rekindle.metrics(run.run_dir) != run.metrics:
        wrong.append("metrics.jsonl is not the undisturbed run's")
    return (wrong + [str(old), str(new), str(last), str(run.files())] if wrong else []), missed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--races", type=int, default=12)
    parser.add_argument("--zombies", type=int, default=60)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    work = short_run.work_folder("two-launches")
    tally, missed = rekindle.Tally(), 0
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        run.clear()
        calls = run.count_calls()
        killed = run.prepare_killed("killed", calls)
        run.put(killed)
        starts = [(None, calls, 1), (killed, run.count_calls(), 2)]
        soak = short_run.Soak(arguments.tally_path, short_run.file_digest(arguments.program, arguments.shim),
                              {"races": arguments.races, "zombies": arguments.zombies})
        lanes = queue.SimpleQueue()
        for number in range(min(LANES, arguments.races)):
            lanes.put(short_run.ShortRun(arguments.program, arguments.shim, os.path.join(work, "lane%d" % number)))

        def run_race(number):
            prepared, made, _ = starts[number % 2]
            first_save = next(call.number for call in made if call.name == "fallocate")
            delay = random.Random("race %d" % number).uniform(0, 0.03)
            lane = lanes.get()
            try:
                return number, delay, race(lane, prepared, first_save, delay)
            finally:
                lanes.put(lane)

        with futures.ThreadPoolExecutor(LANES) as pool:
            keys = ["race %d" % number for number in range(arguments.races)]
            tally.passed += sum(soak.has(key) for key in keys)
            to_run = [number for number, key in enumerate(keys) if not soak.has(key)]
            for number, delay, wrong in pool.map(run_race, to_run):
                tally.check(not wrong, "race %d, %.1f ms apart" % (number, 1e3 * delay), "\n".join(wrong))
                soak.note(keys[number], wrong)
        for number in range(arguments.zombies):
            key = "zombie %d" % number
            source = random.Random(key)
            if soak.has(key):
                tally.passed += 1
                continue
            prepared, made, generation = starts[number % 2]
            old, mode = source.choice(made), source.choice(("stop-before", "stop-after"))
            new_at = source.choice((None, source.randint(1, EARLY_CALLS)))
            wrong, not_fired = haunt(run, prepared, generation, old, mode, new_at, made)
            missed += not_fired
            tally.check(not wrong, "%s: %s %s, the new one stops at %s" % (key, mode, old, new_at),
                        "\n".join(wrong))
            soak.note(key, wrong)
        soak.write(planned=arguments.races + arguments.zombies)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("%d races, %d zombies, %d stops did not fire" % (arguments.races, arguments.zombies, missed))
    tally.check(missed == 0, "every planned stop fires")
    return tally.finish(planned=arguments.races + arguments.zombies + 1)


sys.exit(main())
