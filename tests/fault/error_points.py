"""Errors and short writes at every system call that a launch makes on its run directory, once and lasting.

A launch under such a fault must neither crash nor hang. It finishes with the undisturbed run's bits (a save that
failed is told, and training goes on), or it ends with a documented code and a text that says what to do. After
it every checkpoint on disk is whole, nothing that was called saved is lost, and a relaunch without the fault
goes on from the newest one and finishes with the same bits.

    error_points.py REKINDLE SHIM [--sample K] [--all TALLY.json]

--sample K takes every K-th point; --all takes all and keeps a tally, so that it can be interrupted.
"""

import argparse
import collections
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EINTR", "EROFS", "short")
LIMIT_S = 30


def make_scenarios(run):
    """Name, prepared directory, calls: a run from its beginning and one that is taken up again."""
    run.clear()
    begin = ("begin", None, run.count_calls())
    killed = run.prepare_killed("killed", begin[2])
    run.put(killed)
    return [begin, ("resume", killed, run.count_calls())]


def is_possible(error, call):
    return error != "short" or call.kind == "write"


def fail_and_relaunch(run, prepared, call, error, always, endings):
    run.put(prepared)
    failed = run.launch(shim=run.shim_environment(call.number, error, always), limit=LIMIT_S)
    if not failed.fired:
        return ["the fault did not fire: %s" % failed]
    wrong = run.check_ending(failed)
    endings[failed.code] += 1
    newest, more = run.check_directory(failed)
    if failed.code == 0 and newest != short_run.STEPS:
        more.append("it finishes, but the newest checkpoint is of step %s" % newest)
    relaunched = run.launch()
    # a line of the journal that could not be written is told, not written later
    more += run.check_end(relaunched, newest, metrics="metrics.jsonl" not in failed.output)
    wrong += more
    return wrong + [str(failed), str(relaunched), str(run.files())] if wrong else []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    work = short_run.work_folder("error-points")
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        scenarios = make_scenarios(run)
        plan = {name: len(calls) for name, _, calls in scenarios}
        points = [(name, prepared, call, error, always)
                  for name, prepared, calls in scenarios for call in calls
                  for error in ERRORS if is_possible(error, call) for always in (False, True)]
        points = points[arguments.sample // 2::arguments.sample]
        print("calls: %s; %d points planned" % (plan, len(points)), flush=True)
        soak = short_run.Soak(arguments.tally_path,
                              short_run.file_digest(arguments.program, arguments.shim), plan)
        tally, endings = rekindle.Tally(), collections.Counter()
        for name, prepared, call, error, always in points:
            what = "%s %s" % (error, "from then on" if always else "once")
            key = "%s %d %s" % (name, call.number, what)
            if soak.has(key):
                tally.passed += 1
                continue
            wrong = fail_and_relaunch(run, prepared, call, error, always, endings)
            tally.check(not wrong, "%s %s (%s)" % (name, what, call), "\n".join(wrong))
            soak.note(key, wrong)
        soak.write(planned=len(points))
        print("exit codes under a fault: %s" % dict(sorted(endings.items())))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=len(points))


sys.exit(main())
