"""A run saves by the clock, on a better metric, and as often as its history makes worth while; before its time ends
it stops with its state saved, on one rank and on three, and what comes out is what would have come out anyway.
Each line of its ledger is what ARCHITECTURE.md says.

usage: in_time.py REKINDLE SHIM WORK"""

import json
import os
import re
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import ledger  # noqa: E402
import rekindle  # noqa: E402

SECTIONS = {
    "run": {"name": "in-time", "seed": 5},
    "device": "cpu",
    "model": {"arch": "mlp", "widths": "[196, 128, 4]", "classes": 4},
    "train": {"epochs": 40, "batch": 20, "shards": 6, "threads": 1},
    "optimizer": {"kind": "adam", "lr": 0.001},
    "checkpoint": {"background": "true", "every_epoch": "false"},
}
NO_ORDER = rekindle.ENVIRONMENT["ASAN_OPTIONS"] + ":verify_asan_link_order=0"
ENDLESS = ["train.epochs=1000000"]


class InTime:
    def __init__(self, program, shim, work):
        self.program, self.shim, self.work, self.tally = program, shim, work, rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, 400), **SECTIONS)
        self.events = set()

    def launch(self, name, ranks, sets=(), fault=None, **variables):
        # whatever the machine that runs this is scheduled by
        return rekindle.train(self.program, ranks, self.run_file, self.dir(name), sets, fault,
                              {"SLURM_JOB_END_TIME": "", **variables})

    def dir(self, name):
        return os.path.join(self.work, name)

    def saves(self, name):
        return [line for line in ledger.lines(self.dir(name)) if line["event"] == "save"]

    def check(self, true, what, detail=""):
        return self.tally.check(true, what, detail)

    def finished(self, ended, digest, what):
        self.check(ended.code == 0 and rekindle.digest_of(ended) == digest, what + ": the same bits", ended)

    def keeps_books(self, name, *events):
        """Every line is in the table, and these were seen."""
        found, seen = ledger.trouble(self.dir(name))
        self.check(not found, "%s: the ledger is as described" % name, "\n".join(found))
        self.check(set(events) <= set(seen), "%s: the ledger has %s" % (name, list(events)), seen)
        self.events.update(seen)

    # ---- when it saves

    def minutes(self, digest):
        every = 0.06  # seconds
        ended = self.launch("minutes", 3, ["checkpoint.every_minutes=%g" % (every / 60)])
        self.finished(ended, digest, "every so many minutes")
        saves = self.saves("minutes")
        self.check(saves[-1]["why"] == "end" and {one["why"] for one in saves[:-1]} == {"minutes"},
                   "saves by the clock, and one at the end", saves)
        begun = [one["begun"] for one in saves[:-1]]
        self.check(all(b - a >= every for a, b in zip(begun, begun[1:])), "not more often than asked", saves)
        self.keeps_books("minutes", "launch", "save", "end")

    def better(self, digest):
        ended = self.launch("better", 1, ["checkpoint.on_better=true", "checkpoint.keep_last=100"])
        self.finished(ended, digest, "on a better metric")
        better = [int(step) for step in re.findall(r"evaluation at step (\d+):.*the best so far", ended.output)]
        self.check(better and [one["step"] for one in self.saves("better")[:-1]] == better,
                   "each evaluation that was better was saved, and no other", ended)

    def auto(self, digest):
        """Failures make it save more often; the bounds hold."""
        sets = ["checkpoint.interval=auto", "checkpoint.interval_min=0.001"]
        periods = []
        for failures, step in enumerate((10, 20, 30)):
            ended = self.launch("auto", 2, sets, "rank:1,step:%d,at:reduce" % step)
            self.check("REKINDLE_FAULT fires" in ended.output and ended.code not in (0, 75), "it is killed", ended)
            told = re.search(r"saves about each (\S+) s: .*launches failed (\d+) times", ended.output)
            self.check(told and int(told.group(2)) == failures, "it knows of %d failures" % failures, ended)
            periods.append(float(told.group(1)))
        self.check(periods[0] > periods[2], "who fails saves more often", periods)
        self.finished(self.launch("auto", 1, sets), digest, "interval: auto")
        self.keeps_books("auto", "launch", "save", "end")
        bounds = ["checkpoint.interval_min=0.02", "checkpoint.interval_max=0.03"]
        self.finished(self.launch("bounds", 1, ["checkpoint.interval=auto", "checkpoint.background=false"] + bounds), digest, "bounds")
        end = ledger.lines(self.dir("bounds"))[-1]
        self.check(0.02 <= end["interval"] <= 0.03 and end["saves"] > 1, "auto keeps its bounds", end)

    # ---- when it stops

    def stops(self, name, ended, before):
        late = time.time() - before
        self.check(ended.code == 75, "%s: exit code 75" % name, ended)
        self.check(late < 0, "%s: %.2f s late" % (name, late), ended)
        found = re.search(r"stopped at step (\d+) of \d+ with the state saved.*time ends", ended.output)
        last = ledger.lines(self.dir("stops"))[-1]
        self.check(found and int(found.group(1)) == max(rekindle.saved_steps(self.dir("stops"))) == last["step"],
                   "%s: the state of the stop is saved" % name, ended)
        self.check(last["event"] == "stop" and last["why"] == "time limit" and last["saves"] > 0,
                   "%s: the ledger says why" % name, last)

    def in_time(self):
        for ranks in (1, 3):
            ends = int(time.time()) + 3
            ended = self.launch("stops", ranks, ENDLESS + ["fault.end_margin=0.8"], SLURM_JOB_END_TIME=str(ends))
            self.stops("the job's end on %d ranks" % ranks, ended, ends)
        began = time.time()
        ended = self.launch("stops", 2, ENDLESS + ["fault.end_margin=0.4", "fault.stop_after=1.2"])
        self.stops("fault.stop_after", ended, began + 1.2 + 1)  # launching is not the launch's time
        self.keeps_books("stops", "launch", "restore", "save", "stop")
        step = max(rekindle.saved_steps(self.dir("stops")))
        ended = self.launch("straight", 1, ENDLESS, "step:%d,at:gradient,send:USR1" % step)
        self.check("REKINDLE_FAULT fires" in ended.output and ended.code == 75, "it stops there", ended)
        stopped, straight = self.state("stops"), self.state("straight")
        self.check(stopped == straight and stopped[0] == step, "stopped three times: the same bits", (stopped, straight))

    def slow_disk(self):
        """Saves that take much longer than a step hold nothing up, and the last one is begun early enough."""
        run_dir, trace = os.path.realpath(self.dir("slow")), self.dir("syncs")
        sync, limit = 0.15, 3
        ended = self.launch("slow", 0, ENDLESS + ["checkpoint.every_steps=1", "fault.stop_after=%g" % limit,
                                                  "fault.end_margin=0.2"],
                            LD_PRELOAD=self.shim, SHIM_PATH=run_dir, SHIM_TRACE=trace,
                            SHIM_SYNC_MS="%d" % (1000 * sync), ASAN_OPTIONS=NO_ORDER)
        with open(trace) as file:
            syncs = sum(" sync " in line for line in file)
        saves, stop = self.saves("slow"), ledger.lines(self.dir("slow"))[-1]
        self.check(ended.code == 75 and stop["event"] == "stop" and saves[-1]["why"] == "time limit", "stopped", ended)
        self.check(syncs > 2 * len(saves) > 4 and all(one["seconds"] > 2 * sync for one in saves), "saves are slow", saves)
        self.check(stop["seconds"] < limit, "the last one is in time", stop)
        self.check(stop["deferred"] > len(saves) and stop["steps"] > 10 * len(saves), "what falls due waits", stop)
        behind = saves[:-1]
        self.check(sum(one["stall"] for one in behind) < 0.3 * sum(one["seconds"] for one in behind),
                   "training does not", behind)
        self.keeps_books("slow", "launch", "save", "stop")

    def an_end_that_has_passed(self, digest):
        ended = self.launch("passed", 1, SLURM_JOB_END_TIME="1000000000")
        self.check("has passed already" in ended.output, "it is told", ended)
        self.finished(ended, digest, "an end that has passed stops nothing")

    def state(self, name):
        """The newest checkpoint's step and digest."""
        folder = os.path.join(self.dir(name), "checkpoints")
        newest = max(one for one in os.listdir(folder) if one.endswith(".h5"))
        with open(os.path.join(folder, newest), "rb") as file:
            block = json.loads(file.read(4096).rstrip(b"\0 \n"))
        return block["step"], block["state_digest"]

    # ---- what else the ledger tells

    def tells_of_failures(self):
        ended = self.launch("fault", 1, ["optimizer.kind=sgd", "optimizer.lr=1000", "optimizer.momentum=0.99"])
        self.check(ended.code == 1 and "loss -nan" in ended.output, "it fails", ended)
        self.keeps_books("fault", "launch", "fault")
        self.check("loss -nan" in ledger.lines(self.dir("fault"))[-1]["what"], "the ledger says of what")


def main(program, shim, work):
    test = InTime(program, shim, work)
    ended = test.launch("undisturbed", 1)
    digest = rekindle.digest_of(ended)
    test.minutes(digest)
    test.better(digest)
    test.auto(digest)
    test.tells_of_failures()
    test.an_end_that_has_passed(digest)
    test.in_time()
    test.slow_disk()
    print("%d kinds of lines seen: %s" % (len(test.events), sorted(test.events)))
    test.check(test.events == set(ledger.fields()) - {"mirror", "hold"}, "a kind of line was never seen")
    shutil.rmtree(work, ignore_errors=True)
    return test.tally.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], os.path.abspath(sys.argv[3])))
