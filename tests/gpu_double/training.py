"""Training on GPUs that only the double can give: shared between ranks, missing, too small, or with libraries that
would now choose other plans. (tests/gpu/story.py tells what holds on any GPU.)

    training.py REKINDLE WORK_FOLDER

REKINDLE is the copy of the program beside the double's module."""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

MODELS = {
    # odd everywhere: 185 samples in batches of 37 and 5 shards, so that ranks have shards of different sizes
    "mlp": {"model": {"arch": "mlp", "widths": "[196, 48, 24, 4]", "dropout": 0.25, "classes": 4},
            "train": {"epochs": 2, "batch": 37, "shards": 5},
            "optimizer": {"kind": "adamw", "lr": 0.01, "clip_norm": 1.0}},
    "lenet": {"model": {"arch": "lenet", "classes": 4},
              "train": {"epochs": 2, "batch": 40, "shards": 4, "precision": "tf32"},
              "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": "true"}},
}
SAMPLES = 185


class Training:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        data = rekindle.write_data_set(work, SAMPLES)
        self.files = {}
        for name, sections in MODELS.items():
            folder = os.path.join(work, name)
            os.makedirs(folder)
            self.files[name] = rekindle.write_run_file(
                folder, data, run={"name": name, "seed": 11}, device="cuda",
                **{**sections, "checkpoint": {"every_steps": 2}, "log": {"every_steps": 1}})
        self.run_dir = os.path.join(work, "run")

    def fresh(self):
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def train(self, model, ranks, **keywords):
        return rekindle.train(self.program, ranks, self.files[model], self.run_dir, **keywords)

    def finishes(self, what, ended, digest):
        """Ended well with this digest."""
        right = ended.code == 0 and (digest is None or rekindle.digest_of(ended) == digest)
        self.tally.check(right, "%s: not finished with %s" % (what, digest), ended)

    def undisturbed(self, model, ranks=1, **keywords):
        self.fresh()
        ended = self.train(model, ranks, **keywords)
        self.finishes("%s on %d" % (model, ranks), ended, None)
        return rekindle.digest_of(ended) if ended.code == 0 else None

    def kill(self, what, model, ranks, fault, **keywords):
        self.fresh()
        ended = self.train(model, ranks, fault=fault, **keywords)
        self.tally.check(ended.code in (137, -9) and "REKINDLE_FAULT fires" in ended.output,
                         what + ": was not killed", ended)

    def shares_one_gpu(self, model, digest):
        """Ranks on one GPU sum through host memory and say so."""
        one = {"GPU_DOUBLE_DEVICES": "1"}
        for ranks in (2, 3):
            self.fresh()
            ended = self.train(model, ranks, extra=one)
            self.finishes("%s, %d ranks share a GPU" % (model, ranks), ended, digest)
            self.tally.check("summed through host memory" in ended.output, "nothing said of a shared GPU", ended)
        self.kill("sharing", model, 2, "rank:1,step:5,at:reduce", extra=one)
        self.finishes("killed on a shared GPU, then on two", self.train(model, 2), digest)

    def keeps_its_plans(self, model, digest):
        """A library that would choose otherwise is held to what the checkpoint names."""
        other = {"GPU_DOUBLE_PLAN": "double-2"}
        different = self.undisturbed(model, extra=other)
        self.tally.check(different != digest, "the double's plans do not differ in bits")
        # by then an epoch has passed, and with it every shape
        self.kill("plans", model, 2, "rank:1,step:8,at:reduce")
        self.finishes("with other plans at hand", self.train(model, 3, extra=other), digest)

    def held_in_memory(self, model, digest):
        """A state that only the host's memory holds, and with it the plans."""
        memory = os.path.join(self.work, "memory")
        os.makedirs(memory)
        sets = ["checkpoint.every_steps=0", "checkpoint.every_epoch=false", "checkpoint.local.dir=" + memory,
                "checkpoint.local.every_steps=1"]
        self.kill("held", model, 2, "rank:1,step:8,at:reduce", sets=sets + ["checkpoint.background=false"])
        ended = self.train(model, 3, sets=sets + ["checkpoint.background=true"], extra={"GPU_DOUBLE_PLAN": "double-2"})
        self.finishes("held in memory, other plans at hand", ended, digest)
        self.tally.check("held by rank 0 on" in ended.output and ": step 7 of" in ended.output, "the held state is not gone on from",
                         ended)
        self.tally.check(not os.listdir(memory), "something is left in memory", os.listdir(memory))

    def without_a_gpu(self, model):
        none = {"GPU_DOUBLE_DEVICES": "0"}
        self.fresh()
        ended = self.train(model, 2, extra=none)
        self.tally.check(ended.code == 2 and "fix:" in ended.output and "device: cpu" in ended.output,
                         "without a GPU: not refused", ended)
        self.fresh()
        ended = self.train(model, 2, extra=none, sets=["device=auto"])
        self.tally.check(ended.code == 0 and "device: cpu" in ended.output, "auto without a GPU", ended)

    def too_little_memory(self, model):
        self.fresh()
        ended = self.train(model, 2, extra={"GPU_DOUBLE_MEMORY": str(1 << 19)})
        self.tally.check(ended.code == 1 and "bytes are free" in ended.output, "too little memory is not told", ended)


def main():
    training = Training(sys.argv[1], sys.argv[2])
    training.shares_one_gpu("mlp", training.undisturbed("mlp"))
    lenet = training.undisturbed("lenet")
    training.keeps_its_plans("lenet", lenet)
    training.held_in_memory("lenet", lenet)
    training.without_a_gpu("mlp")
    training.too_little_memory("mlp")
    return training.tally.finish()


if __name__ == "__main__":
    sys.exit(main())
