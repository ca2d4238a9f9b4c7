"""One rank of PyTorch DistributedDataParallel, over gloo on the CPU and over NCCL on a GPU, which runs training
steps on command.

Started by bench/step.py with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, and with PEER_DEVICE (cpu, cuda) and
PEER_PRECISION (fp32; on a GPU also tf32, bf16: autocast over float weights); reads commands from
standard input, where it sleeps between them. Rank 0 answers on standard output with a line of JSON:
  open DESCRIPTION          the model as bench_step described it, with the path of its weights
  variant NAME              takes one of the forms of VARIANTS, building it at first
  losses STEPS | time STEPS | quit
"""

import json
import os
import sys
import time
import warnings

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
DEVICE, PRECISION = os.environ.get("PEER_DEVICE", "cpu"), os.environ.get("PEER_PRECISION", "fp32")
GPU = DEVICE == "cuda"

VARIANTS = {  # memory format, optimizer, compiled
    "eager, foreach": (torch.contiguous_format, "foreach", False),
    "eager, fused": (torch.contiguous_format, "fused", False),
    "eager, fused, channels_last": (torch.channels_last, "fused", False),
    "compiled, fused": (torch.contiguous_format, "fused", True),
    "compiled, fused, channels_last": (torch.channels_last, "fused", True),
}


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 10)

    def forward(self, x):
        return self.fc2(torch.relu_(self.fc1(x.flatten(1))))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = self.pool(self.relu(self.bn2(self.conv2(x)))).flatten(1)
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x)))))


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + shortcut)


class ResNet(nn.Module):
    def __init__(self, stages, blocks, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.stages = stages
        before = channels
        for stage in range(stages):
            parts = []
            for block in range(blocks):
                parts.append(Block(before, channels, 2 if stage > 0 and block == 0 else 1))
                before = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
            channels *= 2
        self.fc = nn.Linear(before, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


MODELS = {
    "mlp": Mlp,
    "lenet": LeNet,
    "resnet20": lambda: ResNet(3, 3, 16),
    "resnet18": lambda: ResNet(4, 2, 64),
}


def wait():
    if GPU:
        torch.cuda.synchronize()


def say(**fields):
    if RANK == 0:
        print(json.dumps(fields), flush=True)


class Form:
    def __init__(self, peer, layout, optimizer, compiled):
        about, self.weights, self.labels = peer.about, peer.weights, peer.labels
        self.bare = MODELS[about["model"]]().to(DEVICE, memory_format=layout)
        names = {n for n in self.bare.state_dict() if not n.endswith("num_batches_tracked")}
        assert names == set(self.weights), names ^ set(self.weights)
        self.model = nn.parallel.DistributedDataParallel(
            torch.compile(self.bare) if compiled else self.bare, broadcast_buffers=False,
            gradient_as_bucket_view=True, static_graph=not compiled)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=about["lr"],
                                         momentum=about["momentum"], **{optimizer: True})
        # as ours: a batch lies ready in (pinned) memory of the host and is copied in each step
        self.batches = [x.contiguous(memory_format=layout) for x in peer.images]
        if GPU:
            self.batches = [x.pin_memory() for x in self.batches]
        self.criterion = nn.CrossEntropyLoss()
        self.step(0)
        self.step(1)

    def put_back(self):
        own = self.bare.state_dict()
        with torch.no_grad():
            for name, value in self.weights.items():
                own[name].copy_(value)
            for state in self.optimizer.state.values():
                state["momentum_buffer"].zero_()

    def step(self, number):
        number %= len(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        images = self.batches[number].to(DEVICE, non_blocking=True)
        labels = self.labels[number].to(DEVICE, non_blocking=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=PRECISION == "bf16"):
            loss = self.criterion(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss


class Peer:
    """All forms of one model stay alive; `form` is the one that measures."""

    def open(self, about):
        """Reads the weights, and this rank's rows of every batch."""
        self.about, self.forms = about, {}
        raw = np.fromfile(about["dump"], dtype=np.float32)
        self.weights, end = {}, 0
        for name, shape, at in about["tensors"]:
            end = at + int(np.prod(shape))
            self.weights[name] = torch.from_numpy(raw[at:end].reshape(shape).copy())
        rows, side, count = about["batch"], about["side"], about["batches"] * about["batch"]
        images = raw[end:end + count * side * side].reshape(-1, rows, 1, side, side)
        labels = raw[end + count * side * side:].view(np.int32)[:count].reshape(-1, rows)
        mine = slice(RANK * rows // SIZE, (RANK + 1) * rows // SIZE)
        self.images = [torch.from_numpy(x[mine].copy()) for x in images]
        self.labels = [torch.from_numpy(y[mine].astype(np.int64)) for y in labels]
        if GPU:
            self.labels = [y.pin_memory() for y in self.labels]

    def variant(self, name):
        if name not in self.forms:
            self.forms[name] = Form(self, *VARIANTS[name])
        self.form = self.forms[name]

    def losses(self, steps):
        self.form.put_back()
        losses = torch.stack([self.form.step(i).detach() for i in range(steps)])
        dist.all_reduce(losses)  # waits for the GPU, too: tolist
        say(losses=(losses / SIZE).tolist())

    def time(self, steps):
        self.form.put_back()
        for i in range(3):
            self.form.step(i)
        wait()
        dist.barrier()
        start = time.perf_counter()
        for i in range(3, steps + 3):
            self.form.step(i)
        wait()
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64, device=DEVICE)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        say(seconds=seconds.item())


def main():
    warnings.simplefilter("ignore")  # broadcast_buffers has another name in some versions
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    if GPU:
        torch.cuda.set_device(RANK % torch.cuda.device_count())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISION == "tf32"
        torch.backends.cudnn.benchmark = True  # its best
    dist.init_process_group("nccl" if GPU else "gloo")
    peer = Peer()
    say(torch=torch.__version__, capability=torch.cuda.get_device_name() if GPU else torch.backends.cpu.get_cpu_capability(),
        variants=list(VARIANTS))
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        if verb == "open":
            torch._dynamo.reset()
            peer.open(json.loads(argument))
        elif verb == "variant":
            try:
                peer.variant(argument)
                say(ready=True)
            except Exception as error:  # a form that this PyTorch cannot run
                say(ready=False, why=f"{type(error).__name__}: {error}"[:300])
        elif verb == "losses":
            peer.losses(int(argument))
        elif verb == "time":
            peer.time(int(argument))
        elif verb == "quit":
            break
    dist.destroy_process_group()


main()
