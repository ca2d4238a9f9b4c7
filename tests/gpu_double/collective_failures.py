"""Failures and hangs of single calls to the GPUs' communicator, on one rank, once: while connecting, at the
first exchange, inside a recording and after it. The launch must end soon, with a documented code and a text of
the rank that found it; none may hang. A failure that did not fire proves nothing.

    collective_failures.py COLLECTIVE_STEPS [--ranks 2,3] [--all]

Without --all each call is failed at its first and at one later occurrence, in turn on one and the other number of
ranks.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE_S = {"FAIL": 3, "FAIL_LATE": 3, "HANG": 1}
LIMIT_S = 30  # a launch starts and ends in about one second; the patience may pass twice
EXITS = {1, 2, 4}
OPENING = ("vendor_queue_create", "vendor_event_create", "vendor_comm_id", "vendor_comm_open")
EXCHANGE = ("vendor_group_begin", "vendor_send", "vendor_receive", "vendor_group_end", "vendor_all_gather",
            "vendor_comm_poll")
EXCHANGE_POLLS = 12
WORK = ("vendor_record", "vendor_queue_wait", "launch")


class Launch:
    def __init__(self, program, ranks, mode="exact", patience=3, **environment):
        variables = {"GPU_DOUBLE_" + name: text for name, text in environment.items()}
        command = ["mpirun", "-n", str(ranks), "--oversubscribe", "-q", "--mca", "odls_base_sigkill_timeout", "0"]
        for name in variables:
            command += ["-x", name]
        began = time.monotonic()
        process = subprocess.Popen(command + [program, mode, str(patience)], env=dict(os.environ, **variables),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", start_new_session=True)
        try:
            self.output, _ = process.communicate(timeout=LIMIT_S)
            self.code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.output, _ = process.communicate()
            self.code = "hung"
        self.seconds = time.monotonic() - began
        self.fired = len(re.findall(r"gpu_double: injected", self.output))
        self.texts = re.findall(r"^rekindle: (.*)$", self.output, re.M)


def count_calls(program, ranks, mode):
    """Calls of each function that rank 1 makes in a launch without failures."""
    with tempfile.TemporaryDirectory() as directory:
        name = os.path.join(directory, "calls")
        run = Launch(program, ranks, mode, COUNT=name)
        if run.code != 0 or "all steps are done" not in run.output:
            sys.exit("without a failure it ends with %s:\n%s" % (run.code, run.output))
        with open(name + ".1") as file:
            return {line.split()[0]: int(line.split()[1]) for line in file}


def check(program, ranks, mode, kind, function, occurrence, rank=1):
    rule = "rank:%d,%s:%d" % (rank, function, occurrence)
    run = Launch(program, ranks, mode, PATIENCE_S[kind], **{kind: rule})
    wrong = []
    if run.fired != 1:
        wrong.append("it fired %d times" % run.fired)
    unharmed = run.code == 0 and function in WORK and "all steps are done" in run.output
    if unharmed:  # it came after the last sum, while all was being closed
        print("ok   %d ranks %-5s %-9s %-26s after the last step" % (ranks, mode, kind, rule), flush=True)
        return run.fired == 1
    if run.code not in EXITS:
        wrong.append("it ends with %s" % run.code)
    if kind == "HANG" and run.code != 4:
        wrong.append("a hang does not end with 4")
    if not run.texts:
        wrong.append("no rank says why")
    if function in OPENING and len(run.texts) != 1:
        wrong.append("the ranks leave with %d texts, not with one" % len(run.texts))
    print("%s  %d ranks %-5s %-9s %-26s exit %s after %.1f s: %s"
          % ("BAD" if wrong else "ok ", ranks, mode, kind, rule, run.code, run.seconds, "; ".join(run.texts)[:160]),
          flush=True)
    if wrong:
        print("    " + "; ".join(wrong) + "\n" + run.output, flush=True)
    return not wrong


def choose(calls, function, thorough):
    """Occurrences to fail: of an opening the collective's own, which are the last; else the first and one in
    the middle; or all."""
    count = calls.get(function, 0)
    if function == "vendor_comm_poll":  # how often it is asked differs; the least that the exchanges need
        return range(1, EXCHANGE_POLLS + 1) if thorough else (1, EXCHANGE_POLLS)
    if thorough or not count:
        return range(1, count + 1)
    return [count] if function in OPENING else sorted({1, (count + 2) // 2})


def check_leaving(program, ranks):
    """All agree to end while the devices wait for a rank that gave nothing: they leave with its text."""
    run = Launch(program, ranks, "leave", PATIENCE_S["HANG"])
    good = run.code == 1 and len(run.texts) == 1 and "no data for this step" in run.texts[0]
    print("%s  %d ranks leave while devices wait: exit %s after %.1f s" % ("ok " if good else "BAD", ranks, run.code,
                                                                         run.seconds))
    if not good:
        print(run.output)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--ranks", default="2,3")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    good, runs = True, 0
    for number, ranks in enumerate(map(int, options.ranks.split(","))):
        good &= check_leaving(options.program, ranks)
        for mode in ("exact", "fast"):
            calls = count_calls(options.program, ranks, mode)
            points = []
            if mode == "exact":
                for function in OPENING + EXCHANGE + WORK:
                    rank = 0 if function == "vendor_comm_id" else 1
                    known = {function: 1} if rank == 0 else calls
                    points += [("FAIL", function, k, rank) for k in choose(known, function, options.all)]
                for function in ("vendor_comm_open", "vendor_send", "vendor_all_gather"):
                    points += [("FAIL_LATE", function, k, 1) for k in choose(calls, function, options.all)]
                    points += [("HANG", function, k, 1) for k in choose(calls, function, options.all)]
            else:
                points += [(kind, "vendor_all_reduce", k, 1) for kind in ("FAIL", "FAIL_LATE", "HANG")
                           for k in choose(calls, "vendor_all_reduce", options.all)]
            if not options.all:  # of the two occurrences now the first, now the later
                points = [point for i, point in enumerate(points) if (i + i // 2 + number) % 2 == 0]
            for kind, function, occurrence, rank in points:
                good &= check(options.program, ranks, mode, kind, function, occurrence, rank)
                runs += 1
    print("%d failures, each told and none waited for" % runs if good else "some failures were not handled")
    sys.exit(0 if good and runs > 0 else 1)


if __name__ == "__main__":
    main()
