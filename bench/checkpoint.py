#!/usr/bin/env python3
"""Measures what checkpoints cost, beside the disk's and the memory's own speed and PyTorch's ways, interleaved:

  bench/checkpoint.py DIR --torch-python PYTHON [--json bench/results/checkpoint.json] [--rounds 9] [--ranks 1,2,4]

DIR lies on the disk that is meant, with 10 GB free; what is written there is removed afterwards. The state has
528 MiB: parameters and AdamW's two moments. What saves cost a training is measured on one of about that size, on one
rank, which leaves the saver a core, and on two: steps with a save in flight all the time, and without.

All sides stay alive, with their memory touched, and sleep while another one measures; each is proved before anything
is timed: ours by every digest and a comparison of what was restored, the training by its bits with and without a save,
PyTorch's by a comparison of every tensor, which is repeated at each load. A figure is the median over the rounds, a
ratio that of two medians of one run. Of PyTorch's forms those that two first looks show to be slow are left out, and
the fastest of the others is compared. What is read was written in the same round and is not in the page cache. PYTHON
is any that can import torch.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile

from support.sides import Launch, Scripts, machine, store

PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "torch_checkpoint.py")
SLOW = 1.25  # times the fastest form of its kind: left out after the first look
MIB = 1 << 20
TRAINING_SECONDS = 1.5  # of a measurement
LEAST_STALL = 1e-4  # seconds: below, a ratio to it says nothing


class Ours(Launch):
    def __init__(self, arguments, ranks, folder):
        self.ranks, self.run_dir = ranks, os.path.join(arguments.dir, f"ours.{ranks}.{os.path.basename(folder)}")
        super().__init__(arguments.mpirun, ranks, folder,
                         lambda control: [arguments.bench, self.run_dir, "--control", control])

    def time(self, way):
        return self.ask(f"time {self.about['ways'].index(way)}")["seconds"]


class Training(Launch):
    """Our training steps, with and without saves behind them."""

    def __init__(self, arguments, ranks, folder):
        self.ranks, self.rounds = ranks, {False: [], True: []}
        program = os.path.join(os.path.dirname(arguments.bench), "bench_saving")
        super().__init__(arguments.mpirun, ranks, folder,
                         lambda control: [program, os.path.join(folder, "run"), control])
        self.ask("check")
        self.count = max(4, round(TRAINING_SECONDS / (self.ask("steps 4 0")["seconds"] / 4)))

    def run(self, with_saves):
        self.rounds[with_saves].append(self.ask(f"steps {self.count} {int(with_saves)}"))

    def step_seconds(self, with_saves):
        return statistics.median(answer["seconds"] for answer in self.rounds[with_saves]) / self.count

    def steps(self, with_saves):
        return [step for answer in self.rounds[with_saves] for step in answer["steps"]]


class Peer(Scripts):
    def __init__(self, arguments, folder, about, keep_memory):
        # memory that was touched once is kept, as our arenas are: the faster way for PyTorch
        kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)} if keep_memory else {}
        super().__init__("PyTorch", [([arguments.torch_python, PEER, folder], kept)])
        self.bytes = self.ask("open " + json.dumps(about))["bytes"]

    def save(self, number):
        return self.ask(f"save {number}")

    def load(self, number):
        answer = self.ask(f"load {number}")
        if not answer["same"]:
            raise SystemExit(f"PyTorch's {self.about['loads'][number][1]} does not give back what was saved")
        return answer


def quick_forms(kinds, seconds):
    """Numbers of the forms that are about as fast as the fastest of their kind."""
    return [number for number, kind in enumerate(kinds)
            if seconds[number] <= SLOW * min(s for s, k in zip(seconds, kinds) if k == kind)]


def first_look(peer):
    """Saves and loads twice in every form: warms up, and finds the fast ones."""
    saves = [min(peer.save(number)["seconds"] for _ in range(2)) for number in range(len(peer.about["saves"]))]
    loads = [min(peer.load(number)["seconds"] for _ in range(2)) for number in range(len(peer.about["loads"]))]
    quick_loads = quick_forms([kind for kind, _, _ in peer.about["loads"]], loads)
    quick_saves = quick_forms([kind for kind, _ in peer.about["saves"]], saves)
    read = {peer.about["loads"][number][2] for number in quick_loads}
    seen = {form: seconds for (_, form), seconds in zip(peer.about["saves"], saves)}
    seen.update({entry[1]: seconds for entry, seconds in zip(peer.about["loads"], loads)})
    return sorted(read | set(quick_saves)), quick_loads, seen


class Rounds:
    """What is measured in each round, in its order: names, and functions that give seconds by name."""

    def __init__(self):
        self.asks, self.seconds, self.cold = [], {}, []

    def add(self, ask):
        self.asks.append(ask)

    def run(self, turn, keep=True):
        os.sync()
        for ask in self.asks if turn % 2 == 0 else self.asks[::-1]:
            for name, seconds in ask().items():
                if keep:
                    self.seconds.setdefault(name, []).append(seconds)
            os.sync()  # what an earlier deletion still costs, nobody else shall pay

    def medians(self):
        return {name: statistics.median(values) for name, values in self.seconds.items()}


def ours_round(ours):
    """Save and restore; on one rank also the machine's own ways."""
    where = on_ranks(ours.ranks)

    def ask():
        seconds = {f"save {where}": ours.time("save"), f"restore {where}": ours.time("restore")}
        ours.time("delete an old file")
        return seconds
    return ask


def machine_round(ours, write, read):
    return lambda: {write: ours.time(write), read: ours.time(read)}


def peer_round(peer, save, loads, cold):
    form = peer.about["saves"][save][1]

    def ask():
        saved = peer.save(save)
        seconds = {form: saved["seconds"], f"{form}: stall": saved["stall"]}
        for number in loads:
            loaded = peer.load(number)
            seconds[peer.about["loads"][number][1]] = loaded["seconds"]
            cold.append(loaded["cold"])
        return seconds
    return ask


def measure_disk(arguments, launches, peer):
    rounds, alone = Rounds(), launches[0]
    saves, loads, seen = first_look(peer)
    for threads in ("", ", two in flight"):
        rounds.add(machine_round(alone, "direct write" + threads, "direct read" + threads))
    places = [ours_round(ours) for ours in launches]
    theirs = [peer_round(peer, save, [n for n in loads if peer.about["loads"][n][2] == save], rounds.cold)
              for save in saves]
    while places or theirs:  # A B A B
        for queue in (places, theirs):
            if queue:
                rounds.add(queue.pop(0))
    copies = [way for way in alone.about["ways"] if way.startswith("memcpy")]
    rounds.add(lambda: {way: alone.time(way) for way in copies})
    for turn in range(-1, arguments.rounds):
        rounds.run(turn, keep=turn >= 0)
    return rounds, seen


def least(medians, names):
    return min((medians[name], name) for name in names if name in medians)


def forms(entries, kind):
    return [entry[1] for entry in entries if entry[0].startswith(kind)]


def on_ranks(ranks):
    return f"on {ranks} rank" + ("s" if ranks > 1 else "")


def measure_memory(arguments, about, file):
    """Bytes beyond the state at the most, each in a process of its own. `file`: what is restored."""
    used = {}
    for ranks, what, command in [(1, "save", "memory save")] + [
            (ranks, "restore", f"memory restore {file}") for ranks in arguments.rank_counts]:
        with tempfile.TemporaryDirectory() as folder, Ours(arguments, ranks, folder) as ours:
            used[f"{what} {on_ranks(ranks)}"] = ours.ask(command)["bytes"]
            ours.close()
            shutil.rmtree(ours.run_dir)
    for verb, number, name in (("save", 0, "torch.save"), ("save", 5, "DCP async_save"),
                               ("load", 0, "torch.load"), ("load", 4, "DCP load")):
        with tempfile.TemporaryDirectory(dir=arguments.dir) as folder, \
                Peer(arguments, folder, about, keep_memory=False) as peer:
            used[name] = peer.ask(f"memory {verb} {number}")["bytes"]
            peer.close()
    return used


def median(values):
    values = list(values)
    return statistics.median(values) if values else 0.0


def fastest(values):
    return min(values, default=0.0)


def measure_saving(arguments, trainings):
    """Steps with a save always in flight and without, turn about, and memcpy of the state beside them."""
    copies = {1: [], 2: []}
    for turn in range(arguments.rounds):
        for with_saves in (False, True) if turn % 2 == 0 else (True, False):
            for training in trainings:
                training.run(with_saves)
                os.sync()
        for threads, seconds in copies.items():
            seconds.append(trainings[0].ask(f"copy {threads}")["seconds"])
    return {threads: median(seconds) for threads, seconds in copies.items()}


def summarize(training):
    """What a save costs the thread that trains, and by how much steps are longer while one is in flight."""
    plain, saving = training.steps(False), training.steps(True)
    runs = training.rounds[True]
    saves = sum(run["saves"] for run in runs)
    in_place = median(step["update"] for step in plain)
    outside = [step["update"] for step in saving if step["out_of_place"]]
    parts = {"begin": median(step["begin"] for step in saving if step["begin"] > 0),
             "advance": max(0.0, sum(step["advance"] for step in saving) / max(1, saves)
                            - median(step["advance"] for step in plain)),
             "update_out_of_place_minus_in_place": median(outside) - in_place if outside else 0.0}
    wall = sum(run["seconds"] for run in runs)
    about = {key: training.about[key] for key in ("ranks", "bytes", "spare_bytes", "batch", "width")}
    return {**about, "threads": 1,
            "saves": saves,
            "updates_out_of_place": len(outside), "update_in_place_s": in_place,
            "update_in_place_beside_a_save_s": median(
                step["update"] for step in saving if not step["out_of_place"]),
            "stall_parts_s": parts, "stall_s": sum(parts.values()),
            "stall_by_fastest_s": fastest(step["begin"] for step in saving if step["begin"] > 0)
            + (min(outside) - fastest(step["update"] for step in plain) if outside else 0.0),
            "step_s": training.step_seconds(False), "step_with_saves_s": training.step_seconds(True),
            "slowed_by": training.step_seconds(True) / training.step_seconds(False) - 1,
            "save_s": median(run["save_seconds"] for run in runs if run["save_seconds"] > 0),
            "cores_of_training": sum(run["main_processor_s"] for run in runs) / wall,
            "cores_of_saving": sum(run["other_processor_s"] for run in runs) / wall}


def print_saving(results, copies):
    for result in results:
        parts = result["stall_parts_s"]
        print(f"training {on_ranks(result['ranks'])}, 1 thread each: a step {1e3 * result['step_s']:.1f} ms, with a "
              f"save always in flight {1e3 * result['step_with_saves_s']:.1f} ms")
        print(f"  {result['saves']} saves, each {1e3 * result['save_s']:.0f} ms beside it; rank 0 used "
              f"{result['cores_of_training']:.2f} cores for training and {result['cores_of_saving']:.2f} for saving")
        print(f"  a save's stall {1e3 * result['stall_s']:.2f} ms: begin {1e3 * parts['begin']:.2f}, meet "
              f"{1e3 * parts['advance']:.2f}, update out of place minus in place "
              f"{1e3 * parts['update_out_of_place_minus_in_place']:.2f} ({result['updates_out_of_place']} of them); "
              f"by the fastest of each {1e3 * result['stall_by_fastest_s']:.2f} ms")
        print(f"  memory that it takes all the time: {result['spare_bytes'] / MIB:.0f} MiB a rank, the spare set of a "
              f"state of {result['bytes'] / MIB:.0f} MiB", flush=True)
    print(f"memcpy of that state {1e3 * copies[1]:.1f} ms by one thread, {1e3 * copies[2]:.1f} ms by two", flush=True)


class Targets:
    def __init__(self):
        self.list = []

    def add(self, figure, value, target, at_least=False, ceiling=None):
        """`ceiling`: what the figure would be if only the disk itself took time."""
        met, sign = (value >= target, "≥") if at_least else (value <= target, "≤")
        self.list.append({"figure": figure, "is": value, "target": f"{sign} {target:g}", "met": met})
        if ceiling is not None:
            self.list[-1]["of_the_disk_itself"] = ceiling
        print(f"{'holds ' if met else 'MISSED'}  {figure:70} {value:8.3f}  {sign} {target:g}"
              + (f"  (the disk itself {ceiling:.2f})" if ceiling is not None else ""), flush=True)


def print_table(rounds, medians, size):
    for name, seconds in sorted(medians.items(), key=lambda item: item[0]):
        print(f"{name:44} {size / MIB:7.1f} MiB  cpu  {1e3 * seconds:9.1f} ms  {size / seconds / 1e9:6.2f} GB/s  "
              f"(fastest of {len(rounds.seconds[name])}: {1e3 * min(rounds.seconds[name]):.1f} ms)", flush=True)


def judge_disk(targets, medians, peer, rank_counts):
    write, _ = least(medians, ["direct write", "direct write, two in flight"])
    read, _ = least(medians, ["direct read", "direct read, two in flight"])
    where = {ranks: on_ranks(ranks) for ranks in rank_counts}
    for ranks in rank_counts:
        targets.add(f"durable verified save {where[ranks]} ÷ direct write",
                    medians[f"save {where[ranks]}"] / write, 1.15)
    for ranks in rank_counts:
        targets.add(f"restore {where[ranks]} ÷ direct read", medians[f"restore {where[ranks]}"] / read, 1.20)
    save, restore = medians[f"save {where[rank_counts[0]]}"], medians[f"restore {where[rank_counts[0]]}"]
    for kind in ("torch.save", "DCP save", "DCP async_save"):
        seconds, form = least(medians, forms(peer.about["saves"], kind))
        targets.add(f"save, times as fast as {form}", seconds / save, 4, at_least=True, ceiling=seconds / write)
    for kind in ("torch.load", "DCP load"):
        seconds, form = least(medians, forms(peer.about["loads"], kind))
        targets.add(f"restore, times as fast as {form}", seconds / restore, 2, at_least=True, ceiling=seconds / read)


def judge_saving(targets, results, copies, medians, peer):
    alone = results[0]
    targets.add("stall of a save ÷ memcpy of the state by one thread", alone["stall_s"] / copies[1], 0.10)
    targets.add("training slowed while saving without end, 1 rank and a core left", alone["slowed_by"], 0.05)
    for result in results[1:]:
        print(f"        training slowed while saving without end, {result['ranks']} ranks, no core left: "
              f"{result['slowed_by']:.3f}", flush=True)
    stall = max(alone["stall_s"], LEAST_STALL)
    for kind in ("torch.save", "DCP save", "DCP async_save"):
        seconds, form = least(medians, [f"{name}: stall" for name in forms(peer.about["saves"], kind)])
        targets.add(f"{form}, times ours", seconds / stall, 10, at_least=True)


def most_memory(name):
    """Bytes that a process may take beyond the state: four segments of 4 MiB and what HDF5 takes for the metadata; a
    restore on several ranks besides 16 MiB that they share."""
    return (24 if name.endswith("on 1 rank") else 40) * MIB


def judge_memory(targets, used):
    for name, size in used.items():
        if name.startswith(("save", "restore")):
            targets.add(f"memory of a first {name} beyond the state, MiB", size / MIB, most_memory(name) / MIB)
        else:
            print(f"        memory of a first {name} beyond the state, MiB: {size / MIB:.1f}", flush=True)


def measure(arguments):
    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = lambda: stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.dir))  # noqa: E731
        launches = [stack.enter_context(Ours(arguments, ranks, folder())) for ranks in arguments.rank_counts]
        about = launches[0].about
        proved = [ours.ask("check") for ours in launches]
        peer = stack.enter_context(Peer(arguments, folder(), about, keep_memory=True))
        rounds, seen = measure_disk(arguments, launches, peer)
        peer.close()
        newest = launches[0].ask("check")["name"]
        used = measure_memory(arguments, about, os.path.join(launches[0].run_dir, "checkpoints", newest))
        for ours in launches:
            ours.close()
        trainings = [stack.enter_context(Training(arguments, ranks, folder())) for ranks in (1, 2)]
        copies = measure_saving(arguments, trainings)
        for training in trainings:
            training.close()

    size, medians, targets = proved[0]["bytes"], rounds.medians(), Targets()
    saving = [summarize(training) for training in trainings]
    print_table(rounds, medians, size)
    print_saving(saving, copies)
    judge_saving(targets, saving, copies, medians, peer)
    judge_disk(targets, medians, peer, arguments.rank_counts)
    judge_memory(targets, used)
    report = {"bench": "checkpoint", **machine(load_before), "device": "cpu", "torch": peer.about["torch"],
              "rounds": arguments.rounds, "state_bytes": about["bytes"], "file_bytes": size,
              "torch_state_bytes": peer.bytes, "torch_pages_cold": min(rounds.cold),
              "torch_first_look_s": seen, "median_s": medians,
              "fastest_s": {name: min(values) for name, values in rounds.seconds.items()},
              "saving": saving, "memcpy_of_training_state_s": copies, "memory_beyond_state_bytes": used,
              "figures": targets.list}
    if arguments.json:
        store(arguments.json, report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--bench", default="build/release/bench/bench_checkpoint")
    parser.add_argument("--torch-python", default="python3")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    arguments.rank_counts = [int(ranks) for ranks in arguments.ranks.split(",")]
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="checkpoint.") as arguments.dir:
        measure(arguments)


main()
