"""What a disk may hold after a power loss: a model of files and directories that knows of each change whether it
was synced, fed with what recorder.c wrote down. Standard library only.

What was synced is there. Of all else any part may be there, in any order:
- data: each write wholly, not at all, or torn at 512 or 4,096 bytes; later writes without earlier ones; the length
  without the data, which then is zero or what the disk held there before;
- names: any of a directory's changes without the others, each directory for itself; a name without its data; after
  a rename both names. Only that a rename leaves neither name is not believed of any file system."""

import hashlib
import os
import random


class Record:
    """One call that changed something."""

    def __init__(self, call, said, offset, path, second, data):
        self.call, self.said, self.offset, self.path, self.second, self.data = call, said, offset, path, second, data

    def __str__(self):
        target = " → " + os.path.basename(self.second) if self.second else ""
        return "%s %s%s" % (self.call, os.path.basename(self.path), target)


def read_records(path, root):
    """Paths become relative to root; root itself is ''."""
    def relative(name):
        return name[len(root) + 1:]

    records = []
    with open(path, "rb") as file:
        while line := file.readline():
            call, said, offset, size, name, second = line.decode().rstrip("\n").split(" ")
            records.append(Record(call, int(said), int(offset), relative(name), relative(second), file.read(int(size))))
    return records


# ---- the disk

class File:
    def __init__(self):
        self.synced, self.pending = b"", []  # pending: (offset, data), or (size, None) for a change of length

    def sync(self):
        self.synced, self.pending = self.image("all", None, None), []

    def image(self, way, source, stale):
        """The bytes after a crash. way: one of WAYS; source: random.Random; stale: what the disk held before."""
        held = bytearray(self.synced)
        pending = self.pending
        if way == "none" or not pending:
            return bytes(held)
        if way in ("zero", "stale"):
            whole = self.image("all", None, None)
            held += bytes(max(len(whole) - len(held), 0))
            for offset, data in pending:
                end = offset + len(data or b"")
                old = stale[offset:end] if way == "stale" else b""
                if data is not None and offset >= len(self.synced):
                    held[offset:end] = old + bytes(end - offset - len(old))
            return bytes(held[:len(whole)])
        if way == "late":
            pending = pending[1:]
        if way == "first":
            pending = pending[:1]
        for offset, data in pending:
            if data is None:
                held = held[:offset] + bytes(max(offset - len(held), 0))
            elif way in ("torn512", "torn4096"):
                self.tear(held, offset, data, int(way[4:]), source)
            else:
                self.put(held, offset, data)
        return bytes(held)

    @staticmethod
    def put(held, offset, data):
        held += bytes(max(offset - len(held), 0))
        held[offset:offset + len(data)] = data

    @classmethod
    def tear(cls, held, offset, data, sector, source):
        border = offset
        while border < offset + len(data):
            end = min((border // sector + 1) * sector, offset + len(data))
            if source.random() < 0.5:
                cls.put(held, border, data[border - offset:end - offset])
            border = end


WAYS = ("all", "none", "zero", "stale", "torn512", "torn4096", "late", "first")


class Folder:
    def __init__(self):
        self.live, self.synced, self.pending = {}, {}, []  # pending: (name that goes, what, name that comes)

    def change(self, gone, what, come):
        self.apply(self.live, gone, what, come)
        self.pending.append((gone, what, come))

    @staticmethod
    def apply(names, gone, what, come, both=False):
        if come is not None:
            names[come] = what
        if gone is not None and names.get(gone) is what and not both:
            del names[gone]

    def sync(self):
        self.synced, self.pending = dict(self.live), []

    def image(self, chosen, both):
        """The names after a crash, when of the changes only those came through."""
        names = dict(self.synced)
        for i, (gone, what, come) in enumerate(self.pending):
            if chosen(i):
                self.apply(names, gone, what, come, both and come is not None)
        return names


class Disk:
    def __init__(self):
        self.root = Folder()
        self.whole = b""  # the last synced file of any size: what a disk's free blocks may hold

    def find(self, path):
        found = self.root
        for name in filter(None, path.split("/")):
            found = found.live.get(name) if isinstance(found, Folder) else None
        return found

    def play(self, record):
        """Does what was recorded. Names that are not there (their rename was left out) are passed over."""
        folder, name = self.find(os.path.dirname(record.path)), os.path.basename(record.path)
        what = self.find(record.path)
        if record.call == "sync":
            if what is not None:
                what.sync()
                if isinstance(what, File) and len(what.synced) > len(self.whole) // 2:
                    self.whole = what.synced
        elif folder is None:
            return
        elif record.call in ("create", "mkdir"):
            folder.change(None, File() if record.call == "create" else Folder(), name)
        elif what is None:
            return
        elif record.call in ("rename", "link"):
            assert os.path.dirname(record.second) == os.path.dirname(record.path), record
            folder.change(name if record.call == "rename" else None, what, os.path.basename(record.second))
        elif record.call == "unlink":
            folder.change(name, what, None)
        elif record.call == "write":
            what.pending.append((record.offset, record.data))
        elif record.call == "truncate":
            what.pending.append((record.offset, None))
        elif record.call == "allocate":  # never makes a file shorter
            what.pending.append((max(record.offset, len(what.image("all", None, None))), None))
        else:
            raise AssertionError("unknown call %s" % record)

    # ---- images

    def image(self, names_of, way_of, source):
        """{path: bytes, or None for a directory}. names_of(folder) gives its names, way_of(file) one of WAYS."""
        out = {}

        def walk(folder, path):
            for name, what in names_of(folder).items():
                place = os.path.join(path, name)
                if isinstance(what, Folder):
                    out[place] = None
                    walk(what, place)
                else:
                    out[place] = what.image(way_of(what), source, self.whole)

        walk(self.root, "")
        return out

    def folders(self):
        found = [self.root]
        for folder in found:
            found += [what for what in folder.live.values() if isinstance(what, Folder)]
        return found

    def images(self, seed, random_count):
        """Classes of images first, the hardest ones before the others, then random ones: (class, function that makes
        the image). A class's image depends on the seed and on nothing that was made before."""
        def uniform(name, chosen, way, both=False):
            return name, lambda: self.image(lambda folder: folder.image(chosen, both), lambda file: way,
                                            random.Random("%s %s" % (seed, name)))

        def everything(_):
            return True

        def nothing(_):
            return False

        yield uniform("no data, all names", everything, "none")
        yield uniform("all data, no names", nothing, "all")
        yield uniform("nothing", nothing, "none")
        for way in WAYS:
            if way != "none":
                yield uniform("data %s, all names" % way, everything, way)
        yield uniform("both names", everything, "all", both=True)
        yield uniform("both names, no data", everything, "none", both=True)
        for i in range(max(len(folder.pending) for folder in self.folders())):
            for way in ("all", "torn512"):
                yield uniform("name %d missing, data %s" % (i, way), lambda j, i=i: j != i, way)
                yield uniform("name %d only, data %s" % (i, way), lambda j, i=i: j == i, way)
                yield uniform("names up to %d, data %s" % (i, way), lambda j, i=i: j < i, way)
        for i in range(random_count):
            name = "random %d" % i
            yield name, lambda name=name: self.random_image(random.Random("%s %s" % (seed, name)))

    def random_image(self, source):
        rate, both, ways = source.choice((0.2, 0.5, 0.8)), source.random() < 0.2, {}
        return self.image(lambda folder: folder.image(lambda i: source.random() < rate, both),
                          lambda file: ways.setdefault(id(file), source.choice(WAYS)), source)


def name_of_image(image):
    """Images with equal names are equal."""
    digest = hashlib.sha256()
    for path, data in sorted(image.items()):
        digest.update(b"%s\0%d\0" % (path.encode(), -1 if data is None else len(data)))
        digest.update(data or b"")
    return digest.digest()


def distinct(images):
    """(class, image) of each image that differs from those before it."""
    seen = set()
    for name, make in images:
        image = make()
        mark = name_of_image(image)
        if mark not in seen:
            seen.add(mark)
            yield name, image


def put_image(image, folder):
    """Makes an image's files in a folder that has none of them yet; parents come before their children."""
    for path, data in image.items():
        place = os.path.join(folder, path)
        if data is None:
            os.mkdir(place)
            continue
        with open(place, "wb") as file:
            file.write(data)
