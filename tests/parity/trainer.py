"""Our training run a second time, by PyTorch in double: the same configuration, data and first weights.

What is ours in it, and so is written down here from the headers: the order of samples, augmentation and
dropout masks (keyed.py), and that a batch is worked on in shards. Each shard has its own batch norm; its
gradients are of the sum of losses divided by the batch's size, and the running statistics move by the
mean over the shards that have samples."""

import math

import numpy as np
import torch
import torch.nn.functional as F

import keyed
import models
import support

NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)


def rate(settings, step, total):
    """The learning rate of the schedules that the runs use."""
    lr, schedule = settings["optimizer"]["lr"], settings["schedule"]
    warmup = schedule.get("warmup_steps", 0)
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule["kind"] == "multistep":
        return lr * schedule["gamma"] ** sum(m <= step for m in schedule["milestones"])
    low = schedule.get("min_lr", 0)
    return low + (lr - low) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def make_optimizer(model, settings):
    """Weight decay is for matrices and filters: norms and biases are left alone."""
    s = dict(settings["optimizer"])
    groups = [
        {"params": [p], "weight_decay": s["weight_decay"] if p.dim() > 1 else 0.0}
        for p in model.parameters()
    ]
    if s["kind"] == "sgd":
        return torch.optim.SGD(groups, s["lr"], s["momentum"], nesterov=s.get("nesterov", False))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[s["kind"]]
    return kind(groups, s["lr"], eps=s.get("epsilon", 1e-8))


class Trainer:
    def __init__(self, settings, initial, train, validation):
        """train, validation: (bytes (N, C, H, W), labels)."""
        self.settings, self.train_set, self.validation = settings, train, validation
        channels, side = train[0].shape[1:3]
        self.model = models.make(settings["model"], channels, side)
        models.load(self.model, initial)
        self.optimizer = make_optimizer(self.model, settings)
        self.norms = [m for m in self.model.modules() if isinstance(m, NORMS)]
        self.dropouts = [m for m in self.model.modules() if isinstance(m, models.KeyedDropout)]
        self.seed = settings["run"]["seed"]
        self.epoch = self.position = self.steps = 0

    def restore(self, checkpoint):
        """Goes on from a checkpoint of SGD with momentum."""
        models.load(self.model, support.model_of(checkpoint))
        for name, parameter in self.model.named_parameters():
            momentum = checkpoint[f"optimizer/momentum/{name}"]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.tensor(momentum).double()
        self.epoch, self.position = checkpoint["progress/epoch"], checkpoint["progress/position"]
        self.steps = int(checkpoint["progress/step"])

    def prepare(self, pixels):
        data = self.settings["data"]
        mean = np.reshape(data["mean"], (1, -1, 1, 1))
        std = np.reshape(data["std"], (1, -1, 1, 1))
        return torch.tensor((pixels / 255.0 - mean) / std)

    def batch(self):
        """The images and labels of the next step."""
        pixels, labels = self.train_set
        order = keyed.permutation(self.seed, self.epoch, len(labels))
        index = order[self.position : self.position + self.settings["train"]["batch"]]
        chosen, augment = pixels[index], self.settings["data"].get("augment", [])
        if augment:
            padding = self.settings["data"]["crop_padding"] if "crop" in augment else 0
            chosen = keyed.augment(chosen, index, self.seed, self.epoch, padding, "flip" in augment)
        return self.prepare(chosen), torch.tensor(labels[index].astype(np.int64))

    def shard(self, images, labels, first, count):
        """Adds a shard's gradients of a batch of `count`; returns its sum of losses."""
        for dropout in self.dropouts:
            dropout.place = (self.seed, self.steps, first)
        smoothing = self.settings["train"].get("label_smoothing", 0.0)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        (loss / count).backward()
        return loss.item()

    def step(self):
        """Gradients of all shards, then one step of the optimizer. Returns a line as in metrics.jsonl."""
        lr = rate(self.settings, self.steps, self.settings["train"]["max_steps"])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self.batch()
        count, shards = len(labels), self.settings["train"]["shards"]
        before = [(m.running_mean.clone(), m.running_var.clone()) for m in self.norms]
        sums = [[torch.zeros_like(mean), torch.zeros_like(var)] for mean, var in before]
        self.optimizer.zero_grad()
        loss, filled = 0.0, 0
        for shard in range(shards):
            first, end = keyed.shard_rows(count, shards, shard)
            if first == end:
                continue
            for norm, (mean, var) in zip(self.norms, before):
                norm.running_mean, norm.running_var = mean.clone(), var.clone()
            loss += self.shard(images[first:end], labels[first:end], first, count)
            for norm, total in zip(self.norms, sums):
                total[0] += norm.running_mean
                total[1] += norm.running_var
            filled += 1
        for norm, (mean, var) in zip(self.norms, sums):
            norm.running_mean, norm.running_var = mean / filled, var / filled
        limit = self.settings["optimizer"].get("clip_norm", 0) or math.inf
        length = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        self.optimizer.step()
        self.steps += 1
        self.position += count
        if self.position == len(self.train_set[1]):
            self.epoch, self.position = self.epoch + 1, 0
        return {"step": self.steps, "loss": loss / count, "gradient_norm": length, "lr": lr}

    def evaluate(self):
        pixels, labels = self.validation
        self.model.eval()
        with torch.no_grad():
            logits = self.model(self.prepare(pixels))
        self.model.train()
        target = torch.tensor(labels.astype(np.int64))
        top = logits.topk(5).indices == target[:, None]
        return {
            "step": self.steps,
            "loss": F.cross_entropy(logits, target).item(),
            "accuracy": top[:, 0].double().mean().item(),
            "top5": top.any(1).double().mean().item(),
        }

    def run(self):
        """Lines of all steps, and of the evaluations at each epoch's end and after the last step."""
        lines, evaluations = [], []
        while self.steps < self.settings["train"]["max_steps"]:
            lines.append(self.step())
            if self.position == 0 or self.steps == self.settings["train"]["max_steps"]:
                evaluations.append(self.evaluate())
        return lines, evaluations

    def state(self):
        """Parameters, running statistics and the optimizer's moments under our names."""
        names = {"momentum_buffer": "momentum", "exp_avg": "moment1", "exp_avg_sq": "moment2"}
        found = {
            f"model/{name}": value.numpy().copy()
            for name, value in self.model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        for name, parameter in self.model.named_parameters():
            for theirs, ours in names.items():
                if theirs in self.optimizer.state[parameter]:
                    value = self.optimizer.state[parameter][theirs]
                    found[f"optimizer/{ours}/{name}"] = value.numpy().copy()
        return found
