"""Every memory request that the program itself makes in a launch is refused in turn, once and from then on; and a
launch with less and less address space (RLIMIT_AS).

Neither may end a launch with a signal or let it hang. It finishes with the undisturbed run's bits, or ends with a
documented code and a text that says what, where and what to do. After it every checkpoint is whole, nothing that
was called saved is lost, and a relaunch goes on from the newest one and finishes with the same bits.

    malloc_points.py REKINDLE SHIM ALLOC_SHIM [--sample K] [--all TALLY.json]

Whose requests count: the program's, and those of the libraries in FROM on its behalf. Libraries that end the process
by themselves without memory (C++, MPI, HDF5) are left out. --sample K takes every K-th point; --all takes all and
keeps a tally, so that it can be interrupted.
"""

import argparse
import collections
import os
import re
import resource
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

FROM = "libjansson:libyaml"
LIMIT_S = 30
LIMITS = 24  # of address space, between too little to begin and enough
LOADER = 127  # what the system says when not even the program's libraries find room


class Refusing:
    """A run whose launches may be refused memory."""

    def __init__(self, run, shim):
        self.run, self.shim = run, shim
        self.report = os.path.join(run.work, "alloc.report")

    def launch(self, at=None, always=False):
        """Returns how it ended, how many requests it made and how many of them were refused. Of a launch that did
        not come to its end the first refusal is known."""
        if os.path.exists(self.report):
            os.unlink(self.report)
        extra = {"LD_PRELOAD": self.shim, "ALLOC_FROM": FROM, "ALLOC_REPORT": self.report}
        if at is not None:
            extra["ALLOC_AT"] = str(at)
        if always:
            extra["ALLOC_ALWAYS"] = "1"
        ended = self.run.launch(shim=extra, limit=LIMIT_S)
        said = collections.Counter()
        if os.path.exists(self.report):
            with open(self.report) as file:
                for word, number in (line.split() for line in file):
                    said[word] += int(number)
        return ended, said["asked"], max(said["refused"], int("refuses" in said))


def make_scenarios(run, refusing):
    """Name, prepared directory, requests: a run from its beginning and one that is taken up again."""
    run.clear()
    begin = ("begin", None, count(run, refusing))
    run.clear()
    killed = run.prepare_killed("killed", run.count_calls())
    run.put(killed)
    return [begin, ("resume", killed, count(run, refusing))]


def count(run, refusing):
    ended, asked, refused = refusing.launch()
    assert ended.code == 0 and rekindle.digest_of(ended) == run.final and refused == 0, ended
    return asked


def judge(run, ended):
    """What must hold after a launch without memory, and after its relaunch."""
    wrong = run.check_ending(ended)
    newest, more = run.check_directory(ended)
    wrong += more
    relaunched = run.launch()
    told = "metrics.jsonl" in ended.output or "journal" in ended.output  # a line that could not be written
    wrong += run.check_end(relaunched, newest, metrics=not told)
    return wrong + [str(ended), str(relaunched), str(run.files())] if wrong else []


def refuse_and_relaunch(run, refusing, prepared, number, always, endings, counted):
    """counted: how often memory was asked for when nothing was refused. Threads may ask once less the next time."""
    run.put(prepared)
    ended, asked, refused = refusing.launch(number, always)
    endings[ended.code] += 1
    if refused == 0 and not (number == counted and asked == counted - 1):
        return ["nothing was refused: %s" % ended]
    return judge(run, ended)


def peak_of(run):
    """Address space that an undisturbed launch takes, in bytes."""
    run.clear()
    low, high = 16 << 20, 64 << 30
    while high - low > 4 << 20:
        middle = (low + high) // 2
        run.clear()
        if limited(run, middle).code == 0:
            high = middle
        else:
            low = middle
    return high


def limited(run, limit):
    before = resource.getrlimit(resource.RLIMIT_AS)
    ended = run.launch(under=["prlimit", "--as=%d" % limit, "--"], limit=LIMIT_S)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    return ended


def check_limits(run, tally, soak, count_of):
    """The program's own part of the way from too little to enough: what libraries need to load is theirs."""
    endings = collections.Counter()
    enough = peak_of(run)
    planned = 0
    for i in range(count_of):
        limit = enough - (i * enough // (2 * count_of) & ~4095)
        key = "limit %d of %d" % (i, count_of)
        planned += 1
        if soak.has(key):
            tally.passed += 1
            continue
        run.clear()
        ended = limited(run, limit)
        endings[ended.code] += 1
        loading = ended.code == LOADER and "error while loading shared libraries" in ended.output
        wrong = [] if loading else judge(run, ended)
        tally.check(not wrong, "%d MiB of address space" % (limit >> 20), "\n".join(wrong))
        soak.note(key, wrong)
    print("enough is %d MiB of address space; exit codes below: %s" % (enough >> 20, dict(sorted(endings.items()))))
    return planned


def is_sanitized(program):
    with open(program, "rb") as file:
        return re.search(rb"__asan_init", file.read()) is not None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("alloc_shim")
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    if is_sanitized(arguments.program):
        print("skipped: the address sanitizer has an allocator of its own")
        return 77
    work = short_run.work_folder("malloc-points")
    try:
        run = short_run.ShortRun(arguments.program, arguments.shim, work)
        refusing = Refusing(run, arguments.alloc_shim)
        scenarios = make_scenarios(run, refusing)
        plan = {name: asked for name, _, asked in scenarios}
        points = [(name, prepared, number, always) for name, prepared, asked in scenarios
                  for number in range(1, asked + 1) for always in (False, True)]
        points = points[arguments.sample // 2::arguments.sample]
        print("requests: %s; %d points planned" % (plan, len(points)), flush=True)
        soak = short_run.Soak(arguments.tally_path, short_run.file_digest(arguments.program, arguments.alloc_shim), plan)
        tally, endings = rekindle.Tally(), collections.Counter()
        for name, prepared, number, always in points:
            what = "from then on" if always else "once"
            key = "%s %d %s" % (name, number, what)
            if soak.has(key):
                tally.passed += 1
                continue
            wrong = refuse_and_relaunch(run, refusing, prepared, number, always, endings, plan[name])
            tally.check(not wrong, "%s: request %d refused %s" % (name, number, what), "\n".join(wrong))
            soak.note(key, wrong)
        print("exit codes without memory: %s" % dict(sorted(endings.items())))
        planned = len(points) + check_limits(run, tally, soak, LIMITS if arguments.sample == 1 else 4)
        soak.write(planned=planned)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=planned)


sys.exit(main())
