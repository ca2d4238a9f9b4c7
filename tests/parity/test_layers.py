"""Every operation of a device, forward and backward, against PyTorch's own in double precision.

Errors are parts of the largest value of an array. A float operation's own rounding is EPSILON; a sum of
n terms in float may be off by about sqrt(n)·EPSILON (random roundings) of the terms' size, so each
tolerance below is EPSILON times a number that covers the longest sum of its cases with a margin of a
few. A wrong formula, index or factor is off by parts of the whole: thousands of times more."""

import itertools
import unittest

import numpy as np
import torch
import torch.nn.functional as F

import keyed
from support import EPSILON, difference, layer, main

DEVICES = ("reference", "cpu")

ELEMENTWISE = 2 * EPSILON  # one or two roundings
SHORT_SUMS = 8 * EPSILON  # pools: up to a plane of 49 to 80 terms
PRODUCTS = 32 * EPSILON  # linear, convolution: up to 784 or so products of mixed sign
NORMS = 64 * EPSILON  # batch norm: sums of up to 5 · 9 · 7 terms, then a difference of such sums
LOSS = 16 * EPSILON  # exp and log of one unit in the last place each, sums in double

rng = np.random.default_rng(2024)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


class Layers(unittest.TestCase):
    def compare(self, case, ours, theirs, tolerance):
        for name, value in theirs.items():
            worst = difference(ours[name], value)
            self.assertLessEqual(worst, tolerance, f"{case}: {name} is off by {worst:.3g}")

    def check(self, case, op, inputs, forward, tolerance, gradients=None, **settings):
        """`forward` maps named leaves to y; `gradients` names those whose gradient is compared
        ("dx" for "x"), all but dy by default."""
        leaves = {k: leaf(v) for k, v in inputs.items() if k != "dy"}
        y = forward(**leaves)
        y.backward(torch.tensor(inputs["dy"], dtype=torch.float64))
        theirs = {"y": y}
        for name in leaves if gradients is None else gradients:
            theirs["d" + name] = leaves[name].grad
        for device in DEVICES:
            ours = layer(device, op, inputs, **settings)
            self.compare(f"{op} {case} on {device}", ours, theirs, tolerance)

    def test_a_linear_layer_gives_pytorchs_values_and_gradients(self):
        for rows, inputs, outputs, bias in [(4, 784, 10, True), (1, 3, 1, True), (17, 33, 65, False)]:
            arrays = {
                "x": normal(rows, inputs),
                "w": normal(outputs, inputs),
                "dy": normal(rows, outputs),
            }
            if bias:
                arrays["b"] = normal(outputs)
            case = f"({rows}, {inputs}) to {outputs}"
            self.check(case, "linear", arrays, lambda x, w, b=None: F.linear(x, w, b), PRODUCTS)

    def test_a_convolution_gives_pytorchs_values_and_gradients(self):
        # (N, C, H, W), M, kernel, stride, padding, groups, bias
        cases = [
            ((2, 3, 8, 8), 6, 3, 1, 1, 1, True),
            ((3, 1, 28, 28), 6, 5, 1, 2, 1, True),
            ((2, 5, 9, 7), 7, 3, 2, 1, 1, False),
            ((1, 16, 6, 6), 32, 1, 2, 0, 1, False),
            ((2, 6, 7, 9), 4, 3, 1, 0, 2, True),
            ((2, 8, 5, 5), 8, 3, 1, 1, 8, False),
            ((1, 4, 11, 10), 3, 5, 3, 2, 1, True),
            ((2, 2, 4, 4), 3, 4, 1, 0, 1, True),
        ]
        for shape, features, kernel, stride, padding, groups, bias in cases:
            window = {"stride": stride, "padding": padding, "groups": groups}
            x, w = normal(*shape), normal(features, shape[1] // groups, kernel, kernel)
            sample = F.conv2d(torch.tensor(x), torch.tensor(w), **window)
            arrays = {"x": x, "w": w, "dy": normal(*sample.shape)}
            if bias:
                arrays["b"] = normal(features)

            def forward(x, w, b=None):
                return F.conv2d(x, w, b, **window)

            case = f"{shape} {window} kernel {kernel}"
            self.check(case, "conv2d", arrays, forward, PRODUCTS, **window)
            weights = [name for name in ("w", "b") if name in arrays]
            self.check(case + " first", "conv2d", arrays, forward, PRODUCTS, weights, first=1, **window)

    def batch_norm_case(self, shape, residual):
        arrays = {
            "x": 2 * normal(*shape) + 3,  # a mean far from zero: variances must not cancel
            "gamma": normal(shape[1]),
            "beta": normal(shape[1]),
            "dy": normal(*shape),
        }
        if residual:
            arrays["residual"] = normal(*shape)
        return arrays

    SHAPES = [(5, 3, 9, 7), (2, 17, 4, 4), (1, 8, 3, 3), (6, 5)]

    def test_batch_norm_in_training_gives_pytorchs_values_gradients_and_statistics(self):
        for shape, relu, residual in itertools.product(self.SHAPES, (0, 1), (0, 1)):
            arrays = self.batch_norm_case(shape, residual)
            channels = shape[1]
            # with momentum 1 PyTorch's running statistics are those of the batch
            mean, variance = torch.zeros(channels), torch.ones(channels)

            def forward(x, gamma, beta, residual=0):
                y = F.batch_norm(x, mean, variance, gamma, beta, True, 1.0, 1e-5) + residual
                return F.relu(y) if relu else y

            case = f"{shape} relu {relu} residual {residual}"
            self.check(case, "batch_norm", arrays, forward, NORMS, relu=relu)
            for device in DEVICES:
                ours = layer(device, "batch_norm", arrays, relu=relu)
                statistics = {"batch_mean": mean, "batch_variance": variance}
                self.compare(f"batch norm {case} on {device}", ours, statistics, NORMS)

    def test_batch_norm_in_inference_uses_the_running_statistics_as_pytorch_does(self):
        for shape, relu, residual in itertools.product(self.SHAPES, (0, 1), (0, 1)):
            arrays = self.batch_norm_case(shape, residual)
            del arrays["dy"]
            arrays["mean"] = normal(shape[1])
            arrays["variance"] = normal(shape[1]) ** 2 + 0.1
            t = {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}
            y = F.batch_norm(t["x"], t["mean"], t["variance"], t["gamma"], t["beta"], False, 0, 1e-5)
            y = y + t["residual"] if residual else y
            y = F.relu(y) if relu else y
            for device in DEVICES:
                ours = layer(device, "batch_norm_inference", arrays, relu=relu)
                self.compare(f"{shape} relu {relu} on {device}", ours, {"y": y}, NORMS)

    def test_relu_and_add_and_flatten_give_pytorchs_values_and_gradients(self):
        for shape in [(2, 5, 7, 3), (3, 11)]:
            arrays = {"x": normal(*shape), "dy": normal(*shape)}
            arrays["x"].flat[::4] = 0  # at the kink PyTorch's gradient is zero
            self.check(str(shape), "relu", arrays, lambda x: F.relu(x), 0)
            a, b = normal(*shape), normal(*shape)
            for device in DEVICES:
                ours = layer(device, "add", {"a": a, "b": b})
                self.compare(f"add {shape} on {device}", ours, {"y": a + b}, 0)
        shape = (3, 5, 4, 2)
        arrays = {"x": normal(*shape), "dy": normal(3, 40)}
        self.check(str(shape), "flatten", arrays, lambda x: x.flatten(1), 0)

    def test_max_pool_gives_pytorchs_values_and_gradients_also_where_values_tie(self):
        for shape, kernel, stride, padding in [
            ((2, 3, 8, 8), 2, 2, 0),
            ((1, 5, 9, 7), 3, 2, 1),
            ((2, 9, 7, 7), 3, 1, 1),
            ((1, 2, 5, 5), 2, 3, 0),
        ]:
            window = {"kernel": kernel, "stride": stride, "padding": padding}
            x = np.round(2 * normal(*shape))  # few different values: many ties
            sample = F.max_pool2d(torch.tensor(x), kernel, stride, padding)
            arrays = {"x": x, "dy": normal(*sample.shape)}

            def forward(x):
                return F.max_pool2d(x, kernel, stride, padding)

            self.check(f"{shape} {window}", "max_pool", arrays, forward, SHORT_SUMS, **window)

    def test_average_pools_give_pytorchs_values_and_gradients(self):
        for shape, kernel, stride, padding in [
            ((2, 3, 8, 8), 2, 2, 0),
            ((1, 5, 9, 7), 3, 2, 1),
            ((2, 9, 7, 7), 3, 1, 1),
        ]:
            window = {"kernel": kernel, "stride": stride, "padding": padding}
            x = normal(*shape)
            sample = F.avg_pool2d(torch.tensor(x), kernel, stride, padding)
            arrays = {"x": x, "dy": normal(*sample.shape)}

            def forward(x):
                return F.avg_pool2d(x, kernel, stride, padding)

            self.check(f"{shape} {window}", "avg_pool", arrays, forward, SHORT_SUMS, **window)
            arrays = {"x": x, "dy": normal(*shape[:2])}
            self.check(str(shape), "global_pool", arrays, lambda x: x.mean((2, 3)), SHORT_SUMS)

    def test_dropout_zeroes_and_scales_by_the_documented_mask(self):
        for shape, rate in [((5, 33), 0.5), ((3, 5, 4, 3), 0.25), ((2, 8), 0.9)]:
            place = {"seed": 77, "layer": 2, "step": 31}
            mask = keyed.dropout_mask(77, 2, 31, 6, shape, rate)
            self.assertTrue((mask == 0).any() and (mask > 0).any())
            arrays = {"x": normal(*shape), "dy": normal(*shape)}
            case = f"{shape} rate {rate}"

            def forward(x):
                return x * torch.tensor(mask)

            settings = {"rate": rate, "sample": 6, **place}
            self.check(case, "dropout", arrays, forward, ELEMENTWISE, **settings)

    def test_softmax_cross_entropy_gives_pytorchs_loss_gradient_and_counts(self):
        for rows, classes, smoothing in [(6, 10, 0.0), (9, 10, 0.1), (1, 3, 0.3), (4, 100, 0.1)]:
            logits = 5 * normal(rows, classes)
            labels = rng.integers(0, classes, rows)
            scale = 1 / rows
            x = leaf(logits)
            target = torch.tensor(labels)
            loss = F.cross_entropy(x, target, reduction="sum", label_smoothing=smoothing)
            (loss * scale).backward()
            place = (logits > logits[np.arange(rows), labels][:, None]).sum(1)
            counts = [(place < 1).sum(), (place < 5).sum(), rows]
            for device in DEVICES:
                ours = layer(
                    device,
                    "softmax_cross_entropy",
                    {"logits": logits, "labels": labels},
                    smoothing=smoothing,
                    scale=scale,
                )
                case = f"{rows} rows, smoothing {smoothing}, on {device}"
                got = {"loss": ours["metrics"][0], "dlogits": ours["dlogits"]}
                self.compare(case, got, {"loss": loss, "dlogits": x.grad}, LOSS)
                self.assertEqual(list(ours["metrics"][1:4]), counts, case)
                self.assertFalse(ours["metrics"][4:].any(), case)


if __name__ == "__main__":
    main()
