"""A checkpoint written by ranks of several hosts: one a host first, through the directory that all of them see; a host that
does not see it costs saves and nothing else.

    writers.py REKINDLE WORK_FOLDER
"""

import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import hosts  # noqa: E402
import rekindle  # noqa: E402

SKIPPED = 77
# Some 5 MiB of state: two segments.
SECTIONS = {
    "run": {"name": "writers", "seed": 12},
    "model": {"arch": "mlp", "widths": "[64, 512, 800, 4]", "classes": 4},
    "train": {"epochs": 4, "batch": 24, "shards": 4, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.001},
    "checkpoint": {"every_steps": 2, "every_epoch": "false", "background": "true"},
}
SAMPLES = 72
SLOTS = [(0, 2), (1, 1)]  # the second writer is rank 2, not rank 1


class Cluster:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, os.path.realpath(work), rekindle.Tally()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        self.own = os.path.join(self.work, "own")  # another folder on each host
        self.run_dir = os.path.join(self.work, "run")
        self.run_file = rekindle.write_run_file(self.work, rekindle.write_data_set(self.work, SAMPLES, side=8), **SECTIONS)
        ended = rekindle.train(program, 0, self.run_file, os.path.join(self.work, "undisturbed"))
        assert ended.code == 0, ended
        self.final = rekindle.digest_of(ended)
        self.hosts = hosts.Hosts(self.work, 2, self.own)

    def launch(self, run_dir, sets=(), fault=None):
        sets = ["checkpoint.writers=2", *sets]
        return rekindle.run(self.hosts.mpirun(SLOTS) + (["-x", "REKINDLE_FAULT=" + fault] if fault else []) +
                            rekindle.train_command(self.program, 0, self.run_file, run_dir, sets), limit=60)

    def check_end(self, what, ended):
        left = rekindle.temporaries(self.run_dir)
        verified = rekindle.run([self.program, "checkpoints", "verify", self.run_dir])
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.final and not left and verified.code == 0,
                         what, "%s\n%s\n%s" % (ended, left, verified))

    def checks(self):
        ended = self.launch(self.run_dir)
        self.tally.check("2 ranks write each checkpoint" in ended.output and "was not saved" not in ended.output,
                         "every save is a success", str(ended))
        self.check_end("two hosts write", ended)

        shutil.rmtree(self.run_dir)
        ended = self.launch(self.run_dir, fault="rank:2,at:persist,pass:3")
        self.tally.check("REKINDLE_FAULT fires" in ended.output and ended.code == 137, "the other host's is killed", str(ended))
        self.check_end("gone on, and held besides", self.launch(self.run_dir, ["checkpoint.local.dir=" + self.own,
                                                                              "checkpoint.local.every_steps=1"]))

        ended = self.launch(os.path.join(self.own, "run"), ["checkpoint.max_failures=2"])
        said = re.findall(r"step \d+ was not saved .*: rank 2 on %s: there is no " % self.hosts.names[1], ended.output)
        self.tally.check(ended.code == 1 and len(said) == 1 and "\n  fix:   let run.dir lead to one directory" in ended.output,
                         "a directory that one host does not see", str(ended))


def main():
    if not hosts.available():
        print("pretended hosts cannot be made here: skipped")
        return SKIPPED
    cluster = Cluster(*sys.argv[1:])
    try:
        cluster.checks()
    finally:
        cluster.hosts.close()
        shutil.rmtree(cluster.work, ignore_errors=True)
    return cluster.tally.finish()


sys.exit(main())
