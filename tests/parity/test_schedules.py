"""Every kind of schedule, with and without warm-up, against torch.optim.lr_scheduler at each step.

Both sides compute in double. PyTorch's cosine is a recursion over the steps, so its own roundings grow
with the horizon: within 1e-12 of the full rate over 120 steps."""

import numpy as np
import torch
from torch.optim import lr_scheduler

from support import Folder, call, main, options, write_config

TOTAL, EPOCH, LR, WARMUP = 120, 15, 0.3, 10


def rates(make, count, every=1):
    """The rates that a scheduler gives to `count` optimizer steps; it moves each `every` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(optimizer)
    found = []
    for step in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return np.array(found)


def warm(steps):
    """PyTorch's linear warm-up from lr/steps to lr."""
    return rates(lambda o: lr_scheduler.LinearLR(o, 1 / steps, 1, steps - 1), steps)


class Schedules(Folder):
    def check(self, settings, theirs):
        for warmup in (0, WARMUP):
            config = write_config(
                self.folder,
                {
                    "data": {"train": {"images": "none", "labels": "none"}, "validation_split": 0.1},
                    "optimizer": {"lr": LR},
                    "schedule": {**settings, "warmup_steps": warmup},
                },
            )
            arguments = ["schedule", config, *options({"total": TOTAL, "epoch": EPOCH})]
            ours = np.array(call("driver", arguments).split(), dtype=float)
            expected = theirs(warmup)
            if warmup > 0:
                expected = np.concatenate([warm(warmup), expected])
            self.assertEqual(len(ours), TOTAL)
            worst = np.abs(ours - expected).max() / LR
            self.assertLessEqual(worst, 1e-12, f"{settings}, warm-up {warmup}")

    def counted_from_the_start(self, make, every=1):
        """Kinds that count steps from the run's start: the warm-up hides the first of them."""
        return lambda warmup: rates(make, TOTAL, every)[warmup:]

    def counted_after_warm_up(self, make):
        return lambda warmup: rates(lambda o: make(o, TOTAL - warmup), TOTAL - warmup)

    def test_a_constant_rate_is_pytorchs(self):
        self.check({"kind": "constant"}, lambda warmup: np.full(TOTAL - warmup, LR))

    def test_a_stepped_rate_is_pytorchs(self):
        settings = {"kind": "step", "step_size": 17, "gamma": 0.3}
        self.check(settings, self.counted_from_the_start(lambda o: lr_scheduler.StepLR(o, 17, 0.3)))

    def test_a_rate_with_milestones_is_pytorchs(self):
        settings = {"kind": "multistep", "milestones": [20, 21, 77], "gamma": 0.5}
        self.check(
            settings,
            self.counted_from_the_start(lambda o: lr_scheduler.MultiStepLR(o, [20, 21, 77], 0.5)),
        )

    def test_an_exponential_rate_stepped_each_epoch_is_pytorchs(self):
        settings = {"kind": "exponential", "gamma": 0.8}
        self.check(
            settings, self.counted_from_the_start(lambda o: lr_scheduler.ExponentialLR(o, 0.8), EPOCH)
        )

    def test_a_polynomial_rate_is_pytorchs_and_min_lr_moves_its_foot(self):
        for power in (0.5, 1, 2.5):
            settings = {"kind": "polynomial", "power": power}
            self.check(
                settings,
                self.counted_after_warm_up(lambda o, n: lr_scheduler.PolynomialLR(o, n, power)),
            )
            floor = 0.02  # PyTorch has none: its curve between 0 and 1, laid between floor and lr

            def lifted(warmup):
                n = TOTAL - warmup
                return floor + (LR - floor) * (1 - np.arange(n) / n) ** power

            self.check({**settings, "min_lr": floor}, lifted)

    def test_a_cosine_rate_is_pytorchs(self):
        for floor in (0, 0.01):
            self.check(
                {"kind": "cosine", "min_lr": floor},
                self.counted_after_warm_up(
                    lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, eta_min=floor)
                ),
            )


if __name__ == "__main__":
    main()
