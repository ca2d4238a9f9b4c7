"""What a resnet18's checkpoint holds, read by h5py: torchvision's names and shapes (with the stem for small
images), so that its weights are of use elsewhere, and as many moments."""

import os
import shutil
import tempfile
import unittest

import numpy as np

from support import call, list_checkpoints, main, model_of, read_checkpoint
from support import write_config, write_idx


def norm(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts}


def resnet18(inputs, classes):
    """torchvision.models.resnet18's state_dict without num_batches_tracked; its 7 × 7 stem as 3 × 3."""
    shapes = {"conv1.weight": (64, inputs, 3, 3), **norm("bn1", 64)}
    before = 64
    for layer, channels in ((1, 64), (2, 128), (3, 256), (4, 512)):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            shapes.update({**norm(f"{name}.bn1", channels), **norm(f"{name}.bn2", channels)})
            if before != channels:
                shapes[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                shapes.update(norm(f"{name}.downsample.1", channels))
            before = channels
    return {**shapes, "fc.weight": (classes, 512), "fc.bias": (classes,)}


class Names(unittest.TestCase):
    """One run for all: a single step, too short to move a weight."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="rekindle-parity-")
        cls.addClassCleanup(shutil.rmtree, folder)
        rng = np.random.default_rng(5)
        paths = {part: os.path.join(folder, part) for part in ("images", "labels")}
        write_idx(paths["images"], rng.integers(0, 256, (8, 3, 8, 8)))
        write_idx(paths["labels"], rng.integers(0, 7, 8))
        config = write_config(
            folder,
            {
                "run": {"name": "names", "dir": os.path.join(folder, "run"), "seed": 2**63 + 5},
                "device": "cpu",
                "model": {"arch": "resnet18", "classes": 7},
                "data": {"train": paths, "validation_split": 0.5},
                "optimizer": {"lr": 1e-30},
                "train": {"batch": 4, "shards": 1, "max_steps": 1},
                "checkpoint": {"every_epoch": False},
            },
        )
        call("rekindle", ["train", config])
        cls.checkpoint = read_checkpoint(list_checkpoints(os.path.join(folder, "run"))[-1])

    def test_a_resnet18s_checkpoint_has_torchvisions_names_and_shapes_and_a_moment_for_each(self):
        expected = resnet18(3, 7)
        model = model_of(self.checkpoint)
        self.assertEqual({name: value.shape for name, value in model.items()}, expected)
        self.assertEqual({value.dtype for value in model.values()}, {np.dtype("<f4")})
        self.assertEqual(sum(v.size for n, v in model.items() if "running" not in n), 11172423)
        moments = {
            name.split("/", 2)[2]: value.shape
            for name, value in self.checkpoint.items()
            if name.startswith("optimizer/momentum/")
        }
        learned = {name: shape for name, shape in expected.items() if "running" not in name}
        self.assertEqual(moments, learned)

        # and the rest of the state: where the run stands
        self.assertEqual(self.checkpoint["progress/step"], 1)
        self.assertEqual(self.checkpoint["schedule/total_steps"], 1)
        self.assertEqual(self.checkpoint["rng/seed"], 2**63 + 5)

    def test_first_weights_follow_pytorchs_distributions(self):
        model = model_of(self.checkpoint)
        for name, weight in model.items():
            if weight.ndim == 4 and weight.size > 30000:  # He: normal, variance 2 / fan_out
                deviation = np.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
                normal = weight.ravel() / deviation
                self.assertAlmostEqual(normal.mean(), 0, delta=0.03, msg=name)
                self.assertAlmostEqual(normal.std(), 1, delta=0.02, msg=name)
                self.assertAlmostEqual((normal**4).mean(), 3, delta=0.2, msg=name)
        for name in ("fc.weight", "fc.bias"):  # uniform in ±1/sqrt(fan_in)
            bounded = model[name] * np.sqrt(512)
            self.assertLessEqual(np.abs(bounded).max(), 1)
        self.assertAlmostEqual((model["fc.weight"] * np.sqrt(512)).var(), 1 / 3, delta=0.02)
        norms = {n: v for n, v in model.items() if "bn" in n or "downsample.1" in n}
        self.assertTrue(all((v == 1).all() for n, v in norms.items() if n.endswith(".weight")))
        self.assertTrue(all(np.abs(v).max() < 1e-20 for n, v in norms.items() if n.endswith(".bias")))


if __name__ == "__main__":
    main()
