"""What a user gets wrong, on three ranks: one message, said once, that names the culprit and what to do; the
documented exit code; nothing written.

    mistakes.py REKINDLE WORK_FOLDER
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

FAULT, USAGE, NO_CHECKPOINT = 1, 2, 3
SECTIONS = {
    "run": {"name": "mistakes", "seed": 9},
    "model": {"arch": "mlp", "widths": "[196, 16, 4]", "classes": 4},
    "train": {"epochs": 1, "batch": 50, "shards": 4, "threads": 1},
    "checkpoint": {"every_steps": 2},
}


class Mistakes:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.data_part = rekindle.write_data_set(work, 200)
        self.run_file = rekindle.write_run_file(work, self.data_part, **SECTIONS)
        self.run_dir = os.path.join(work, "run")

    def says_once(self, what, ended, code, *texts):
        """One message of one rank, nothing else but log lines of rank 0."""
        lines = ended.output.splitlines()
        own = [line for line in lines if line.startswith("[rank 0")]
        counts = [sum(line.startswith(start) for line in lines) for start in ("rekindle: ", "  where: ", "  fix:   ")]
        self.tally.check(ended.code == code, "%s: exit code %d, not %d" % (what, ended.code, code), ended)
        self.tally.check(counts == [1, 1, 1] and all(text in ended.output for text in texts),
                         what + ": the message", ended)
        self.tally.check(not any(line.startswith("[rank") for line in lines if line not in own) and
                         "Traceback" not in ended.output, what + ": other ranks talk", ended)

    def refused(self, what, code, *texts, sets=(), ranks=3, run_file=None, run_dir=None):
        """A launch that must not leave anything behind."""
        run_dir = run_dir or self.run_dir
        before = self.files(run_dir)
        ended = rekindle.train(self.program, ranks, run_file or self.run_file, run_dir, sets)
        self.says_once(what, ended, code, *texts)
        self.tally.check(self.files(run_dir) == before, what + ": the run directory changed", ended)

    @staticmethod
    def files(run_dir):
        return sorted((os.path.join(folder, name), os.stat(os.path.join(folder, name)).st_mtime_ns)
                      for folder, _, names in os.walk(run_dir) for name in names)

    def write(self, name, text):
        path = os.path.join(self.work, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def on_a_fresh_directory(self):
        with open(self.run_file) as file:
            good = file.read()
        self.refused("no run file", USAGE, "absent.yaml", run_file=os.path.join(self.work, "absent.yaml"))
        self.refused("a run file that is a directory", USAGE, self.work, run_file=self.work)
        self.refused("a wrong key", USAGE, "train.bach", "train.batch", sets=["train.bach=10"])
        self.refused("a wrong key in the file", USAGE, "typo.yaml:", "bach",
                     run_file=self.write("typo.yaml", good.replace("batch:", "bach:")))
        self.refused("a wrong value", USAGE, "train.batch", "many", sets=["train.batch=many"])
        self.refused("a broken file", USAGE, "broken.yaml:",
                     run_file=self.write("broken.yaml", good + "train: [\n"))
        self.refused("no data file", USAGE, "absent.gz", sets=["data.train.images=/absent.gz"])
        self.refused("a data file of another kind", USAGE, "run.yaml", sets=["data.train.images=" + self.run_file])
        self.refused("more ranks than shards", USAGE, "5 ranks", "4 shards", ranks=5)
        self.refused("widths that do not fit", USAGE, "100", "196", sets=["model.widths=[100, 16, 4]"])
        self.refused("a device that is none", USAGE, "cuda", sets=["device=cuda"])
        self.refused("must with nothing there", NO_CHECKPOINT, self.run_dir, sets=["resume=must"])
        self.refused("a checkpoint that is missing", NO_CHECKPOINT, "absent.h5", sets=["resume=/absent.h5"])
        blocked = self.write("a-file", "")
        self.refused("a directory that cannot be", FAULT, blocked, run_dir=os.path.join(blocked, "run"))

    def on_a_finished_run(self):
        ended = rekindle.train(self.program, 3, self.run_file, self.run_dir)
        self.tally.check(ended.code == 0, "the run that the mistakes are about", ended)
        for key, old, new in (("run.seed", "9", "10"), ("train.batch", "50", "40"), ("train.shards", "4", "8"),
                              ("optimizer.lr", "0.1", "0.5"), ("model.widths", "16", "[196, 17, 4]")):
            self.refused("changed " + key, USAGE, key, old, new.strip("[]"), "run.dir", sets=["%s=%s" % (key, new)])
        self.refused("none where checkpoints are", USAGE, "resume", sets=["resume=none"])

    def with_nothing_valid(self):
        folder = os.path.join(self.run_dir, "checkpoints")
        for name in os.listdir(folder):
            if name.endswith(".h5"):
                os.chmod(os.path.join(folder, name), 0o644)
                with open(os.path.join(folder, name), "r+b") as file:
                    file.seek(5000)
                    byte = file.read(1)
                    file.seek(5000)
                    file.write(bytes([byte[0] ^ 1]))
        for resume in ("auto", "must"):
            ended = rekindle.train(self.program, 3, self.run_file, self.run_dir, ["resume=" + resume])
            self.says_once("all are invalid, resume: " + resume, ended, NO_CHECKPOINT, self.run_dir)

    def alone_and_by_arguments(self):
        for what, arguments, text in (("an unknown argument", ["--sett", "a=b"], "--sett"),
                                      ("a second run file", ["other.yaml"], "other.yaml"),
                                      ("a value that is missing", ["--set"], "--set")):
            ended = rekindle.run(rekindle.train_command(self.program, 3, self.run_file, self.run_dir) + arguments)
            self.says_once(what, ended, USAGE, text, "rekindle train --help")
        ended = rekindle.run(["mpirun", "-q", "-n", "3", "--oversubscribe", self.program, "train", "--help"])
        self.tally.check(ended.code == 0 and ended.output.count("usage: rekindle train") == 1,
                         "help is printed once", ended)


def main(program, work):
    mistakes = Mistakes(program, work)
    mistakes.on_a_fresh_directory()
    mistakes.on_a_finished_run()
    mistakes.with_nothing_valid()
    mistakes.alone_and_by_arguments()
    return mistakes.tally.finish(planned=14 * 4 + 1 + 6 * 4 + 2 * 3 + 3 * 3 + 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.path.abspath(sys.argv[2])))
