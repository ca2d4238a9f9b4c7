"""A checkpoint of a format that is newer than the program: each command refuses it with a text that says who wrote it
and what this program reads. It is never called damaged, and no older one takes its place in silence.

    newer.py REKINDLE MAKE_NEWER
"""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import s3_server  # noqa: E402
import short_run  # noqa: E402

USAGE, NONE = 2, 3
MIRROR = "s3://bucket/runs/newer"
TEXTS = ("written by a newer Rekindle (format 3, this one reads up to 2)", "rekindle 9.9.0")
STEPS = short_run.STEPS


class Newer:
    def __init__(self, program, make_newer, work):
        self.program, self.make_newer, self.tally = program, make_newer, rekindle.Tally()
        self.run = short_run.ShortRun(program, None, work)
        self.whole = self.run.prepare("whole")  # six steps, a checkpoint of each
        self.name = self.make(STEPS)

    def make(self, step):
        """That checkpoint becomes one of the next version."""
        name = short_run.CHECKPOINT % (1, step)
        subprocess.run([self.make_newer, self.run.checkpoint_path(name)], check=True)
        return name

    def ask(self, *arguments, extra=None):
        return rekindle.run([self.program, "checkpoints", *arguments], extra, 60)

    def refuses(self, what, ended, code=USAGE, texts=TEXTS):
        self.tally.check(ended.code == code and all(text in ended.output for text in (self.name, *texts)) and
                         "damaged" not in ended.output, what, ended)

    def commands(self):
        run_dir, path = self.run.run_dir, self.run.checkpoint_path(self.name)
        before = self.run.files()
        self.refuses("ls", self.ask("ls", run_dir), code=0, texts=TEXTS + ("  newer  ",))
        first = json.loads(self.ask("ls", run_dir, "--json").output)[0]
        self.tally.check(first["verdict"] == "newer" and TEXTS[0] in first["reason"], "ls --json", first)
        self.refuses("show FILE", self.ask("show", path))
        self.refuses("show DIR does not show an older one", self.ask("show", run_dir))
        self.refuses("verify FILE", self.ask("verify", path), texts=TEXTS + ("NEWER", "0 bad"))
        self.refuses("verify --deep DIR", self.ask("verify", "--deep", run_dir), texts=TEXTS + ("%d checked, 0 bad" % STEPS,))
        self.refuses("diff", self.ask("diff", path, self.run.checkpoint_path(short_run.CHECKPOINT % (1, 1))))
        self.refuses("prune", self.ask("prune", run_dir))
        self.refuses("eval", rekindle.run([self.program, "eval", self.run.run_file, "--set", "run.dir=" + run_dir], None, 60))
        for resume in ("auto", "must", path):
            self.refuses("train, resume: " + resume, rekindle.run(self.run.command(["resume=" + resume]), None, 60))
        self.tally.check(self.run.files() == before, "nothing was written", (before, self.run.files()))

    def beside_damage(self):
        """Damage is what verify tells first; a newer file behind a good one stays and disturbs nobody."""
        bad = self.run.checkpoint_path(short_run.CHECKPOINT % (1, 2))
        with open(bad, "r+b") as file:
            file.truncate(os.path.getsize(bad) - 1)
        self.tally.check(self.ask("verify", self.run.run_dir).code == NONE, "verify of damage and a newer one")
        self.run.put(self.whole)
        name = self.make(2)
        os.unlink(self.run.checkpoint_path(short_run.CHECKPOINT % (1, 6)))
        ended = self.run.launch()
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.run.final and
                         name in self.run.checkpoint_names(), "a launch goes on from what is newer, and deletes it not",
                         (ended, self.run.files()))

    def in_a_store(self):
        server = s3_server.S3Server()
        try:
            self.run.put(self.whole)
            self.make(STEPS)
            for name in self.run.checkpoint_names():
                with open(self.run.checkpoint_path(name), "rb") as file:
                    server.put("runs/newer/" + name, file.read())
            extra = server.environment()
            self.refuses("ls of a store", self.ask("ls", MIRROR, extra=extra), code=0, texts=TEXTS + ("  newer  ",))
            self.refuses("show of a store", self.ask("show", MIRROR, extra=extra))
            self.run.clear()
            for resume, mirror in (("auto", MIRROR), (MIRROR, "")):
                sets = ["resume=" + resume] + (["checkpoint.mirror=" + mirror] if mirror else [])
                self.refuses("train from a store, resume: " + resume, rekindle.run(self.run.command(sets), extra, 60))
        finally:
            server.close()


def main(program, make_newer):
    work = short_run.work_folder("newer")
    try:
        newer = Newer(program, make_newer, work)
        newer.commands()
        newer.beside_damage()
        newer.in_a_store()
        return newer.tally.finish(planned=13 + 2 + 4)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(*map(os.path.abspath, sys.argv[1:])))
