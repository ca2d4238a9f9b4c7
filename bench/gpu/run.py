#!/usr/bin/env python3
"""Everything that only a GPU can show, in one call of at most ten minutes: the tests of label `gpu`, then the
benchmarks. Writes a report as JSON and a log of each part.

  bench/gpu/run.py [--build build/release] [--out DIR] [--torch-python python3] [--limit 570] [PART...]
  bench/gpu/run.py --packed .gpu/packed.tar.xz --out DIR     on a bare machine, with what bench/gpu/pack.py packed

Parts, in order: operations, story, device, step, quickstart, shared, trajectory,
sanitizer. A part that fails or runs out of its time is said, and the next one runs. The card's settings are left alone."""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = "/usr/share/datasets/fashion-mnist"


def name_of_gpu():
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                              capture_output=True, text=True).stdout.strip()
    except OSError:
        return "none: there is no nvidia-smi"


class Report:
    def __init__(self, arguments):
        self.arguments, self.began = arguments, time.monotonic()
        self.build = os.path.abspath(arguments.build)
        self.out = os.path.abspath(arguments.out)
        os.makedirs(self.out, exist_ok=True)
        self.environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                                NCCL_SOCKET_IFNAME="lo")
        self.parts, self.gpu = {}, name_of_gpu()
        if arguments.packed:
            self.unpack(os.path.abspath(arguments.packed))

    def unpack(self, archive):
        """The packed programs find the packed libraries; CUDA's come from the toolkit and from PyTorch's packages."""
        packed = tempfile.mkdtemp()
        subprocess.run(["tar", "-C", packed, "-xJf", archive], check=True)
        self.build = os.path.join(packed, "build")
        found = subprocess.run(
            [self.arguments.torch_python, "-c", "import nvidia, glob; print(*nvidia.__path__)"],
            capture_output=True, text=True).stdout.split()
        vendors = [folder for path in found for folder in sorted(glob.glob(os.path.join(path, "**", "lib"), recursive=True))]
        paths = [os.path.join(packed, "lib"), os.path.join(packed, "usr", "lib")] + vendors
        self.environment["LD_LIBRARY_PATH"] = ":".join(paths + [os.environ.get("LD_LIBRARY_PATH", "")])
        self.environment["OPAL_PREFIX"] = os.path.join(packed, "usr")
        self.environment["PATH"] = os.path.join(packed, "usr", "bin") + ":" + os.environ["PATH"]
        if not os.path.isdir(DATA) and os.path.isdir(os.path.join(packed, "data")):
            os.makedirs(os.path.dirname(DATA), exist_ok=True)
            os.symlink(os.path.join(packed, "data"), DATA)

    def left(self):
        return self.arguments.limit - (time.monotonic() - self.began)

    def command(self, part, command, share, environment=None):
        """Runs a command within its share of the time; its output goes to a log. Returns its standard output."""
        limit = min(share, self.left())
        began = time.monotonic()
        log = os.path.join(self.out, part + ".log")
        try:
            done = subprocess.run(command, env={**self.environment, **(environment or {})}, cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=max(limit, 1))
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as expired:
            code, output = "no end in %.0f s" % limit, (expired.stdout or b"").decode(errors="replace")
        except OSError as error:
            code, output = str(error), ""
        with open(log, "a") as file:
            file.write("$ %s\n%s\n(%s)\n" % (" ".join(command), output, code))
        passed = code == 0
        seconds = time.monotonic() - began
        entry = self.parts.setdefault(part, {"passed": 0, "failed": [], "seconds": 0})
        entry["seconds"] = round(entry["seconds"] + seconds, 1)
        if passed:
            entry["passed"] += 1
        else:
            entry["failed"].append("%s: %s" % (" ".join(command), code))
        print("%-11s %-9s %6.1f s  %s" % (part, "ok" if passed else "FAILED", seconds, " ".join(command)), flush=True)
        if not passed:
            print("\n".join(output.splitlines()[-12:]), flush=True)
        self.write()
        return output if passed else ""

    def write(self):
        with open(os.path.join(self.out, "gpu.json"), "w") as file:
            json.dump({"bench": "gpu", "date": time.strftime("%Y-%m-%d"), "gpu": self.gpu, "parts": self.parts}, file,
                      indent=1)
            file.write("\n")

    # ---- parts

    def tests(self):
        return sorted(glob.glob(os.path.join(self.build, "tests", "gpu", "gpu_test_*")))

    def program(self, *names):
        return os.path.join(self.build, *names)

    def operations(self):
        for test in self.tests():
            self.command("operations", [test], 60)

    def story(self):
        self.command("story", [sys.executable, "tests/gpu/story.py", self.program("rekindle"),
                               os.path.join(self.out, "work"), "--ranks", "1"], 120)

    def shared(self):
        """Ranks that share the GPU exchange through the host."""
        self.command("shared", [sys.executable, "tests/gpu/story.py", self.program("rekindle"),
                                os.path.join(self.out, "work"), "--ranks", "1,2,3", "--cases", "lenet,mlp"], 120)

    def quickstart(self):
        self.command("quickstart", [self.program("rekindle"), "verify-resume", "launch/fashion.yaml", "--ranks", "1,2",
                                    "--kills", "2", "--set", "device=cuda", "--set", "train.max_steps=300", "--set",
                                    "checkpoint.every_steps=50"], 120)

    def trajectory(self):
        for group in ("Mlp", "LeNet", "ResNet20"):
            self.command("trajectory", [self.arguments.torch_python, "tests/parity/test_trajectory.py",
                                        self.program("rekindle"), self.program("rekindle"), group], 60,
                         {"PARITY_DEVICE": "cuda"})

    def sanitizer(self):
        for test in self.tests():
            self.command("sanitizer", ["compute-sanitizer", "--error-exitcode", "9", test], 60)

    def device(self):
        for precision in ("fp32", "tf32", "bf16"):
            output = self.command("device", [self.program("bench", "bench_device"), "cuda", precision], 40)
            for line in output.splitlines():
                if line.startswith("{"):
                    self.parts["device"].setdefault("results", []).append(json.loads(line))
        self.write()

    def step(self):
        for precision in ("fp32", "bf16"):
            path = os.path.join(self.out, "step-%s.json" % precision)
            self.command("step", [sys.executable, "bench/step.py", "--bench", self.program("bench", "bench_step"),
                                  "--torch-python", self.arguments.torch_python, "--device", "cuda", "--precision",
                                  precision, "--ranks", "1", "--models", "resnet18,mlp", "--json", path], 120)
            if os.path.exists(path):
                with open(path) as file:
                    self.parts["step"].setdefault("results", {})[precision] = json.load(file)
        self.write()


PARTS = ["operations", "story", "device", "step", "quickstart", "shared", "trajectory", "sanitizer"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--packed")
    parser.add_argument("--out", default="runs/gpu")
    parser.add_argument("--torch-python", default="python3")
    parser.add_argument("--limit", type=float, default=570)
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_args()
    report = Report(arguments)
    for part in arguments.parts or PARTS:
        getattr(report, part)()
    failed = [what for part in report.parts.values() for what in part["failed"]]
    print("%d passed, %d failed" % (sum(part["passed"] for part in report.parts.values()), len(failed)))
    return 1 if failed else 0


sys.exit(main())
