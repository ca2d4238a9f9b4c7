"""Disks that are really full, and limits on the size of a file.

    full_disk.py REKINDLE SHIM tmpfs|limit [--sample K] [--all TALLY.json]

tmpfs: the run directory lies in a file system of 1, 2, … 64 pages, from less than an owner record needs to more
than the whole run does. limit: RLIMIT_FSIZE grows by 64 bytes to more than a checkpoint's size. A launch must end by
itself: with the undisturbed run's bits, or with a documented code and a text that names the cause. What is on disk
then is whole, nothing that was called saved is lost, and with room the relaunch goes on from the newest checkpoint
and finishes. Exit code 77 where mounting is not permitted.

--sample K takes every K-th size; --all takes all and keeps a tally, so that it can be interrupted.
"""

import argparse
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

PAGE = 4096
SIZES = {"tmpfs": 64, "limit": 1200}
SKIPPED = 77


def mount(arguments):
    return subprocess.run(["mount", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class SmallDisk:
    """A tmpfs of so many pages."""

    cause = "No space left on device"
    under = ()

    def __init__(self, run, pages):
        self.point = os.path.join(run.work, "disk")
        os.makedirs(self.point, exist_ok=True)
        self.size = pages * PAGE
        run.run_dir = os.path.join(self.point, "run")

    def __enter__(self):
        made = mount(["-t", "tmpfs", "-o", "size=%d" % self.size, "tmpfs", self.point])
        if made.returncode != 0:
            raise PermissionError(made.stderr.decode().strip())
        return self

    def make_room(self):
        assert mount(["-o", "remount,size=64m", self.point]).returncode == 0

    def __exit__(self, *_):
        subprocess.run(["umount", self.point], check=True)


class FileLimit:
    """RLIMIT_FSIZE. Python's own processes keep SIGXFSZ's default, death, for those that they start."""

    cause = "limit of"

    def __init__(self, run, step):
        run.clear()
        self.size = step * 64  # the first is too small even for an owner record
        self.under = ("prlimit", "--fsize=%d" % self.size)

    def __enter__(self):
        return self

    def make_room(self):
        self.under = ()

    def __exit__(self, *_):
        pass


def fill_and_relaunch(run, kind, number):
    """What is wrong, and whether the lack of room was met."""
    with kind(run, number) as disk:
        full = run.launch(under=disk.under)
        met = disk.cause in full.output or "File too large" in full.output
        wrong = run.check_ending(full)
        newest, more = run.check_directory(full)
        wrong += more
        if full.code == 0 and newest != short_run.STEPS:
            wrong.append("it finishes, but the newest checkpoint is of step %s" % newest)
        if not met and full.code != 0:
            wrong.append("it ends for another reason")
        disk.make_room()
        relaunched = run.launch()
        # a line of the journal for which there was no room is told, not written later
        wrong += run.check_end(relaunched, newest, metrics="metrics.jsonl" not in full.output)
        if wrong:
            wrong += [str(full), str(relaunched), str(run.files())]
    return wrong, met


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("kind", choices=("tmpfs", "limit"))
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    kind = SmallDisk if arguments.kind == "tmpfs" else FileLimit
    sizes = list(range(1, SIZES[arguments.kind] + 1))[::arguments.sample]
    work = short_run.work_folder("full-disk")
    tally, met_at = rekindle.Tally(), []
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        soak = short_run.Soak(arguments.tally_path, short_run.file_digest(arguments.program), arguments.kind)
        for number in sizes:
            wrong, met = fill_and_relaunch(run, kind, number)
            met_at += [number] if met else []
            tally.check(not wrong, "%s of size %d" % (arguments.kind, number), "\n".join(wrong))
            soak.note("%s %d" % (arguments.kind, number), wrong)
        soak.write(planned=len(sizes), met=len(met_at))
    except PermissionError as refused:
        print("SKIPPED: cannot mount a tmpfs here (%s)" % refused)
        return SKIPPED
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # every size below the need was met as too small, and none above it
    planned = [number for number in sizes if number <= max(met_at, default=0)]
    print("%d sizes, %d planned as too small and %d met as such" % (len(sizes), len(planned), len(met_at)))
    tally.check(met_at == planned and 0 < len(met_at) < len(sizes), "the lack of room shows where it is",
                str(met_at))
    return tally.finish(planned=len(sizes) + 1)


sys.exit(main())
