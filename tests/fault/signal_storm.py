#!/usr/bin/env python3
"""Signals that arrive while a rank computes change no bit and break nothing.

A handler on a computing thread would overwrite what oneDNN's kernels keep below the stack pointer; the
program handles signals on a thread of their own. Hundreds of SIGUSR2 (save and go on) hit one process.

usage: signal_storm.py REKINDLE WORK_FOLDER"""
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402

FEWEST = 200
SECTIONS = {
    "run": {"name": "storm", "seed": 6},
    "model": {"arch": "lenet", "classes": 4, "batch_norm": "true", "dropout": 0.25},
    "train": {"epochs": 40, "batch": 100, "shards": 6, "threads": 1},
    "optimizer": {"kind": "adamw", "lr": 0.002},
    "checkpoint": {"every_steps": 0, "every_epoch": "false"},
}


def storm(command):
    """Runs the launch under signals; how many were sent, and how it ended."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=rekindle.environment(None))
    began, sent = time.monotonic(), 0
    wanted = 1 << (signal.SIGUSR2 - 1)
    while process.poll() is None and time.monotonic() - began < 120:
        if rekindle.signal_mask(process.pid, "SigCgt") & wanted:
            process.send_signal(signal.SIGUSR2)
            sent += 1
        time.sleep(0.0005)
    output, _ = process.communicate(timeout=30)
    return sent, rekindle.Ended(process.returncode, output.decode(errors="replace"), time.monotonic() - began)


def main():
    program, work = sys.argv[1:]
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    run_file = rekindle.write_run_file(work, rekindle.write_data_set(work, 708), **SECTIONS)
    tally = rekindle.Tally()
    calm = rekindle.train(program, 0, run_file, os.path.join(work, "calm"))
    tally.check(calm.code == 0, "the undisturbed run", calm)
    for number in range(2):
        sent, ended = storm(rekindle.train_command(program, 0, run_file, os.path.join(work, "storm%d" % number)))
        print("%d signals sent" % sent)
        tally.check(sent >= FEWEST, "at least %d signals were sent, not %d" % (FEWEST, sent))
        if tally.check(ended.code == 0, "a run under signals finishes", ended):
            tally.check(rekindle.digest_of(ended) == rekindle.digest_of(calm), "signals change no bit", ended)
    code = tally.finish(planned=7)
    shutil.rmtree(work)
    return code


if __name__ == "__main__":
    sys.exit(main())
