"""The run's optimizers on ten steps of random gradients against torch.optim in double precision.

A step rounds each weight once, by EPSILON of it; all else that is rounded (moments, root, quotient) is
part of the movement, of whose largest value so far the errors stay below TOLERANCE. That is tight
enough to tell 1 − beta2 taken in float (wrong by 1e-5 of itself) from the right one."""

import numpy as np
import torch

from support import EPSILON, Folder, call, difference, main, options, parse_records, records, write_config

STEPS = 10
# One tensor is longer than the optimizer's pieces of 65536; one is odd; the vectors are "norms and
# biases", which are not decayed unless decay_all says so.
SHAPES = [(7, 5), (5,), (300, 301), (3, 4, 3, 3), (1,), (129,)]
TOLERANCE = 32 * EPSILON


class Optimizers(Folder):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(11)
        self.initial = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
        # of very different sizes, from step to step and tensor to tensor
        self.gradients = [
            [
                (rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1)).astype(np.float32)
                for shape in SHAPES
            ]
            for _ in range(STEPS)
        ]

    def ours(self, device, settings):
        config = write_config(
            self.folder,
            {
                "data": {"train": {"images": "none", "labels": "none"}, "validation_split": 0.1},
                "optimizer": settings,
            },
        )
        arrays = {f"p{i}": array for i, array in enumerate(self.initial)}
        for step, gradients in enumerate(self.gradients):
            arrays.update({f"g{step}.{i}": array for i, array in enumerate(gradients)})
        arguments = ["optimizer", device, config, *options({"steps": STEPS})]
        return parse_records(call("driver", arguments, records(arrays)))

    def check(self, settings, make, clip=0.0):
        """`make` gives the torch optimizer for groups of parameters; the gradients' norms are
        compared, too."""
        for decay_all in (False, True):
            weights = [torch.tensor(array, dtype=torch.float64) for array in self.initial]
            decay = settings.get("weight_decay", 0)
            groups = [
                {"params": [w], "weight_decay": decay if decay_all or w.dim() > 1 else 0.0}
                for w in weights
            ]
            optimizer = make(groups)
            truth, norms = [], []
            for gradients in self.gradients:
                for w, g in zip(weights, gradients):
                    w.grad = torch.tensor(g, dtype=torch.float64)
                limit = clip if clip > 0 else float("inf")
                norms.append(float(torch.nn.utils.clip_grad_norm_(weights, limit)))
                optimizer.step()
                truth.append([w.clone() for w in weights])
            for device in ("reference", "cpu"):
                ours = self.ours(device, {**settings, "clip_norm": clip, "decay_all": decay_all})
                largest = [0.0] * len(SHAPES)
                for step in range(STEPS):
                    case = f"{settings} decay_all {decay_all} on {device}, step {step}"
                    self.assertLessEqual(difference(ours[f"norm{step}"], norms[step]), EPSILON, case)
                    for i, theirs in enumerate(truth[step]):
                        moved = np.abs(theirs.numpy() - self.initial[i]).max()
                        largest[i] = max(largest[i], moved)
                        rounding = EPSILON * (step + 1) * theirs.abs().max()
                        worst = difference(ours[f"p{step}.{i}"], theirs, 1)
                        allowed = TOLERANCE * largest[i] + rounding
                        self.assertLessEqual(worst, allowed, f"{case}, tensor {i}")

    def test_sgd_takes_pytorchs_steps_with_and_without_momentum_and_decay(self):
        for momentum, nesterov, decay in [(0, False, 0), (0.9, False, 5e-4), (0.9, True, 0.01)]:
            settings = {"kind": "sgd", "lr": 0.5, "momentum": momentum, "weight_decay": decay}
            settings["nesterov"] = nesterov

            def make(groups):
                return torch.optim.SGD(groups, lr=0.5, momentum=momentum, nesterov=nesterov)

            self.check(settings, make)

    def test_adam_takes_pytorchs_steps_with_decay_as_a_penalty(self):
        for decay in (0.0, 0.1):
            settings = {"kind": "adam", "lr": 1.0, "beta1": 0.8, "beta2": 0.99, "weight_decay": decay}

            def make(groups):
                return torch.optim.Adam(groups, lr=1.0, betas=(0.8, 0.99))

            self.check(settings, make)

    def test_adamw_takes_pytorchs_steps_with_decay_apart(self):
        for decay, epsilon in [(0.0, 1e-8), (0.1, 1e-3)]:
            settings = {"kind": "adamw", "lr": 1.0, "weight_decay": decay, "epsilon": epsilon}

            def make(groups):
                return torch.optim.AdamW(groups, lr=1.0, eps=epsilon)

            self.check(settings, make)

    def test_a_long_gradient_is_clipped_as_pytorch_clips_it_and_a_short_one_is_not(self):
        norms = [np.sqrt(sum((g.astype(float) ** 2).sum() for g in step)) for step in self.gradients]
        clip = float(np.median(norms))
        self.assertTrue(min(norms) < clip < max(norms))
        settings = {"kind": "sgd", "lr": 0.5, "momentum": 0.9}
        self.check(settings, lambda groups: torch.optim.SGD(groups, 0.5, 0.9), clip)
        settings = {"kind": "adamw", "lr": 1.0, "weight_decay": 0.1}
        self.check(settings, lambda groups: torch.optim.AdamW(groups, 1.0), clip)

        # beside a tiny norm PyTorch's 1e-6 in the divisor shows
        self.gradients = [[1e-6 * g for g in step] for step in self.gradients]
        settings = {"kind": "sgd", "lr": 1000, "momentum": 0.9}
        self.check(settings, lambda groups: torch.optim.SGD(groups, 1000, 0.9), 1e-6 * clip)


if __name__ == "__main__":
    main()
