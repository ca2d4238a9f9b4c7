#!/usr/bin/env python3
"""Packs a finished build for a bare machine that has a GPU, CUDA's libraries and Python with PyTorch, but neither
Open MPI nor HDF5 nor packages to install:

  bench/gpu/pack.py [--build build/release] [--out .gpu/packed.tar.xz]

It then holds the programs, every shared library that they need beside libc and the vendors' own, Open MPI with its
plugins, and Fashion-MNIST. There: bench/gpu/run.py --packed .gpu/packed.tar.xz"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile

LEFT_OUT = re.compile(r"/(ld-linux|libc|libm|libpthread|libdl|librt|libresolv|libcuda|libcudart|libcudnn|libcublas|"
                      r"libnccl|libnvrtc|libnvJitLink)[^/]*\.so")
FABRICS = re.compile(r"ucx|ofi|verbs|openib|psm|portals|usnic|knem|monitoring|lustre|pvfs|java|mpifh|usempi|libmpi_cxx")
DATA = "/usr/share/datasets/fashion-mnist"


def needed(path):
    """Shared libraries that a file loads, as the linker finds them here."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return {found for found in re.findall(r"=> (/\S+)", listed) if not LEFT_OUT.search(found)}


def place(source, folder, strip=False):
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, os.path.basename(source))
    shutil.copyfile(source, target)
    shutil.copymode(source, target)
    if strip:
        subprocess.run(["strip", "--strip-debug", target], check=True)
    return target


def mpi_paths():
    names = ("prefix", "pkglibdir", "pkgdatadir", "sysconfdir")
    told = subprocess.run(["ompi_info", "--parsable"] + [word for name in names for word in ("--path", name)],
                          capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^path:(\w+):(\S+)$", told, re.MULTILINE))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--out", default=".gpu/packed.tar.xz")
    arguments = parser.parse_args()
    out, build = tempfile.mkdtemp(), arguments.build
    programs = [os.path.join(build, name) for name in ("rekindle", "rekindle_cuda.so")]
    programs += [os.path.join(build, "bench", name) for name in ("bench_device", "bench_step")]
    tests = os.path.join(build, "tests", "gpu")
    programs += sorted(os.path.join(tests, name) for name in os.listdir(tests) if name.startswith("gpu_test_"))
    for program in programs:
        place(program, os.path.join(out, "build", os.path.relpath(os.path.dirname(program), build)), strip=True)

    paths = mpi_paths()
    usr = os.path.join(out, "usr")
    inside = lambda path: os.path.join(usr, os.path.relpath(path, paths["prefix"]))  # noqa: E731
    plugins = []
    for folder, _, names in os.walk(paths["pkglibdir"]):
        plugins += [os.path.join(folder, name) for name in names if not FABRICS.search(name)]
    for plugin in plugins:
        place(plugin, inside(os.path.dirname(plugin)))
    launchers = [os.path.realpath(shutil.which(name)) for name in ("mpirun", "orted")]
    for name in ("mpirun", "orted"):
        os.makedirs(os.path.join(usr, "bin"), exist_ok=True)
        shutil.copy(os.path.realpath(shutil.which(name)), os.path.join(usr, "bin", name))
    shutil.copytree(paths["pkgdatadir"], inside(paths["pkgdatadir"]))
    for folder in ("/usr/lib/x86_64-linux-gnu/pmix2", "/usr/share/pmix2"):
        if os.path.isdir(folder):
            shutil.copytree(folder, inside(folder), ignore=shutil.ignore_patterns("*.la", "*.a"))

    libraries, waiting = set(), programs + plugins + launchers
    while waiting:
        found = needed(waiting.pop()) - libraries
        libraries |= found
        waiting += found
    for library in libraries:
        place(library, os.path.join(out, "lib"), strip=True)
    if os.path.isdir(DATA):
        shutil.copytree(DATA, os.path.join(out, "data"))
    os.makedirs(os.path.dirname(arguments.out) or ".", exist_ok=True)
    subprocess.run(["tar", "-C", out, "-cJf", os.path.abspath(arguments.out), "."], check=True,
                   env=dict(os.environ, XZ_OPT="-T0"))
    shutil.rmtree(out)
    size = os.path.getsize(arguments.out) / 2**20
    print(f"{arguments.out}: {len(programs)} programs, {len(libraries)} libraries, {size:.0f} MiB")


main()
