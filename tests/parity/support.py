"""What the parity tests share: the driver and the program, arrays in and out, comparisons."""

import glob
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import h5py
    import numpy as np
    import torch
except ImportError as missing:
    print(f"skipped: {missing} (tests/packages.txt lists what is needed)")
    sys.exit(77)

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)  # PyTorch in double is the truth that our floats approach

EPSILON = 2.0**-24  # half a float's last digit at 1

_programs = {}


def main():
    """Runs the calling file's tests: FILE.py DRIVER PROGRAM [TEST ...]."""
    _programs["driver"], _programs["rekindle"] = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)


def call(program, arguments, data=b""):
    """Runs one of our programs; its stdout, or a failure with its stderr."""
    command = [_programs[program], *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr.decode()}")
    return done.stdout


def options(values):
    return [f"{name}={value}" for name, value in values.items()]


def records(arrays):
    parts = []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array, dtype="<f4")
        shape = " ".join(map(str, array.shape))
        parts += [f"{name} {array.ndim} {shape}\n".encode(), array.tobytes()]
    return b"".join(parts)


def parse_records(data):
    arrays, at = {}, 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, rank, *shape = data[at:end].decode().split()
        shape = tuple(map(int, shape))
        assert len(shape) == int(rank)
        at = end + 1
        count = int(np.prod(shape, dtype=int))
        arrays[name] = np.frombuffer(data, "<f4", count, at).reshape(shape)
        at += 4 * count
    return arrays


def layer(device, op, inputs, **settings):
    """One operation of a device, forward and backward."""
    return parse_records(call("driver", ["layer", device, op, *options(settings)], records(inputs)))


def difference(ours, theirs, scale=None):
    """The largest error as a part of the largest value (or of `scale`)."""
    ours = np.asarray(ours, dtype=np.float64)
    theirs = theirs.detach().numpy() if torch.is_tensor(theirs) else np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise AssertionError(f"shape {ours.shape}, PyTorch's is {theirs.shape}")
    if scale is None:
        scale = np.abs(theirs).max()
    worst = np.abs(ours - theirs).max() / max(scale, 1e-30)
    return worst if np.isfinite(worst) else np.inf


def write_config(folder, settings):
    """Nested dictionaries as a run file: JSON is YAML."""
    path = os.path.join(folder, "run.yaml")
    with open(path, "w") as file:
        json.dump(settings, file)
    return path


def write_idx(path, array):
    """An IDX file of bytes: two zeros, the type (8), the rank, the big-endian sizes, the values."""
    with open(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]))
        file.write(struct.pack(f">{array.ndim}I", *array.shape))
        file.write(array.astype(np.uint8).tobytes())


def list_checkpoints(run_dir):
    """Oldest first."""
    return sorted(glob.glob(os.path.join(run_dir, "checkpoints", "*.h5")))


def read_checkpoint(path):
    """All datasets of a checkpoint by their path."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def model_of(checkpoint):
    return {k[len("model/") :]: v for k, v in checkpoint.items() if k.startswith("model/")}


def read_metrics(run_dir, kind):
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["kind"] == kind]


class Folder(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self._folder = tempfile.TemporaryDirectory(prefix="rekindle-parity-")
        self.addCleanup(self._folder.cleanup)
        self.folder = self._folder.name
