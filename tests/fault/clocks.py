"""The wall clock jumps backwards and by ten years, between launches and within one, and the files' times lie.

Order is by generation and step: each relaunch of a run that is killed again and again goes on from its newest
checkpoint, nothing valid is pruned before something newer stands, and the end has the undisturbed run's bits. Who
lives is told without the wall clock: a launch that is stopped still owns the directory, one that is killed does not.

    clocks.py REKINDLE SHIM CLOCK_SHIM
"""

import os
import random
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

YEARS = 315360000  # ten
STORIES = (  # of each launch of a run the offsets that its readings take in turn
    ("years forward, then back", ("%d" % YEARS, "%d" % -YEARS, "0")),
    ("years back, then forward", ("%d" % -YEARS, "%d" % YEARS, "0")),
    ("an hour back each time", ("0", "-3600", "-7200")),
    ("to and fro within a launch", ("0,%d,%d" % (YEARS, -YEARS),) * 3),
    ("backwards within a launch", ("0,-1,-60,-86400,%d" % -YEARS,) * 3),
)
KILLED_AFTER = (2, 4)  # the first two launches end in the middle of the save after this step
HELD = 2  # of them are tried with a launch that is held, too: that takes seconds of watching
POINT = "before_commit"


class Clocks:
    def __init__(self, run, shim):
        self.run, self.shim = run, shim
        self.report = os.path.join(run.work, "clock.report")

    def environment(self, offsets, more=None):
        extra = {**self.run.shim_environment(), **(more or {})}
        return {**extra, "CLOCK_OFFSETS": offsets, "CLOCK_REPORT": self.report,
                "LD_PRELOAD": "%s %s" % (self.shim, self.run.shim)}

    def jumps(self):
        """Readings that were off since the last look; a killed launch does not tell its own."""
        if not os.path.exists(self.report):
            return 0
        with open(self.report) as file:
            count = sum(int(line) for line in file)
        os.unlink(self.report)
        return count


def age_files(run, source):
    for path in run.files():
        when = 1.5e9 + source.uniform(-YEARS, YEARS)
        os.utime(os.path.join(run.run_dir, path), (when, when), follow_symlinks=False)


def live_through(run, clocks, name, story):
    """Two launches that are killed and one that ends, each with its own idea of the time. Returns what is wrong, and
    the readings that were off."""
    source = random.Random(name)
    run.clear()
    wrong, newest, jumps = [], None, 0
    for number, offsets in enumerate(story):
        fault = None
        if number < len(KILLED_AFTER):
            fault = "step:%d,at:%s" % (KILLED_AFTER[number] + 1, POINT)
        ended = run.launch(shim=clocks.environment(offsets, {"REKINDLE_FAULT": fault} if fault else None))
        jumps += clocks.jumps()
        if fault and (ended.code != -9 or "REKINDLE_FAULT fires" not in ended.output):
            wrong.append("launch %d was not killed: %s" % (number, ended))
        if number > 0 and ended.restored_step != newest:
            wrong.append("launch %d goes on from %s, not %s" % (number, ended.restored_step, newest))
        newest, more = run.check_directory(ended)
        if fault is None:
            more += run.check_end(ended, ended.restored_step)
        wrong += more + ([str(ended)] if more else [])
        age_files(run, source)
    return wrong, jumps


def hold_and_launch(run, clocks, first_save, offsets):
    """A launch that stands still owns the directory, whatever the clocks say; killed, it does not."""
    run.clear()
    environment = clocks.environment(offsets[0], run.shim_environment(first_save, "stop-before"))
    wrong = []
    with open(os.path.join(run.work, "held.output"), "wb") as output:
        held = subprocess.Popen(run.command(), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                env=rekindle.environment(environment), start_new_session=True)
        try:
            rekindle.wait_until("the first launch stands still",
                                lambda: os.path.exists(run.report()) and rekindle.is_stopped(held.pid))
            second = run.launch(shim=clocks.environment(offsets[1]))
            if second.code != 2 or "has an owner, launch 1" not in second.output:
                wrong.append("a launch that lives is not seen: %s" % second)
        finally:
            os.kill(held.pid, signal.SIGKILL)
            held.wait()
    jumps = clocks.jumps()
    last = run.launch(shim=clocks.environment(offsets[2]))
    return wrong + run.check_end(last, None), jumps + clocks.jumps()


def main():
    program, shim, clock_shim = sys.argv[1:]
    work = short_run.work_folder("clocks")
    tally, all_jumps = rekindle.Tally(), 0
    try:
        run = short_run.ShortRun(program, shim, work)
        clocks = Clocks(run, clock_shim)
        run.clear()
        first_save = next(call.number for call in run.count_calls() if call.name == "fallocate")
        for what, live in (("killed and relaunched", lambda *one: live_through(run, clocks, *one)),
                           ("held", lambda _, story: hold_and_launch(run, clocks, first_save, story))):
            for name, story in STORIES if what != "held" else STORIES[:HELD]:
                wrong, jumps = live(name, story)
                if jumps == 0:
                    wrong.append("the clock did not jump")
                tally.check(not wrong, "%s, %s" % (what, name), "\n".join(wrong))
                all_jumps += jumps
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("%d readings of the clock were off" % all_jumps)
    return tally.finish(planned=len(STORIES) + HELD)


sys.exit(main())
