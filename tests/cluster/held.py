"""States held in the memory of several hosts: the newest that any of them holds is gone on from, wherever the ranks are
then; a host that is gone takes its own along and nothing else.

    held.py REKINDLE WORK_FOLDER
"""

import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import hosts  # noqa: E402
import rekindle  # noqa: E402

SKIPPED = 77
SECTIONS = {
    "run": {"name": "held", "seed": 12},
    "device": "reference",
    "model": {"arch": "mlp", "widths": "[16, 96, 4]", "classes": 4},
    "train": {"epochs": 4, "batch": 8, "shards": 4, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "checkpoint": {"every_steps": 5, "every_epoch": "false", "background": "false"},
}
SAMPLES = 24


class Cluster:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, os.path.realpath(work), rekindle.Tally()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        self.memory, self.run_dir = os.path.join(self.work, "memory"), os.path.join(self.work, "run")
        self.run_file = rekindle.write_run_file(self.work, rekindle.write_data_set(self.work, SAMPLES, side=4), **SECTIONS)
        ended = rekindle.train(program, 0, self.run_file, os.path.join(self.work, "undisturbed"))
        assert ended.code == 0, ended
        self.final = rekindle.digest_of(ended)
        self.hosts = hosts.Hosts(self.work, 2, self.memory)

    def launch(self, slots, fault=None):
        sets = ["checkpoint.local.dir=" + self.memory, "checkpoint.local.every_steps=1"]
        return rekindle.run(self.hosts.mpirun(slots) + (["-x", "REKINDLE_FAULT=" + fault] if fault else []) +
                            rekindle.train_command(self.program, 0, self.run_file, self.run_dir, sets), limit=60)

    def held(self, host):
        """Step → path."""
        found = {}
        for folder, _, names in os.walk(self.hosts.memory_of(host)):
            for name in names:
                if name.endswith(".h5"):
                    found[int(re.search(r"step-(\d+)", name).group(1))] = os.path.join(folder, name)
        return found

    def kill(self, slots, fault):
        shutil.rmtree(self.run_dir, ignore_errors=True)
        ended = self.launch(slots, fault)
        self.tally.check("REKINDLE_FAULT fires" in ended.output and ended.code == 137, "killed: " + fault, str(ended))
        return ended

    def check_end(self, what, ended, pattern):
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.final and re.search(pattern, ended.output),
                         what, str(ended))
        left = [name for host in (0, 1) for name in os.listdir(self.hosts.memory_of(host))]
        self.tally.check(not left, what + ": nothing is left in memory", str(left))

    def checks(self):
        first, second = self.hosts.names
        ended = self.kill([(0, 1), (1, 1)], "rank:0,step:9,at:reduce")
        self.tally.check("held step 1 in %s (2 of 2 hosts)" % self.memory in ended.output and
                         sorted(self.held(0)) == sorted(self.held(1)) == [7, 8],
                         "both hosts hold", "%s %s\n%s" % (self.held(0), self.held(1), ended))
        self.check_end("both hold it: the lowest rank reads", self.launch([(1, 2), (0, 1)]),
                       "held by rank 0 on %s: step 8 of" % second)

        self.kill([(0, 1), (1, 2)], "rank:1,step:9,at:reduce")
        os.unlink(self.held(0)[8])
        ended = self.launch([(0, 2), (1, 1)])
        self.check_end("the other host's is newer", ended, "held by rank 2 on %s: step 8 of" % second)

        self.kill([(0, 1), (1, 1)], "rank:1,step:9,at:reduce")
        with open(self.held(0)[8], "r+b") as file:
            file.seek(-3000, os.SEEK_END)
            file.write(b"damage")
        ended = self.launch([(0, 1), (1, 1)])
        self.tally.check("held by rank 0 on %s, is damaged" % first in ended.output, "damage is named with its host", str(ended))
        self.check_end("one host's is damaged", ended, "held by rank 1 on %s: step 8 of" % second)

        self.kill([(0, 1), (1, 1)], "rank:1,step:9,at:reduce")
        shutil.rmtree(self.hosts.memory_of(1))  # the machine went down
        os.mkdir(self.hosts.memory_of(1))
        self.check_end("one host has lost its memory", self.launch([(1, 1), (0, 1)]),
                       "held by rank 1 on %s: step 8 of" % first)

        self.kill([(0, 1), (1, 1)], "rank:1,step:9,at:reduce")
        kept = self.hosts.memory_of(0)
        for host in (0, 1):
            os.rename(self.hosts.memory_of(host), self.hosts.memory_of(host) + ".away")
            os.mkdir(self.hosts.memory_of(host))
        self.check_end("no host has its memory any more", self.launch([(0, 1), (1, 1)]), "restored g0001-.*: step 5 of")
        os.rmdir(kept)
        os.rename(kept + ".away", kept)
        ended = self.launch([(0, 1), (1, 1)])
        self.check_end("what comes back after the end goes", ended, "restored g0002-.*: step 12 of 12")


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
