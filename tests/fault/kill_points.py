"""SIGKILL before and after every system call that a launch makes on its run directory: start, saves, pruning,
end; the same again for a launch that restores, and for one that must first pass over a damaged checkpoint.

After each kill every checkpoint on disk must be whole and hold the undisturbed run's bits, none that was
called saved may be lost, and a relaunch must go on from the newest one, finish with the same bits and leave no
temporary file.

    kill_points.py REKINDLE SHIM [--sample K] [--all TALLY.json]

--sample K takes every K-th point; --all takes all and keeps a tally, so that it can be interrupted.
"""

import argparse
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

MODES = ("kill-before", "kill-after")


class Scenario:
    def __init__(self, name, prepared, calls, known_bad=()):
        self.name, self.prepared, self.calls, self.known_bad = name, prepared, calls, known_bad


def make_scenarios(run):
    run.clear()
    begin = Scenario("begin", None, run.count_calls())
    killed = run.prepare_killed("killed", begin.calls)
    run.put(killed)
    resume = Scenario("resume", killed, run.count_calls())
    run.put(killed)
    newest = run.checkpoint_names()[-1]
    os.truncate(run.checkpoint_path(newest), 5000)
    damaged = run.prepare("damaged")
    return [begin, resume, Scenario("walk", damaged, run.count_calls(), (newest,))]


def kill_and_relaunch(run, scenario, call, mode):
    """Returns what is wrong, with the story."""
    run.put(scenario.prepared)
    killed = run.launch(shim=run.shim_environment(call.number, mode))
    if killed.code != -9 or len(killed.fired) != 1:
        return ["the kill did not fire: %s" % killed]
    newest, wrong = run.check_directory(killed, scenario.known_bad)
    relaunched = run.launch()
    wrong += run.check_end(relaunched, newest, known_bad=scenario.known_bad)
    return wrong + [str(killed), str(relaunched), str(run.files())] if wrong else []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    work = short_run.work_folder("kill-points")
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        scenarios = make_scenarios(run)
        plan = {one.name: len(one.calls) for one in scenarios}
        points = [(one, call, mode) for one in scenarios for call in one.calls for mode in MODES]
        points = points[arguments.sample // 2::arguments.sample]
        print("calls: %s; %d points planned" % (plan, len(points)), flush=True)
        soak = short_run.Soak(arguments.tally_path,
                              short_run.file_digest(arguments.program, arguments.shim), plan)
        tally = rekindle.Tally()
        for scenario, call, mode in points:
            key = "%s %d %s" % (scenario.name, call.number, mode)
            if soak.has(key):
                tally.passed += 1
                continue
            wrong = kill_and_relaunch(run, scenario, call, mode)
            tally.check(not wrong, "%s %s (%s)" % (scenario.name, mode, call), "\n".join(wrong))
            soak.note(key, wrong)
        soak.write(planned=len(points))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=len(points))


sys.exit(main())
