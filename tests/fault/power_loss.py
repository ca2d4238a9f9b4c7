"""Power loss: all that was not synced may be gone, torn, or there in another order. A launch that is killed, and one
that resumes it, are recorded call by call (recorder.c); after every call the legal images of the disk are built
(crash_images.py), and on each a relaunch must restore the newest whole checkpoint, none that was called saved may be
lost, no torn one may have a name, and the end must be the undisturbed run's, bit for bit.

Its own control: with any one sync or rename of a save taken out of the recording, some image must be bad.

    power_loss.py REKINDLE RECORDER [--images N] [--all TALLY.json]

--images N judges about N images, spread over all; --all judges all and keeps a tally, so that it can be interrupted.
"""

import argparse
import itertools
import os
import random
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import crash_images  # noqa: E402
import rekindle  # noqa: E402
import short_run  # noqa: E402

RANDOM_IMAGES = 30  # a crash point
VERIFY_EVERY = 16  # images: the program's own list is compared with ours
CONTROL_POINTS = 30  # crash points after a call that was left out, and images of each
CONTROL_IMAGES = 2
CHECKPOINT = re.compile(r"g\d{4}-step-(\d{12})\.h5$")
# Where the first launch of a recording is killed: after the first call that fits (call, path, second path); None: it
# is not, and the second finds a finished run.
STORIES = {
    "undisturbed": None,
    "save": ("write", r"\.g0001-step-000000000004\.h5\..*\.tmp$", ""),
    "run directory": ("mkdir", r"^run$", ""),
    "checkpoints directory": ("mkdir", r"^run/checkpoints$", ""),
    "owner record": ("rename", r"", r"/owner\.g0001$"),
    "commit": ("rename", r"", r"/g0001-step-000000000003\.h5$"),
    "prune": ("rename", r"/g0001-step-000000000002\.h5$", r"\.tmp$"),
}


class Story:
    """A recording: one launch that was killed after a call, and the one that followed."""

    def __init__(self, name, records, output, first_point):
        self.name, self.records, self.output, self.first_point = name, records, output, first_point
        self.whole = self.find_whole()

    def promised(self, point):
        """The newest step that was called saved before the call after this one."""
        said = self.records[point + 1].said if point + 1 < len(self.records) else len(self.output)
        steps = re.findall(rb"^saved step (\d+) ", self.output[:said], re.MULTILINE)
        return max(map(int, steps), default=None)

    def find_whole(self):
        """{bytes of a checkpoint that got its name: its step}."""
        disk, whole = crash_images.Disk(), {}
        for record in self.records:
            disk.play(record)
            found = CHECKPOINT.match(os.path.basename(record.second))
            if record.call == "rename" and found:
                whole[disk.find(record.second).image("all", None, None)] = int(found.group(1))
        return whole


class Recorder:
    def __init__(self, run, library, work):
        """work: a folder beside what is recorded."""
        self.run, self.library, self.work = run, library, work
        self.root = os.path.dirname(run.run_dir)

    def launch(self, files, kill=None):
        extra = {"LD_PRELOAD": self.library, "RECORD_PATH": self.root, "RECORD_FILE": files + ".records",
                 "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
        if kill is not None:
            extra["RECORD_KILL"] = str(kill)
        with open(files + ".output", "ab") as output:
            return subprocess.run(self.run.command(), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                                  env=rekindle.environment(extra), timeout=60).returncode

    def read(self, files):
        records = crash_images.read_records(files + ".records", self.root)
        with open(files + ".output", "rb") as output:
            return records, output.read()

    def record(self, name, kill_call):
        """kill_call None: nothing is killed."""
        files = os.path.join(self.work, name.replace(" ", "-"))
        self.run.clear()
        code = self.launch(files, kill_call)
        first, _ = self.read(files)
        assert (code, len(first)) == ((-9, kill_call) if kill_call else (0, len(first))), (code, kill_call)
        code = self.launch(files)
        records, output = self.read(files)
        assert code == 0 and self.run.final.encode() in output, output
        assert all(a.said <= b.said for a, b in zip(records, records[1:]))
        # what came before the kill stands in the undisturbed story
        return Story(name, records, output, kill_call - 1 if kill_call else 0)

    def stories(self):
        undisturbed = self.record("undisturbed", None)
        yield undisturbed
        for name, place in STORIES.items():
            if place is None:
                continue
            call, path, second = place
            fits = [i for i, one in enumerate(undisturbed.records, 1) if one.call == call
                    and re.search(path, one.path) and re.search(second, one.second)]
            yield self.record(name, fits[0])


class Judge:
    def __init__(self, run):
        self.run, self.judged = run, 0

    def look(self, story, image, promised):
        """What the image alone tells: the newest whole checkpoint, and what is wrong."""
        wrong, newest = [], None
        for path, data in image.items():
            found = CHECKPOINT.match(os.path.basename(path))
            if not found:
                continue
            step = int(found.group(1))
            if story.whole.get(data) == step:
                newest = max(newest or 0, step)
            else:
                wrong.append("%s has its name, but not its bytes" % path)
        if promised is not None and (newest is None or newest < promised):
            wrong.append("step %d was called saved, but the newest checkpoint is of %s" % (promised, newest))
        return newest, wrong

    def judge(self, story, image, promised):
        """Returns what is wrong, with the story."""
        newest, wrong = self.look(story, image, promised)
        self.run.clear()
        crash_images.put_image(image, os.path.dirname(self.run.run_dir))
        before = self.run.files()
        if self.judged % VERIFY_EVERY == 0:
            listed, more = self.run.check_directory(rekindle_ended())
            wrong += more + ([] if listed == newest else ["the program lists step %s, not %s" % (listed, newest)])
        self.judged += 1
        relaunched = self.run.launch()
        # one that has nothing left to save prunes nothing, and what had been pruned may be there again
        found = self.run.check_end(relaunched, newest, bounded=bool(relaunched.saved_steps))
        # an owner sweeps its own and older generations' temporaries: one that outlived its directory's older names
        # is swept by the launch that comes to its generation
        generation = int((re.findall(r"generation (\d+)$", relaunched.output, re.MULTILINE) or [0])[0])
        litter = re.compile(r"checkpoints/\.owner\.g(\d{4})\.\w+\.tmp was left behind$")
        wrong += [one for one in found
                  if not (litter.match(one) and int(litter.match(one).group(1)) > generation)]
        return wrong + [str(before), str(relaunched)] if wrong else []


def rekindle_ended():
    """A launch of which nothing is known."""
    return short_run.Launch(rekindle.Ended(-9, "", 0), [])


def crash_points(story, omitted=None):
    """(point, disk after that call). omitted: the number of a call that is taken as not done."""
    disk = crash_images.Disk()
    for point, record in enumerate(story.records):
        if point != omitted:
            disk.play(record)
        yield point, disk


def images_at(story, point, disk):
    return disk.images("%s %d" % (story.name, point), RANDOM_IMAGES)


def all_images(stories):
    """(point, class, story, image, what was promised): each image of a story once for each promise."""
    for story in stories:
        seen = set()
        for point, disk in crash_points(story):
            if point < story.first_point:
                continue
            promised = story.promised(point)
            for name, image in crash_images.distinct(images_at(story, point, disk)):
                mark = (promised, crash_images.name_of_image(image))
                if mark not in seen:
                    seen.add(mark)
                    yield point, name, story, image, promised


def some_images(stories, count):
    """The same for `count` of all, spread over the points and the classes."""
    points = sum(len(story.records) - story.first_point for story in stories)
    source, taken, passed = random.Random(1), 0, 0
    for story in stories:
        for point, disk in crash_points(story):
            if point < story.first_point:
                continue
            passed += 1
            choice = list(images_at(story, point, disk)) if taken < count * passed // points else []
            while taken < count * passed // points:
                taken += 1
                name, make = source.choice(choice)
                yield point, name, story, make(), story.promised(point)


# ---- the control

def controls(story):
    """{kind: numbers of the calls that must not be missing}. Not among them are calls that a later one makes good
    before anything is promised: the syncs of names at a launch's start, all but the last before the first save."""
    found = {}
    for number, record in enumerate(story.records):
        kind = None
        name = os.path.basename(record.second or record.path)
        previous = story.records[number - 1]
        if record.call == "sync" and ".h5." in name:
            kind = "sync of a checkpoint"
        elif record.call == "sync" and re.match(r"\.owner\.", name):
            kind = "sync of an owner record"
        elif record.call == "sync" and name == "metrics.jsonl":
            kind = "sync of the metrics"
        elif record.call == "sync" and record.path == "" and previous.call == "mkdir":
            kind = "sync of the run directory's parent"
        elif record.call == "sync" and name == "checkpoints" and CHECKPOINT.match(os.path.basename(previous.second)) \
                and previous.call == "rename":
            kind = "sync of the checkpoints directory"
        elif record.call == "rename" and CHECKPOINT.match(name):
            kind = "rename of a checkpoint"
        if kind:
            found.setdefault(kind, []).append(number)
    return found


def is_caught(judge, story, omitted):
    """Whether some image is bad when this call is taken as not done: by its look, or else by a relaunch."""
    hard = []
    for point, disk in crash_points(story, omitted):
        if not omitted <= point < omitted + CONTROL_POINTS:
            continue
        for _, image in itertools.islice(crash_images.distinct(disk.images(point, 0)), CONTROL_IMAGES):
            if judge.look(story, image, story.promised(point))[1]:
                return True
            hard.append((point, image))
    return any(judge.judge(story, image, story.promised(point)) for point, image in hard)


def check_controls(judge, story, tally, every):
    """every: each call of each kind, not only one of each."""
    kinds = controls(story)
    tally.check(len(kinds) == 6, "kinds of calls on the way of a save: %s" % sorted(kinds))
    caught = {}
    for kind, numbers in sorted(kinds.items()):
        chosen = numbers if every else numbers[len(numbers) // 2:][:1]
        missed = [number for number in chosen if not is_caught(judge, story, number)]
        tally.check(not missed, "without the %s no image is bad" % kind,
                    ["%d %s" % (i, story.records[i]) for i in missed])
        caught[kind] = len(chosen) - len(missed)
    print("controls caught: %s" % caught, flush=True)
    return caught


def judge_all(judge, chosen, tally, soak):
    """Returns how many images there were."""
    images = bad = 0
    for point, name, story, image, promised in chosen:
        images += 1
        key = "%s, after %d, %s" % (story.name, point, name)
        if soak.has(key):
            tally.passed += 1
            continue
        wrong = judge.judge(story, image, promised)
        bad += bool(wrong)
        tally.check(not wrong, "%s (%s)" % (key, story.records[point]), "\n".join(wrong))
        soak.note(key, wrong)
    print("%d images, %d bad" % (images, bad), flush=True)
    return images


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("recorder")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--all", dest="tally_path")
    arguments = parser.parse_args()
    work = short_run.work_folder("power-loss")
    try:
        run = short_run.ShortRun(arguments.program, "", os.path.join(work, "disk"))
        stories = list(Recorder(run, arguments.recorder, work).stories())
        plan = {one.name: len(one.records) for one in stories}
        print("calls: %s" % plan, flush=True)
        judge, tally, soaks = Judge(run), rekindle.Tally(), arguments.tally_path is not None
        soak = short_run.Soak(arguments.tally_path,
                              short_run.file_digest(arguments.program, arguments.recorder), plan)
        caught = check_controls(judge, stories[0], tally, soaks)
        chosen = all_images(stories) if soaks else some_images(stories, arguments.images)
        images = judge_all(judge, chosen, tally, soak)
        soak.write(planned=images, controls=caught)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish()


sys.exit(main())
