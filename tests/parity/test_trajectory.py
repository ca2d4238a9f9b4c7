"""Whole runs of `rekindle train` on the cpu device (or the one that PARITY_DEVICE names) against the same
training by PyTorch in double: twenty steps over several epochs, from the same first weights, in the same order.

Our run rounds every operation to float, and training amplifies: a difference in the weights changes
the gradients of the next step. So nothing but the first step's loss can agree to the last float digit
(it is compared to 1e-6); later ones and the final state stay within the tolerances stated with each run.
A wrong factor, sample, mask or statistic anywhere shows as a difference of percents."""

import os
import unittest

import numpy as np

import keyed
from support import Folder, call, difference, list_checkpoints, main, model_of, read_checkpoint
from support import read_metrics, write_config, write_idx
from trainer import Trainer

STEPS = 20


def make_set(count, channels, side, seed):
    """Ten classes: a blurred pattern each, under noise."""
    rng = np.random.default_rng(77)
    patterns = rng.normal(size=(10, channels, side, side))
    patterns = (patterns + np.roll(patterns, 1, 2) + np.roll(patterns, 1, 3)) * 40
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    noise = rng.normal(size=(count, channels, side, side)) * 50
    pixels = np.clip(110 + patterns[labels] + noise, 0, 255).astype(np.uint8)
    return pixels, labels


class Trajectory(Folder):
    def write_set(self, name, data):
        pixels, labels = data
        if pixels.shape[1] == 1:
            pixels = pixels[:, 0]  # an IDX file of rank 3, as MNIST's
        paths = {part: os.path.join(self.folder, f"{name}-{part}") for part in ("images", "labels")}
        write_idx(paths["images"], pixels)
        write_idx(paths["labels"], labels)
        return paths

    def ours(self, name, settings):
        """Runs the program and returns the run's directory."""
        run_dir = os.path.join(self.folder, name)
        settings = {**settings, "run": {**settings["run"], "name": name, "dir": run_dir}}
        call("rekindle", ["train", write_config(self.folder, settings)])
        return run_dir

    def initial(self, settings):
        """The first weights: those after a step of no length, and fresh running statistics."""
        still = {"kind": "sgd", "lr": 1e-30, "momentum": 0}
        settings = {**settings, "optimizer": still, "schedule": {"kind": "constant"}}
        settings["train"] = {**settings["train"], "max_steps": 1}
        weights = model_of(read_checkpoint(list_checkpoints(self.ours("initial", settings))[-1]))
        for name in weights:
            if name.endswith("running_mean"):
                weights[name] = np.zeros_like(weights[name])
            if name.endswith("running_var"):
                weights[name] = np.ones_like(weights[name])
        return weights

    def prepare(self, settings, train, validation):
        """The run's whole configuration, and PyTorch's trainer for it."""
        settings = {
            "device": os.environ.get("PARITY_DEVICE", "cpu"),
            "run": {"seed": 1234567890123},
            "log": {"every_steps": 1},
            "checkpoint": {"every_epoch": False},
            **settings,
        }
        settings["data"]["train"] = self.write_set("train", train)
        settings["data"]["validation"] = self.write_set("validation", validation)
        settings["train"] = {"max_steps": STEPS, "epochs": 100, "threads": 2, **settings["train"]}
        self.first = self.initial(settings)
        return settings, Trainer(settings, self.first, train, validation)

    def compare(self, settings, train, validation, loss, state, moments=True):
        """`loss`: of losses and norms, as a part of them; `state`: see compare_state."""
        settings, trainer = self.prepare(settings, train, validation)
        run_dir = self.ours("run", settings)
        lines, evaluations = read_metrics(run_dir, "train"), read_metrics(run_dir, "evaluation")
        expected_lines, expected_evaluations = trainer.run()

        self.assertEqual([line["step"] for line in lines], list(range(1, STEPS + 1)))
        for got, expected in zip(lines, expected_lines):
            self.close(got, expected, "lr", 1e-8)  # written with nine digits
            self.close(got, expected, "loss", loss if got["step"] > 1 else 1e-6)
            self.close(got, expected, "gradient_norm", loss if got["step"] > 1 else 1e-6)
        self.assertLess(min(line["loss"] for line in lines), 0.9 * lines[0]["loss"])  # it learns
        self.assertEqual(len(evaluations), len(expected_evaluations))
        self.assertGreaterEqual(len(evaluations), 2)
        for got, expected in zip(evaluations, expected_evaluations):
            self.assertEqual(got["step"], expected["step"])
            self.close(got, expected, "loss", loss)
            self.close(got, expected, "accuracy", 1e-8)
            self.close(got, expected, "top5", 1e-8)
        checkpoint = read_checkpoint(list_checkpoints(run_dir)[-1])
        before = {f"model/{name}": value for name, value in self.first.items()}
        self.compare_state(checkpoint, trainer.state(), before, state, moments)
        return checkpoint

    def compare_state(self, ours, theirs, before, tolerance, moments=True):
        """Weights and statistics are compared as a part of their largest movement since `before`,
        moments as a part of their largest value; a tensor that hardly moves (a bias that batch norm
        cancels: its gradient is rounding alone) as a part of a thousandth of what others do.
        Returns the largest difference."""
        names = [name for name in ours if name.startswith(("model/", "optimizer/"))]
        self.assertEqual(sorted(names), sorted(theirs))
        if not moments:
            names = [name for name in names if name.startswith("model/")]
        scales, largest = {}, 0.0
        for name in names:
            base = before[name] if name.startswith("model/") else 0
            scales[name] = np.abs(theirs[name] - base).max()
        for name in names:
            kind = name.rpartition("/")[0]
            floor = 1e-3 * max(scales[other] for other in names if other.rpartition("/")[0] == kind)
            worst = difference(ours[name], theirs[name], max(scales[name], floor))
            self.assertLessEqual(worst, tolerance, f"{name} is off by {worst:.3g}")
            largest = max(largest, worst)
        return largest

    def close(self, got, expected, key, tolerance):
        worst = abs(got[key] - expected[key]) / max(abs(expected[key]), 1e-30)
        self.assertLessEqual(
            worst, tolerance, f"step {got['step']}: {key} {got[key]}, PyTorch's {expected[key]}"
        )


class Mlp(Trajectory):
    def test_an_mlp_with_adamw_smoothing_and_clipping_learns_as_in_pytorch(self):
        settings = {
            "model": {"arch": "mlp", "widths": [196, 48, 24, 10]},
            "data": {"mean": [0.43], "std": [0.25]},
            "train": {"batch": 64, "shards": 5, "label_smoothing": 0.1},
            "optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 4, "min_lr": 1e-4},
        }
        checkpoint = self.compare(
            settings, make_set(300, 1, 14, 1), make_set(70, 1, 14, 2), loss=2e-6, state=1e-4
        )
        self.assertEqual(checkpoint["progress/step"], STEPS)
        self.assertEqual(checkpoint["progress/epoch"], 4)
        self.assertEqual(checkpoint["rng/seed"], 1234567890123)

    def test_an_mlp_with_batch_norm_dropout_crop_and_flip_learns_as_in_pytorch(self):
        settings = {
            "model": {"arch": "mlp", "widths": [108, 40, 30, 10], "batch_norm": True, "dropout": 0.1},
            "data": {
                "mean": [0.4, 0.43, 0.45],
                "std": [0.2, 0.25, 0.3],
                "augment": ["crop", "flip"],
                "crop_padding": 2,
            },
            "train": {"batch": 48, "shards": 3},
            # not Adam: the biases before batch norm have gradients of noise alone, which it enlarges
            "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.8, "weight_decay": 1e-3, "nesterov": True},
            "schedule": {"kind": "cosine"},
        }
        self.compare(settings, make_set(250, 3, 6, 3), make_set(33, 3, 6, 4), loss=1e-5, state=3e-3)


class LeNet(Trajectory):
    def test_lenet_with_batch_norm_learns_as_in_pytorch_also_where_shards_are_empty(self):
        # 98 samples in batches of 32: the fourth batch has two, so two of its four shards are empty
        settings = {
            "model": {"arch": "lenet", "batch_norm": True, "dropout": 0.25},
            "data": {"mean": [0.43], "std": [0.25], "augment": ["crop"], "crop_padding": 1},
            "train": {"batch": 32, "shards": 4},
            "optimizer": {"kind": "adam", "lr": 3e-3, "weight_decay": 1e-3},
            "schedule": {"kind": "multistep", "milestones": [8, 15], "gamma": 0.3, "warmup_steps": 3},
        }
        self.compare(settings, make_set(98, 1, 16, 5), make_set(40, 1, 16, 6), loss=2e-6, state=3e-4)


# A resnet20 has a million relus a step. Now and then one stands at zero within rounding, and ours and
# PyTorch's fall on different sides: a gradient then differs by up to a hundredth, and from there on
# the runs drift apart. So its run is held to wide bounds, and each of its steps, begun from the same
# checkpoint, to narrow ones.
def resnet20():
    settings = {
        "model": {"arch": "resnet20"},
        "data": {"mean": [0.4, 0.43, 0.45], "std": [0.2, 0.25, 0.3]},
        "train": {"batch": 32, "shards": 2},
        "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"kind": "cosine", "warmup_steps": 5},
    }
    return settings, make_set(160, 3, 10, 7), make_set(40, 3, 10, 8)


class ResNet20(Trajectory):
    def test_a_resnet20_learns_as_in_pytorch(self):
        self.compare(*resnet20(), loss=3e-2, state=1e-1, moments=False)

    def test_each_step_of_a_resnet20_is_pytorchs_step_from_the_same_checkpoint(self):
        settings, train, validation = resnet20()
        every = {"every_epoch": False, "every_steps": 1, "keep_last": STEPS, "background": False}
        settings["checkpoint"] = every
        settings["train"]["max_steps"] = STEPS // 2
        settings, trainer = self.prepare(settings, train, validation)
        run_dir = self.ours("run", settings)
        checkpoints = list_checkpoints(run_dir)
        lines = read_metrics(run_dir, "train")
        self.assertEqual((len(checkpoints), len(lines)), (STEPS // 2, STEPS // 2))
        differences = []
        for step, got in enumerate(lines):
            if step > 0:
                trainer.restore(read_checkpoint(checkpoints[step - 1]))
            before = trainer.state()
            expected = trainer.step()
            self.close(got, expected, "loss", 1e-6)
            self.close(got, expected, "gradient_norm", 1e-3)
            ours = read_checkpoint(checkpoints[step])
            differences.append(self.compare_state(ours, trainer.state(), before, 3e-2))
        self.assertLessEqual(np.median(differences), 5e-4)


class Keys(unittest.TestCase):
    def test_our_second_philox_gives_the_published_numbers(self):
        """The known answers of Random123's own tests."""
        ones = 0xFFFFFFFF
        pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
        answers = [
            ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            ((ones,) * 4, ones << 32 | ones, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
            (pi, 0x299F31D0A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
        ]
        for counter, key, expected in answers:
            self.assertEqual(tuple(int(word) for word in keyed.philox(counter, key)), expected)

    def test_our_second_permutation_has_every_sample_once(self):
        for count in (1, 10, 64, 65, 300):
            self.assertEqual(sorted(keyed.permutation(9, 3, count)), list(range(count)))


if __name__ == "__main__":
    main()
