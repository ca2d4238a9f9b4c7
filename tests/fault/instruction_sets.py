"""A run keeps the instruction set of its first launch, whatever limits later launches have.

    instruction_sets.py REKINDLE WORK_FOLDER
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

SECTIONS = {
    "run": {"name": "instruction_sets", "seed": 7},
    "model": {"arch": "lenet", "classes": 4},
    "train": {"epochs": 2, "batch": 60, "shards": 4, "threads": 1},
    "optimizer": {"kind": "adamw", "lr": 0.002},
    "checkpoint": {"every_steps": 2},
}
KILL = "rank:1,step:6,at:reduce"
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def limit(name, variable=VARIABLES[0]):
    return {variable: name}


def device_of(ended):
    mark = "reduction, device: "
    return ended.output.split(mark)[1].split("\n")[0] if mark in ended.output else None


class InstructionSets:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        for variable in VARIABLES:  # the tester's own limits are not the subject
            os.environ.pop(variable, None)
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, 300), **SECTIONS)
        self.run_dir = os.path.join(work, "run")

    def train(self, ranks, extra, fault=None):
        return rekindle.train(self.program, ranks, self.run_file, self.run_dir, extra=extra, fault=fault)

    def undisturbed(self, extra):
        shutil.rmtree(self.run_dir, ignore_errors=True)
        ended = self.train(1, extra)
        assert ended.code == 0, ended
        return rekindle.digest_of(ended), device_of(ended)

    def keeps(self, what, first, then, expected):
        """Killed under one limit, relaunched under another: digest and device of the first."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        ended = self.train(2, first, KILL)
        self.tally.check(ended.code == 137 and "REKINDLE_FAULT fires" in ended.output, what + ": was not killed",
                         ended)
        ended = self.train(3, then)
        self.tally.check("restored g0001" in ended.output, what + ": did not go on", ended)
        self.tally.check(ended.code == 0 and (rekindle.digest_of(ended), device_of(ended)) == expected,
                         "%s: not %s" % (what, expected), ended)

    def is_refused(self, what, ended, *texts):
        self.tally.check(ended.code == 2, what + ": exit code", ended)
        self.tally.check(ended.output.count("rekindle: ") == 1 and ended.output.count("fix: ") == 1 and
                         all(text in ended.output for text in texts), what + ": the text", ended)

    def ranks_with_other_limits(self, first, second):
        shutil.rmtree(self.run_dir, ignore_errors=True)
        command = rekindle.train_command(self.program, 1, self.run_file, self.run_dir)
        at = command.index(self.program)
        launcher, program = command[:at], command[at:]
        context = launcher[launcher.index("-n"):launcher.index("-n") + 2]
        return rekindle.run(launcher + ["-x", "%s=%s" % first] + program +
                            [":"] + context + ["-x", "%s=%s" % second] + program)


def main(program, work):
    sets = InstructionSets(program, work)
    best = sets.undisturbed({})
    avx2 = sets.undisturbed(limit("AVX2"))
    avx = sets.undisturbed(limit("AVX"))
    print("without a limit: %s\nAVX2: %s\nAVX: %s" % (best, avx2, avx))
    sets.tally.check(" avx2 " in avx2[1] and " avx " in avx[1], "a limit is obeyed", (avx2, avx))
    sets.tally.check(avx[0] != avx2[0], "the instruction set changes no bit: this test cannot fail", avx)
    sets.tally.check(sets.undisturbed(limit("avx2", VARIABLES[1])) == avx2, "the older variable is obeyed")
    sets.tally.check(sets.undisturbed(limit("AVX512_CORE_AMX")) == best, "extensions that we do not use change bits")

    sets.keeps("AVX2, then no limit", limit("AVX2"), {}, avx2)
    sets.keeps("AVX by the older variable, then no limit", limit("AVX", VARIABLES[1]), {}, avx)
    sets.keeps("no limit, then AVX", {}, limit("AVX"), best)
    sets.keeps("AVX, then AVX2", limit("AVX"), limit("AVX2"), avx)

    one, other = (VARIABLES[0], "AVX"), (VARIABLES[0], "AVX2")
    ended = sets.ranks_with_other_limits(one, other)
    sets.is_refused("ranks with two limits", ended, "rank 0 computes on", "rank 1 on", "cpu avx ", "cpu avx2 ",
                    VARIABLES[0])
    sets.tally.check(not os.path.exists(os.path.join(sets.run_dir, "checkpoints")) or
                     os.listdir(os.path.join(sets.run_dir, "checkpoints")) == [], "a refused launch leaves files")
    sets.is_refused("a limit that is none", sets.train(2, limit("AVX3")), "ONEDNN_MAX_CPU_ISA=AVX3", "AVX2")
    return sets.tally.finish(planned=4 + 4 * 3 + 2 + 1 + 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.path.abspath(sys.argv[2])))
