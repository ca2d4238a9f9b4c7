#!/usr/bin/env python3
"""Compares a training step with PyTorch DistributedDataParallel's, interleaved, on the same cores.

  bench/step.py --bench build/release/bench/bench_step --torch-python PYTHON [--json FILE]
                [--rounds 9] [--rest 0] [--models mlp,lenet,resnet20,resnet18]
                [--device cuda --precision fp32|bf16 --ranks 1]

Both sides stay alive and sleep while the other one measures; weights and batches are the same, and
the losses of the first steps are compared before anything is timed. All of PyTorch's forms (memory
format, optimizer, compiled or not) are measured in every round, and the fastest is compared. A figure
is the median over the rounds; a ratio is that of two medians of one run. PYTHON is any that can
import torch and numpy.

On a machine that others use, too, a side that sleeps while it waits (gloo) is punished more than one
that spins: start the whole under `chrt --rr 1`, with --rest so many seconds between measurements for
the others' work.
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import time

from support.sides import Launch, Scripts, machine, store

PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "ddp_step.py")
LOSSES, SECONDS = 10, 0.3  # steps whose losses are compared; length of a measurement
TOLERANCE = {"fp32": 2e-3, "tf32": 1e-2, "bf16": 5e-2}  # of losses: the formats' digits, amplified by training


class Ours(Launch):
    def __init__(self, arguments, model, folder):
        dump = os.path.join(folder, "dump")
        super().__init__(arguments.mpirun, arguments.ranks, folder,
                         lambda control: [arguments.bench, model, control, dump, arguments.device,
                                          arguments.precision])
        self.about["dump"] = dump


class Peer(Scripts):
    def __init__(self, arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        super().__init__("PyTorch", [
            ([arguments.torch_python, PEER],
             dict(RANK=str(rank), WORLD_SIZE=str(arguments.ranks), MASTER_ADDR="127.0.0.1",
                  MASTER_PORT=str(port), OMP_NUM_THREADS="1", PEER_DEVICE=arguments.device,
                  PEER_PRECISION=arguments.precision))
            for rank in range(arguments.ranks)])


def difference(ours, theirs):
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))


def open_variants(peer):
    """PyTorch's forms that work, with the seconds of a step at first sight, and why others do not."""
    seconds, failures = {}, {}
    for name in peer.about["variants"]:
        ready = peer.ask(f"variant {name}")
        if ready["ready"]:
            peer.ask("time 2")
            seconds[name] = peer.ask("time 4")["seconds"] / 4
        else:
            failures[name] = ready["why"]
    return seconds, failures


def compare_losses(arguments, ours, peer, model, variants):
    """Losses of all ways and forms; stops when those that must agree do not."""
    curves = {}
    for name in variants:
        peer.ask(f"variant {name}")
        curves[f"torch {name}"] = peer.ask(f"losses {LOSSES}")["losses"]
    theirs = next(iter(curves.values()))
    for way, name in enumerate(ours.about["ways"]):
        curves[name] = ours.ask(f"losses {way} {LOSSES}")["losses"]
    for name, curve in curves.items():
        apart = difference(curve, theirs)
        # batch norm over other groups of samples is another function: only said, not demanded
        same_function = name != "exact V=8" or model == "mlp"
        print(f"{model:9} losses of {LOSSES} steps, {name}: within {apart:.1e} of PyTorch's",
              flush=True)
        if same_function and not apart < TOLERANCE[arguments.precision]:
            raise SystemExit(f"{model}: {name} computes something else: {curve} and {theirs}")
    return curves


def time_variant(peer, name, steps):
    peer.ask(f"variant {name}")
    return peer.ask(f"time {steps}")


def run_rounds(arguments, ours, peer, first_sight):
    """Seconds of a step, per round, of all ways and forms; and the ceilings, per round."""
    steps = max(2, round(SECONDS / min(first_sight.values())))
    asks = [(name, lambda way=way: ours.ask(f"time {way} {steps}"))
            for way, name in enumerate(ours.about["ways"])]
    for place, name in enumerate(first_sight):  # A B A B: theirs between ours
        asks.insert(2 * place + 1,
                    (f"torch {name}", lambda name=name: time_variant(peer, name, steps)))
    seconds, ceilings = {name: [] for name, _ in asks}, []
    for turn in range(arguments.rounds):
        for name, ask in asks if turn % 2 == 0 else asks[::-1]:
            time.sleep(arguments.rest)
            seconds[name].append(ask()["seconds"] / steps)
        ceilings.append(ours.ask("ceilings"))
    return steps, seconds, ceilings


def measure(arguments, model, peer):
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments, model, folder)
        about = ours.about
        peer.tell("open " + json.dumps(about))
        first_sight, failures = open_variants(peer)
        curves = compare_losses(arguments, ours, peer, model, first_sight)
        steps, seconds, ceilings = run_rounds(arguments, ours, peer, first_sight)
        ours.close()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}
    torch = [name for name in seconds if name.startswith("torch")]
    best, best_least = min(median[n] for n in torch), min(least[n] for n in torch)
    flop = about["flop_per_sample"] * about["batch"]
    ceiling = {key: statistics.median(c[key] for c in ceilings) for key in ceilings[0]}
    results = {}
    for name, value in median.items():
        results[name] = {"step_ms": 1e3 * value, "samples_per_second": about["batch"] / value,
                         "gflops": flop / value / 1e9, "fastest_step_ms": 1e3 * least[name],
                         "faster_than_torch": best / value,
                         "faster_than_torch_by_fastest_rounds": best_least / least[name]}
        print(f"{model:9} batch {about['batch']}  {about['ranks']} ranks x 1 thread  {arguments.device} {arguments.precision}  "
              f"{name:36} {1e3 * value:8.3f} ms  {about['batch'] / value:7.0f} samples/s  "
              f"{flop / value / 1e9:6.1f} GFLOP/s  {best / value:5.2f} x torch's best "
              f"({best_least / least[name]:.2f} by the fastest rounds)", flush=True)
    if arguments.device == "cpu":
        print(f"{model:9} FMA peak {ceiling['fma_gflops_per_core']:.0f} GFLOP/s a core, "
              f"memcpy {ceiling['memcpy_gb_s_per_rank']:.1f} GB/s a rank", flush=True)
    return {"model": model, "batch": about["batch"], "ranks": about["ranks"], "threads": 1,
            "device": about["device"], "precision": arguments.precision, "steps_a_round": steps, "rounds": arguments.rounds,
            "gflop_a_step": flop / 1e9, "torch_variants_failed": failures, "ceilings": ceiling,
            "losses": curves, "results": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", default="build/release/bench/bench_step")
    parser.add_argument("--torch-python", default="python3")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=list(TOLERANCE))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rest", type=float, default=0)
    parser.add_argument("--models", default="mlp,lenet,resnet20,resnet18")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    peer = Peer(arguments)
    models = [measure(arguments, model, peer) for model in arguments.models.split(",")]
    peer.close()
    report = {"bench": "step", **machine(load_before), "rest_s": arguments.rest, "torch": peer.about["torch"],
              "torch_capability": peer.about["capability"], "models": models}
    if arguments.json:
        store(arguments.json, report)


main()
