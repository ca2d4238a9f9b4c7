#!/usr/bin/env python3
"""What a start of the program costs, of one build or of two, interleaved: wall and processor time, peak memory.

  bench/startup.py [--json FILE] [--rounds 21] NAME=PROGRAM [NAME=PROGRAM]
  e.g. bench/startup.py before=../before/build/release/rekindle after=build/release/rekindle

Medians over the rounds. `refused` ends at the configuration; the runs train one step of launch/fashion-mlp.yaml."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

RUN_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "launch", "fashion-mlp.yaml")
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def start(command, expected):
    """(wall ms, processor ms, peak KiB) of one start."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == expected, "exit %d: %s" % (child.returncode, " ".join(command))
    return 1e3 * (time.monotonic() - began), 1e3 * (usage.ru_utime + usage.ru_stime), usage.ru_maxrss


def cases(folder):
    def train(*sets):
        def command(program):
            shutil.rmtree(folder, ignore_errors=True)
            words = [program, "train", RUN_FILE]
            for one in ("run.dir=" + folder, *sets):
                words += ["--set", one]
            return words
        return command

    one_step = ("train.max_steps=1", "schedule.warmup_steps=0")
    return {
        "version": (lambda program: [program, "--version"], 0),
        "refused": (train("model.arch=none"), 2),
        "one step, auto": (train("device=auto", *one_step), 0),
        "one step, cpu": (train("device=cpu", *one_step), 0),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("programs", nargs="+", metavar="NAME=PROGRAM")
    arguments = parser.parse_args()
    programs = dict(word.split("=", 1) for word in arguments.programs)
    work = tempfile.mkdtemp()
    load, report = os.getloadavg()[0], []
    for name, (command, expected) in cases(os.path.join(work, "run")).items():
        figures = {program: [] for program in programs}
        for turn in range(arguments.rounds):
            for program in sorted(programs, reverse=turn % 2 == 1):
                figures[program].append(start(command(programs[program]), expected))
        for program, rows in figures.items():
            wall, cpu, peak = (statistics.median(column) for column in zip(*rows))
            print(f"{name:16} {program:8} wall {wall:7.1f} ms  processor {cpu:7.1f} ms  peak {peak / 1024:7.2f} MiB",
                  flush=True)
            report.append({"case": name, "program": program, "wall_ms": wall, "processor_ms": cpu, "peak_kib": peak})
    shutil.rmtree(work)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"bench": "startup", "date": time.strftime("%Y-%m-%d"), "rounds": arguments.rounds,
                       "load_before": load, "load_after": os.getloadavg()[0], "results": report}, file, indent=1)
            file.write("\n")


main()
