"""Signals to ranks and launchers, at every kind of moment: one agreed stop, one checkpoint, the same bits.

    signals.py REKINDLE WORK_FOLDER
"""

import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

STOPPED = 75
SAMPLES = 708  # 8 steps an epoch; 177 validation samples: an evaluation has two batches
# No save but those that are asked for and the last one, so that each checkpoint tells who caused it.
SECTIONS = {
    "run": {"name": "signals", "seed": 6},
    "model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
    "data": {"augment": "[crop, flip]", "crop_padding": 2},
    "train": {"epochs": 2, "batch": 100, "shards": 6, "threads": 1},
    "optimizer": {"kind": "adamw", "lr": 0.002},
    "schedule": {"kind": "cosine", "warmup_steps": 3},
    "checkpoint": {"every_steps": 0, "every_epoch": "false", "keep_last": 1000},
    "log": {"every_steps": 1},
}
LAST = 16
PENDING = "its evaluation pending"

# What is sent where, and the steps of the checkpoints that the launch leaves. A signal before the step's
# word stops at this step, one after it at the next.
STOPS = [
    # first step
    ("rank:1,step:1,at:gradient,send:TERM", [1]),
    ("rank:0,step:1,at:gradient,send:USR1,to:launcher", [1]),
    # before there is a step
    ("rank:2,at:start,send:TERM", [1]),
    ("rank:0,at:restore,send:USR1,to:launcher", [1]),
    # in the middle of an epoch
    ("rank:2,step:5,at:data,send:TERM", [5]),
    ("rank:0,step:5,at:gradient,send:USR1", [5]),
    ("rank:1,step:5,at:gradient,send:USR1,to:launcher", [5]),
    ("rank:1,step:5,at:reduce,send:TERM", [6]),
    ("rank:0,step:13,at:optimizer,send:USR1", [14]),
    # during an evaluation
    ("rank:2,step:8,at:optimizer,send:TERM", [8]),
    ("rank:2,step:8,at:evaluate,send:TERM", [8]),
    ("rank:1,step:8,at:evaluate,send:USR1,to:launcher", [8]),
    # at the last step
    ("rank:1,step:16,at:gradient,send:TERM", [16]),
    ("rank:0,step:16,at:evaluate,send:USR1,to:launcher", [16]),
]
SAVING = ["checkpoint.every_steps=5"]
STOPS_WHILE_SAVING = [
    ("rank:0,step:5,at:save,send:TERM", [5, 6]),
    ("rank:0,step:5,at:before_commit,send:USR1", [5, 6]),
    ("rank:1,step:5,at:after_commit,send:USR1,to:launcher", [5, 6]),
]
# Save and go on, or too late to stop: the launch finishes.
FINISHES = [
    ("rank:1,step:5,at:gradient,send:USR2", [5, 16]),
    ("rank:0,step:5,at:gradient,send:USR2,to:launcher", [5, 16]),
    ("rank:2,step:8,at:evaluate,send:USR2", [8, 16]),
    ("rank:1,at:restore,send:USR2", [1, 16]),
    ("rank:1,step:16,at:save,send:TERM", [16]),
    ("rank:0,at:finish,send:TERM", [16]),
]
LAUNCHES_AGAIN = (1, 2, 4, 3)


class Signals:
    def __init__(self, program, work):
        self.program, self.work, self.tally, self.fired = program, work, rekindle.Tally(), 0
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, SAMPLES), **SECTIONS)
        self.run_dir = os.path.join(work, "run")
        self.digest, self.metrics = self.undisturbed("undisturbed")

    def undisturbed(self, name, sets=()):
        run_dir = os.path.join(self.work, name)
        ended = rekindle.train(self.program, 0, self.run_file, run_dir, sets)
        assert ended.code == 0, ended
        return rekindle.digest_of(ended), rekindle.metrics(run_dir)

    def clear(self):
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def launch(self, fault, ranks=3, sets=()):
        ended = rekindle.train(self.program, ranks, self.run_file, self.run_dir, sets, fault=fault)
        self.fired += ended.output.count("REKINDLE_FAULT fires")
        return ended

    def leaves_no_litter(self, what):
        left = rekindle.processes_left(self.run_dir) + rekindle.temporaries(self.run_dir)
        return self.tally.check(left == [], "%s: left behind: %s" % (what, left))

    def has_stopped(self, what, ended, steps):
        """One code, one line that says what to do, the expected checkpoints, nothing else."""
        saved = rekindle.saved_steps(self.run_dir)
        line = rekindle.last_line(ended)
        return (self.tally.check(ended.code == STOPPED, what + ": exit code", ended) and
                self.tally.check(line.startswith("[rank 0] stopped at step %d of " % steps[-1]) and
                                 line.endswith("launch the same command again to go on"),
                                 what + ": the last line does not say what to do", ended) and
                self.tally.check(saved == steps, "%s: saved steps %s, not %s" % (what, saved, steps), ended) and
                self.leaves_no_litter(what))

    def finishes(self, what, ended, digest, metrics):
        return (self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == digest,
                                 what + ": other bits than the undisturbed run's", ended) and
                self.tally.check(rekindle.metrics(self.run_dir) == metrics, what + ": other metrics", ended) and
                self.leaves_no_litter(what))

    def goes_on(self, what, ranks, sets=()):
        return self.finishes("%s, relaunched on %d" % (what, ranks), self.launch(None, ranks, sets),
                             self.digest, self.metrics)

    def stop(self, fault, steps, ranks_again, sets=()):
        self.clear()
        ended = self.launch(fault, sets=sets)
        evaluates = steps[-1] in (8, LAST)
        self.tally.check((PENDING in ended.output) == evaluates, fault + ": whether an evaluation is pending",
                         ended)
        return self.has_stopped(fault, ended, steps) and self.goes_on(fault, ranks_again, sets)

    def finish_under(self, fault, steps):
        self.clear()
        ended = self.launch(fault)
        saved = rekindle.saved_steps(self.run_dir)
        self.tally.check(saved == steps, "%s: saved steps %s, not %s" % (fault, saved, steps), ended)
        self.finishes(fault, ended, self.digest, self.metrics)

    def stop_again_and_again(self):
        """In the evaluation, in its repetition, while restoring; then a signal to a run that is complete."""
        self.clear()
        what = "stopped again and again"
        self.has_stopped(what, self.launch("rank:1,step:8,at:evaluate,send:TERM"), [8])
        ended = self.launch("rank:0,at:evaluate,send:TERM", ranks=2)
        self.tally.check(ended.code == STOPPED and set(rekindle.saved_steps(self.run_dir)) == {8},
                         what + ": repetition", ended)
        ended = self.launch("rank:1,at:restore,send:USR1", ranks=2)
        self.tally.check(ended.code == STOPPED and set(rekindle.saved_steps(self.run_dir)) == {8},
                         what + ": restore", ended)
        self.goes_on(what, 3)
        self.finishes("complete already", self.launch("rank:1,at:restore,send:TERM", ranks=2), self.digest,
                      self.metrics)

    def resume_elsewhere(self):
        """From a file with a pending evaluation, named by its path, into a directory of its own."""
        self.clear()
        what = "pending evaluation, resumed elsewhere"
        self.has_stopped(what, self.launch("rank:1,step:16,at:evaluate,send:TERM"), [LAST])
        elsewhere = self.run_dir + ".elsewhere"
        shutil.rmtree(elsewhere, ignore_errors=True)
        os.rename(self.run_dir, elsewhere)
        path = os.path.join(elsewhere, "checkpoints", "g0001-step-%012d.h5" % LAST)
        self.has_stopped(what, self.launch("rank:0,at:evaluate,send:TERM", 2, ["resume=" + path]), [LAST])
        shutil.rmtree(elsewhere)
        ended = self.launch(None, 3)
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.digest, what + ": other bits", ended)

    # ---- from outside, at moments that nobody chose

    def start(self, sets):
        self.clear()
        command = rekindle.train_command(self.program, 3, self.run_file, self.run_dir, sets)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, env=rekindle.environment(None),
                                start_new_session=True)

    def wait_for_ranks(self, launcher):
        """Until all ranks catch signals: they are in MPI_Init then, or a little further."""
        path = "/proc/%d/task/%d/children" % (launcher.pid, launcher.pid)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and launcher.poll() is None:
            with open(path) as file:
                ranks = [int(pid) for pid in file.read().split()]
            ranks = [pid for pid in ranks if rekindle.signal_mask(pid, "SigCgt") >> (signal.SIGUSR2 - 1) & 1]
            if len(ranks) == 3:
                return ranks
            time.sleep(0.001)
        raise AssertionError("the ranks did not start")

    def end(self, launcher):
        output, _ = launcher.communicate(timeout=rekindle.LAUNCH_LIMIT_S)
        return rekindle.Ended(launcher.returncode, output.decode(errors="replace"), 0)

    def stop_from_outside(self, name, steps_before, send, ranks_again, sets, digest, metrics):
        launcher = self.start(sets)
        ranks = self.wait_for_ranks(launcher)
        targets = send(launcher.pid, ranks)
        deliver = lambda: [os.kill(pid, number) for pid, number in targets]  # noqa: E731
        if steps_before > 0:
            rekindle.wait_for_lines(self.run_dir, steps_before)
            passed_on = [(rank, number) for pid, number in targets for rank in ranks
                         if pid in (rank, launcher.pid)]
            rekindle.signal_ranks(ranks, deliver, passed_on)
        else:
            deliver()
        self.fired += 1
        ended = self.end(launcher)
        saved = rekindle.saved_steps(self.run_dir)
        self.tally.check(len(saved) == 1 and saved[0] >= max(1, steps_before) - 1,
                         "%s: saved steps %s" % (name, saved), ended)
        if self.has_stopped(name, ended, saved or [0]):
            self.finishes(name, self.launch(None, ranks_again, sets), digest, metrics)


def from_all_sides(launcher, ranks):
    """What a launcher and a scheduler may do together."""
    return [(launcher, signal.SIGUSR1), (ranks[1], signal.SIGTERM), (launcher, signal.SIGUSR1),
            *[(rank, signal.SIGTERM) for rank in ranks]]


# Name, lines of metrics to wait for, whom to send what, ranks that go on.
FROM_OUTSIDE = [
    ("SIGUSR1 to mpirun", 12, lambda launcher, ranks: [(launcher, signal.SIGUSR1)], 2),
    ("SIGTERM to one rank", 10, lambda launcher, ranks: [(ranks[2], signal.SIGTERM)], 4),
    ("SIGINT to one rank", 20, lambda launcher, ranks: [(ranks[0], signal.SIGINT)], 1),
    ("signals from all sides at once", 15, from_all_sides, 2),
    ("SIGUSR1 to mpirun as soon as ranks are there", 0, lambda launcher, ranks: [(launcher, signal.SIGUSR1)], 2),
    ("SIGTERM to a rank that starts", 0, lambda launcher, ranks: [(ranks[1], signal.SIGTERM)], 1),
]
LONGER = ["train.epochs=100"]  # some seconds: on a busy machine whoever sends a signal may come late


def main(program, work):
    signals = Signals(program, work)
    for i, (fault, steps) in enumerate(STOPS):
        signals.stop(fault, steps, LAUNCHES_AGAIN[i % len(LAUNCHES_AGAIN)])
    for fault, steps in STOPS_WHILE_SAVING:
        signals.stop(fault, steps, 2, SAVING)
    for fault, steps in FINISHES:
        signals.finish_under(fault, steps)
    signals.stop_again_and_again()
    signals.resume_elsewhere()
    longer = signals.undisturbed("longer", LONGER)
    for name, steps_before, send, ranks_again in FROM_OUTSIDE:
        signals.stop_from_outside(name, steps_before, send, ranks_again, LONGER, *longer)
    planned = len(STOPS) + len(STOPS_WHILE_SAVING) + len(FINISHES) + 4 + 2 + len(FROM_OUTSIDE)
    print("%d signals planned, %d fired" % (planned, signals.fired))
    signals.tally.check(signals.fired == planned, "not every signal fired")
    return signals.tally.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.path.abspath(sys.argv[2])))
