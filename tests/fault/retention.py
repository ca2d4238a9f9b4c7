"""What a run keeps: the best by a metric, every N steps, what is pinned; and `checkpoints prune` on it, refused
while a launch owns the directory, harmless as a dry run, and followed by a launch that goes on as if nothing were.

    retention.py REKINDLE SHIM
"""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

LAST = short_run.STEPS
KEEP_ALL = ["checkpoint.keep_last=1000"]
NARROW = ["checkpoint.keep_last=1", "checkpoint.keep_every=2"]


def steps(run):
    return sorted({int(name.split("-")[-1].split(".")[0]) for name in run.checkpoint_names()})


def command(run, *words):
    return rekindle.run([run.program, "checkpoints", *words])


def main():
    program, shim = sys.argv[1:]
    work = short_run.work_folder("retention")
    tally = rekindle.Tally()
    try:
        run = short_run.ShortRun(program, shim, work)
        run.clear()
        ended = run.launch(NARROW)
        tally.check(ended.code == 0 and steps(run) == [2, 4, 6], "keep_every", "%s %s" % (steps(run), ended))

        # killed inside the save of step 5, so that there is something left to do and to prune
        killed = run.prepare_killed("killed", run_calls(run), 5, KEEP_ALL)
        run.put(killed)
        pinned = run.checkpoint_path(short_run.CHECKPOINT % (1, 1))
        tally.check(command(run, "pin", pinned).code == 0 and os.path.exists(pinned + ".pinned"), "pin")
        with open(os.path.join(run.run_dir, "config.yaml")) as file:
            text = file.read()
        with open(os.path.join(run.run_dir, "config.yaml"), "w") as file:
            file.write(text.replace("keep_last: 1000", "keep_last: 1"))
        before = run.files()
        dry = command(run, "prune", run.run_dir, "--dry-run", "--json")
        going = [one["file"] for one in json.loads(dry.output) if one["goes"]] if dry.code == 0 else None
        expected = [short_run.CHECKPOINT % (1, step) for step in (3, 2)]
        tally.check(going == expected and run.files() == before, "a dry run tells and deletes nothing", str(dry))

        pruned = command(run, "prune", run.run_dir)
        # step 4 under the name of the launch that pruned, too: a link
        tally.check(pruned.code == 0 and steps(run) == [1, 4] and not rekindle.temporaries(run.run_dir),
                    "prune deletes what the dry run told", "%s %s" % (pruned, run.files()))
        again = command(run, "prune", run.run_dir)
        tally.check(again.code == 0 and steps(run) == [1, 4], "pruning twice changes nothing", str(again))
        ended = run.launch(["checkpoint.keep_last=1"])
        tally.check(ended.code == 0 and ended.restored_step == 4 and rekindle.digest_of(ended) == run.final,
                    "the run goes on from what is left", str(ended))
        tally.check(steps(run) == [1, LAST], "the pinned one outlives the launch", str(run.files()))
        tally.check(command(run, "unpin", pinned).code == 0 and not os.path.exists(pinned + ".pinned"), "unpin")

        # a launch that is stopped inside a save owns the directory
        run.put(killed)
        stopped = start_stopped(run)
        try:
            refused = command(run, "prune", run.run_dir)
            whole = steps(run)
        finally:
            stopped.kill()
            stopped.wait()
        tally.check(refused.code == 2 and "has an owner" in refused.output and whole == [1, 2, 3, 4],
                    "prune is refused while a launch owns the directory", "%s %s" % (refused, whole))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=9)


def run_calls(run):
    run.clear()
    return run.count_calls(KEEP_ALL)


def start_stopped(run):
    """A launch on the killed run's directory, held before it writes its first checkpoint."""
    calls = run.count_calls(KEEP_ALL)
    run.put(os.path.join(run.work, "killed"))
    first = next(call for call in calls if call.kind == "write" and ".h5" in call.path)
    process = subprocess.Popen(run.command(KEEP_ALL), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                               env=rekindle.environment(run.shim_environment(first.number, "stop-before")))
    rekindle.wait_until("the launch is held", lambda: rekindle.is_stopped(process.pid))
    return process


sys.exit(main())
