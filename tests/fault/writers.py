"""A checkpoint of two writers, and everything that can happen to the second one: it is killed before and after each
system call of its share, and each of its calls fails. A killed launch leaves nothing that counts, and a relaunch by
another number of ranks ends with the undisturbed run's bits; a failed call costs that one save and leaves no file.
Besides: ranks of which one has memory for a second set of the state and the other has none wait for each other.

    writers.py REKINDLE SHIM [--sample K]      --sample K takes every K-th point
"""

import argparse
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

UNDER = ["mpirun", "-q", "-n", "2", "--oversubscribe", "--mca", "odls_base_sigkill_timeout", "0", "sh", "-c"]
# One rank alone runs under the shim: its variables travel to it as one word.
SCRIPT = 'test "$OMPI_COMM_WORLD_RANK" = 1 && exec env $SHIM_OF_A_RANK "$@"; exec "$@"'
MIXED = 'test "$OMPI_COMM_WORLD_RANK" = 1 && exec "$@" --set checkpoint.memory=%s; exec env $SHIM_OF_A_RANK "$@"'
SETS = ["checkpoint.writers=2"]
ERRORS = {"create": ("EIO",), "write": ("ENOSPC", "EIO", "short"), "sync": ("EIO",), "close": ("EIO",),
          "look": ("ENOENT", "ESTALE")}
STEP = 3  # the save whose calls are played with
MUST_FAIL = ("write", "sync", "close")  # of the file itself


def for_one_rank(shim):
    return {"SHIM_OF_A_RANK": " ".join("%s=%s" % pair for pair in shim.items())}


def launch(run, **shim):
    return run.launch(SETS, shim=for_one_rank(run.shim_environment(**shim)), under=UNDER + [SCRIPT, "sh"])


def calls_of_a_save(run):
    """What rank 1 does for each of the six saves; those of one are given."""
    trace = os.path.join(run.work, "rank1.trace")
    run.clear()
    ended = launch(run, trace=trace)
    assert ended.code == 0 and rekindle.digest_of(ended) == run.final, ended
    with open(trace) as file:
        calls = [short_run.Call(line.rstrip("\n")) for line in file]
    for step in range(1, short_run.STEPS + 1):
        kinds = [call.kind for call in calls if short_run.CHECKPOINT % (1, step) in call.path]
        assert kinds.count("sync") == 1 and kinds.count("close") == 1 and "write" in kinds, (step, kinds)
        assert kinds.index("sync") > max(i for i, kind in enumerate(kinds) if kind == "write"), kinds
    first, last = (next(call.number for call in calls if short_run.CHECKPOINT % (1, step) in call.path)
                   for step in (STEP, STEP + 1))
    return [call for call in calls if first <= call.number < last]


def temporaries(run):
    return [path for path in run.files() if path.endswith(".tmp")]


def kill_and_relaunch(run, call, when):
    run.clear()
    killed = launch(run, at=call.number, do=when)
    if killed.code != 137 or len(killed.fired) != 1:
        return ["the kill did not end the launch: %s" % killed]
    newest, wrong = run.check_directory(killed)
    relaunched = run.launch()  # alone: one writer
    wrong += run.check_end(relaunched, newest)
    return wrong + [str(killed), str(relaunched), str(run.files())] if wrong else []


def fail(run, call, error):
    run.clear()
    ended = launch(run, at=call.number, do=error)
    if not ended.fired:
        return ["the fault did not fire: %s" % ended]
    wrong = run.check_ending(ended)
    newest, more = run.check_directory(ended)
    wrong += more
    failures = re.findall(r"step (\d+) was not saved .*rank 1 on ", ended.output)
    expected = call.kind in MUST_FAIL and ".tmp" in call.path and error != "short"
    if ended.code != 0 or newest != short_run.STEPS:
        wrong.append("training did not go on")
    if (len(failures) != 1 if expected else len(failures) > 1):
        wrong.append("failed saves: %s" % failures)
    if (error == "short" or (call.name, error) == ("fstatat", "ENOENT")) and failures:
        wrong.append("it should have tried again")
    if temporaries(run):
        wrong.append("left behind: %s" % temporaries(run))
    return wrong + [str(ended)] if wrong else []


def mix_memory(run, memory, memory_of_rank_1):
    """Behind the training; a rank without a spare set waits for a reading that cannot begin without the others. Rank 0
    takes its time to make a file: steps have to wait for it."""
    run.clear()
    sets = SETS + ["checkpoint.background=true", "checkpoint.memory=" + memory]
    slow = for_one_rank({**run.shim_environment(), "SHIM_CREATE_MS": "20"})
    ended = run.launch(sets, shim=slow, under=UNDER + [MIXED % memory_of_rank_1, "sh"])
    newest, wrong = run.check_directory(ended)
    wrong += run.check_ending(ended)
    if ended.code != 0 or newest != short_run.STEPS or "was not saved" in ended.output:
        wrong.append("not everything was saved")
    return wrong + [str(ended)] if wrong else []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--sample", type=int, default=1)
    arguments = parser.parse_args()
    work = short_run.work_folder("writers")
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        calls = calls_of_a_save(run)
        print("calls of a writer's share:\n  " + "\n  ".join(str(call) for call in calls), flush=True)
        points = [(kill_and_relaunch, call, when) for call in calls for when in ("kill-before", "kill-after")]
        points += [(fail, call, error) for call in calls for error in ERRORS[call.kind]]
        points = points[arguments.sample // 2::arguments.sample]
        tally = rekindle.Tally()
        for memories in (("spare", "overlap"), ("overlap", "spare"), ("overlap", "overlap")):
            wrong = mix_memory(run, *memories)
            tally.check(not wrong, "memory %s and %s" % memories, "\n".join(wrong))
        for play, call, what in points:
            wrong = play(run, call, what)
            tally.check(not wrong, "%s (%s)" % (what, call), "\n".join(wrong))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=len(points) + 3)


sys.exit(main())
