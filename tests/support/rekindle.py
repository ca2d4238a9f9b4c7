"""What the whole-program tests share: a tiny data set, run files, launches and their verdicts.
Standard library only."""

import gzip
import json
import os
import random
import re
import signal
import struct
import subprocess
import tempfile
import time

ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "NO_COLOR": "1",
               "ASAN_OPTIONS": "detect_leaks=0"}
LAUNCH_LIMIT_S = 120


def write_idx(path, magic, sizes, data):
    opened = gzip.open(path, "wb", compresslevel=1) if path.endswith(".gz") else open(path, "wb")
    with opened as file:
        file.write(struct.pack(">%dI" % (1 + len(sizes)), magic, *sizes) + data)


def write_data_set(folder, samples, side=14, classes=4, seed=1):
    """Learnable images (a bright square whose place is the class, and noise) as gzipped IDX files.
    Returns the `data` part of a run file."""
    source = random.Random(seed)
    names = {}
    for part, count in (("train", samples), ("validation", max(samples // 4, 20))):
        labels = bytes(source.randrange(classes) for _ in range(count))
        pixels = bytearray()
        for label in labels:
            image = bytearray(source.randrange(90) for _ in range(side * side))
            top, left = (label // 2) * side // 2, (label % 2) * side // 2
            for row in range(top, top + side // 2):
                for column in range(left, left + side // 2):
                    if source.random() < 0.7:
                        image[row * side + column] = 120 + source.randrange(130)
            pixels += image
        for kind, magic, sizes, data in (("images", 0x803, (count, side, side), bytes(pixels)),
                                         ("labels", 0x801, (count,), labels)):
            names[part, kind] = os.path.join(folder, "%s-%s.gz" % (part, kind))
            write_idx(names[part, kind], magic, sizes, data)
    lines = ["data:", "  format: idx"]
    for part in ("train", "validation"):
        lines += ["  %s:" % part] + ["    %s: %s" % (kind, names[part, kind]) for kind in ("images", "labels")]
    return "\n".join(lines + ["  mean: 0.4", "  std: 0.3", ""])


def write_run_file(folder, data_part, **sections):
    """A run file out of write_data_set's part and flat sections: train={"batch": 20}, ... Saves are in the foreground
    unless a section says otherwise: then each is of the very step where it falls due, and the calls of a launch are
    the same every time."""
    path = os.path.join(folder, "run.yaml")
    sections["checkpoint"] = {"background": "false", **sections.get("checkpoint", {})}
    with open(path, "w") as file:
        file.write(data_part)
        file.writelines("  %s: %s\n" % pair for pair in sections.pop("data", {}).items())
        for name, keys in sections.items():
            if not isinstance(keys, dict):
                file.write("%s: %s\n" % (name, keys))
                continue
            file.write("%s:\n" % name)
            file.writelines("  %s: %s\n" % pair for pair in keys.items())
    return path


class Ended:
    """How a launch ended."""

    def __init__(self, code, output, seconds):
        self.code, self.output, self.seconds = code, output, seconds

    def __str__(self):
        return "exit code %d after %.2f s:\n%s" % (self.code, self.seconds, self.output)


def environment(extra):
    return {**os.environ, **ENVIRONMENT, **(extra or {})}


def run(arguments, extra=None, limit=LAUNCH_LIMIT_S):
    """Runs a program to its end, in a session of its own; a hang is killed whole and is an error."""
    began = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, env=environment(extra), start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun ends its ranks
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("no end after %d s: %s" % (limit, " ".join(arguments)))
    return Ended(process.returncode, output.decode(errors="replace"), time.monotonic() - began)


def train_command(program, ranks, run_file, run_dir, sets=()):
    """ranks 0: alone, without MPI."""
    launcher = ["mpirun", "-q", "-n", str(ranks), "--oversubscribe", "--mca", "odls_base_sigkill_timeout", "0"]
    assignments = ["run.dir=" + run_dir, "log.progress=none", *sets]
    return ((launcher if ranks > 0 else []) + [program, "train", run_file] +
            [argument for one in assignments for argument in ("--set", one)])


def train(program, ranks, run_file, run_dir, sets=(), fault=None, extra=None, limit=LAUNCH_LIMIT_S):
    extra = dict(extra or {})
    if fault is not None:
        extra["REKINDLE_FAULT"] = fault
    return run(train_command(program, ranks, run_file, run_dir, sets), extra, limit)


def digest_of(ended):
    """The final state_digest that a finished launch printed."""
    for line in ended.output.splitlines():
        if "state_digest " in line:
            return line.split("state_digest ")[1].split()[0]
    raise AssertionError("no state_digest in: %s" % ended)


def metrics(run_dir):
    """metrics.jsonl without what tells how fast something went."""
    lines = []
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        for line in file:
            one = json.loads(line)
            one.pop("samples_per_second", None)
            lines.append(one)
    return lines


def wait_for_lines(run_dir, count, limit=60):
    """Until metrics.jsonl has so many lines: with log.every_steps 1 that is about as many steps."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if len(metrics(run_dir)) >= count:
                return
        except (OSError, ValueError):  # not there yet, or a line half written
            pass
        time.sleep(0.001)
    raise AssertionError("no %d lines of metrics in %s" % (count, run_dir))


def saved_steps(run_dir):
    folder = os.path.join(run_dir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(re.search(r"step-(\d+)", name).group(1)) for name in names if name.endswith(".h5"))


def last_line(ended):
    return ended.output.rstrip().rpartition("\n")[2]


def signal_mask(pid, field):
    """A set of signals out of /proc/PID/status as a number: SigCgt, ShdPnd, ..."""
    try:
        with open("/proc/%d/status" % pid) as file:
            return int(re.search(r"^%s:\s*([0-9a-f]+)" % field, file.read(), re.MULTILINE).group(1), 16)
    except (OSError, AttributeError):
        return 0


def is_stopped(pid):
    """Whether every thread of a process stands still."""
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, thread)) as file:
            if file.read().rpartition(")")[2].split()[0] != "T":
                return False
    return True


def wait_until(what, is_true, limit=30):
    deadline = time.monotonic() + limit
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError("waited %d s until %s" % (limit, what))
        time.sleep(0.002)


def signal_ranks(ranks, send, expected):
    """Sends signals while the ranks stand still, so that however slow the way is, the signals arrive in the
    step where the ranks are now. send: does it; expected: (rank's pid, signal) of each that must arrive."""
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in ranks:  # or the signal could overtake the SIGSTOP
            wait_until("process %d is stopped" % pid, lambda: is_stopped(pid))
        send()
        for pid, number in expected:
            wait_until("signal %d reaches process %d" % (number, pid),
                       lambda: signal_mask(pid, "ShdPnd") >> (number - 1) & 1)
    finally:
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)


def processes_left(run_dir, patience=10):
    """Processes that still name this run: killed ones need a moment, and mpirun may return before."""
    deadline = time.monotonic() + patience
    while True:
        found = processes_of(run_dir)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def processes_of(run_dir):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"run.dir=" + run_dir.encode() in words:
            found.append(int(pid))
    return found


def temporaries(run_dir):
    folder = os.path.join(run_dir, "checkpoints")
    return [name for name in os.listdir(folder) if name.endswith(".tmp")] if os.path.isdir(folder) else []


class Tally:
    """What was checked; the test passes when nothing failed and something was checked."""

    def __init__(self):
        self.passed, self.failed, self.began = 0, [], time.monotonic()

    def check(self, true, what, detail=""):
        if true:
            self.passed += 1
        else:
            self.failed.append(what)
            print("FAILED: %s\n%s" % (what, detail), flush=True)
        return bool(true)

    def finish(self, planned=None):
        if planned is not None:
            self.check(self.passed + len(self.failed) == planned,
                       "%d checks were planned, %d made" % (planned, self.passed + len(self.failed)))
        print("%d passed, %d failed, %.1f s" % (self.passed, len(self.failed), time.monotonic() - self.began))
        return 0 if self.passed > 0 and not self.failed else 1


def parent_of(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def pid_of_rank(launcher, program, rank):
    """The process of a launch that executes `program` as that rank; None: not there (yet)."""
    wanted = ("OMPI_COMM_WORLD_RANK=%d" % rank).encode()
    parents = {int(pid): parent_of(int(pid)) for pid in filter(str.isdigit, os.listdir("/proc"))}
    for pid in parents:
        above = parents[pid]
        while above not in (0, launcher):
            above = parents.get(above, 0)
        try:
            if above == launcher and os.path.samefile("/proc/%d/exe" % pid, program):
                with open("/proc/%d/environ" % pid, "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        return pid
        except OSError:
            continue
    return None


def kill_rank(arguments, program, rank, delay, limit=600):
    """Starts a launch, sends SIGKILL to one of its ranks after `delay` seconds and waits for the end.
    Returns (how it ended, whether the signal was sent)."""
    began = time.monotonic()
    sent = False
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env=environment(None), start_new_session=True)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            while not sent and process.poll() is None:
                pid = pid_of_rank(process.pid, program, rank)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    sent = True
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise AssertionError("no end after a rank was killed: %s" % " ".join(arguments))
        ended = time.monotonic() - began
        output.seek(0)
        return Ended(process.returncode, output.read().decode(errors="replace"), ended), sent
