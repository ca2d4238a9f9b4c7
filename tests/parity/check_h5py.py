"""Reads checkpoints, packed and not, with h5py, h5dump and a JSON parser, none of which know Rekindle, and
compares every value with what the program that wrote them says it wrote.

usage: check_h5py.py WRITER [H5DUMP]"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

SEGMENT = 4 << 20
USER_BLOCK = 4096
WORTH_PACKING = 64 << 10
LEVELS = (0, 1, 4)  # one of each library; what differs between levels, tests/unit holds against zlib


def digest_if_possible():
    """XXH3-128 as the format writes it, or None where Python has no xxhash."""
    try:
        import xxhash
    except ImportError:
        return None
    return lambda data: xxhash.xxh3_128_hexdigest(data)


def datasets(file):
    found = {}
    file.visititems(lambda name, item: found.update({name: item})
                    if isinstance(item, h5py.Dataset) else None)
    return found


def check_entries(file, lines, level):
    found, plain_chunks, packed_chunks = datasets(file), 0, 0
    for line in lines:
        path, dtype, shape, content = line.split()
        dataset = found.pop(path)
        assert dataset.dtype == numpy.dtype(dtype).newbyteorder("<"), (path, dataset.dtype)
        assert dataset.shape == tuple(json.loads(shape)), (path, dataset.shape)
        assert numpy.asarray(dataset[()]).tobytes() == bytes.fromhex(content), path
        if level == 0 or dataset.nbytes < WORTH_PACKING:
            assert dataset.chunks is None and dataset.compression is None, path
            continue
        assert dataset.shuffle and dataset.compression == "gzip" and dataset.compression_opts == level, path
        masks = [dataset.id.get_chunk_info(i).filter_mask for i in range(dataset.id.get_num_chunks())]
        assert set(masks) <= {0, 3}, masks
        plain_chunks += masks.count(3)
        packed_chunks += masks.count(0)
    assert sorted(found) == ["rekindle/config", "rekindle/identity", "rekindle/lineage",
                             "rekindle/segments"], sorted(found)
    assert level == 0 or (plain_chunks > 2 and packed_chunks > 2), (plain_chunks, packed_chunks)


def check_known_values(file):
    assert file["progress/step"][()] == -1234567890123
    assert file["progress/seed"][0] == 2**64 - 8
    assert file["progress/best"][()] == 0.1
    big = file["optimizer/m/big"][()]
    assert big.nbytes > 2 * SEGMENT
    expected = (numpy.arange(big.size, dtype=numpy.float32) * numpy.float32(0.5))
    assert (big.ravel() == expected).all()


def check_texts(file):
    assert json.loads(file["rekindle/identity"][()]) == {"train.batch": "256"}
    assert file["rekindle/config"][()] == b"train:\n  batch: 256\n"
    assert json.loads(file["rekindle/lineage"][()])[0]["ranks"] == 4


def check_user_block(path, file, level):
    raw = open(path, "rb").read()
    text = raw[:USER_BLOCK].decode("utf-8")
    assert text.endswith("\n") and "\0" not in text
    block = json.loads(text)
    assert block["format"] == "rekindle-checkpoint" and block["version"] == (2 if level else 1)
    if level:
        assert block["compression"] == "zlib:%d" % level
        assert block["value_bytes"] == sum(d.nbytes for name, d in datasets(file).items()
                                           if not name.startswith("rekindle/"))
    assert (block["run"], block["generation"], block["step"]) == ("fashion", 3, 1200)
    assert block["metrics"] == {"loss": 0.31, "accuracy": 0.912}
    assert block["bytes"] == len(raw) == os.stat(path).st_size
    end = USER_BLOCK + block["metadata_bytes"]
    segments = [raw[i:i + SEGMENT] for i in range(end, len(raw), SEGMENT)]
    table = file["rekindle/segments"]
    assert table.shape[0] == len(segments) or (level and table.shape[0] > len(segments)), table.shape
    assert table.shape[1] == 2 and len(segments) > 2 and not table[len(segments):].any()
    digest = digest_if_possible()
    if digest is None:
        print("no python xxhash: digests not recomputed here")
        return
    assert digest(raw[USER_BLOCK:end]) == block["metadata_digest"]
    for row, segment in zip(table[()], segments):
        assert digest(segment) == "%016x%016x" % (row[0], row[1])
    unsigned = raw[:USER_BLOCK].replace(block["checksum"].encode(), b"0" * 32)
    assert digest(unsigned) == block["checksum"]


def check_h5dump(program, path, lines):
    header = subprocess.run([program, "-H", path], check=True, capture_output=True,
                            text=True).stdout
    assert header.count("DATASET ") == len(lines) + 4
    value = subprocess.run([program, "-d", "/progress/step", path], check=True,
                           capture_output=True, text=True).stdout
    assert "-1234567890123" in value
    with tempfile.NamedTemporaryFile() as file:
        for line in lines:  # raw bytes in the file's own order, of every entry
            entry, _, _, content = line.split()
            subprocess.run([program, "-d", "/" + entry, "-b", "LE", "-o", file.name, path], check=True,
                           stdout=subprocess.DEVNULL)
            with open(file.name, "rb") as dumped:
                assert dumped.read() == bytes.fromhex(content), entry


def check_file(writer, h5dump, path, level, writers=1):
    lines = subprocess.run([writer, os.path.dirname(path), os.path.basename(path), str(level), str(writers)],
                           check=True, capture_output=True, text=True).stdout.splitlines()
    with h5py.File(path, "r") as file:
        check_entries(file, lines, level)
        check_known_values(file)
        check_texts(file)
        check_user_block(path, file, level)
    if h5dump and "NOTFOUND" not in h5dump:
        check_h5dump(h5dump, path, lines)
    print("level %d, %d writers: %d entries equal, %d bytes" % (level, writers, len(lines), os.stat(path).st_size))


def main():
    writer, h5dump = sys.argv[1], (sys.argv + [""])[2]
    with tempfile.TemporaryDirectory() as directory:
        for level in LEVELS:
            check_file(writer, h5dump, os.path.join(directory, "known%d.h5" % level), level)
        check_file(writer, h5dump, os.path.join(directory, "shared.h5"), 0, writers=2)


main()
