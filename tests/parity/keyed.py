"""The documented functions of (seed, …) written a second time, from src/core/rng.h and src/data/data.h:
Philox4x32-10, the epoch's permutation, crop and flip, the dropout masks, the shards' rows."""

import numpy as np

SHUFFLE, AUGMENT, DROPOUT = 2, 3, 4

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counter, key):
    """Ten rounds over four arrays of 32-bit words; the key is 64 bits."""
    c = [np.asarray(word, dtype=np.uint64) for word in np.broadcast_arrays(*counter)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> _SHIFT) ^ c[1] ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c[3] ^ np.uint64(k1),
            p0 & _LOW,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def words(seed, stream, time, sample, lane, sub=0):
    """The word at (sample, lane); both may be arrays."""
    sample, lane = np.broadcast_arrays(np.asarray(sample), np.asarray(lane))
    four = philox((lane // 4, sample, time, stream | sub << 8), seed)
    return np.choose(lane % 4, four)


def uniform(seed, stream, time, sample, lane, sub=0):
    return (words(seed, stream, time, sample, lane, sub) >> np.uint64(8)).astype(float) * 2.0**-24


def below(seed, stream, time, sample, lane, bound):
    word = words(seed, stream, time, sample, lane)
    return (word * np.uint64(bound) >> _SHIFT).astype(int)


def permutation(seed, epoch, count):
    """Eight Feistel rounds over the smallest even number of bits (six at least) that holds `count`;
    values outside are walked on from."""
    half = 3
    while half < 16 and 1 << 2 * half < count:
        half += 1
    mask = (1 << half) - 1

    def encipher(value):
        left, right = value >> half, value & mask
        for r in range(8):
            drawn = words(seed, SHUFFLE, epoch, r, right).astype(int) & mask
            left, right = right, left ^ drawn
        return left << half | right

    value = encipher(np.arange(count))
    while (value >= count).any():
        value = np.where(value >= count, encipher(value), value)
    return value


def augment(pixels, index, seed, epoch, padding, flip):
    """Raw images (N, C, H, W), moved by up to `padding` (0: not) and mirrored half of the time."""
    n, _, height, width = pixels.shape
    out = np.zeros_like(pixels)
    offsets = 2 * padding + 1
    down = below(seed, AUGMENT, epoch, index, 0, offsets)
    right = below(seed, AUGMENT, epoch, index, 1, offsets)
    mirror = below(seed, AUGMENT, epoch, index, 2, 2)
    padded = np.pad(pixels, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for i in range(n):
        cut = padded[i, :, down[i] : down[i] + height, right[i] : right[i] + width]
        out[i] = cut[:, :, ::-1] if flip and mirror[i] else cut
    return out


def dropout_mask(seed, layer, step, first_sample, shape, rate):
    """1/(1 − rate) where kept, else 0. `shape` is (rows, …)."""
    rows, features = shape[0], int(np.prod(shape[1:]))
    sample = first_sample + np.arange(rows)[:, None]
    u = uniform(seed, DROPOUT, step, sample, np.arange(features)[None, :], layer)
    kept = u.astype(np.float32) >= np.float32(rate)
    return (kept / (1.0 - float(np.float32(rate)))).reshape(shape)


def shard_rows(count, shards, shard):
    return shard * count // shards, (shard + 1) * count // shards
