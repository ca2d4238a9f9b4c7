"""The promise on a GPU: killed anywhere, finished on any number of ranks, the same bits; and a run moves between
GPU and CPU without losing one. The same script runs on a real GPU and under the double:

    story.py REKINDLE WORK_FOLDER [--ranks 1,2,3,4] [--gpus N] [--cases mlp,lenet,resnet20,fast,moves,diverges]

--ranks: what to launch on; with one GPU more than one rank share it and exchange through the host. --gpus: how
many devices the double pretends to have. Exit 77: there is no GPU."""

import argparse
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

SAMPLES = 212
# Odd shapes, all layers, all precisions. 212 samples: an epoch's last batch is smaller, so there are other shapes,
# other plans, another recording; shards and ranks' shares of them are uneven.
NETS = {
    "mlp": {"model": {"arch": "mlp", "widths": "[196, 48, 24, 4]", "dropout": 0.25, "classes": 4},
            "train": {"precision": "tf32", "batch": 37, "shards": 5, "epochs": 2},
            "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": "true"}},
    "lenet": {"model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
              "train": {"precision": "fp32", "batch": 32, "shards": 5, "epochs": 2},
              "optimizer": {"kind": "adamw", "lr": 0.002, "weight_decay": 0.01, "clip_norm": 1.0}},
    "resnet20": {"model": {"arch": "resnet20", "classes": 4},
                 "train": {"precision": "bf16", "batch": 64, "shards": 4, "epochs": 3},
                 "optimizer": {"kind": "adam", "lr": 0.002}},
}
SECTIONS = {
    "run": {"name": "story", "seed": 5},
    "device": "cuda",
    "data": {"augment": "[crop, flip]", "crop_padding": 2},
    "schedule": {"kind": "cosine", "warmup_steps": 3},
    "checkpoint": {"every_steps": 3, "keep_last": 2},
    "log": {"every_steps": 1},
}
# Where a rank dies; %d: the first evaluation's step. Each net takes a part of them.
FAULTS = ["step:1,at:reduce", "step:8,at:gradient", "step:8,at:reduce", "step:8,at:optimizer", "step:%d,at:evaluate",
          "step:6,at:save", "step:9,at:after_commit", "at:persist,pass:2"]
BEHIND = ["checkpoint.background=true"]


class Story:
    def __init__(self, arguments):
        self.program, self.work = os.path.abspath(arguments.program), os.path.abspath(arguments.work)
        self.ranks = [int(count) for count in arguments.ranks.split(",")]
        self.extra = {"GPU_DOUBLE_DEVICES": str(arguments.gpus)} if arguments.gpus else {}
        self.tally = rekindle.Tally()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        self.data = rekindle.write_data_set(self.work, SAMPLES)

    # ---- launches

    def run_file(self, net, **more):
        sections = {name: dict(keys) if isinstance(keys, dict) else keys for name, keys in SECTIONS.items()}
        for name, keys in list(NETS[net].items()) + list(more.items()):
            sections.setdefault(name, {}).update(keys)
        folder = os.path.join(self.work, "files")
        os.makedirs(folder, exist_ok=True)
        return rekindle.write_run_file(folder, self.data, **sections)

    def launch(self, ranks, run_file, name, sets=(), fault=None):
        return rekindle.train(self.program, ranks, run_file, os.path.join(self.work, name), sets, fault, self.extra)

    def fresh(self, name):
        shutil.rmtree(os.path.join(self.work, name), ignore_errors=True)
        return name

    def finished(self, what, ended):
        """Its digest, or None."""
        return rekindle.digest_of(ended) if self.tally.check(ended.code == 0, what + ": does not finish", ended) else None

    # ---- what is claimed

    def exact(self, net, faults):
        """Every rank count gives one result, with the same losses on the way, undisturbed and killed."""
        run_file, first, lines = self.run_file(net), None, None
        batch = NETS[net]["train"]["batch"]
        evaluation = (SAMPLES + batch - 1) // batch
        for ranks in self.ranks:
            what = "%s, %d ranks" % (net, ranks)
            sets = BEHIND if first is not None else []
            digest = self.finished(what, self.launch(ranks, run_file, self.fresh("undisturbed"), sets))
            told = digest and rekindle.metrics(os.path.join(self.work, "undisturbed"))
            first, lines = first or digest, lines or told
            self.tally.check(digest is not None and digest == first, what + ": other bits than on %d" % self.ranks[0])
            self.tally.check(told is not None and told == lines, what + ": other metrics than on %d" % self.ranks[0])
        for number in faults:
            fault = FAULTS[number] % evaluation if "%" in FAULTS[number] else FAULTS[number]
            ranks = self.ranks[number % len(self.ranks)]
            then = self.ranks[(number + 1) % len(self.ranks)]
            what = "%s, killed at %s on %d ranks, then %d" % (net, fault, ranks, then)
            self.fresh("killed")
            sets = BEHIND if "persist" in fault else []
            ended = self.launch(ranks, run_file, "killed", sets, fault="rank:%d,%s" % (ranks - 1, fault))
            self.tally.check("REKINDLE_FAULT fires" in ended.output and ended.code == 137, what + ": no kill", ended)
            ended = self.launch(then, run_file, "killed", sets)
            self.tally.check("restored g0001" in ended.output or "step:1," in fault, what + ": did not restore", ended)
            digest = self.finished(what, ended)
            self.tally.check(digest is not None and digest == first, what + ": other bits")

    def fast(self):
        """The library's own sums: a result near the exact one, on every rank count."""
        exact = self.launch(self.ranks[0], self.run_file("lenet"), self.fresh("exact"))
        loss = rekindle.metrics(os.path.join(self.work, "exact"))[-1]["loss"]
        self.finished("exact", exact)
        run_file = self.run_file("lenet", train={"reduction": "fast"})
        for ranks in self.ranks:
            ended = self.launch(ranks, run_file, self.fresh("fast"))
            self.finished("fast, %d ranks" % ranks, ended)
            near = rekindle.metrics(os.path.join(self.work, "fast"))[-1]["loss"]
            self.tally.check(abs(near - loss) < 0.05 * abs(loss), "fast, %d ranks: loss %g, exact %g" % (ranks, near, loss))

    def moves(self):
        """GPU → CPU → GPU: the state arrives whole, training goes on, and the lineage tells."""
        run_file = self.run_file("lenet")
        for begins, goes_on in (("cuda", "cpu"), ("cpu", "cuda")):
            name = self.fresh("moves-" + begins)
            what = "%s to %s" % (begins, goes_on)
            self.launch(self.ranks[0], run_file, name, ["device=" + begins], fault="rank:0,step:8,at:optimizer")
            ended = self.launch(self.ranks[-1], run_file, name, ["device=" + goes_on])
            digest = self.finished(what, ended)
            self.tally.check("device kind changes" in ended.output, what + ": the change is not said", ended)
            # a finished run, launched again: restored, brought to the device, fetched, and every bit is there
            again = self.launch(self.ranks[0], run_file, name, ["device=" + begins])
            back = self.finished(what + ", back", again)
            self.tally.check(back is not None and back == digest, what + ", back: other bits", again)
            folder = os.path.join(self.work, name, "checkpoints")
            newest = os.path.join(folder, max(one for one in os.listdir(folder) if one.endswith(".h5")))
            with open(newest, "rb") as file:  # the lineage is plain text in it
                kinds = re.findall(r'"device_kind": ?"(\w+)', file.read().decode(errors="replace"))
            self.tally.check(begins in kinds and goes_on in kinds, what + ": not in the lineage: %s" % kinds)

    def diverges(self):
        """A gradient that is not finite changes nothing and ends the run, without a checkpoint of it."""
        run_file = self.run_file("mlp", optimizer={"kind": "sgd", "lr": "1.0e3", "weight_decay": 1.0},
                                 schedule={"kind": "constant"}, train={"epochs": 10})
        for ranks, every in ((self.ranks[0], 1), (self.ranks[-1], 2)):
            ended = self.launch(ranks, run_file, self.fresh("diverges"), ["checkpoint.every_steps=%d" % every])
            self.tally.check(ended.code == 1 and "gradient norm" in ended.output, "divergence is not reported", ended)
            told = re.search(r": step (\d+): loss", ended.output)
            saved = rekindle.saved_steps(os.path.join(self.work, "diverges"))
            self.tally.check(told and saved and max(saved) < int(told.group(1)),
                             "told %s, but steps %s were saved" % (told, saved), ended)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("work")
    parser.add_argument("--ranks", default="1,2,3,4")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--cases", default="")
    arguments = parser.parse_args()
    story = Story(arguments)
    probe = story.launch(1, story.run_file("mlp"), "probe", ["train.epochs=1"])
    if probe.code == 2 and "no CUDA device is visible" in probe.output:
        print(probe.output)
        return 77
    cases = {
        "mlp": lambda: story.exact("mlp", (0, 1, 2, 3, 4, 5, 6, 7)),
        "lenet": lambda: story.exact("lenet", (1, 2, 4, 7)),
        "resnet20": lambda: story.exact("resnet20", (2, 6)),
        "fast": story.fast,
        "moves": story.moves,
        "diverges": story.diverges,
    }
    for name in filter(None, (arguments.cases or ",".join(cases)).split(",")):
        cases[name]()
    return story.tally.finish()


sys.exit(main())
