"""PyTorch's ways to save a state and to load it again, on command, for bench/checkpoint.py: torch.save and torch.load,
and torch.distributed.checkpoint, each in the forms that may be its fastest.

Started with the folder to write to as its argument; reads commands from standard input, where it sleeps between them,
and answers each with a line of JSON:
  open DESCRIPTION     a state of the same tensors as bench_checkpoint's
  save NUMBER          one of SAVES: seconds until all of it is durable, and for how long the caller was held up
  load NUMBER          one of LOADS, of what its save left, which the page cache has been told to forget: seconds until
                       the values are in memory, and the share of pages that were cold; then they are compared
  memory save NUMBER, memory load NUMBER    bytes that it takes beyond the state at most
  quit
"""

import json
import os
import shutil
import sys
import time
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

warnings.simplefilter("ignore")
FOLDER = sys.argv[1]
PAGE = 4096
state, target = {}, {}
stager = None


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


# ---- saving: each returns when the caller may go on, and what then waits until it is durable


def save_to_file(path):
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    sync(FOLDER)


def save_to_path(path):
    torch.save(state, path)
    sync(path)
    sync(FOLDER)


def save_without_crc(path):
    torch.serialization.set_crc32_options(False)
    try:
        save_to_path(path)
    finally:
        torch.serialization.set_crc32_options(True)


def sync_tree(path):
    sync(path)
    sync(FOLDER)


def save_distributed(threads):
    def save(path):
        dcp.save(state, storage_writer=FileSystemWriter(path, thread_count=threads, sync_files=True), no_dist=True)
        sync_tree(path)
    return save


def finish(response, path):
    getattr(response, "upload_completion", response).result()
    sync_tree(path)


def save_asynchronously(path):
    response = dcp.async_save(state, storage_writer=FileSystemWriter(path, thread_count=2), no_dist=True,
                              async_stager=DefaultStager(StagingOptions(False, False, False, False)))
    return lambda: finish(response, path)


def save_with_kept_stager(path):
    """The copy goes to memory that an earlier save has touched."""
    global stager
    stager = stager or DefaultStager(StagingOptions(False, False, False, False))
    response = dcp.async_save(state, storage_writer=FileSystemWriter(path, thread_count=2), no_dist=True,
                              async_stager=stager)
    return lambda: finish(response, path)


SAVES = [  # kind, form, how
    ("torch.save", "torch.save to a file", save_to_file),
    ("torch.save", "torch.save to a path", save_to_path),
    ("torch.save", "torch.save to a path, no CRC", save_without_crc),
    ("DCP save", "DCP save, 1 thread", save_distributed(1)),
    ("DCP save", "DCP save, 2 threads", save_distributed(2)),
    ("DCP async_save", "DCP async_save", save_asynchronously),
    ("DCP async_save", "DCP async_save, kept stager", save_with_kept_stager),
]


# ---- loading: each returns the values


def load_mapped(path):
    """Pages come when they are touched: the values are there once they are copied into the model's."""
    mapped = torch.load(path, mmap=True)
    for name, tensor in mapped.items():
        target[name].copy_(tensor)
    return target


def load_distributed(path):
    dcp.load(target, storage_reader=FileSystemReader(path), no_dist=True)
    return target


LOADS = [  # kind, form, number of the save whose file it reads, how
    ("torch.load", "torch.load", 0, torch.load),
    ("torch.load", "torch.load of a path's", 1, torch.load),
    ("torch.load", "torch.load by mmap, copied", 2, load_mapped),
    ("DCP load", "DCP load, of 1 thread's", 3, load_distributed),
    ("DCP load", "DCP load, of 2 threads'", 4, load_distributed),
]


# ---- around them


def path_of(number):
    return os.path.join(FOLDER, f"torch.{number}")


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
    os.sync()


def files_of(path):
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]


def forget(path):
    """Takes a synced file out of the page cache; the share of its pages, looked at here and there, that are gone."""
    looked, cold = 0, 0
    for name in files_of(path):
        fd = os.open(name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for at in range(0, os.fstat(fd).st_size, 8 << 20):
            looked += 1
            try:
                os.preadv(fd, [bytearray(PAGE)], at, os.RWF_NOWAIT)
            except BlockingIOError:
                cold += 1
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return cold / looked


def open_state(about):
    generator = torch.Generator().manual_seed(7)
    for kind in ("model", "optimizer.m", "optimizer.v"):
        for layer in range(about["layers"]):
            rows = about["parameters"] // about["layers"] // 1024 - 1
            state[f"{kind}.layer{layer:02d}.weight"] = torch.rand(rows, 1024, generator=generator)
            state[f"{kind}.layer{layer:02d}.bias"] = torch.rand(1024, generator=generator)
    for name, tensor in state.items():
        target[name] = torch.zeros_like(tensor)
    return {"bytes": sum(tensor.nbytes for tensor in state.values())}


def save(number):
    path = path_of(number)
    remove(path)
    start = time.monotonic()
    rest = SAVES[number][2](path)
    held = time.monotonic() - start
    if rest is not None:
        rest()
    return {"seconds": time.monotonic() - start, "stall": held}


def load(number):
    path = path_of(LOADS[number][2])
    for tensor in target.values():
        tensor.zero_()
    cold = forget(path)
    start = time.monotonic()
    values = LOADS[number][3](path)
    seconds = time.monotonic() - start
    same = values.keys() == state.keys() and all(torch.equal(values[name], state[name]) for name in state)
    return {"seconds": seconds, "cold": cold, "same": same}


def resident(key):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


def memory(verb, number):
    if verb == "load":
        save(LOADS[number][2])
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # from here on VmHWM is the peak
    before = resident("VmRSS")
    (save if verb == "save" else load)(number)
    return {"bytes": resident("VmHWM") - before}


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    say({"torch": torch.__version__, "threads": torch.get_num_threads(),
         "saves": [entry[:2] for entry in SAVES], "loads": [entry[:3] for entry in LOADS]})
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "open":
            say(open_state(json.loads(rest)))
        elif verb == "save":
            say(save(int(rest)))
        elif verb == "load":
            say(load(int(rest)))
        elif verb == "memory":
            say(memory(rest.split()[0], int(rest.split()[1])))
        elif verb == "quit":
            return


main()
