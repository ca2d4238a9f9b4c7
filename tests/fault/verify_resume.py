"""`rekindle verify-resume` says "identical" when it is so, "DIFFERENT" when a restore forgets something,
and leaves neither files nor processes behind, whatever happens to it.

    verify_resume.py REKINDLE MUTANT WORK_FOLDER
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

SECTIONS = {
    "model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
    "data": {"augment": "[crop, flip]", "crop_padding": 2},
    "train": {"epochs": 4, "batch": 20, "shards": 4, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.002},
    "checkpoint": {"every_steps": 2},
}
STEPS = 4 * 20
FORGOTTEN = "optimizer/moment1/conv1.weight"
NO_VERDICT = 5


class Check:
    def __init__(self, program, mutant, work):
        self.program, self.mutant, self.work = program, mutant, work
        self.tally = rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.runs = os.path.join(work, "runs")
        self.run_file = rekindle.write_run_file(
            work, rekindle.write_data_set(work, 400),
            run={"name": "proved", "dir": os.path.join(self.runs, "proved")}, **SECTIONS)

    def command(self, *options):
        return [self.program, "verify-resume", self.run_file, *options]

    def left_behind(self):
        """Files in the runs folder, and processes that name it."""
        found = os.listdir(self.runs) if os.path.exists(self.runs) else []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as file:
                    if self.runs.encode() in file.read():
                        found.append("process " + pid)
            except OSError:
                continue
        return found

    def a_sound_program_is_identical(self):
        ended = rekindle.run(self.command("--ranks", "2,1,3", "--kills", "4", "--json"))
        if not self.tally.check(ended.code == 0, "a sound program is identical", ended):
            return
        said = json.loads(ended.output)
        launches = said["launches"]
        killed = [launch for launch in launches[:-1] if "killed_rank" in launch]
        restores = sum(launch["restored_from"] != "" for launch in launches[-5:])
        self.tally.check(said["identical"] and said["step"] == STEPS and said["entries"] > 40 and
                         said["kills"] == 4 and said["restores"] == restores and said["ranks"] == [2, 1, 3],
                         "the object tells what was proved", ended)
        self.tally.check(said["metric_lines_compared"] == STEPS + 4, "each step's metrics are compared", ended)
        self.tally.check(len(killed) >= 4 and all(launch["exit_code"] == 137 for launch in killed),
                         "each kill ended its launch", ended)
        self.tally.check([launch["ranks"] for launch in launches[-5:]] == [2, 1, 3, 2, 1],
                         "the numbers of ranks take turns", ended)
        self.tally.check(self.left_behind() == [], "nothing is left behind", self.left_behind())

    def a_forgetful_program_is_different(self):
        """The kills are random, so a proof may by chance restore nothing: then another one is made."""
        said = {"launches": []}
        for seed in range(10):
            ended = rekindle.run(
                self.command("--ranks", "1", "--launcher", "none", "--kills", "5", "--seed", str(seed), "--json",
                             "--program", self.mutant), {"REKINDLE_OMIT_ENTRY": FORGOTTEN})
            if not ended.output.startswith("{"):
                break
            said = json.loads(ended.output.splitlines()[0])
            if any(launch["restored_from"] for launch in said["launches"]):
                break
        if not self.tally.check(ended.code == 1, "a forgetful program is different", ended):
            return
        self.tally.check("element" in said["difference"] or "metrics" in said["difference"],
                         "the first difference is named", ended)
        kept = self.left_behind()
        self.tally.check(len(kept) == 1 and os.path.join(self.runs, kept[0]) in ended.output,
                         "both runs are kept and named", ended)
        both = [os.path.join(self.runs, kept[0], name) for name in ("undisturbed", "disturbed")]
        ended = rekindle.run([self.program, "verify-resume", "--compare", *both])
        self.tally.check(ended.code == 1 and ended.output.startswith("DIFFERENT: "), "two runs are told apart", ended)
        ended = rekindle.run([self.program, "verify-resume", "--compare", both[0], both[0]])
        self.tally.check(ended.code == 0 and ended.output.startswith("identical: "), "a run equals itself", ended)
        shutil.rmtree(self.runs)

    def it_can_be_interrupted(self, number, code):
        process = subprocess.Popen(self.command("--ranks", "2", "--set", "train.epochs=10000"), env=rekindle.environment(None),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any(os.path.exists(os.path.join(self.runs, name, "undisturbed", "metrics.jsonl"))
                      for name in (os.listdir(self.runs) if os.path.exists(self.runs) else [])):
            assert time.monotonic() < deadline, "the first launch does not begin"
            time.sleep(0.02)
        process.send_signal(number)
        self.tally.check(process.wait(30) == code, "%s gives %d" % (number, code), process.returncode)
        if number == signal.SIGKILL:  # its launch ends by itself; only the files stay
            while any(name.startswith("process") for name in self.left_behind()):
                if not self.tally.check(time.monotonic() < deadline, "the ranks outlive a killed parent"):
                    break
                time.sleep(0.05)
            shutil.rmtree(self.runs)
        self.tally.check(self.left_behind() == [], "nothing is left behind after %s" % number, self.left_behind())

    def a_wrong_call_is_refused(self):
        kept = os.path.join(self.work, "kept")
        cases = [
            (["--kills", "0"], 2, "--kills 0"),
            (["--ranks", "1,x"], 2, "--ranks 1,x"),
            (["--ranks", "5"], 2, "shards"),
            (["--set", "train.epoch=1"], 2, "train.epoch"),
            (["--launcher", "none", "--ranks", "2"], 2, "--launcher none"),
            (["--launcher", "no-such-mpirun"], 2, "no-such-mpirun"),
            (["--keep", self.work], 2, "exists"),
            (["--nonsense"], 2, "--nonsense"),
            (["--compare", kept], 2, "two run directories"),
            (["--ranks", "1", "--launcher", "none", "--program", "/bin/false", "--keep", kept], NO_VERDICT,
             "exit code 1"),
        ]
        for options, code, text in cases:
            ended = rekindle.run(self.command(*options))
            self.tally.check(ended.code == code and text in ended.output, "%s gives %d" % (options, code), ended)
        ended = rekindle.run([self.program, "verify-resume", "--compare", kept, kept])
        self.tally.check(ended.code == NO_VERDICT and "no valid checkpoint" in ended.output,
                         "what is not there cannot be compared", ended)
        shutil.rmtree(self.runs, ignore_errors=True)


def main():
    check = Check(*map(os.path.abspath, sys.argv[1:]))
    check.a_sound_program_is_identical()
    check.a_forgetful_program_is_different()
    check.it_can_be_interrupted(signal.SIGTERM, 128 + signal.SIGTERM)
    check.it_can_be_interrupted(signal.SIGINT, 128 + signal.SIGINT)
    check.it_can_be_interrupted(signal.SIGKILL, -signal.SIGKILL)
    check.a_wrong_call_is_refused()
    return check.tally.finish()


sys.exit(main())
