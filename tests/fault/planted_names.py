"""Something else stands under each name that a launch uses: links, pipes, directories; or others may write there.

Nothing outside of the run directory changes, nothing is waited for, and the launch goes on with the undisturbed run's
bits or ends with a documented code and a message that names the file. A damaged checkpoint's place is named and the
next older one is used.

    planted_names.py REKINDLE
"""

import collections
import os
import shutil
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

LIMIT = 30  # seconds: a launch takes a tenth of one
STOPPED_AT = 4
NEWEST = short_run.CHECKPOINT % (1, STOPPED_AT)
SOMEBODY, COLLEAGUE, TEAM = 12001, 12002, 12003  # user and group numbers that need not exist
HEX = "0123456789abcdef"
NAMES = ["config.yaml", "metrics.jsonl", "ledger.jsonl", ".config.yaml.%s.tmp" % HEX, ".metrics.jsonl.%s.tmp" % HEX] + [
    "checkpoints/" + name for name in (
        "owner.g0001", "owner.g0001.beat", "owner.g0001.end", "owner.g0002", "owner.g0002.beat", "owner.g0002.end",
        NEWEST, NEWEST + ".rejected", NEWEST + ".pinned", short_run.CHECKPOINT % (2, STOPPED_AT),
        short_run.CHECKPOINT % (2, STOPPED_AT + 1), ".owner.g0001.%s.tmp" % HEX, ".%s.%s.tmp" % (NEWEST, HEX))]


class Outside:
    """A folder beside the run with files that nobody may touch."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder)

    def file(self, like):
        """A file that looks as what it stands for, so that only the link is wrong with it."""
        path = os.path.join(self.folder, "precious")
        if os.path.isfile(like):
            shutil.copyfile(like, path)
        else:
            with open(path, "w") as file:
                file.write("precious\n")
        return path

    def look(self):
        seen = {}
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            about = os.lstat(path)
            with open(path, "rb") as file:
                seen[name] = (file.read(), about.st_mtime_ns, about.st_mode, about.st_ino, about.st_nlink)
        return seen

    def clear(self):
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))


def plant_socket(path):
    here = os.getcwd()
    os.chdir(os.path.dirname(path))  # its address is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.basename(path))
    os.chdir(here)


# Each takes the path to plant and the outside file that looks like what belongs there.
KINDS = {
    "a link to a file outside": lambda path, outside: os.symlink(outside, path),
    "a link to nothing": lambda path, outside: os.symlink(outside + ".absent", path),
    "a link to itself": lambda path, outside: os.symlink(os.path.basename(path), path),
    "a link to a device": lambda path, outside: os.symlink("/dev/zero", path),
    "a pipe": lambda path, outside: os.mkfifo(path),
    "a pipe with a reader": lambda path, outside: os.mkfifo(path),
    "a socket": lambda path, outside: plant_socket(path),
    "a directory": lambda path, outside: os.mkdir(path),
}

def expected(name, kind):
    """What the launch must do with it: 0 (goes on), or end with this code."""
    base = os.path.basename(name)
    if base in ("metrics.jsonl", "ledger.jsonl", "owner.g0002"):  # a record of a later launch, not to be believed
        return 2
    return 1 if (base, kind) == ("config.yaml", "a directory") else 0


def is_checkpoint(name):
    return name.endswith(".h5")


class Planted:
    def __init__(self, program, work):
        self.program, self.work, self.tally = program, work, rekindle.Tally()
        self.run = short_run.ShortRun(program, None, os.path.join(work, "work"))
        self.outside = Outside(os.path.join(work, "outside"))
        self.codes = collections.Counter()
        for name in self.run.checkpoint_names():
            if name > NEWEST:
                os.unlink(self.run.checkpoint_path(name))
        self.stopped = self.run.prepare("stopped")  # four of six steps, an owner who left, lines ahead

    def launch(self, sets=(), under=()):
        return short_run.Launch(rekindle.run([*under, *self.run.command(sets)], None, LIMIT), [])

    def ask(self, *arguments):
        return rekindle.run([self.program, "checkpoints", *arguments], None, LIMIT)

    def plant(self, name, kind):
        """Returns an open reader of the pipe, where there is one."""
        path = os.path.join(self.run.run_dir, name)
        outside = self.outside.file(os.path.join(self.stopped, name if os.path.exists(
            os.path.join(self.stopped, name)) else "checkpoints/" + NEWEST))
        if os.path.lexists(path):
            os.unlink(path)
        KINDS[kind](path, outside)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK) if kind == "a pipe with a reader" else None

    # ---- each name, each kind

    def one(self, name, kind):
        self.run.put(self.stopped)
        self.outside.clear()
        reader = self.plant(name, kind)
        before = self.outside.look()
        listed = self.ask("ls", self.run.run_dir)
        ended = self.launch()
        if reader is not None:
            os.close(reader)
        base, code = os.path.basename(name), expected(name, kind)
        wrong = self.run.check_ending(ended)
        wrong += [] if ended.code == code else ["it ends with code %d, not %d" % (ended.code, code)]
        wrong += [] if self.outside.look() == before else ["what lies outside has changed"]
        wrong += [] if listed.code == 0 else ["ls ends with code %d" % listed.code]
        if code != 0 and base not in ended.output:
            wrong.append("%s is not named" % base)
        if is_checkpoint(name):
            damaged = "checkpoint %s is damaged and is passed over" % base
            wrong += [] if damaged in ended.output else ["it is not called damaged"]
            wrong += [] if "damaged" in listed.output else ["ls does not call it damaged"]
            wrong += [] if base != NEWEST or ended.restored_step == STOPPED_AT - 1 else ["it was not walked past"]
        self.codes[ended.code] += 1
        self.tally.check(not wrong, "%s is %s" % (name, kind), "\n".join(wrong + [str(ended), str(listed)]))

    # ---- the directories themselves

    def directories(self):
        inside = os.path.join(self.run.run_dir, "checkpoints")
        elsewhere = os.path.join(self.work, "elsewhere")

        def move_checkpoints():
            shutil.rmtree(elsewhere, ignore_errors=True)
            shutil.move(inside, elsewhere)

        def planned(what, code, prepare, *texts, restored=STOPPED_AT):
            self.run.put(self.stopped)
            prepare()
            ended = self.launch()
            right = ended.code == code and all(text in ended.output for text in texts)
            if code == 0:
                right &= rekindle.digest_of(ended) == self.run.final and ended.restored_step == restored
            self.tally.check(right, what, ended)
            self.codes[ended.code] += 1

        def make(kind):
            move_checkpoints()
            self.outside.clear()
            KINDS[kind](inside, self.outside.file(""))

        planned("checkpoints/ leads to another disk", 0,
                lambda: (move_checkpoints(), os.symlink(elsewhere, inside)))
        self.tally.check(os.path.islink(inside) and short_run.CHECKPOINT % (2, 6) in os.listdir(elsewhere),
                         "what is saved goes where the user's link leads", os.listdir(elsewhere))
        planned("checkpoints/ leads to a disk that is away", 2,
                lambda: (move_checkpoints(), os.symlink(elsewhere + ".absent", inside)), inside, "leads nowhere")
        planned("checkpoints/ leads to itself", 2, lambda: make("a link to itself"), inside, "leads nowhere")
        for kind in ("a link to a file outside", "a pipe", "a socket"):
            planned("checkpoints/ is " + kind, 1, lambda: make(kind), inside, "Not a directory")
        shutil.rmtree(self.run.run_dir)
        shutil.copytree(self.stopped, elsewhere + ".run")
        os.symlink(elsewhere + ".run", self.run.run_dir)
        ended = self.launch()
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.run.final and
                         ended.restored_step == STOPPED_AT, "run.dir may lead anywhere", ended)
        os.unlink(self.run.run_dir)

    # ---- who may write

    def modes(self):
        folder = os.path.join(self.run.run_dir, "checkpoints")
        for mode, warned in ((0o755, False), (0o775, False), (0o2775, False), (0o777, True), (0o1777, False)):
            self.run.put(self.stopped)
            os.chmod(folder, mode)
            ended = self.launch()
            warnings = ended.output.count("every user may replace or delete")
            self.tally.check(ended.code == 0 and warnings == int(warned) and
                             (not warned or "chmod o-w " + folder in ended.output),
                             "mode %o of checkpoints/ is %s" % (mode, "warned of once" if warned else "accepted"), ended)
        for mask in (0o002, 0o022, 0o077):
            self.run.clear()
            ended = self.launch(under=["sh", "-c", 'umask %03o; exec "$@"' % mask, "sh"])
            paths = [os.path.join(self.run.run_dir, name) for name in self.run.files()]
            modes = {path: os.stat(path).st_mode & 0o777 for path in paths}
            right = ended.code == 0 and set(modes.values()) == {0o666 & ~mask}
            folders = {os.stat(path).st_mode & 0o777 for path in (self.run.run_dir, folder)}
            self.tally.check(right and folders == {0o777 & ~mask}, "umask %03o decides about all modes" % mask,
                             "%s %s\n%s" % (modes, folders, ended))

    @staticmethod
    def give(top, user, group):
        for path, _, names in os.walk(top):
            for one in [path] + [os.path.join(path, name) for name in names]:
                os.chown(one, user, group, follow_symlinks=False)

    def owners(self):
        """Only root can play several users."""
        folder = os.path.join(self.run.run_dir, "checkpoints")
        for path in (self.work, os.path.dirname(self.run.run_file)):
            os.chmod(path, 0o777)
        as_colleague = ["setpriv", "--reuid=%d" % COLLEAGUE, "--regid=%d" % TEAM, "--clear-groups",
                        "env", "HOME=" + self.work, "sh", "-c", 'umask 002; exec "$@"', "sh"]

        def shared(mode):
            self.run.put(self.stopped)
            self.give(self.run.run_dir, SOMEBODY, TEAM)
            for path, _, names in os.walk(self.run.run_dir):
                os.chmod(path, mode)
                for name in names:
                    os.chmod(os.path.join(path, name), 0o664)

        shared(0o2775)
        ended = self.launch(under=as_colleague)
        self.tally.check(ended.code == 0 and rekindle.digest_of(ended) == self.run.final and
                         "every user" not in ended.output, "a team's directory serves each of the team", ended)
        shared(0o755)
        before = self.run.files()
        ended = self.launch(under=as_colleague)
        self.tally.check(ended.code == 2 and "cannot write in %s: Permission denied" % folder in ended.output and
                         self.run.files() == before, "a directory that we may not write ends it before training", ended)
        shared(0o2775)
        shutil.move(folder, folder + ".moved")
        os.symlink(folder + ".moved", folder)
        for user, code in ((COLLEAGUE + 1, 2), (SOMEBODY, 0), (COLLEAGUE, 0), (0, 0)):
            self.run.put(self.stopped)
            self.give(self.run.run_dir, SOMEBODY, TEAM)
            os.chmod(self.run.run_dir, 0o2775)
            shutil.move(folder, folder + ".moved")
            os.chmod(folder + ".moved", 0o2775)
            for name in ("metrics.jsonl", "ledger.jsonl"):
                os.chmod(os.path.join(self.run.run_dir, name), 0o664)
            os.symlink(folder + ".moved", folder)
            os.chown(folder, user, TEAM, follow_symlinks=False)
            ended = self.launch(under=as_colleague)
            self.tally.check(ended.code == code and (code == 0 or "symbolic link of user %d" % user in ended.output),
                             "a link of user %d in a directory of %d, followed by %d" % (user, SOMEBODY, COLLEAGUE),
                             ended)

    # ---- other commands

    def commands(self):
        for kind in KINDS:
            self.run.put(self.stopped)
            self.outside.clear()
            reader = self.plant("checkpoints/%s.pinned" % NEWEST, kind)
            before = self.outside.look()
            pinned = self.ask("pin", self.run.checkpoint_path(NEWEST))
            self.tally.check(pinned.code == 2 and NEWEST + ".pinned" in pinned.output and self.outside.look() == before,
                             "pin where there is " + kind, pinned)
            if reader is not None:
                os.close(reader)
            self.outside.clear()
            reader = self.plant("config.yaml", kind)
            before = self.outside.look()
            pruned = self.ask("prune", self.run.run_dir)
            self.tally.check(pruned.code == 2 and "config.yaml" in pruned.output and self.outside.look() == before,
                             "prune by what is " + kind, pruned)
            if reader is not None:
                os.close(reader)


def main(program):
    work = short_run.work_folder("planted")
    try:
        planted = Planted(program, work)
        plan = [(name, kind) for name in NAMES for kind in KINDS]
        for name, kind in plan:
            planted.one(name, kind)
        planted.directories()
        planted.modes()
        planted.commands()
        checks = len(plan) + 8 + 8 + 2 * len(KINDS)
        if os.geteuid() == 0 and shutil.which("setpriv"):
            planted.owners()
            checks += 6
        else:
            print("skipped: what other users own (this needs root and setpriv)")
        print("%d launches with something planted: %s" % (
            sum(planted.codes.values()), ", ".join("%d ended with code %d" % (count, code)
                                                   for code, count in sorted(planted.codes.items()))))
        return planted.tally.finish(planned=checks)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
