#!/usr/bin/env python3
"""Line coverage of kernels/cuda and dist/cuda, without the seam's real side, by the tests that ran under the
double since it was last built. usage: coverage.py BUILD [--lines]   e.g. coverage.py build/release
Prints each file and the total; --lines: what was not run. Exit 1 below 90 % in total."""
import json
import os
import subprocess
import sys

LEAST = 90.0


def notes(build):
    """The compiler's notes of all objects that count."""
    top = os.path.join(build, "tests/gpu_double/CMakeFiles/rekindle_double.dir")
    for folder, _, names in os.walk(top):
        for name in names:
            if name.endswith(".gcno"):
                yield os.path.join(folder, name)


def lines_of(note, root):
    """{file: {line: runs}} of one object, by gcov."""
    made = subprocess.run(["gcov", "--stdout", "--json-format", note], cwd=root, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    found = {}
    for text in made.splitlines():
        for file in json.loads(text)["files"]:
            name = os.path.relpath(os.path.join(root, file["file"]), root)
            if not name.startswith(("kernels/cuda/", "dist/cuda/")):
                continue
            lines = found.setdefault(name, {})
            for line in file["lines"]:
                number = line["line_number"]
                lines[number] = lines.get(number, 0) + line["count"]
    return found


def ranges(numbers):
    """1-3 7 9-10"""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
    total = {}
    for note in notes(os.path.realpath(sys.argv[1])):
        for name, lines in lines_of(note, root).items():
            merged = total.setdefault(name, {})
            for number, count in lines.items():
                merged[number] = merged.get(number, 0) + count
    if not total:
        sys.exit("coverage: nothing was built to be counted there (a sanitizer's build is not)")
    all_lines = all_run = 0
    for name in sorted(total):
        run = sum(1 for count in total[name].values() if count > 0)
        missed = [number for number, count in total[name].items() if count == 0]
        all_lines += len(total[name])
        all_run += run
        print(f"{100.0 * run / len(total[name]):6.1f} %  {run:4d} of {len(total[name]):4d}  {name}"
              + (f"  not: {ranges(missed)}" if missed and "--lines" in sys.argv else ""))
    percent = 100.0 * all_run / all_lines
    print(f"{percent:6.1f} %  {all_run:4d} of {all_lines:4d}  in total (at least {LEAST:.0f} %)")
    sys.exit(0 if percent >= LEAST else 1)


main()
