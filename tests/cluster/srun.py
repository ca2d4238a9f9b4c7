"""A run under a real Slurm: stopped by scancel or by a signal to one rank, it goes on on other numbers of
ranks and ends with the bits of the run under mpirun.

    srun.py REKINDLE WORK_FOLDER
"""

import os
import shlex
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import slurm  # noqa: E402

SKIPPED, STOPPED = 77, 75
SECTIONS = {
    "run": {"name": "srun", "seed": 8},
    "model": {"arch": "lenet", "classes": 4, "dropout": 0.25},
    "train": {"epochs": 60, "batch": 100, "shards": 6, "threads": 1, "evaluate_every_steps": 100},
    "optimizer": {"kind": "adamw", "lr": 0.002},
    "checkpoint": {"every_steps": 0, "every_epoch": "false", "keep_last": 1000},
    "log": {"every_steps": 1},
}
SAMPLES = 708


class Srun:
    def __init__(self, program, work, cluster):
        self.program, self.work, self.slurm, self.tally = program, work, cluster, rekindle.Tally()
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, SAMPLES), **SECTIONS)
        self.run_dir = os.path.join(work, "run")
        ended = rekindle.train(program, 2, self.run_file, os.path.join(work, "mpirun"))
        assert ended.code == 0, ended
        self.digest, self.metrics = rekindle.digest_of(ended), rekindle.metrics(os.path.join(work, "mpirun"))

    def command(self):
        return rekindle.train_command(self.program, 0, self.run_file, self.run_dir)

    def clear(self):
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def finishes(self, what, ranks):
        ended = self.slurm.srun(ranks, self.command())
        self.tally.check(ended.code == 0 and "%d ranks on " % ranks in ended.output,
                         what + ": does not finish on %d ranks" % ranks, ended)
        self.tally.check("state_digest " + self.digest in ended.output, what + ": other bits than under mpirun",
                         ended)
        self.tally.check(rekindle.metrics(self.run_dir) == self.metrics, what + ": other metrics")

    def stops(self, what, ranks, send, ranks_again):
        """One checkpoint at one step, exit 75, nobody left; then the rest on another number of ranks.
        send(srun, pids of the ranks) gives the signal, who gets it, and how to send it."""
        self.clear()
        launcher = self.slurm.start(ranks, self.command())
        rekindle.wait_for_lines(self.run_dir, 15)
        pids = self.ranks()
        self.tally.check(len(pids) == ranks, "%s: %d ranks run" % (what, len(pids)))
        number, receivers, deliver = send(launcher, pids)
        rekindle.signal_ranks(pids, deliver, [(pid, number) for pid in receivers])
        output, _ = launcher.communicate(timeout=rekindle.LAUNCH_LIMIT_S)
        ended = rekindle.Ended(launcher.returncode, output.decode(errors="replace"), 0)
        saved = rekindle.saved_steps(self.run_dir)
        self.tally.check(ended.code == STOPPED, what + ": exit code", ended)
        self.tally.check(len(saved) == 1 and 14 <= saved[0] < 480, "%s: saved steps %s" % (what, saved), ended)
        self.tally.check("[rank 0] stopped at step %d of 480 with the state saved" % saved[0] in ended.output
                         and "launch the same command again" in ended.output, what + ": does not say what to do",
                         ended)
        left = rekindle.processes_left(self.run_dir) + rekindle.temporaries(self.run_dir) + self.slurm.jobs_left()
        self.tally.check(left == [], "%s: left behind: %s" % (what, left))
        self.finishes(what, ranks_again)

    def stops_before_the_job_ends(self):
        """As README.md tells where Slurm does not say it itself: a job of a minute, most of which is margin."""
        run_dir, output, script = (os.path.join(self.work, name) for name in ("ending", "ending.out", "ending.sh"))
        command = rekindle.train_command(self.program, 0, self.run_file, run_dir,
                                         ["train.epochs=1000000", "fault.end_margin=55", "log.every_steps=1000"])
        with open(script, "w") as file:
            file.write("#!/bin/sh\n"
                       "export SLURM_JOB_END_TIME=$(date -d \"$(squeue -h -j $SLURM_JOB_ID -o %e)\" +%s)\n"
                       + "exec srun --mpi=pmix %s\n" % shlex.join(command))
        ended = rekindle.run([slurm.find("sbatch"), "--wait", "--time=1", "--nodes=2", "--ntasks=2", "--output=" + output,
                              script], {**self.slurm.environment, "SLURM_JOB_END_TIME": ""})
        with open(output) as file:
            ended.output += file.read()
        saved = rekindle.saved_steps(run_dir)
        self.tally.check(ended.code == STOPPED and ended.seconds < 55, "the job's end: exit code", ended)
        self.tally.check(len(saved) == 1 and "stopped at step %d of" % saved[0] in ended.output
                         and "since this launch's time ends" in ended.output, "the job's end: not stopped before", ended)

    def ranks(self):
        """The processes that are ranks: srun itself names the program, too."""
        found = []
        for pid in rekindle.processes_of(self.run_dir):
            if os.path.realpath("/proc/%d/exe" % pid) == os.path.realpath(self.program):
                found.append(pid)
        return found

    def is_not_run_many_times_over(self):
        """Without an MPI plugin each task would be a run of its own, on one directory."""
        self.clear()
        ended = self.slurm.srun(2, self.command(), ("--mpi=none",))
        self.tally.check(ended.code not in (0, STOPPED) and rekindle.saved_steps(self.run_dir) == [],
                         "two tasks without MPI train alone", ended)


def main(program, work):
    absent = slurm.missing()
    if absent:
        print("SKIPPED: not installed: %s (packages slurm-wlm slurm-wlm-basic-plugins munge)" % ", ".join(absent))
        return SKIPPED
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    with slurm.Slurm(os.path.join(work, "slurm"), nodes=3) as cluster:
        try:
            srun = Srun(program, work, cluster)
            srun.finishes("undisturbed", 2)
            srun.stops("scancel --signal=TERM", 2, lambda launcher, ranks: (
                signal.SIGTERM, ranks, lambda: cluster.cancel("--signal=TERM", *cluster.jobs())), 3)
            srun.stops("SIGTERM to one rank", 3, lambda launcher, ranks: (
                signal.SIGTERM, ranks[-1:], lambda: os.kill(ranks[-1], signal.SIGTERM)), 2)
            srun.stops("SIGUSR1 to srun", 2, lambda launcher, ranks: (
                signal.SIGUSR1, ranks, lambda: launcher.send_signal(signal.SIGUSR1)), 3)
            srun.stops_before_the_job_ends()
            srun.is_not_run_many_times_over()
        except AssertionError:
            print(cluster.logs())
            raise
    return srun.tally.finish(planned=3 + 3 * (5 + 3) + 2 + 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.path.abspath(sys.argv[2])))
